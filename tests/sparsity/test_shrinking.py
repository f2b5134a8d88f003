"""Shrunk networks compute what the masked ones do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models, sparsity

pytestmark = pytest.mark.usefixtures("standard_promotion")

IMAGE = (8, 8, 1)
NETWORKS = {
    "MLP": lambda: models.MLP(IMAGE, widths=(7, 6), num_classes=3, activation=nnx.gelu, rngs=nnx.Rngs(0)),
    "ConvNet": lambda: models.ConvNet(IMAGE, widths=(4, 6), num_classes=3, batch_norm=True, rngs=nnx.Rngs(0)),
    "VGG": lambda: models.VGG(IMAGE, widths=(4, 6), depths=(1, 2), num_classes=3, rngs=nnx.Rngs(0)),
    "tied": lambda: models.ResNet(IMAGE, widths=(6,), blocks_per_stage=2, num_classes=3, rngs=nnx.Rngs(0)),
    "ResNet": lambda: models.ResNet(IMAGE, widths=(4, 6), blocks_per_stage=2, num_classes=3, rngs=nnx.Rngs(0)),
}


def network(name):
    """A network whose normalisations are not trivial."""
    net = models.as_function(NETWORKS[name]())
    rng = np.random.default_rng(0)
    drawn = lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype) if a.ndim == 1 else a  # noqa: E731
    return net.apply, jax.tree.map(drawn, net.params), jax.tree.map(drawn, net.state)


@pytest.mark.core
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_shrunk_is_masked(name):
    apply, params, state = network(name)
    x = jax.random.normal(jax.random.key(0), IMAGE)
    coupling = sparsity.couple(apply, (0, 1))(params, state, x)
    keep = np.arange(len(coupling)) % 3 > 0  # two thirds of each layer
    assert coupling.fits.all()
    assert 0 < keep.sum() < len(coupling)
    masks = coupling.masks(keep)
    masked = sparsity.apply((params, state), masks)
    small = coupling.shrink((params, state), keep)
    size = lambda tree: sum(a.size for a in jax.tree.leaves(tree))  # noqa: E731
    assert size(small) < 0.85 * size((params, state))
    for seed in range(3):
        x = jax.random.normal(jax.random.key(seed), IMAGE)
        np.testing.assert_allclose(apply(*small, x), apply(*masked, x), atol=1e-5)
    assert np.max(np.abs(apply(*masked, x) - apply(params, state, x))) > 1e-3


@pytest.mark.core
@pytest.mark.parametrize("side", ["input", "output"])
def test_gates_collapse_to_the_same_function(side):
    """Closed units that are not read go whatever their value; those not written if their bias is gated too."""
    apply, params, state = network("MLP")  # GELU: 0 at 0
    granularity = sparsity.per_input_unit if side == "input" else sparsity.per_output_unit
    chosen = {"input": ("kernel",), "output": ("kernel", "bias")}[side]
    fixed = ("dense_0",) if side == "input" else ("head", "dense_2")
    predicate = lambda path, _: path.endswith(chosen) and not path.startswith(fixed)  # noqa: E731
    gates = sparsity.attach(params, predicate=predicate, granularity=granularity)
    closed = jax.tree.map(lambda g: jnp.where(jnp.arange(g.size) % 3 == 0, 0.1, 0.9).reshape(g.shape), gates)
    x = jax.random.normal(jax.random.key(0), IMAGE)
    coupling = sparsity.couple(apply)(params, state, x)
    plain, small = (
        sparsity.collapse(params, closed),
        sparsity.collapse(params, closed, coupling=coupling, cut_unwritten=side == "output"),
    )
    masked = sparsity.apply(params, sparsity.threshold(closed))
    jax.tree.map(np.testing.assert_array_equal, plain, masked)
    assert sum(a.size for a in jax.tree.leaves(small)) < 0.8 * sum(a.size for a in jax.tree.leaves(plain))
    np.testing.assert_allclose(apply(small, state, x), apply(masked, state, x), atol=1e-5)
    opened = jax.tree.map(jnp.ones_like, gates)
    jax.tree.map(np.testing.assert_array_equal, sparsity.collapse(params, opened, coupling=coupling), params)


def test_what_a_residual_sum_adds_goes_together():
    apply, params, state = network("tied")
    coupling = sparsity.couple(apply, (0, 1))(params, state, jnp.ones(IMAGE))
    tied = [c for c in coupling.channels if len(c.written) > 1]
    assert len(tied) == 6
    written = {coupling.paths[leaf] for leaf, _, _ in tied[0].written}
    assert written == {"0/conv/kernel", "0/blocks_0/conv_1/kernel", "0/blocks_1/conv_1/kernel"}
    assert len(coupling) == 6 + 2 * 6


def test_half_of_all_channels_of_a_trained_resnet(shared):
    with np.load(shared / "data" / "cifar10_resnet20_torch_state.npz") as weights:
        net = models.as_function(models.resnet_from_torch(weights))
    x = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    coupling = sparsity.couple(net.apply, (0, 1))(net.params, net.state, x)
    assert coupling.fits.all()
    keep = np.arange(len(coupling)) % 2 == 0
    masked = sparsity.apply((net.params, net.state), coupling.masks(keep))
    small = coupling.shrink((net.params, net.state), keep)
    assert small[0]["head"]["kernel"].shape == (32, 10)
    logits = net.apply(*masked, x)
    np.testing.assert_allclose(net.apply(*small, x), logits, atol=1e-5 * float(jnp.abs(logits).max()))


def test_what_a_shortcut_adds_goes_too():
    apply, params, state = network("ResNet")
    coupling = sparsity.couple(apply, (0, 1))(params, state, jnp.ones(IMAGE))
    keep = np.ones(len(coupling), bool)
    added = [
        "1/blocks_2/shortcut/before" in {coupling.paths[leaf] for leaf, _, _ in c.carried} for c in coupling.channels
    ]
    keep[added] = False
    assert (~keep).sum() == 1
    assert coupling.shrink((params, state), keep)[1]["blocks_2"]["shortcut"]["before"].shape == (0,)


def test_numbers_of_channels_in_the_code_are_found():
    def f(p, x):
        h = jnp.tanh(x @ p["a"]).reshape(4)
        return jnp.sin(h @ p["b"]) @ p["c"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 5)), "c": jnp.ones((5, 2))}
    coupling = sparsity.couple(f)(params, jnp.ones(3))
    written = [coupling.paths[c.written[0][0]] for c in coupling.channels]
    assert [path for path, fits in zip(written, coupling.fits, strict=True) if fits] == ["b"] * 5
    assert [path for path, fits in zip(written, coupling.fits, strict=True) if not fits] == ["a"] * 4


def test_flattening_gives_a_channel_many_rows():
    apply, params, state = network("ConvNet")
    coupling = sparsity.couple(apply, (0, 1))(params, state, jnp.ones(IMAGE))
    rows = [len(c.read) for c in coupling.channels]
    assert sorted(set(rows)) == [1, 16]


def test_masks_of_units():
    """From masks of the kernels' columns to the channels, and to masks of all that belongs to them."""
    apply, params, state = network("MLP")
    coupling = sparsity.couple(apply)(params, state, jnp.ones(IMAGE))
    gates = sparsity.attach(params, granularity=sparsity.per_output_unit, initial=1.0)
    gates["dense_0"]["kernel"] = gates["dense_0"]["kernel"].at[0, 2].set(0)
    keep = coupling.kept(gates)
    assert (~keep).sum() == 1
    masks = coupling.masks(keep)
    assert float(masks["dense_0"]["bias"][2]) == 0
    np.testing.assert_array_equal(masks["dense_1"]["kernel"][2], 0)
    assert coupling.shrink(params, keep)["dense_0"]["kernel"].shape[1] == 6


