"""Error against work: `TaylorSolver` and solvers of Diffrax at many tolerances.

Each solver is compiled once for each problem, with the tolerance for an argument;
`TaylorSolver` once for each tolerance, as its order depends on it. The rivals at one
tolerance are run by turns.

What is counted as work beside the time: evaluations of the vector field. Runge-Kutta
methods make as many per step, accepted or rejected, as they have stages that are not
taken over from the step before (Tsit5 and Dopri5 6, Dopri8 13), and one at the start.
`TaylorSolver` makes one jet per step and one at the start; a jet counts as many
evaluations as have its number of arithmetical operations, by XLA's count. Kvaerno5 is
not counted: its iterations are not known.
"""

import argparse
import contextlib
import io
import json
import math
import os
import pathlib
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from eqx_taylor import ode_jet, TaylorController, TaylorSolver

from ._timing import print_machine
from .problems import all_problems, choose, error, Problem


TOLERANCES = [1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14]
# The errors for which the summary has the run times.
TARGETS = [1e-3, 1e-6, 1e-9, 1e-11]
# What `--page` replaces.
BEGIN, END = "<!-- begin: results -->\n", "<!-- end: results -->"


class Method(NamedTuple):
    name: str
    # `None` for Taylor's method, whose order is chosen for the tolerance.
    solver: diffrax.AbstractSolver | None
    controller: Callable[..., Any]
    # Evaluations of the field per step.
    stages: int | None
    lowest_tolerance: float = 0.0
    highest_tolerance: float = math.inf
    # 2 for every second tolerance only, as each takes another compilation.
    every: int = 1


def _pid_for_taylor(rtol, atol):
    """As the documentation of `TaylorSolver` recommends."""
    return diffrax.PIDController(rtol, atol, pcoeff=0.3, icoeff=0.3, safety=0.95)


METHODS = [
    Method("Taylor", None, TaylorController, None),
    Method("Taylor, PID", None, _pid_for_taylor, None, every=2),
    Method("Tsit5", diffrax.Tsit5(), diffrax.PIDController, 6),
    Method("Dopri5", diffrax.Dopri5(), diffrax.PIDController, 6),
    Method("Dopri8", diffrax.Dopri8(), diffrax.PIDController, 13),
    # A step takes up to ten times the time of one of Dopri5; with many of them there
    # is nothing to see.
    Method("Kvaerno5", diffrax.Kvaerno5(), diffrax.PIDController, None, 1e-8),
]


class Row(NamedTuple):
    """What is measured of one method at one tolerance; times in seconds."""

    problem: str
    method: str
    tolerance: float
    order: int | None
    steps: int
    rejected: int
    jets: int | None
    evaluations: float | None
    error: float
    run: float
    # Half the distance between the quartiles.
    spread: float
    # Tracing, lowering and compiling.
    compile: float


def _solver(problem: Problem, method: Method, tolerance: float):
    if method.solver is not None:
        return method.solver
    return TaylorSolver(rtol=tolerance, atol=problem.atol_per_rtol * tolerance)


def _compile(problem: Problem, method: Method, solver) -> tuple[Callable, float]:
    """The solve as a function of the initial state and of the tolerance; and how long
    that takes."""

    def solve(y0, rtol):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(problem.field),  # pyright: ignore[reportArgumentType]
            solver,
            t0=0.0,
            t1=problem.t1,
            dt0=None,
            y0=y0,
            stepsize_controller=method.controller(rtol, problem.atol_per_rtol * rtol),
            adjoint=diffrax.ForwardMode(),
            max_steps=None,
        )
        y1 = jtu.tree_map(lambda y: y[-1], solution.ys)
        return y1, solution.stats["num_steps"], solution.stats["num_rejected_steps"]

    start = time.perf_counter()
    executable = jax.jit(solve).lower(problem.y0, jnp.array(1e-3)).compile()
    return executable, time.perf_counter() - start


def _operations(fun: Callable, *args: Any) -> float:
    """Arithmetical operations, before XLA removes what is done twice."""
    [counts] = jtu.tree_leaves(
        [jax.jit(fun).lower(*args).cost_analysis()], is_leaf=lambda x: "flops" in x
    )
    return counts["flops"] + counts.get("transcendentals", 0)


def _cost_of_jet(problem: Problem, order: int) -> float:
    """In evaluations of the field."""
    jet = _operations(
        lambda t, y: ode_jet(problem.field, t, y, order=order),
        jnp.array(0.0),
        problem.y0,
    )
    evaluation = _operations(
        lambda t, y: problem.field(t, y, None), jnp.array(0.0), problem.y0
    )
    return jet / evaluation


