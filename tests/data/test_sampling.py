"""Mini-batches: every epoch is a permutation, and the step alone decides."""

import jax
import numpy as np
import pytest

from jaxinterp import data


def split_of(num_examples):
    """Examples that tell their own index."""
    y = np.arange(num_examples, dtype=np.int32)
    return data.Split(np.stack([y, -y], axis=1).astype(np.float32), y)


@pytest.mark.core
@pytest.mark.parametrize(("num_examples", "batch_size"), [(12, 3), (12, 12), (13, 4), (5, 1)])
def test_an_epoch_uses_each_example_at_most_once(num_examples, batch_size, key):
    batch = data.batches(split_of(num_examples), key, batch_size)
    steps = num_examples // batch_size
    for epoch in range(3):
        drawn = [batch(epoch * steps + i) for i in range(steps)]
        labels = np.concatenate([y for _, y in drawn])
        assert all(x.shape == (batch_size, 2) and y.shape == (batch_size,) for x, y in drawn)
        assert len(set(labels.tolist())) == len(labels) == steps * batch_size
        assert set(labels.tolist()) <= set(range(num_examples))


@pytest.mark.core
def test_inputs_stay_with_their_labels(key):
    split = split_of(20)
    batch = data.batches(split, key, 6)
    for step in range(7):
        x, y = batch(step)
        np.testing.assert_array_equal(x, np.stack([y, -y], axis=1))
        assert (x.dtype, y.dtype) == (np.float32, np.int32)


@pytest.mark.core
def test_the_step_can_be_asked_for_at_any_time(key):
    split = split_of(30)
    in_order = data.batches(split, key, 4)
    wanted = [in_order(step)[1].tolist() for step in range(40)]
    again = data.batches(split, jax.random.key(0), 4)  # the same key, as a resumed run makes it
    for step in np.random.default_rng(0).permutation(np.repeat(np.arange(40), 2)):
        assert again(int(step))[1].tolist() == wanted[step]


@pytest.mark.core
def test_epochs_and_keys_differ(key):
    split = split_of(50)
    batch = data.batches(split, key, 50)
    other = data.batches(split, jax.random.key(1), 50)
    orders = [tuple(batch(epoch)[1].tolist()) for epoch in range(5)] + [tuple(other(0)[1].tolist())]
    assert len(set(orders)) == 6
    assert tuple(range(50)) not in orders


@pytest.mark.core
def test_all_examples_are_used_when_the_batches_do_not_fit(key):
    # Each of 40 epochs leaves 3 of 11 examples out; that one is always left out has probability 11 (3/11)^40 < 1e-21.
    batch = data.batches(split_of(11), key, 4)
    assert set(np.concatenate([batch(step)[1] for step in range(80)]).tolist()) == set(range(11))


@pytest.mark.core
def test_changing_a_batch_leaves_the_data_alone(key):
    split = split_of(6)
    batch = data.batches(split, key, 3)
    x, y = batch(0)
    wanted = y.copy()
    x[:], y[:] = 99, 99
    np.testing.assert_array_equal(batch(0)[1], wanted)
    assert split.x.max() == 5


@pytest.mark.core
def test_more_than_there_is_cannot_be_a_batch(key):
    with pytest.raises(data.DataError, match=r"batch_size=6.* only 5 training examples"):
        data.batches(split_of(5), key, 6)


@pytest.mark.core
@pytest.mark.parametrize(
    ("batch_size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_the_size_of_a_batch_is_a_positive_integer(batch_size, error, key):
    with pytest.raises(error, match="`batch_size` must be"):
        data.batches(split_of(5), key, batch_size)


@pytest.mark.core
def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match=r"`batches` takes a random key"):
        data.batches(split_of(5), 0, 2)