def test_what_stays():
    """A mean over the channels, as in LayerNorm, changes with each of them: nothing that runs through it is removed."""

    def f(p, x):
        h = jnp.tanh(x @ p["a"])
        h = (h - jnp.mean(h)) @ p["b"]
        return jnp.sin(h) @ p["c"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 5)), "c": jnp.ones((5, 2))}
    coupling = sparsity.couple(f)(params, jnp.ones(3))
    assert {coupling.paths[leaf] for c in coupling.channels for leaf, _, _ in c.written} == {"b"}
    with pytest.raises(ValueError, match="found no channel that can be removed"):
        sparsity.couple(lambda p, x: x @ p)(jnp.ones((3, 4)), jnp.ones(3))


SMALL = {name: np.random.default_rng(i).normal(size=s) for i, (name, s) in enumerate(
    {"a": (3, 8), "b": (8, 2), "c": (3, 4), "d": (3, 4), "w": (4, 5), "e": (4, 2), "half": (4, 2)}.items()
)}  # fmt: skip


def of_small(*names):
    return {name: jnp.asarray(SMALL[name], float) for name in names}


@pytest.mark.parametrize(
    ("f", "names"),
    [
        (lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"] / p["b"].shape[0] ** 0.5, ("a", "b")),
        (lambda p, x: jnp.tanh(x @ p["a"]) ** p["b"].shape[0] @ p["b"], ("a", "b")),
        (
            lambda p, x: (
                jnp.concatenate([jnp.tanh(x @ p["c"]), jnp.tanh(x @ p["d"])]).reshape(2, -1).T.reshape(-1) @ p["b"]
            ),
            ("c", "d", "b"),
        ),
        (lambda p, x: jnp.tanh(x @ p["a"])[::2] @ p["half"], ("a", "half")),
    ],
    ids=["scaled by a width", "raised to a width", "shuffled", "every second"],
)
def test_code_that_depends_on_the_number_of_channels_does_not_fit(f, names):
    """It runs with fewer, and does something else."""
    coupling = sparsity.couple(f)(of_small(*names), jnp.ones(3))
    assert not coupling.fits.any()


def test_a_kernel_that_is_used_both_ways_reads_and_writes():
    """Tied weights, W tanh(Wᵀh): no channel of h goes while they read it."""

    def f(p, x):
        h = jnp.tanh(x @ p["c"])
        back = jax.lax.dot_general(jnp.tanh(h @ p["w"]), p["w"], (((0,), (1,)), ((), ())))
        return (h + back) @ p["e"]

    params, x = of_small("c", "w", "e"), jnp.asarray([0.3, -1.0, 2.0], float)
    coupling = sparsity.couple(f)(params, x)
    assert coupling.fits.all()
    gates = {"c": None, "w": None, "e": jnp.ones((4, 2)).at[0].set(0)}
    left = sparsity.collapse(params, gates, coupling=coupling)
    assert left["w"].shape == (4, 5)
    np.testing.assert_allclose(f(left, x), f(sparsity.apply(params, gates), x), rtol=1e-5)
    keep = np.arange(len(coupling)) != 0
    small, masked = coupling.shrink(params, keep), sparsity.apply(params, coupling.masks(keep))
    np.testing.assert_allclose(f(small, x), f(masked, x), rtol=1e-5)


def test_gates_between_open_and_closed_multiply_before_they_are_collapsed():
    gates = {"a": None, "b": jnp.asarray(np.repeat([[-0.7, 0.7, -9.0, 9.0]], 2, 0).T.repeat(2, 0), float)}
    params, mask = of_small("a", "b"), sparsity.HardConcrete().threshold(gates)
    f, x = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], jnp.ones(3)
    coupling = sparsity.couple(f)(params, x)
    gated = sparsity.apply(params, mask)
    small = sparsity.collapse(gated, jax.tree.map(lambda g: 1.0 * (g > 0), mask), coupling=coupling)
    assert small["a"].shape == (3, 6)
    np.testing.assert_allclose(f(small, x), f(gated, x), rtol=1e-5)


