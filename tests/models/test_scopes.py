"""The paths of modules, read off the name stack of the traced program."""

import contextvars
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxinterp import models

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]

X = np.random.default_rng(0).normal(size=3).astype(np.float32)


def equations(jaxpr, prefix=""):
    """The equations of a program and of the programs that it calls, each with its full path.

    A stack says which transformations it went through, as in `vmap(blocks_0)/attn`; only the names are wanted.
    """
    for eqn in jaxpr.eqns:
        names = re.sub(r"\w+\(|\)", "", str(eqn.source_info.name_stack))
        path = "/".join(filter(None, [prefix, names]))
        yield path, eqn.primitive.name
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, path)


def program(model):
    net = models.as_function(model)
    return list(equations(jax.make_jaxpr(net.apply)(net.params, net.state, X).jaxpr))


def paths(model, primitive="dot_general"):
    """The paths of the equations of one kind, in the order in which they run."""
    return [path for path, name in program(model) if name == primitive]


def assert_same_outputs(model):
    net = models.as_function(model)
    model.eval()
    np.testing.assert_array_equal(net.apply(net.params, net.state, X), model(X[None])[0])


def listed(modules):
    return nnx.List(modules) if hasattr(nnx, "List") else modules


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.query, self.key = nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return jnp.sin(self.query(x)) * self.key(x)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attn, self.out = Attention(rngs), nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return jnp.cos(self.out(self.attn(x)))


class Net(nnx.Module):
    """Blocks as attributes and in a list."""

    def __init__(self, rngs):
        self.blocks_0 = Block(rngs)
        self.layers = listed([nnx.Linear(3, 3, rngs=rngs), Block(rngs)])

    def __call__(self, x):
        x = self.blocks_0(jnp.tanh(x))
        for layer in self.layers:
            x = layer(x)
        return jnp.exp(x)


@pytest.fixture
def rngs():
    return nnx.Rngs(0)


def test_the_name_stack_is_the_path_of_the_module(rngs):
    model = Net(rngs)
    assert paths(model) == [
        "blocks_0/attn/query",
        "blocks_0/attn/key",
        "blocks_0/out",
        "layers/0",
        "layers/1/attn/query",
        "layers/1/attn/key",
        "layers/1/out",
    ]
    assert paths(model, "sin") == ["blocks_0/attn", "layers/1/attn"]
    assert paths(model, "cos") == ["blocks_0", "layers/1"]
    assert paths(model, "tanh") == paths(model, "exp") == [""]
    assert_same_outputs(model)


def test_every_equation_of_a_layer_is_in_its_scope():
    model = models.ResNet((6, 6, 1), widths=(2,), blocks_per_stage=1, num_classes=3, rngs=nnx.Rngs(0))
    net = models.as_function(model)
    jaxpr = jax.make_jaxpr(net.apply)(net.params, net.state, jnp.ones((4, 4, 1))).jaxpr
    found = {path for path, _ in equations(jaxpr)}
    assert found == {"", "conv", "norm", "blocks_0", "head"} | {
        f"blocks_0/{name}_{i}" for name in ("conv", "norm") for i in range(2)
    }
    assert [path for path, name in equations(jaxpr) if name == "rsqrt"] == [
        "norm",
        "blocks_0/norm_0",
        "blocks_0/norm_1",
    ]


def gradient(apply):
    return jax.grad(lambda *args: apply(*args).sum(), argnums=2)


@pytest.mark.parametrize(
    "transform", [jax.jit, gradient, lambda apply: jax.vmap(apply, (None, None, None), axis_size=2)]
)
def test_scopes_are_there_under_transformations(transform, rngs):
    net = models.as_function(Net(rngs))
    jaxpr = jax.make_jaxpr(transform(net.apply))(net.params, net.state, X).jaxpr
    found = [path for path, name in equations(jaxpr) if name == "sin"]
    assert [path for path in found if path.endswith("attn")] == ["blocks_0/attn", "layers/1/attn"]


class Reaching(nnx.Module):
    """Calls the layers of its encoder past the encoder."""

    def __init__(self, rngs):
        self.encoder = Block(rngs)

    def __call__(self, x):
        return self.encoder(self.encoder.attn.query(x))


def test_a_grandchild_called_directly_has_its_whole_path(rngs):
    assert paths(Reaching(rngs)) == [
        "encoder/attn/query",
        "encoder/attn/query",
        "encoder/attn/key",
        "encoder/out",
    ]


class Similar(nnx.Module):
    """Two names, one of which begins with the other."""

    def __init__(self, rngs):
        self.layer = Holder(nnx.Linear(3, 3, rngs=rngs))
        self.layer_1 = nnx.Linear(3, 3, rngs=rngs)
        self.layer.other = self.layer_1

    def __call__(self, x):
        return self.layer_1(self.layer(x))


