"""Handwritten digits: a network of which one weight in twenty remains, pruned in two cycles."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """Two thousand steps, about a quarter of a minute on two cores."""
    return app.Experiment(
        data=app.Digits(),
        model=app.MLP(widths=(100,)),
        optimizer=app.AdamW(learning_rate=3e-3),
        pruning=(app.Pruning(target=0.95, schedule="cyclical"),),
        explain=app.Explain(methods=("gradient", "integrated_gradients", "smooth_grad", "full_grad")),
    )
