"""Figures of the report; each function takes arrays and returns a matplotlib figure."""

from jaxinterp.app.figures._explanations import attribution_grid as attribution_grid
from jaxinterp.app.figures._explanations import attribution_table as attribution_table
from jaxinterp.app.figures._explanations import local_model_bars as local_model_bars
from jaxinterp.app.figures._explanations import local_model_images as local_model_images
from jaxinterp.app.figures._measurements import curvature_histograms as curvature_histograms
from jaxinterp.app.figures._measurements import estimator_scatter as estimator_scatter
from jaxinterp.app.figures._measurements import extreme_images as extreme_images
from jaxinterp.app.figures._measurements import robustness_histograms as robustness_histograms
from jaxinterp.app.figures._training import compression_curves as compression_curves
from jaxinterp.app.figures._training import sparsity_bars as sparsity_bars
from jaxinterp.app.figures._training import training_curves as training_curves
from jaxinterp.app.figures._transfer import transfer_table as transfer_table
