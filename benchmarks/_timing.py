"""Compile time and run time of rivals, measured in one process, turn by turn."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ._report import Figure, machine


class Timing(NamedTuple):
    name: str
    # Seconds from the Python function to an executable: tracing, lowering, compiling.
    compiles: np.ndarray
    # Seconds of each run, after a warm-up.
    runs: np.ndarray
    result: Any

    @property
    def compile(self) -> float:
        return float(np.median(self.compiles))

    @property
    def compile_spread(self) -> float | None:
        return None if len(self.compiles) == 1 else spread(self.compiles)

    @property
    def run(self) -> float:
        return float(np.median(self.runs))

    @property
    def spread(self) -> float:
        return spread(self.runs)


def spread(times: Sequence[float] | np.ndarray) -> float:
    """Half the distance between the quartiles."""
    low, high = np.percentile(times, [25, 75])
    return float(high - low) / 2


def compared(
    work: str,
    quantity: str,
    peer: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    at_most: float | None,
) -> Figure:
    """The medians of what was measured of both, in seconds, with their spreads if they
    were measured more than once."""
    return Figure(
        work,
        quantity,
        peer,
        float(np.median(ours)),
        float(np.median(theirs)),
        ours_spread=spread(ours) if len(ours) > 1 else None,
        theirs_spread=spread(theirs) if len(theirs) > 1 else None,
        at_most=at_most,
    )


def compile_once(fun: Callable, args: Sequence[Any]) -> tuple[Any, float]:
    """An executable, and the seconds that it took. Of what was traced before in this
    process nothing is kept, so that it does not matter which rival comes first."""
    jax.clear_caches()
    # Not within the time of whoever happens to come next.
    gc.collect()
    start = time.perf_counter()
    # By another name: `jax.jit` remembers the functions that it has seen.
    executable = jax.jit(lambda *args: fun(*args)).lower(*args).compile()
    return executable, time.perf_counter() - start


def warm_up(args: Sequence[Any] = ()) -> None:
    """The first compilation of a process takes a second more than it would later."""
    leaves = [jax.numpy.zeros(3), *jax.tree.leaves(args)]
    jax.jit(lambda xs: [jax.numpy.sin(x) for x in xs]).lower(leaves).compile()


def why(error: BaseException) -> str:
    """The type of an exception and the first line that it says, in Markdown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines or [""])[0].replace("|", "\\|").replace("`", "'")
    if len(text) > 100:
        text = text[:100].rsplit(" ", 1)[0] + " ..."
    return f"`{type(error).__name__}`" + (f": {text}" if text else "")


def compare(
    rivals: Sequence[tuple[str, Callable]],
    args: Sequence[Any],
    seconds: float = 3.0,
    *,
    compiles: int = 1,
    failures: dict[str, str] | None = None,
) -> list[Timing]:
    """Times functions of the same arguments. The rivals take turns, run by run and
    compilation by compilation, so that whatever else the machine does falls on all of
    them.

    With `failures`, a rival that raises an exception is left out, and the reason is
    noted there by its name. At least seven runs are made of each, unless a turn takes
    longer than `seconds`: then three."""
    warm_up(args)
    rivals = list(rivals)
    executables: dict[str, Any] = {}
    compile_times: dict[str, list[float]] = {name: [] for name, _ in rivals}
    for turn in range(compiles):
        for name, fun in list(rivals):
            try:
                executables[name], taken = compile_once(fun, args)
                compile_times[name].append(taken)
            except Exception as e:
                if failures is None:
                    raise
                failures[name] = why(e)
                rivals.remove((name, fun))
    results = {
        name: jax.block_until_ready(executables[name](*args)) for name, _ in rivals
    }
    runs: dict[str, list[float]] = {name: [] for name, _ in rivals}
    begin = time.perf_counter()
    turns = 0
    while rivals:
        taken = time.perf_counter() - begin
        if taken >= seconds and turns >= (7 if taken < 7 * seconds else 3):
            break
        for name, _ in rivals:
            start = time.perf_counter()
            jax.block_until_ready(executables[name](*args))
            runs[name].append(time.perf_counter() - start)
        turns += 1
    return [
        Timing(name, np.array(compile_times[name]), np.array(runs[name]), results[name])
        for name, _ in rivals
    ]


def difference(a: Any, b: Any) -> float:
    """The largest of all arrays of two results, each relative to the largest number in
    the array of `b`."""
    worst = 0.0
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
        size = np.max(np.abs(q))
        # Zeros are compared as they are. NaN stays NaN, which no bound allows.
        worst = np.maximum(worst, np.max(np.abs(p - q)) / (size if size > 0 else 1))
    return float(worst)


def check_equal(a: Any, b: Any, at_most: float, who: str) -> float:
    """Their `difference`; an error if it is above the bound."""
    found = difference(a, b)
    if not found <= at_most:
        raise RuntimeError(
            f"{who}: the results differ by {found:.1e}, relative to the largest number "
            f"of an array; at most {at_most:.1e} are rounding errors."
        )
    return found


def print_table(title: str, timings: Sequence[Timing]) -> None:
    """A table in Markdown; ratios are to the last row."""
    print(f"\n{title}\n\n{timing_table(timings, ratios=True)}")


def timing_table(timings: Sequence[Timing], *, ratios: bool = False) -> str:
    """A table in Markdown. A report leaves the ratios to its figures."""
    last = timings[-1]
    ratio = " ratio |" if ratios else ""
    lines = [
        f"| | run, ms | ± |{ratio} trace+compile, s |{ratio}",
        "|---|---:|---:|---:|" + ("---:|---:|" if ratios else ""),
    ]
    for t in timings:
        run = f" {t.run / last.run:.3f} |" if ratios else ""
        compile = f" {t.compile / last.compile:.3f} |" if ratios else ""
        lines.append(
            f"| {t.name} | {1e3 * t.run:.4g} | {1e3 * t.spread:.2g} |{run} "
            f"{t.compile:.2f} |{compile}"
        )
    return "\n".join(lines)


def print_machine() -> None:
    print(machine(), flush=True)
