"""CIFAR-10, 10 000 images: what the low-curvature network of `cifar10_low_curvature.py` is compared with."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """Convolutions, batch normalisation and nearly ReLU; no penalty. Set `--data.path` to the archive."""
    return app.Experiment(
        data=app.Files(format="npz", path="../shared/data/cifar10_jpeg.npz"),
        model=app.ConvNet(widths=(32, 64, 64), batch_norm=True, activation="sharp_softplus"),
        optimizer=app.AdamW(learning_rate=2e-3, weight_decay=5e-4),
        training=app.Training(num_steps=1500, batch_size=128),
        explain=app.Explain(methods=("gradient", "integrated_gradients"), secant_samples=100),
        measure=app.Measure(num_examples=2000, stddevs=(0.05, 0.1, 0.2), radii=(0.5, 1.0), num_samples=50),
    )
