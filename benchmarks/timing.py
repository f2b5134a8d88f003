"""Timing of alternatives side by side: interleaved rounds, the best of each, so that a busy machine hits all alike."""

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


def heading(title: str) -> None:
    device = jax.devices()[0]
    print(f"{title}\njax {jax.__version__}, {device.platform} {device.device_kind}\n")
