"""`python -m eqx_taylor`: the outer Solar System by three solvers, in one table."""

import argparse
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from ._command_line import parse, YEARS
from ._ode.solver import TaylorSolver
from ._ode.step_size_controller import TaylorController
from ._outer_solar_system import (
    BODIES,
    DAYS_PER_YEAR,
    energy,
    initial_state,
    POSITIONS_AFTER_1000_YEARS,
    State,
    vector_field,
)


# The reference, if none is stored: an order and a step (in days) for which the
# truncation error of each step is far below float64's rounding, so that rounding is the
# only error.
_REFERENCE_ORDER = 28
_REFERENCE_STEP = 150.0

# Velocities are 1e-3 AU/day and below, so `atol` must be well below `rtol`, or they
# would have no correct digits.
_ATOL_PER_RTOL = 1e-3

# A solve that takes longer than this, in seconds, is timed once and shows its progress.
_LONG_RUN = 2.0

_HEADER = (
    f"{'solver':<24}{'steps':>9}{'rejected':>10}{'compile (s)':>13}{'run (s)':>10}"
    f"{'energy error':>14}{'position error (AU)':>21}"
)


class _Progress:
    """Shows on stderr what is being done, and the progress of a solve after it has run
    for `_LONG_RUN`, until the row of the table replaces it."""

    def __init__(self, name: str):
        self.name = name
        self._shown = ""
        self.start()

    def announce(self, what: str):
        self.finish()
        self._write(f"{self.name}: {what} ...")

    def start(self):
        self.finish()
        self._shown_at = time.monotonic() + _LONG_RUN - 0.5

    def show(self, progress: ArrayLike):
        now = time.monotonic()
        if now >= self._shown_at + 0.5:
            self._shown_at = now
            self._write(f"{self.name}: {100 * np.asarray(progress).item():5.1f} %")

    def finish(self):
        if self._shown:
            self._write(" " * len(self._shown))
            self._write("")

    def _write(self, text: str):
        sys.stderr.write("\r" + text)
        sys.stderr.flush()
        self._shown = text


class _ProgressMeter(diffrax.AbstractProgressMeter):
    """Calls `show(progress)` every `steps` steps.

    Diffrax's own meters always print, even if a solve takes 0.1 s, and printing takes
    longer than solving.
    """

    show: Callable[[Any], None]
    steps: int = 200

    def init(self):
        return jnp.array(0)

    def step(self, state, progress):
        jax.lax.cond(
            state % self.steps == 0,
            lambda: jax.debug.callback(self.show, progress),
            lambda: None,
        )
        return state + 1

    def close(self, state):
        del state


@dataclasses.dataclass(frozen=True)
class _Method:
    """A solver and its step size controller, which chooses `dt0` if that is `None`."""

    name: str
    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    dt0: float | None = None

    def solve(self, y0: State, t1: float, **kwargs) -> diffrax.Solution:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),  # pyright: ignore[reportArgumentType]
            self.solver,
            t0=0.0,
            t1=t1,
            dt0=self.dt0,
            y0=y0,
            stepsize_controller=self.controller,
            # Nothing is differentiated here, so nothing need be stored.
            adjoint=diffrax.ForwardMode(),
            **kwargs,
        )


@dataclasses.dataclass(frozen=True)
class _Run:
    """The cost of one solve, and its final state."""

    y1: State
    num_steps: int
    num_rejected: int
    compile_time: float
    run_time: float
    energy_error: float

    def row(self, name: str, reference: ArrayLike) -> str:
        offset = np.linalg.norm(np.asarray(self.y1[0] - reference), axis=-1)
        return (
            f"{name:<24}{self.num_steps:>9}{self.num_rejected:>10}"
            f"{self.compile_time:>13.2f}{self.run_time:>10.3f}"
            f"{self.energy_error:>14.1e}{offset.max():>21.1e}"
        )


def _relative_energy_error(y: State) -> jax.Array:
    return jnp.abs(energy(y) / energy(initial_state()) - 1)


# Truncation errors make the energy drift. To make them a hundred times smaller than the
# tolerance takes a quarter more steps at order 20, and leaves rounding as the larger
# error.
_SAFETY = 0.8


def _methods(order: int, rtol: float) -> list[_Method]:
    atol = _ATOL_PER_RTOL * rtol
    pid = diffrax.PIDController(rtol=rtol, atol=atol)
    taylor = TaylorController(rtol=rtol, atol=atol, safety=_SAFETY)
    # Those that compile fastest come first.
    return [
        _Method("Dopri8()", diffrax.Dopri8(), pid),
        _Method("Tsit5()", diffrax.Tsit5(), pid),
        _Method(f"TaylorSolver(order={order})", TaylorSolver(order=order), taylor),
    ]


def _reference_method(t1: float) -> _Method:
    return _Method(
        "reference",
        TaylorSolver(order=_REFERENCE_ORDER),
        diffrax.ConstantStepSize(),
        dt0=t1 / math.ceil(t1 / _REFERENCE_STEP),
    )


def _reference(years: float) -> tuple[ArrayLike, str]:
    """Returns the positions at the end, and a text on how they were computed."""
    if years == YEARS:
        how = "stored\n  positions, of a Taylor series of order 30 in 80-bit floats"
        return POSITIONS_AFTER_1000_YEARS, how
    print("Computing a reference ...", file=sys.stderr, flush=True)
    t1 = years * DAYS_PER_YEAR
    method = _reference_method(t1)
    run = _run(method, t1)
    return run.y1[0], (
        f"a reference,\n  which is TaylorSolver(order={_REFERENCE_ORDER}) in "
        f"{run.num_steps} steps of {method.dt0:.4g} days (its energy error: "
        f"{run.energy_error:.1e})"
    )