def take_turns(
    runs: Sequence[Callable[[], Any]], seconds: float, in_a_row: int = 1
) -> list[list[float]]:
    """Times runs of each in turn, so many in a row: what ran last is in the caches of
    the processor."""
    times: list[list[float]] = [[] for _ in runs]
    finish = time.perf_counter() + seconds
    while (now := time.perf_counter()) < finish or len(times[0]) < 3:
        for run, taken in zip(runs, times):
            for _ in range(in_a_row):
                start = time.perf_counter()
                jax.block_until_ready(run())
                taken.append(time.perf_counter() - start)
        # A few turns that are slow tell enough.
        if len(times[0]) >= 5 and time.perf_counter() - now > seconds / 5:
            break
    return times


def measure(
    problem: Problem,
    tolerances: Sequence[float],
    seconds: float,
    methods: Sequence[Method] = METHODS,
    count: bool = True,
) -> tuple[list[Row], dict[int, float]]:
    """The rows of a problem; and the costs of jets, by order, if evaluations are to be
    counted."""
    reference = problem.reference()
    executables: dict[Any, tuple[Callable, float]] = {}
    costs: dict[int, float] = {}
    rows = []
    if not problem.small:
        methods = [
            m._replace(lowest_tolerance=1e-6) if m.name == "Kvaerno5" else m
            for m in methods
        ]
    for i, tolerance in enumerate(tolerances, 1):
        rivals = []
        for method in methods:
            # The last tolerance is among them.
            if (len(tolerances) - i) % method.every != 0:
                continue
            if not method.lowest_tolerance <= tolerance <= method.highest_tolerance:
                continue
            solver = _solver(problem, method, tolerance)
            order = getattr(solver, "taylor_order", None)
            key = method.name, order
            if key not in executables:
                executables[key] = _compile(problem, method, solver)
            if count and order is not None and order not in costs:
                costs[order] = _cost_of_jet(problem, order)
            rivals.append((method, order, *executables[key]))
        rtol = jnp.array(tolerance)
        runs = [lambda f=f: f(problem.y0, rtol) for _, _, f, _ in rivals]
        results = [jax.block_until_ready(run()) for run in runs]
        times = take_turns(runs, seconds)
        for rival, result, taken in zip(rivals, results, times):
            method, order, _, compile_time = rival
            y1, steps, rejected = result
            jets = evaluations = None
            if order is not None:
                jets = int(steps) + 1
                evaluations = jets * costs[order] if count else None
            elif method.stages is not None:
                evaluations = int(steps) * method.stages + 1
            low, median, high = np.percentile(taken, [25, 50, 75])
            rows.append(
                Row(
                    problem.name,
                    method.name,
                    tolerance,
                    order,
                    int(steps),
                    int(rejected),
                    jets,
                    evaluations,
                    error(y1, reference),
                    float(median),
                    float(high - low) / 2,
                    compile_time,
                )
            )
    return rows, costs


# -- what is made of it


def time_to_error(rows: Sequence[Any], target: float) -> tuple[float, bool] | None:
    """The run time for an error, between the tolerances by a power law. `None` where
    no tolerance brings it. Where all of them do, it is the time of the largest; and
    `True` says that less might do. (Rows have an `error` and a `run`, whatever else.)
    """
    if rows[0].error <= target:
        return rows[0].run, True
    for row, better in zip(rows, rows[1:]):
        if row.error > target >= better.error:
            part = math.log(row.error / target) / math.log(row.error / better.error)
            return row.run * (better.run / row.run) ** part, False
    return None


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups = {m.name: [r for r in rows if r.method == m.name] for m in METHODS}
    return {name: group for name, group in groups.items() if group}


