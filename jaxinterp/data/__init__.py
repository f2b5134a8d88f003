"""Datasets: two that are embedded in scikit-learn, readers for standard files, and mini-batches."""

from jaxinterp.data._cifar import cifar10 as cifar10
from jaxinterp.data._cifar import cifar100 as cifar100
from jaxinterp.data._dataset import UNREADABLE as UNREADABLE
from jaxinterp.data._dataset import DataError as DataError
from jaxinterp.data._dataset import Dataset as Dataset
from jaxinterp.data._dataset import Normalisation as Normalisation
from jaxinterp.data._dataset import Split as Split
from jaxinterp.data._embedded import breast_cancer as breast_cancer
from jaxinterp.data._embedded import digits as digits
from jaxinterp.data._mnist import mnist as mnist
from jaxinterp.data._npz import npz as npz
from jaxinterp.data._sampling import batches as batches
from jaxinterp.data._superpixels import superpixels as superpixels