def test_strides_without_windows_and_what_only_looks():
    def f(p, x):
        h = jnp.tanh(x @ p["a"])
        jax.debug.callback(lambda h: None, h)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1), (2, 1), "VALID")
        return jnp.sum(h, 0) @ p["b"]

    coupling = sparsity.couple(f)(of_small("a", "b"), jnp.ones((4, 3)))
    assert len(coupling) == 8
    assert coupling.fits.all()


def test_concatenated_and_padded_channels():
    def f(p, x):
        h, g = jnp.tanh(x @ p["a"]), jax.nn.relu(x @ p["b"])
        return jnp.pad(jnp.concatenate([h, g]), (1, 0)) @ p["c"]

    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=s)) for name, s in {"a": (3, 2), "b": (3, 4), "c": (7, 2)}.items()}
    x = jnp.asarray(rng.normal(size=3))
    coupling = sparsity.couple(f)(params, x)
    assert len(coupling) == 6
    small = coupling.shrink(params, np.array([True, False, True, True, False, False]))
    assert {name: a.shape for name, a in small.items()} == {"a": (3, 1), "b": (3, 2), "c": (4, 2)}
    masks = coupling.masks(np.array([True, False, True, True, False, False]))
    np.testing.assert_allclose(f(small, x), f(sparsity.apply(params, masks), x), rtol=1e-5)