def summary(rows: Sequence[Row]) -> str:
    lines = [
        "| | " + " | ".join(f"{t:.0e}" for t in TARGETS) + " |",
        "|---|" + "---:|" * len(TARGETS),
    ]
    times = {
        name: [time_to_error(group, target) for target in TARGETS]
        for name, group in _by_method(rows).items()
    }
    # A tuple of a time and of what it is: the shortest time comes first.
    best = [min(filter(None, column), default=None) for column in zip(*times.values())]
    for name, values in times.items():
        cells = []
        for value, least in zip(values, best):
            cell = ""
            if value is not None:
                run, is_bound = value
                cell = f"{'≤ ' if is_bound else ''}{1e3 * run:.3g}"
            cells.append(f"**{cell}**" if cell and value == least else cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| | rtol | order | steps | rejected | evaluations | error | run, ms | ± "
        "| compile, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group in _by_method(rows).values():
        for r in group:
            order = "" if r.order is None else r.order
            evaluations = "" if r.evaluations is None else f"{r.evaluations:.0f}"
            lines.append(
                f"| {r.method} | {r.tolerance:.0e} | {order} | {r.steps} "
                f"| {r.rejected} | {evaluations} | {r.error:.1e} | {1e3 * r.run:.3g} "
                f"| {1e3 * r.spread:.1g} | {r.compile:.1f} |"
            )
    return "\n".join(lines)


def jet_costs(rows: Sequence[Row], costs: dict[int, float]) -> str:
    """By operations; and by run time, with all else that a step takes. Of Diffrax's
    methods Tsit5 spends least on an evaluation: Dopri8 goes through its stages in a
    loop."""
    groups = _by_method(rows)
    lines = ["| order | operations | run time |", "|---:|---:|---:|"]
    for row, other in zip(groups["Taylor"], groups["Tsit5"]):
        assert row.order is not None and row.jets is not None
        assert other.evaluations is not None
        ratio = row.run / row.jets / (other.run / other.evaluations)
        lines.append(f"| {row.order} | {costs[row.order]:.1f} | {ratio:.1f} |")
    return "\n".join(lines)


def section(rows: Sequence[Row], costs: dict[int, float]) -> str:
    """Of a page in Markdown, with a fold of mkdocs-material."""
    name = rows[0].problem
    return f"""### {name}

![{name}: error against run time and against evaluations](images/{plot_name(name)})

Run time in ms for a relative error of

{summary(rows)}

A jet in evaluations of the field, by

{jet_costs(rows, costs)}

??? note "All tolerances"

{textwrap.indent(table(rows), "    ")}
"""


def plot_name(problem: str) -> str:
    return f"work_precision_{problem.lower().replace(' ', '_')}.png"


# Colours and marks are the methods' own, whichever of them a problem has.
STYLES = dict(zip([m.name for m in METHODS], ["o-", "s--", "^-", "v--", "D-", "x:"]))


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.4), sharey=True, layout="constrained"
    )
    for name, group in _by_method(rows).items():
        errors = [max(r.error, 1e-17) for r in group]
        color = f"C{list(STYLES).index(name)}"
        args: dict[str, Any] = dict(color=color, markersize=5, label=name)
        axes[0].loglog([1e3 * r.run for r in group], errors, STYLES[name], **args)
        if group[0].evaluations is not None:
            counts = [r.evaluations for r in group]
            axes[1].loglog(counts, errors, STYLES[name], **args)
    axes[0].set_xlabel("run time, ms")
    axes[1].set_xlabel("evaluations of the field (a jet: by its operations)")
    axes[0].set_ylabel("relative error at the end")
    for ax in axes:
        ax.grid(True, which="major", alpha=0.3)
        # Whole decades, and labels at no others, which would overlap.
        low, high = np.log10(ax.get_xlim())
        ax.set_xlim(10 ** math.floor(low), 10 ** math.ceil(high))
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(fontsize=9)
    figure.suptitle(rows[0].problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in the file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _machine() -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print_machine()
    return f"{text.getvalue().strip()}; {os.cpu_count()} cores."


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="a part of the name of one problem")
    parser.add_argument(
        "--tolerances", type=float, nargs="+", default=TOLERANCES, metavar="RTOL"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="of turns at each tolerance (1.5)"
    )
    parser.add_argument(
        "--plots", type=pathlib.Path, metavar="FOLDER", help="needs matplotlib"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument(
        "--page",
        type=pathlib.Path,
        metavar="FILE",
        help="puts what is printed between the marks in this file, too",
    )
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    blocks = [_machine() + "\n"]
    print(blocks[0], flush=True)
    tolerances = sorted(args.tolerances, reverse=True)
    everything: list[Row] = []
    for problem in choose(all_problems(), args.only):
        rows, costs = measure(problem, tolerances, args.seconds)
        everything += rows
        blocks.append(section(rows, costs))
        print(blocks[-1], flush=True)
        if args.plots is not None:
            plot(rows, args.plots / plot_name(problem.name))
        if args.json is not None:
            results = [row._asdict() for row in everything]
            data = {"machine": _machine(), "results": results}
            args.json.write_text(json.dumps(data, indent=1) + "\n")
    if args.page is not None:
        before, rest = args.page.read_text().split(BEGIN)
        after = rest.split(END)[1]
        middle = BEGIN + "\n" + "\n".join(blocks) + "\n" + END
        args.page.write_text(before + middle + after)


if __name__ == "__main__":
    main()