def _run(method: _Method, t1: float) -> _Run:
    progress = _Progress(method.name)

    def solve(y0):
        sol = method.solve(
            y0, t1, max_steps=None, progress_meter=_ProgressMeter(progress.show)
        )
        assert sol.ys is not None
        y1 = jax.tree.map(lambda x: x[-1], sol.ys)
        return y1, _relative_energy_error(y1), sol.stats

    y0 = initial_state()
    progress.announce("compiling")
    start = time.perf_counter()
    compiled = jax.jit(solve).lower(y0).compile()
    compile_time = time.perf_counter() - start

    run_times = []
    while len(run_times) < 3 and sum(run_times) < _LONG_RUN:
        progress.start()
        start = time.perf_counter()
        y1, energy_error, stats = jax.block_until_ready(compiled(y0))
        run_times.append(time.perf_counter() - start)
        progress.finish()

    return _Run(
        y1,
        int(stats["num_steps"]),
        int(stats["num_rejected_steps"]),
        compile_time,
        min(run_times),
        float(energy_error),
    )


def _plot(path: pathlib.Path, years: float, methods: list[_Method], runs: list[_Run]):
    from matplotlib.figure import Figure

    t1 = years * DAYS_PER_YEAR
    figure = Figure(figsize=(11, 5), layout="constrained")
    orbit_axes, energy_axes = figure.subplots(1, 2)

    # Pluto takes 248 years for one revolution: draw no more than that of the orbits.
    drawn_years = min(years, 248.0)
    orbits = diffrax.SubSaveAt(
        ts=jnp.linspace(0, drawn_years * DAYS_PER_YEAR, 2000),
        fn=lambda t, y, args: y[0],
    )
    for method, run in zip(methods, runs):
        # The energy is saved at about 500 of the solver's own steps, as the
        # interpolation of a Runge-Kutta method between them is less accurate than its
        # steps.
        energies = diffrax.SubSaveAt(
            steps=max(1, run.num_steps // 500),
            t1=True,
            fn=lambda t, y, args: _relative_energy_error(y),
        )
        # The orbits are those of the last, `TaylorSolver`.
        subs = [energies, orbits] if method is methods[-1] else [energies]
        progress = _Progress(method.name)
        progress.announce("solving once more")
        sol = method.solve(
            initial_state(),
            t1,
            # Rounding, and so the number of steps, may differ from the timed run.
            max_steps=run.num_steps + run.num_steps // 10 + 100,
            saveat=diffrax.SaveAt(subs=subs),
        )
        (ts, *_), (errors, *positions) = jax.tree.map(np.asarray, (sol.ts, sol.ys))
        progress.finish()
        is_saved = np.isfinite(ts)
        energy_axes.semilogy(
            ts[is_saved] / DAYS_PER_YEAR,
            # A logarithmic axis cannot show an error of exactly 0.
            np.maximum(errors[is_saved], 1e-17),
            label=method.name,
            lw=1,
        )
        for orbit in positions:
            _draw_orbits(orbit_axes, orbit)
    orbit_axes.set(
        title=f"Orbits over the first {drawn_years:g} years",
        xlabel="x (AU)",
        ylabel="y (AU)",
        aspect="equal",
    )
    # The legend is below the axes, so that it hides no orbits.
    orbit_axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=len(BODIES),
        columnspacing=1.0,
        handletextpad=0.0,
        frameon=False,
    )
    energy_axes.set(
        title="Relative energy error", xlabel="time (years)", ylabel="|E(t)/E(0) - 1|"
    )
    energy_axes.grid(alpha=0.3)
    energy_axes.legend()
    figure.savefig(path, dpi=150)


def _draw_orbits(axes: Any, positions: np.ndarray):
    for i, body in enumerate(BODIES):
        (line,) = axes.plot(positions[:, i, 0], positions[:, i, 1], lw=1)
        axes.plot(*positions[-1, i, :2], "o", ms=4, color=line.get_color(), label=body)


def _demonstrate(options: argparse.Namespace):
    years, rtol = options.years, options.rtol
    print(
        f"The outer Solar System over {years:g} years, in float64, with rtol = "
        f"{rtol:g} and atol = {_ATOL_PER_RTOL * rtol:g}.\n",
        flush=True,
    )
    reference, how = _reference(years)
    print(_HEADER, flush=True)
    methods = _methods(options.order, rtol)
    runs = []
    for method in methods:
        runs.append(_run(method, years * DAYS_PER_YEAR))
        print(runs[-1].row(method.name, reference), flush=True)
    print(
        f"""
steps: all that were tried, the rejected ones among them; chosen by TaylorController
  (safety={_SAFETY:g}) for TaylorSolver, and by PIDController for the others.
compile: tracing and compiling. run: the fastest of up to three runs.
energy error: |E(t1) / E(t0) - 1|.
position error: of the body that is furthest off at t1, against {how}."""
    )
    if options.plot is not None:
        print(
            "\nDrawing: each solver runs once more to save its energy error, and "
            "TaylorSolver\nto save the orbits as well.",
            flush=True,
        )
        _plot(options.plot, years, methods, runs)
        print(f"Wrote {options.plot}.")


def main(argv: list[str] | None = None) -> None:
    """Runs the demonstration; `argv` is the command line, `sys.argv` if not given."""
    options = parse(argv)
    # It takes float64, as the tolerance may be 1e-15, and runs on the CPU, as arrays
    # have 18 entries.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        _demonstrate(options)


if __name__ == "__main__":
    main()
