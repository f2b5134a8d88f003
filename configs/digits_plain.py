"""The network of `digits.py` trained plainly: what gates and penalty are compared with."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """The same data, network, steps and seeds; no gates, no penalty."""
    return app.Experiment(
        data=app.Digits(),
        model=app.ConvNet(widths=(16, 32), activation="gelu"),
    )
