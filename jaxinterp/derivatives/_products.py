"""Products with derivative matrices, without the matrices: J·v, Jᵀ·u, H·v and Jᵀ·L·J·v on pytrees."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import batching, checks, interpreters, tree
from jaxinterp.interpreters import restrict, restrict_scalar
from jaxinterp.typing import Array, MatVec, PyTree, ScalarFn


def jvp(f: Callable[..., PyTree], argnums: int | tuple[int, ...] = 0) -> Callable[..., PyTree]:
    """Jacobian-vector product: returns `(*args, vector) -> J(x)·vector`, shaped like the output of `f`.

    >>> jvp(lambda x: jnp.sin(x) * 2.0)(jnp.zeros(2), vector=jnp.array([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """

    def product(*args: PyTree, vector: PyTree) -> PyTree:
        g, x = restrict("jvp", f, argnums, args)
        return jax.jvp(g, (x,), (checks.same_structure("jvp", "vector", vector, x),))[1]

    return product


def vjp(f: Callable[..., PyTree], argnums: int | tuple[int, ...] = 0) -> Callable[..., PyTree]:
    """Vector-Jacobian product: returns `(*args, vector) -> J(x)ᵀ·vector`, shaped like the explained arguments.

    >>> vjp(lambda x: jnp.sum(x) * jnp.ones(2))(jnp.zeros(3), vector=jnp.array([1.0, 2.0])).tolist()
    [3.0, 3.0, 3.0]
    """

    def product(*args: PyTree, vector: PyTree) -> PyTree:
        g, x = restrict("vjp", f, argnums, args)
        out, pull = jax.vjp(g, x)
        return pull(checks.same_structure("vjp", "vector", vector, out))[0]

    return product


def jacobian(
    f: Callable[..., Array], argnums: int | tuple[int, ...] = 0, *, chunk_size: int | None = None
) -> Callable[..., tuple[Array, PyTree]]:
    """Value and Jacobian of a vector: returns `(*args) -> (f(x) [k], J)`, J like x with a leading axis of length k.

    By k products with the transpose in reverse mode, or one product for each entry of x in forward mode if these are
    fewer.

    Args:
      f: `(*args) -> [k]`.
      argnums: as in `jax.grad`.
      chunk_size: products computed together; memory grows with it. `None` takes all.

    >>> value, rows = jacobian(lambda x: jnp.stack([x[0] * x[1], x[2]]))(jnp.array([2.0, 3.0, 4.0]))
    >>> value.tolist(), rows.tolist()
    ([6.0, 4.0], [[3.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    """
    checks.optional_chunk_size(chunk_size)

    def both(*args: PyTree) -> tuple[Array, PyTree]:
        g, x = restrict("jacobian", f, argnums, args)
        k = jax.eval_shape(g, x)
        if len(k.shape) != 1:
            raise TypeError(f"`jacobian` needs a function that returns a vector; it returned shape {k.shape}.")
        inputs = tree.size(x)
        if inputs < k.size:
            value, push = jax.linearize(g, x)
            flat, unravel = tree.ravel(x)
            columns = _mapped(lambda v: push(unravel(v)), jnp.eye(inputs, dtype=flat.dtype), chunk_size)
            return value, jax.vmap(unravel)(columns.T)
        value, pull = jax.vjp(g, x)
        return value, _mapped(lambda v: pull(v)[0], jnp.eye(k.size, dtype=value.dtype), chunk_size)

    return both


def _mapped(product: Callable[[Array], PyTree], rows: Array, chunk_size: int | None) -> PyTree:
    if chunk_size is None or chunk_size >= len(rows):
        return jax.vmap(product)(rows)
    return batching.map_examples(interpreters.loop_safe(product), batch_size=chunk_size)(rows)


def hvp(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., PyTree]:
    """Hessian-vector product: returns `(*args, vector) -> ∇²f(x)·vector`, forward over reverse.

    Several products at one point are cheaper through `hessian`, which runs the gradient's forward part once.

    >>> hvp(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0]), vector=jnp.array([1.0, 0.0])).tolist()
    [6.0, 2.0]
    """

    def product(*args: PyTree, vector: PyTree) -> PyTree:
        g, x = restrict_scalar("hvp", f, argnums, args)
        return jax.jvp(jax.grad(g), (x,), (checks.same_structure("hvp", "vector", vector, x),))[1]

    return product


def hessian(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., tuple[PyTree, MatVec]]:
    """The gradient and the Hessian as an operator: returns `(*args) -> (∇f(x), v -> ∇²f(x)·v)`.

    The gradient is linearised once; each product then runs its linear part only.

    >>> gradient, product = hessian(lambda x: jnp.sum(x**3))(jnp.array([1.0, 2.0]))
    >>> gradient.tolist(), product(jnp.ones(2)).tolist()
    ([3.0, 12.0], [6.0, 12.0])
    """

    def at(*args: PyTree) -> tuple[PyTree, MatVec]:
        g, x = restrict_scalar("hessian", f, argnums, args)
        return jax.linearize(jax.grad(g), x)

    return at


def gauss_newton(
    model: Callable[..., PyTree], loss: ScalarFn, argnums: int | tuple[int, ...] = 0
) -> Callable[..., PyTree]:
    """Generalised Gauss-Newton product of `loss(model(*args))`: returns `(*args, vector) -> Jᵀ·∇²loss·J·vector`.

    J is the Jacobian of `model` and ∇²loss the Hessian of `loss` at the model's output. The matrix is the Hessian
    without the curvature of the model, and positive semidefinite where `loss` is convex (Schraudolph, 2002).

    >>> product = gauss_newton(lambda x: x**2, lambda z: 0.5 * jnp.sum(z**2))
    >>> product(jnp.array([1.0, 2.0]), vector=jnp.ones(2)).tolist()
    [4.0, 16.0]
    """

    def product(*args: PyTree, vector: PyTree) -> PyTree:
        g, x = restrict("gauss_newton", model, argnums, args)
        out, push = jax.linearize(g, x)
        tangent = push(checks.same_structure("gauss_newton", "vector", vector, x))
        curved = jax.jvp(jax.grad(lambda z: checks.scalar("gauss_newton", loss(z))), (out,), (tangent,))[1]
        return jax.linear_transpose(push, x)(curved)[0]

    return product
