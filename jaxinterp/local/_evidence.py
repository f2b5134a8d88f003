"""What the classes of models share: the samples as a problem of least squares, and the evidence for a solution."""

from typing import Any

import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.local._samples import Loss, Samples
from jaxinterp.local._surrogates import LinearModel, LocalModel
from jaxinterp.typing import Array


def require(model: object, loss: Loss, *losses: Loss) -> None:
    """`ValueError` if a class of models has no fit for a loss."""
    checks.one_of("loss", loss, ("squared_error", "gradient_matching", "cross_entropy"))
    if loss not in losses:
        raise ValueError(
            f"`{type(model).__name__}` cannot be fitted by the loss {loss!r}; it takes {' or '.join(losses)}."
        )


def is_zero(ridge: Any) -> bool:
    """Whether a ridge is known to be 0."""
    known = checks.concrete(ridge)
    return known is not None and bool(known == 0)


def wide(samples: Samples) -> tuple[Array, Array, Array]:
    """Offsets, values and weights in one dtype of at least float32."""
    dtype = tree.accumulator(jnp.result_type(samples.offsets, samples.values))
    return samples.offsets.astype(dtype), samples.values.astype(dtype), samples.weights.astype(dtype)


def dot(rows: Array, vector: Array) -> Array:
    """The products of rows with a vector, in full precision."""
    return jnp.dot(rows, vector, precision="highest")


def chance(samples: Samples) -> dict[str, Any]:
    """What least squares must know of the randomness of the samples for its standard errors."""
    return {"fixed": samples.fixed, "cluster": samples.cluster}


def moments(z: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """The weighted covariances of the coordinates with each other and with the values."""
    share = w / jnp.sum(w)
    centred = z - dot(share, z)[None]
    scaled = share[:, None] * centred
    return jnp.dot(scaled.T, centred, precision="highest"), jnp.dot(scaled.T, y - dot(share, y), precision="highest")


def weighted_mean(rows: Array, w: Array, samples: Samples) -> tuple[Array, Array]:
    """The weighted mean of rows, and its standard error."""
    rows, share = rows.astype(w.dtype), w / jnp.sum(w)
    mean = dot(share, rows)
    parts = (share[:, None] * (rows - mean[None]))[samples.fixed :]
    parts = jnp.sum(parts.reshape(-1, samples.cluster, rows.shape[1]), 1)
    if not len(parts):
        return mean, jnp.zeros_like(mean)
    stderr = jnp.sqrt(jnp.sum(parts**2, 0) * (len(parts) / max(len(parts) - 1, 1)))
    return mean, stderr if len(parts) > 1 else jnp.full_like(mean, jnp.inf)


def linear_part(samples: Samples, intercept: Array, slope: Array, stderr: Array) -> dict:
    """The attributes that all models have, in the structure of the coordinates."""
    return {
        "slope": samples.unravel(slope),
        "intercept": intercept.astype(samples.values.dtype),
        "anchor": samples.anchor,
        "stderr": samples.unravel(stderr),
    }


def evidence(
    samples: Samples,
    surrogate: LinearModel,
    predicted: Array,
    condition: Array,
    residual: Array | None = None,
    num_iterations: Array | None = None,
) -> LocalModel:
    """A surrogate with what tells how far to trust it."""
    _, y, w = wide(samples)
    share = w / jnp.sum(w)
    mean = dot(share, y)
    variance, error = dot(share, (y - mean) ** 2), dot(share, (y - predicted) ** 2)
    is_constant = variance <= (4 * float(jnp.finfo(y.dtype).eps) * mean) ** 2
    explained = 1 - error / jnp.where(is_constant, jnp.ones_like(variance), variance)
    return LocalModel(
        surrogate,
        jnp.where(is_constant, jnp.full_like(explained, jnp.nan), explained),
        1 / jnp.sum(share**2),
        condition,
        jnp.zeros_like(mean) if residual is None else residual,
        jnp.zeros((), jnp.int32) if num_iterations is None else num_iterations,
    )
