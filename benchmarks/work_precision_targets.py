"""Equal error: the time of `TaylorSolver` over that of the fastest of Tsit5, Dopri5 and
Dopri8, for three errors on six problems.

Measured as by `benchmarks.work_precision`, which has more methods, more tolerances and
plots; here are the few that the three errors lie between.
"""

import math
from collections.abc import Sequence

import jax

from ._report import Figure, main, Report
from .problems import all_problems
from .work_precision import measure, Method, METHODS, Row, time_to_error


TITLE = "Solves at equal error, against the fastest Runge-Kutta method"
TEXT = """
The time for an error is interpolated between tolerances by a power law, and the peer is
the fastest of Tsit5, Dopri5 and Dopri8 (`diffrax.PIDController`) at that error. Errors
are those of the final state, relative to its largest component. "Geometric mean" is the
mean of the ratios over the problems on which `TaylorSolver` and at least one of the
other solvers reach the error.
"""
# An error, and what the geometric mean of the ratios is to be at most.
ERRORS = {1e-6: 1.0, 1e-9: 0.5, 1e-12: 0.33}
AT_MOST = 1.25
TOLERANCES = [1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14, 1e-15]
# The largest tolerance that `TaylorSolver` needs, as it has an order, and takes a
# compilation, for each; and the smallest that anyone needs. Errors at the end are one
# tolerance (MLP) to ten thousand (Arenstorf).
RANGES = {
    "Lorenz": (1e-6, 1e-14),
    "Arenstorf": (1e-10, 1e-15),
    "Pleiades": (1e-8, 1e-15),
    "Kepler": (1e-8, 1e-15),
    "Outer Solar System": (1e-8, 1e-15),
    "MLP": (1e-4, 1e-12),
}
OURS = "Taylor"
PEERS = ["Tsit5", "Dopri5", "Dopri8"]


def _methods(highest: float) -> list[Method]:
    methods = {method.name: method for method in METHODS}
    ours = methods[OURS]._replace(highest_tolerance=highest)
    return [ours, *[methods[name] for name in PEERS]]


def _spread(rows: Sequence[Row], target: float) -> float:
    """As a part of the time; of the tolerance nearest by."""
    row = min(rows, key=lambda row: abs(math.log(max(row.error, 1e-17) / target)))
    return row.spread / row.run


def figures_of(problem: str, rows: Sequence[Row]) -> tuple[list[Figure], list[str]]:
    """One for each error, where there is one; and what cannot be reached."""
    by_method = {
        name: [row for row in rows if row.method == name] for name in [OURS, *PEERS]
    }
    figures, notes = [], []
    for target in ERRORS:
        times = {
            name: time_to_error(of_one, target) for name, of_one in by_method.items()
        }
        lacking = [name for name, time in times.items() if time is None]
        if lacking:
            least = ", ".join(
                f"{name} ({min(row.error for row in by_method[name]):.1e})"
                for name in lacking
            )
            notes.append(
                f"- {problem}, {target:g}: **fails** to get there; gets to: {least}."
            )
        ours = times[OURS]
        # A tuple of the time, whether it is a bound only, and the name.
        theirs = [(*time, name) for name in PEERS if (time := times[name]) is not None]
        if ours is None or not theirs:
            continue
        run, bound, name = min(theirs)
        for who, is_bound in [(OURS, ours[1]), (name, bound)]:
            if is_bound:
                notes.append(
                    f"- {problem}, {target:g}: the largest tolerance of {who} brings "
                    "less than this error, and the time is that of it."
                )
        figures.append(
            Figure(
                f"{problem}, error {target:g}",
                "run",
                name,
                ours[0],
                run,
                "s",
                ours[0] * _spread(by_method[OURS], target),
                run * _spread(by_method[name], target),
                AT_MOST,
            )
        )
    return figures, notes


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    figures: list[Figure] = []
    notes: list[str] = []
    everything: list[Row] = []
    for problem in all_problems():
        highest, lowest = RANGES[problem.name]
        # Errors of others may be a hundred times smaller at the same tolerance.
        tolerances = [t for t in TOLERANCES if lowest <= t <= 101 * highest]
        # Seven tolerances are one comparison.
        methods = _methods(highest)
        rows, _ = measure(problem, tolerances, seconds / 4, methods, count=False)
        everything += rows
        some, more = figures_of(problem.name, rows)
        figures += some
        notes += more
    means = []
    for target, at_most in ERRORS.items():
        ratios = [
            figure.ratio
            for figure in figures
            if figure.work.endswith(f"error {target:g}")
        ]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        means.append(
            Figure(
                f"Geometric mean of {len(ratios)}, error {target:g}",
                "run, ratio",
                "the fastest",
                mean,
                1.0,
                "",
                at_most=at_most,
            )
        )
    text = "\n".join([TEXT, *notes])
    data = [row._asdict() for row in everything]
    return Report(TITLE, text, [*means, *figures], data)


if __name__ == "__main__":
    main(run)
