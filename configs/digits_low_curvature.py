"""Handwritten digits: a low-curvature network with penalties on its bounds and on the gradient norm."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """Compare with `digits_plain.py`; two minutes and a half on two cores."""
    return app.Experiment(
        data=app.Digits(),
        model=app.LowCurvatureConvNet(widths=(16, 32)),
        penalties=(app.GradientNorm(weight=1.0), app.ActivationCurvature(), app.NormalisationSlope()),
    )