class Holder(nnx.Module):
    """Calls one layer twice."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(self.layer(x))


def test_calls_of_one_module_have_one_path(rngs):
    assert paths(Holder(nnx.Linear(3, 3, rngs=rngs))) == ["layer"] * 2
    assert paths(Similar(rngs)) == ["layer/layer", "layer/layer", "layer/other"]


class Shared(nnx.Module):
    """One layer under three attributes of two modules."""

    def __init__(self, rngs):
        self.b = self.a = nnx.Linear(3, 3, rngs=rngs)
        self.holder = Holder(self.a)

    def __call__(self, x):
        return jnp.sin(self.holder(self.a(self.b(x))))


def test_a_shared_module_has_its_first_path(rngs):
    """Where another module has opened its scope already, the path starts anew."""
    model = Shared(rngs)
    assert paths(model) == ["a", "a", "holder//a", "holder//a"]
    assert paths(model, "sin") == [""]
    assert set(models.as_function(model).params) == {"a"}
    assert_same_outputs(model)


class Recursive(nnx.Module):
    """Calls itself."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x, depth=2):
        return self.layer(x) if depth == 0 else self(self.layer(x), depth - 1)


def test_a_module_that_calls_itself(rngs):
    assert paths(Recursive(rngs)) == ["layer"] * 3
    assert paths(Holder(Recursive(rngs))) == ["layer/layer"] * 6
    assert_same_outputs(Holder(Recursive(rngs)))


class Remat(nnx.Module):
    """Recomputes its inner values in the backward pass, in three ways of writing it."""

    def __init__(self, rngs):
        self.a, self.b, self.c = Rematted(rngs), Block(rngs), Block(rngs)

    def __call__(self, x):
        x = self.a(x)
        x = nnx.remat(lambda block, x: block(x))(self.b, x)
        return nnx.remat(Block.__call__)(self.c, x)


class Rematted(Block):
    @nnx.remat
    def __call__(self, x):
        return super().__call__(x)


def test_modules_under_remat(rngs):
    model = Remat(rngs)
    wanted = [f"{name}/{layer}" for name in "abc" for layer in ("attn/query", "attn/key", "out")]
    assert paths(model) == wanted
    assert paths(model, "sin") == ["a/attn", "b/attn", "c/attn"]
    assert paths(model, "cos") == ["a", "b", ""]  # the last call goes past the object, straight to the class
    assert_same_outputs(model)


class Mapped(nnx.Module):
    """The modules of Flax's transformations: mapped over the batch, compiled, repeated."""

    def __init__(self, rngs):
        self.mapped, self.jitted, self.looped = (Block(rngs) for _ in range(3))

    def __call__(self, x):
        x = nnx.vmap(lambda block, x: block(x), in_axes=(None, 0))(self.mapped, x)
        x = nnx.jit(lambda block, x: block(x))(self.jitted, x)
        return nnx.fori_loop(0, 2, lambda i, carry: (carry[0], carry[0](carry[1])), (self.looped, x))[1]


def test_modules_under_other_transformations(rngs):
    found = paths(Mapped(rngs), "sin")
    assert found[:2] == ["mapped/attn", "jitted/attn"]
    assert found[2].endswith("looped/attn")
    assert_same_outputs(Mapped(rngs))


def test_two_layers_of_one_compiled_function_keep_apart(rngs):
    """What is compiled for one layer must not lend its name to another of the same shape."""

    @nnx.jit
    def run(block, x):
        return block(x)

    class Twice(nnx.Module):
        def __init__(self):
            self.first, self.second = Block(rngs), Block(rngs)

        def __call__(self, x):
            return run(self.second, run(self.first, x))

    assert paths(Twice(), "sin") == ["first/attn", "second/attn"]


SUBCLASSES = []


class Base(nnx.Module):
    """Defines the call, and keeps a list of its subclasses, each of which needs a name."""

    def __init_subclass__(cls, *, label, **kwargs):
        super().__init_subclass__(**kwargs)
        SUBCLASSES.append(label)

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x, *, scale=1.0):
        return scale * self.linear(x)


class Heir(Base, label="heir"):
    """Inherits its call."""


class Grandheir(Heir, label="grandheir"):
    """Uses the call of its parents."""

    def __call__(self, x):
        return jnp.sin(super().__call__(x, scale=2.0))


class Mixin:
    """No module itself."""

    def scaled(self, x):
        return 2 * x