def test_what_is_refused():
    apply, params, state = network("MLP")
    coupling = sparsity.couple(apply)(params, state, jnp.ones(IMAGE))
    with pytest.raises(ValueError, match=r"`keep` must be a bool array \[13\]"):
        coupling.shrink(params, np.ones(13))
    with pytest.raises(ValueError, match="At least one channel must be kept; axis 1 of `dense_0/kernel`"):
        coupling.shrink(params, np.zeros(13, bool))
    with pytest.raises(ValueError, match="must have the structure"):
        coupling.shrink({"a": jnp.ones(3)}, np.ones(13, bool))


def test_scores_are_those_of_all_writers():
    apply, params, state = network("tied")
    with pytest.raises(ValueError, match="Running statistics must be among `argnums`"):
        sparsity.couple(apply)(params, state, jnp.ones(IMAGE))
    coupling = sparsity.couple(apply, (0, 1))(params, state, jnp.ones(IMAGE))
    scores = coupling.scores(jax.tree.map(jnp.abs, (params, state)))
    for score, channel in zip(scores, coupling.channels, strict=True):
        leaves = jax.tree.leaves((params, state))
        expected = sum(float(jnp.sum(jnp.abs(jnp.take(leaves[i], j, axis)))) for i, axis, j in channel.written)
        assert score == pytest.approx(expected, rel=1e-5)


def test_trees_with_nothing_at_some_places():
    """As Equinox leaves them where a leaf is no array."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    f = lambda arrays, x: eqx.combine(arrays, rest)(x)  # noqa: E731
    x = jnp.arange(4.0)
    coupling = sparsity.couple(f)(arrays, x)
    keep = coupling.scores(jax.tree.map(jnp.abs, arrays)).argsort().argsort() >= 4
    small = coupling.shrink(arrays, keep)
    np.testing.assert_allclose(f(small, x), f(sparsity.apply(arrays, coupling.masks(keep)), x), atol=1e-5)
    assert small.layers[0].weight.shape == (4, 4)
    assert coupling.kept(coupling.masks(keep)).tolist() == keep.tolist()
    found = sparsity.select_channels(f, kept=0.5)(arrays, jnp.eye(4))
    assert found.shrunk().layers[1].weight.shape == (3, 4)


def test_other_trees_and_shapes_are_refused():
    f = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]  # noqa: E731
    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    coupling, keep = sparsity.couple(f)(params, jnp.ones(3)), np.array([True, True, False, True])
    with pytest.raises(ValueError, match=r"`in` must have the shape \(3, 4\)"):
        coupling.shrink({**params, "in": jnp.ones((3, 2))}, keep)
    for call in (lambda tree: coupling.shrink(tree, keep), coupling.scores, coupling.kept):
        with pytest.raises(ValueError, match="must have the structure of the coupled arguments"):
            call({"in": params["in"], "uot": params["out"]})
    with pytest.raises(TypeError, match="`f` of `couple` must be a function"):
        sparsity.couple("f")
    with pytest.raises(ValueError, match="must have the structure of the parameters"):
        sparsity.count(params, {"in": None, "uot": params["out"]})
