"""Sparsity: gates that decide, while a network is trained, which of its parameters remain."""

from jaxinterp.sparsity._gates import Count as Count
from jaxinterp.sparsity._gates import Granularity as Granularity
from jaxinterp.sparsity._gates import Predicate as Predicate
from jaxinterp.sparsity._gates import apply as apply
from jaxinterp.sparsity._gates import attach as attach
from jaxinterp.sparsity._gates import bimodal_penalty as bimodal_penalty
from jaxinterp.sparsity._gates import count as count
from jaxinterp.sparsity._gates import count_by_parameter as count_by_parameter
from jaxinterp.sparsity._gates import kernels as kernels
from jaxinterp.sparsity._gates import per_filter as per_filter
from jaxinterp.sparsity._gates import per_output_unit as per_output_unit
from jaxinterp.sparsity._gates import per_weight as per_weight
from jaxinterp.sparsity._gates import project as project
from jaxinterp.sparsity._gates import sample as sample
from jaxinterp.sparsity._gates import sparsity_penalty as sparsity_penalty
from jaxinterp.sparsity._gates import straight_through as straight_through
from jaxinterp.sparsity._gates import threshold as threshold
