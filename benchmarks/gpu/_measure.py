"""Times, memory and errors of one function on one device."""

import gc
import importlib
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from ._steps import Context, Missing


T = TypeVar("T")


class Compiled(NamedTuple):
    call: Callable
    # Seconds.
    trace: float
    lower: float
    compile: float
    # Bytes that XLA has planned for arguments, results and all between them.
    memory: int | None


def compiled(fun: Callable, args: Sequence[Any]) -> Compiled:
    """Of what was traced before in this process nothing is kept."""
    jax.clear_caches()
    gc.collect()
    start = time.perf_counter()
    # By another name: `jax.jit` remembers the functions that it has seen.
    traced = jax.jit(lambda *args: fun(*args)).trace(*args)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    executable = lowered.compile()
    end = time.perf_counter()
    return Compiled(
        executable,
        after_trace - start,
        after_lower - after_trace,
        end - after_lower,
        _planned(executable),
    )


def _planned(executable: Any) -> int | None:
    try:
        sizes = executable.memory_analysis()
        return int(
            sizes.temp_size_in_bytes
            + sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
        )
    # Not every backend tells, and those that do not differ in what they say instead.
    except Exception:
        return None


def peak_in_use(device: Any) -> int | None:
    """Bytes, since the process began; `None` where the backend does not count."""
    try:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    except Exception:
        return None


def measured(
    context: Context, fun: Callable, args: Sequence[Any], *, run: bool = True
) -> tuple[dict[str, Any], Any]:
    """What goes into a row, and the result. Times are in seconds, `run` is a median,
    `low` and `high` are quartiles."""
    args = jax.device_put(tuple(args), context.device)
    before = peak_in_use(context.device)
    program = compiled(fun, args)
    row: dict[str, Any] = dict(
        trace=program.trace,
        lower=program.lower,
        compile=program.compile,
        memory=program.memory,
    )
    if not run:
        return row, None
    result = jax.block_until_ready(program.call(*args))
    row |= timed(context, lambda: program.call(*args))
    after = peak_in_use(context.device)
    # The count of the process only grows. Unless it has grown, it is another's.
    if after is not None and (before is None or after > before):
        row["peak"] = after
    return row, result


def timed(context: Context, call: Callable[[], Any]) -> dict[str, Any]:
    """Runs of what has been run before. At least `repeats` of them, unless they take
    five times as long as they should; then three."""
    sizes = context.sizes
    runs: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        jax.block_until_ready(call())
        now = time.perf_counter()
        runs.append(now - start)
        enough = sizes.repeats if now - begin < 5 * sizes.seconds else 3
        if now - begin >= sizes.seconds and len(runs) >= enough:
            break
    low, median, high = (float(q) for q in np.percentile(runs, [25, 50, 75]))
    return dict(run=median, low=low, high=high, runs=len(runs))


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
    )


def halved_to_fit(context: Context, size: int, attempt: Callable[[int], T]) -> T:
    """`attempt(size)`; where the memory does not suffice, of half the size, and so
    on, which is noted."""
    while True:
        try:
            return attempt(size)
        except Exception as e:
            if not is_out_of_memory(e) or size < 2:
                raise
        # Not within the `except`, which keeps the arrays of the attempt alive.
        gc.collect()
        context.note(f"out of memory at {size}: halved to {size // 2}")
        size //= 2


def peer(name: str) -> ModuleType:
    """A package that is compared with where it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise Missing(name.partition(".")[0]) from e


def sketch(result: Any) -> list[float]:
    """Root mean squares of the leaves: by these, results of rivals are compared that
    are not in memory at the same time."""
    return [
        float(np.sqrt(np.mean(np.abs(np.asarray(leaf, np.float64)) ** 2)))
        for leaf in jax.tree.leaves(result)
    ]


def unlike(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest relative difference of two sketches."""
    if len(a) != len(b):
        return float("inf")
    found = [abs(p - q) / max(abs(q), 1e-300) if p != q else 0 for p, q in zip(a, b)]
    return float(np.max(found, initial=0.0))


def tolerance_for(
    target: float, error_at: Callable[[float], float], lowest: float
) -> tuple[float, float]:
    """The tolerance at which the error is the target, to a factor of 1.2, and that
    error; the nearest that was found in ten trials, otherwise. Errors follow a power
    law of tolerances well enough for the secant method."""
    tried: list[tuple[float, float]] = []
    tolerance = target
    for _ in range(10):
        error = error_at(tolerance)
        if not np.isfinite(error) or error <= 0:
            tolerance = max(tolerance / 10, lowest)
            continue
        tried.append((tolerance, error))
        if abs(np.log(error / target)) < np.log(1.2):
            break
        slope = 1.0
        if len(tried) > 1:
            (t0, e0), (t1, e1) = tried[-2:]
            if t0 != t1 and e0 != e1:
                slope = float(np.clip(np.log(e1 / e0) / np.log(t1 / t0), 0.4, 2.5))
        factor = np.exp(np.log(target / error) / slope)
        new = float(np.clip(tolerance * np.clip(factor, 1e-4, 1e4), lowest, 1e-1))
        if new == tolerance:
            break
        tolerance = new
    if not tried:
        raise RuntimeError(f"no tolerance gives a finite error, down to {lowest:g}")
    return min(tried, key=lambda pair: abs(np.log(pair[1] / target)))
