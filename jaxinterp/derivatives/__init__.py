"""Derivative products, quadrature, expectations, and stochastic and spectral estimates of operators."""

from jaxinterp.derivatives._expectation import Estimate as Estimate
from jaxinterp.derivatives._expectation import expectation as expectation
from jaxinterp.derivatives._expectation import variance as variance
from jaxinterp.derivatives._expectation import weighted_sum as weighted_sum
from jaxinterp.derivatives._orthant import orthant as orthant
from jaxinterp.derivatives._products import gauss_newton as gauss_newton
from jaxinterp.derivatives._products import hessian as hessian
from jaxinterp.derivatives._products import hvp as hvp
from jaxinterp.derivatives._products import jacobian as jacobian
from jaxinterp.derivatives._products import jvp as jvp
from jaxinterp.derivatives._products import vjp as vjp
from jaxinterp.derivatives._quadrature import Quadrature as Quadrature
from jaxinterp.derivatives._quadrature import QuadratureRule as QuadratureRule
from jaxinterp.derivatives._quadrature import gauss_legendre as gauss_legendre
from jaxinterp.derivatives._quadrature import midpoint as midpoint
from jaxinterp.derivatives._quadrature import trapezoid as trapezoid
from jaxinterp.derivatives._spectral import Spectral as Spectral
from jaxinterp.derivatives._spectral import lanczos as lanczos
from jaxinterp.derivatives._spectral import power_iteration as power_iteration
from jaxinterp.derivatives._stochastic import diagonal as diagonal
from jaxinterp.derivatives._stochastic import laplacian as laplacian
from jaxinterp.derivatives._stochastic import squared_frobenius_norm as squared_frobenius_norm
from jaxinterp.derivatives._stochastic import trace as trace
