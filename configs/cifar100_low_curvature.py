"""CIFAR-100: the low-curvature ResNet-18 with the gradient-norm penalty, after Srinivas et al. (2022)."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """For an accelerator: 200 epochs of 45 000 images. Set `--data.path` to the directory of the files.

    Their schedule, penalties and weights; without their augmentation, and with shortcuts that have no parameters.
    """
    return app.Experiment(
        data=app.Files(format="cifar100", path="cifar-100-python"),
        model=app.LowCurvatureResNet(),
        optimizer=app.SGD(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
        penalties=(
            app.GradientNorm(weight=6e-3),
            app.ActivationCurvature(weight=1e-3),
            app.NormalisationSlope(weight=1e-3),
        ),
        training=app.Training(num_steps=70_400, batch_size=128, checkpoint_every=3520),
        explain=app.Explain(methods=("gradient", "integrated_gradients"), secant_samples=100),
        measure=app.Measure(num_examples=1000, stddevs=(0.1, 0.2), radii=(0.5, 1.0), num_samples=200),
    )
