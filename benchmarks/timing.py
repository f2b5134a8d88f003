"""Timing of alternatives side by side: interleaved rounds, the best of each, so that a busy machine hits all alike."""

import contextlib
import ctypes
import time
from collections.abc import Callable, Mapping

import jax

PAUSE = 0.01
"""Seconds in which the threads of one alternative stop spinning before the next one starts."""


def best_seconds(alternatives: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """The least time of each alternative over the rounds, compiled beforehand."""
    for run in alternatives.values():
        jax.block_until_ready(run())
    best = dict.fromkeys(alternatives, float("inf"))
    for _ in range(rounds):
        for name, run in alternatives.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            jax.block_until_ready(run())
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_bytes(compiled: object) -> int:
    """Temporary memory of a compiled function."""
    return compiled.memory_analysis().temp_size_in_bytes


def keep_freed_memory() -> None:
    """Lets glibc's malloc reuse the memory of one call in the next; to be called before JAX starts its threads.

    By default a block above 32 MB is mapped anew for each call, and each of its pages costs a fault: a program that
    needs a little more than that would seem slower by far more than its work. Other allocators are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-4, 0), (-1, -1), (-8, 1)):  # no separate mappings, no trimming, one arena
            mallopt(option, value)


def heading(title: str) -> None:
    device = jax.devices()[0]
    print(f"{title}\njax {jax.__version__}, {device.platform} {device.device_kind}\n")
