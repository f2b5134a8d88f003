"""Flax networks, and the way from any Flax network to a pure function of one example."""

from jaxinterp.models._convnet import ConvNet as ConvNet
from jaxinterp.models._function import Function as Function
from jaxinterp.models._function import TrainingFunction as TrainingFunction
from jaxinterp.models._function import as_function as as_function
from jaxinterp.models._function import as_training_function as as_training_function
from jaxinterp.models._generate import generate as generate
from jaxinterp.models._llama import Llama as Llama
from jaxinterp.models._llama2c import llama_from_llama2c as llama_from_llama2c
from jaxinterp.models._low_curvature import CentredSoftplus as CentredSoftplus
from jaxinterp.models._low_curvature import LipschitzBatchNorm as LipschitzBatchNorm
from jaxinterp.models._low_curvature import SpectralConv as SpectralConv
from jaxinterp.models._low_curvature import sharp_softplus as sharp_softplus
from jaxinterp.models._low_curvature_networks import LowCurvatureConvNet as LowCurvatureConvNet
from jaxinterp.models._low_curvature_networks import LowCurvatureResNet as LowCurvatureResNet
from jaxinterp.models._low_curvature_networks import LowCurvatureVGG as LowCurvatureVGG
from jaxinterp.models._mlp import MLP as MLP
from jaxinterp.models._resnet import ResNet as ResNet
from jaxinterp.models._resnet import resnet_from_torch as resnet_from_torch
from jaxinterp.models._tokenizer import Tokenizer as Tokenizer
from jaxinterp.models._vgg import VGG as VGG
from jaxinterp.models._with_arrays import with_arrays as with_arrays
