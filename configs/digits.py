"""Handwritten digits: a convolutional network with gated weights and a gradient-norm penalty."""

from jaxinterp import app


def get_config() -> app.Experiment:
    """Two thousand steps, about half a minute on two cores."""
    return app.Experiment(
        data=app.Digits(),
        model=app.ConvNet(widths=(16, 32), activation="gelu"),
        gates=(app.Gates(granularity="weight", initial=0.7, bimodal=2e-4, sparsity=1.4e-4),),
        penalties=(app.GradientNorm(weight=1.0),),
        explain=app.Explain(
            methods=(
                "gradient",
                "gradient_times_input",
                "integrated_gradients",
                "smooth_grad",
                "var_grad",
                "occlusion",
                "lime",
                "lrp",
                "full_grad",
                "hires_cam",
            )
        ),
    )
