"""Layers whose curvature and slope can be held down (Srinivas et al., 2022)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxinterp import checks, derivatives
from jaxinterp.typing import Array


class PowerDirection(nnx.Variable):
    """The direction in which a convolution stretches most, as far as power iteration has found it."""


class CentredSoftplus(nnx.Module):
    r"""The activation :math:`s(x) = \frac1\beta\log\frac{1 + e^{\beta x}}2` with a trainable β.

    s(0) = 0, so it can be composed without drift; :math:`s''/s' \le \beta`. It tends to ReLU for large β and to x/2 for
    small ones. The parameter is log β.

    Args:
      beta: where β starts.
    """

    def __init__(self, beta: float = 5.0) -> None:
        checks.positive("beta", beta, "CentredSoftplus")
        self.log_beta = nnx.Param(jnp.log(jnp.asarray(beta, jnp.result_type(float))))

    def __call__(self, x: Array) -> Array:
        """Applies s to each entry."""
        beta = jnp.exp(self.log_beta[...]).astype(x.dtype)
        return (jax.nn.softplus(beta * x) - jnp.log(2.0).astype(x.dtype)) / beta


def sharp_softplus(x: Array) -> Array:
    """Softplus with β = 1000: within 0.0007 of ReLU, but with a second derivative everywhere, which can be measured.

    >>> round(float(sharp_softplus(jnp.zeros(()))), 6)
    0.000693
    """
    return jax.nn.softplus(1e3 * x) / 1e3


class SpectralConv(nnx.Module):
    """A convolution without bias, divided by its own operator norm: as a map of images of one size it has norm 1.

    The norm is that of the true operator, with its stride, padding and dilation, not of the reshaped kernel. In
    training one step of power iteration follows it from update to update, starting where the last one ended; in
    evaluation mode Lanczos iterations find it anew to 1e-4.

    Args:
      channels: channels of the input.
      width: channels of the output.
      image: height and width of the input.
      kernel_size: height and width of the kernel.
      strides: of the output.
      dilation: of the kernel.
      padding: as `jax.lax.conv_general_dilated` takes it.
      rngs: where the initial parameters are drawn from.

    Source: Yoshida & Miyato (2017); with the true operator Ryu et al. (2019).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        image: tuple[int, int],
        kernel_size: tuple[int, int] = (3, 3),
        strides: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        rngs: nnx.Rngs,
    ) -> None:
        initial = nnx.initializers.lecun_normal()(rngs.params(), (*kernel_size, channels, width))
        self.kernel = nnx.Param(initial)
        start = jax.random.normal(rngs.params(), (1, *image, channels))
        self.direction = PowerDirection(start / jnp.linalg.norm(start))
        self.strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
        self.dilation = (dilation, dilation) if isinstance(dilation, int) else tuple(dilation)
        self.padding = padding if isinstance(padding, str) else tuple((low, high) for low, high in padding)
        self.use_running_average = False  # set by `train()` and `eval()`

    def operator(self, kernel: Array) -> Callable[[Array], Array]:
        """The convolution of a batch of images with some kernel."""

        def convolved(x: Array) -> Array:
            return jax.lax.conv_general_dilated(
                x,
                kernel.astype(x.dtype),
                self.strides,
                self.padding,
                rhs_dilation=self.dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        return convolved

    def norm(self) -> Array:
        """The norm of the operator; in training an estimate from below, after one more step of power iteration."""
        kernel = self.kernel[...]
        direction = self.direction[...].astype(kernel.dtype)
        held = self.operator(jax.lax.stop_gradient(kernel))
        squared = lambda v: jax.linear_transpose(held, v)(held(v))[0]  # noqa: E731
        if self.use_running_average:
            find = derivatives.lanczos(squared, num_iterations=40, tolerance=1e-4)
            direction = find(jax.random.key(0), direction)[1].vector
        else:
            image = squared(direction)
            direction = image / jnp.maximum(jnp.linalg.norm(image), jnp.finfo(image.dtype).tiny)
            self.direction[...] = direction.astype(self.direction[...].dtype)
        return jnp.sqrt(jnp.sum(self.operator(kernel)(jax.lax.stop_gradient(direction)) ** 2))

    def __call__(self, x: Array) -> Array:
        """Maps a batch of images [n, height, width, channels]."""
        return self.operator(self.kernel[...] / self.norm())(x)


class LipschitzBatchNorm(nnx.Module):
    r"""Batch normalisation whose Lipschitz constant is at most a trainable γ.

    In evaluation mode batch normalisation multiplies channel c by :math:`s_c/\sqrt{v_c + \epsilon}`, so its Lipschitz
    constant L is the largest of these; the output is multiplied by :math:`\min(\gamma, L)/L`. In training the
    statistics of the batch normalise, while L is that of the running ones: the bound holds in evaluation mode. The
    parameter is log γ.

    Args:
      width: channels.
      gamma: where γ starts.
      rngs: of the normalisation.
    """

    def __init__(self, width: int, *, gamma: float = 10.0, rngs: nnx.Rngs) -> None:
        checks.positive("gamma", gamma, "LipschitzBatchNorm")
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.log_gamma = nnx.Param(jnp.log(jnp.asarray(gamma, jnp.result_type(float))))

    def __call__(self, x: Array) -> Array:
        """Normalises a batch, channels last."""
        scale, variance = self.norm.scale, self.norm.var
        if scale is None or variance is None:
            raise ValueError("`LipschitzBatchNorm` needs the scale and the running variance of its normalisation.")
        lipschitz = jnp.max(jnp.abs(scale[...]) * jax.lax.rsqrt(variance[...] + self.norm.epsilon))
        gamma = jnp.exp(self.log_gamma[...]).astype(lipschitz.dtype)
        return self.norm(x) * (jnp.minimum(gamma, lipschitz) / lipschitz).astype(x.dtype)


class LowCurvatureBlock(nnx.Module):
    """A 3x3 convolution of norm 1, batch normalisation of bounded slope, and a centred softplus."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        stride: int,
        image: tuple[int, int],
        beta: float,
        gamma: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = SpectralConv(channels, width, image=image, strides=stride, rngs=rngs)
        self.norm = LipschitzBatchNorm(width, gamma=gamma, rngs=rngs)
        self.activation = CentredSoftplus(beta)

    def __call__(self, x: Array) -> Array:
        return self.activation(self.norm(self.conv(x)))
