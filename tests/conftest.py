"""The world of the tests: harsher than the user's, and the same on every machine.

Dtypes are never promoted, ranks never broadcast, a random key is never used twice, and a warning is an error. Programs
are compiled quickly, not to run quickly; with JAXINTERP_OPTIMIZED=1 they are compiled as for users. Tests of
training, of the application and of notebooks take the fixture `standard_promotion`, because Optax itself needs it.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

X64 = os.environ.get("JAXINTERP_X64") == "1"
QUICKLY = os.environ.get("JAXINTERP_OPTIMIZED") != "1"

# Later versions have no such flag. In float64 it would show: the older emitter may compute the same noise, which is
# float32, once for each of its uses, with other last digits.
if QUICKLY and not X64 and jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/jaxinterp-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_disable_most_optimizations", QUICKLY)

SHARED = pathlib.Path(__file__).parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--first-cases", action="store_true", help="of each parametrised test run the first case only")


@pytest.hookimpl(trylast=True)  # after the marks have chosen
def pytest_collection_modifyitems(config, items):
    """Other versions of the dependencies see one case of each test, and all those that read programs."""
    if not config.getoption("--first-cases"):
        return
    first = {}
    for item in items:
        case = item.name if "interpreters" in item.path.parts else getattr(item, "originalname", item.name)
        first.setdefault((item.path, item.cls, case), item)
    kept = {id(item) for item in first.values()}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


@pytest.fixture(scope="session")
def shared():
    """The folder of real data, weights and golden arrays beside the project; tests that need it skip without it."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip(f"the golden arrays are not here: {SHARED} does not exist")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared):
    """Loads a file of golden arrays by name."""
    return lambda name: np.load(shared / "goldens" / f"{name}.npz")


@pytest.fixture(scope="session")
def trained_resnet(shared):
    """Builds the trained CIFAR-10 ResNet-20 as a function of one normalised image, in the precision of the tests."""
    from jaxinterp import models

    def build(**options):
        with np.load(shared / "data" / "cifar10_resnet20_torch_state.npz") as weights:
            network = models.as_function(models.resnet_from_torch(weights, **options))
        dtype = jnp.float64 if X64 else jnp.float32
        params, state = jax.tree.map(lambda a: a.astype(dtype), (network.params, network.state))

        def apply(x):
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # flax broadcasts
                return network.apply(params, state, x)

        return apply

    return build


@pytest.fixture(scope="module")
def optimized():
    """Programs of the file are compiled as for users: near the kinks of ReLUs the golden arrays depend on rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", QUICKLY)


@pytest.fixture
def key():
    """A fresh key; every test that takes it gets the same one."""
    return jax.random.key(0)


@pytest.fixture
def standard_promotion():
    """Dtypes and ranks promote as they do for users."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_forgotten():
    """Between files, so that the programs of all tests are never in memory together."""
    yield
    jax.clear_caches()
