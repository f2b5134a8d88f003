"""Optimisers from plain numbers."""

import jax
import optax

from jaxinterp import checks
from jaxinterp.typing import PyTree


def adamw(learning_rate: float, *, num_steps: int, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), the rate falling to zero along a cosine.

    Args:
      learning_rate: at the first step.
      num_steps: the step at which the rate is zero.
      weight_decay: fraction of a parameter taken away per unit of learning rate; scalars, such as log β of an
        activation, keep theirs.

    >>> optimizer = adamw(1e-3, num_steps=10)
    >>> gradient = {"w": jnp.ones(1)}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    >>> round(float(updates["w"][0]), 5)
    -0.001
    """
    checks.positive_integer("num_steps", num_steps)
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    return optax.adamw(schedule, weight_decay=weight_decay, mask=_decays)


def sgd(
    learning_rate: float, *, num_steps: int, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum, the rate divided by 10 after 75 % and 87.5 % of the steps.

    Args:
      learning_rate: at the first step.
      num_steps: number of steps.
      momentum: of the velocity.
      weight_decay: L2 coefficient, added to the gradient before the momentum, except for scalars.

    >>> optimizer = sgd(0.1, num_steps=10)
    >>> gradient = {"w": jnp.ones(1)}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    >>> round(float(updates["w"][0]), 5)
    -0.1
    """
    checks.positive_integer("num_steps", num_steps)
    drops = {num_steps * 3 // 4: 0.1, num_steps * 7 // 8: 0.1}
    schedule = optax.piecewise_constant_schedule(learning_rate, drops)
    return optax.chain(optax.add_decayed_weights(weight_decay, _decays), optax.sgd(schedule, momentum=momentum))


def _decays(params: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a.ndim > 0, params)


def adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, 2015) at a constant rate: the optimiser of the gates.

    >>> optimizer = adam(1e-2)
    >>> gradient = {"w": jnp.ones(1)}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    >>> round(float(updates["w"][0]), 5)
    -0.01
    """
    return optax.adam(learning_rate)
