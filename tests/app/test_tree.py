"""A shallow tree as a local model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import app, local


def sampled(f, **options):
    return local.samples(f, neighbourhood=local.box, num_samples=300, **options)(
        jax.random.key(0), jnp.zeros(2), radius=1.0
    )


def step(x):
    return jnp.where(x[0] > 0.25, 3.0, jnp.where(x[1] > 0.0, 1.0, 0.0))


def test_steps_are_found():
    tree = app.surrogate_tree(sampled(step), max_depth=2, feature_names=["age", "income"])
    assert tree.r_squared > 0.98
    assert tree.rules.startswith("|--- age <= 0.2")
    assert "income" in tree.rules
    predicted = tree.regressor.predict(np.array([[0.9, 0.0], [-0.5, 0.9], [-0.5, -0.9]]))
    np.testing.assert_allclose(predicted, [3.0, 1.0, 0.0], atol=0.1)


def test_samples_of_no_weight_count_for_nothing():
    left = lambda perturbation, x: (perturbation.point[0] < 0).astype(float)  # noqa: E731
    tree = app.surrogate_tree(sampled(lambda x: jnp.where(x[0] > 0, 5.0, x[1]), weight=left), max_depth=1)
    assert "feature_1" in tree.rules
    assert "feature_0" not in tree.rules


def test_names_must_fit():
    with pytest.raises(ValueError, match="There are 2 coordinates, but 1 names"):
        app.surrogate_tree(sampled(step), feature_names=["age"])
