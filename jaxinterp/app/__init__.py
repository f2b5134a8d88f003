"""The application: experiments, the command line and reports. `configs/` is written with the names here."""

from jaxinterp.app._components import MLP as MLP
from jaxinterp.app._components import VGG as VGG
from jaxinterp.app._components import ActivationCurvature as ActivationCurvature
from jaxinterp.app._components import ConvNet as ConvNet
from jaxinterp.app._components import GradientNorm as GradientNorm
from jaxinterp.app._components import LowCurvatureConvNet as LowCurvatureConvNet
from jaxinterp.app._components import LowCurvatureResNet as LowCurvatureResNet
from jaxinterp.app._components import LowCurvatureVGG as LowCurvatureVGG
from jaxinterp.app._components import NormalisationSlope as NormalisationSlope
from jaxinterp.app._components import ResNet as ResNet
from jaxinterp.app._config import SGD as SGD
from jaxinterp.app._config import AdamW as AdamW
from jaxinterp.app._config import BreastCancer as BreastCancer
from jaxinterp.app._config import Digits as Digits
from jaxinterp.app._config import Experiment as Experiment
from jaxinterp.app._config import Explain as Explain
from jaxinterp.app._config import Files as Files
from jaxinterp.app._config import Measure as Measure
from jaxinterp.app._config import Training as Training
from jaxinterp.app._methods import METHODS as METHODS
from jaxinterp.app._methods import Enrolled as Enrolled
from jaxinterp.app._sparsity import Gates as Gates
from jaxinterp.app._sparsity import Pruning as Pruning
from jaxinterp.app._tree import SurrogateTree as SurrogateTree
from jaxinterp.app._tree import surrogate_tree as surrogate_tree