class Mixed(Mixin, nnx.Module):
    """A class whose first base is no module."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.scaled(self.linear(x))


class Unregistered(nnx.Module, pytree=False):
    """A module that JAX does not know as a pytree; its layers may be in a plain list."""

    def __init__(self, rngs):
        self.layers = [nnx.Linear(3, 3, rngs=rngs)]

    def __call__(self, x):
        return nnx.remat(lambda layer, x: layer(x))(self.layers[0], x)


@pytest.mark.parametrize(
    ("make", "inner"),
    [(Heir, "linear"), (Grandheir, "linear"), (Mixed, "linear"), (Unregistered, "layers/0")],
    ids=lambda v: str(v),
)
def test_classes_of_all_kinds(make, inner, rngs):
    model = Holder(make(rngs))
    assert paths(model) == [f"layer/{inner}"] * 2
    assert paths(make(rngs)) == [inner]
    assert_same_outputs(model)
    assert SUBCLASSES == ["heir", "grandheir"]


class Scaled(nnx.Module):
    """Takes a further argument, which `nnx.Sequential` and others look for in the signature."""

    def __call__(self, x, *, rngs=None):
        return x if rngs is None else 2 * x


class Asking(nnx.Module):
    """Passes the generator of random numbers on, for those who ask for it."""

    def __init__(self, rngs):
        self.layers = nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), Scaled(), jnp.sin)
        self.rngs = rngs

    def __call__(self, x):
        return self.layers(x, rngs=self.rngs)


def test_the_signatures_of_layers_stay(rngs):
    assert_same_outputs(Asking(rngs))
    assert paths(Asking(rngs)) == ["layers/layers/0"]
    assert paths(Asking(rngs), "mul") == ["layers/layers/1"]


class Inspecting(nnx.Module):
    """Looks at its layers in ways that a module may."""

    def __init__(self, rngs):
        self.layer = Block(rngs)

    def __call__(self, x):
        assert isinstance(self.layer, Block)
        assert set(vars(self.layer)) == set(vars(Block(nnx.Rngs(0))))
        assert type(self.layer).__name__ == "Block"
        assert type(self.layer).__module__ == Block.__module__
        graph, state = nnx.split(self.layer)
        return nnx.merge(graph, state)(x)


def test_a_module_finds_its_layers_as_they_were(rngs):
    assert paths(Inspecting(rngs), "cos") == ["layer"]
    assert_same_outputs(Inspecting(rngs))


def classes(model):
    return [(path, type(node)) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]


def test_the_module_and_its_classes_stay_as_they_are(rngs):
    model = Net(rngs)
    before, attributes = classes(model), dict(vars(Block))
    program(model)
    assert classes(model) == before
    assert dict(vars(Block)) == attributes
    assert {cls for _, cls in before} >= {Net, Block, Attention, nnx.Linear}
    jaxpr = jax.make_jaxpr(lambda x: model(x))(X[None]).jaxpr
    assert {path for path, _ in equations(jaxpr)} == {""}


def test_the_function_in_training_has_no_scopes(rngs, key):
    training = models.as_training_function(Net(rngs))
    jaxpr = jax.make_jaxpr(training.apply)(training.params, training.state, key, X[None]).jaxpr
    assert [path for path, name in equations(jaxpr) if name == "sin"] == ["", ""]


class Failing(nnx.Module):
    """A call that raises half way."""

    def __init__(self, rngs):
        self.layer, self.fails = Holder(nnx.Linear(3, 3, rngs=rngs)), True

    def __call__(self, x):
        self.layer(x)
        return self.layer(x[:, :2])


def test_nothing_is_left_over(rngs):
    net, wanted = models.as_function(Net(rngs)), paths(Net(nnx.Rngs(0)))
    before = dict(contextvars.copy_context())
    failing = models.as_function(Failing(rngs))
    with pytest.raises(TypeError):
        failing.apply(failing.params, failing.state, X)
    net.apply(net.params, net.state, X)
    assert dict(contextvars.copy_context()) == before
    assert paths(Net(nnx.Rngs(0))) == wanted


def test_networks_in_threads_keep_apart(rngs):
    model, found = Net(rngs), {}
    wanted = paths(model)
    threads = [threading.Thread(target=lambda i=i: found.update({i: paths(model)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), wanted)


class Outer(nnx.Module):
    """Has a layer that evaluates another network, of its own paths."""

    def __init__(self, inner):
        self.wrapper = Inner(inner)

    def __call__(self, x):
        return self.wrapper(x)


class Inner(nnx.Module):
    def __init__(self, net):
        self.apply = lambda x: net.apply(net.params, net.state, x)

    def __call__(self, x):
        return jax.vmap(self.apply)(x)


def test_a_network_inside_another_one_is_below_its_module(rngs):
    assert paths(Outer(models.as_function(Reaching(rngs))), "sin") == ["wrapper/encoder/attn"]


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, name="first")(x)


def test_linen_names_its_modules_itself(key):
    variables = Dense().init(key, X[None])
    net = models.as_function(Dense(), variables)
    jaxpr = jax.make_jaxpr(net.apply)(net.params, net.state, X).jaxpr
    assert [path for path, name in equations(jaxpr) if name == "dot_general"] == ["Dense/first"]


def test_linen_modules_inside_nnx_are_below_their_attribute(rngs):
    bridged = nnx.bridge.ToNNX(Dense(), rngs=rngs).lazy_init(X[None])
    assert paths(Holder(bridged)) == ["layer/Dense/first"] * 2
    assert_same_outputs(Holder(bridged))
