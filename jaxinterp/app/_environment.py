"""What a run depends on besides its experiment: versions, devices, and whether they work."""

import importlib.metadata
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinterp

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "matplotlib")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the numbers depend on."""
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"jaxinterp": jaxinterp.__version__, "python": platform.python_version(), **installed}


def devices() -> list[str]:
    """The devices JAX computes on."""
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]


def check_device(device: Any) -> tuple[bool, str]:
    """Computes a gradient on a device; says whether it is right, and how long the second call took."""
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    try:
        gradient = jax.jit(jax.grad(lambda v: jnp.sum(jnp.tanh(v) ** 2)))
        placed = jax.device_put(x, device)
        gradient(placed).block_until_ready()
        start = time.perf_counter()
        computed = np.asarray(gradient(placed).block_until_ready())
        seconds = time.perf_counter() - start
    except Exception as error:  # a broken driver can raise anything, and the doctor must live to tell
        return False, f"failed: {error}"
    wide = np.tanh(x.astype(np.float64))
    worst = float(np.max(np.abs(computed - 2 * wide * (1 - wide**2))))
    return worst < 1e-5, f"gradient off by at most {worst:.1e}, {seconds * 1e3:.2f} ms"
