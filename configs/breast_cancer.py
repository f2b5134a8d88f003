"""Diagnostic breast cancer: a table of thirty features, a small fully connected network with gated units."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """Gates on the units of the hidden layers, and a gradient-norm penalty."""
    return app.Experiment(
        data=app.BreastCancer(),
        model=app.MLP(widths=(32, 32), activation="gelu"),
        optimizer=app.AdamW(learning_rate=2e-3, weight_decay=1e-2),
        gates=(app.Gates(parameters="dense_*/kernel", granularity="unit", initial=0.7, bimodal=4e-3, sparsity=3e-3),),
        penalties=(app.GradientNorm(weight=0.1),),
        training=app.Training(num_steps=1000, batch_size=64, checkpoint_every=100),
        explain=app.Explain(num_examples=12),
        measure=app.Measure(stddevs=(0.1, 0.3, 1.0)),
    )
