"""Compile time and run time of rivals, measured in one process, turn by turn."""

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Timing(NamedTuple):
    name: str
    # Seconds from the Python function to an executable: tracing, lowering, compiling.
    compile: float
    # Seconds of each run, after a warm-up.
    runs: np.ndarray
    result: Any

    @property
    def run(self) -> float:
        return float(np.median(self.runs))

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles."""
        low, high = np.percentile(self.runs, [25, 75])
        return float(high - low) / 2


def compare(
    rivals: Sequence[tuple[str, Callable]], args: Sequence[Any], seconds: float = 3.0
) -> list[Timing]:
    """Times functions of the same arguments. The rivals take turns, run by run, so that
    whatever else the machine does falls on all of them."""
    # The first compilation of a process takes a second more than it would later.
    jax.jit(lambda *args: [jax.numpy.sin(x) for x in jax.tree.leaves(args)])(*args)
    compiled, compile_times, results = [], [], []
    for _, fun in rivals:
        start = time.perf_counter()
        executable = jax.jit(fun).lower(*args).compile()
        compile_times.append(time.perf_counter() - start)
        results.append(jax.block_until_ready(executable(*args)))
        compiled.append(executable)
    runs: list[list[float]] = [[] for _ in rivals]
    finish = time.perf_counter() + seconds
    while time.perf_counter() < finish or len(runs[0]) < 7:
        for times, executable in zip(runs, compiled):
            start = time.perf_counter()
            jax.block_until_ready(executable(*args))
            times.append(time.perf_counter() - start)
    return [
        Timing(name, compile_time, np.array(times), result)
        for (name, _), compile_time, times, result in zip(
            rivals, compile_times, runs, results
        )
    ]


def print_table(title: str, timings: Sequence[Timing]) -> None:
    """A table in Markdown; ratios are to the last row."""
    last = timings[-1]
    print(f"\n{title}\n")
    print("| | run, ms | ± | ratio | trace+compile, s | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for t in timings:
        print(
            f"| {t.name} | {1e3 * t.run:.4g} | {1e3 * t.spread:.2g} "
            f"| {t.run / last.run:.3f} | {t.compile:.2f} "
            f"| {t.compile / last.compile:.3f} |"
        )


def print_machine() -> None:
    device = jax.devices()[0]
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"{platform.machine()}, {device.platform}: {device.device_kind}"
    )
