"""`python -m eqx_taylor`: the outer Solar System, by three solvers, in one table."""

import argparse
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from ._ode.solver import TaylorSolver
from ._ode.step_size_controller import TaylorController
from ._outer_solar_system import (
    BODIES,
    DAYS_PER_YEAR,
    energy,
    initial_state,
    State,
    vector_field,
)


# The reference: an order and steps (in days) for which what is truncated in each step
# is far below float64's rounding, so that rounding is the only error left.
_REFERENCE_ORDER = 28
_REFERENCE_STEP = 150.0

# Velocities are 1e-3 AU/day and below, so `atol` must be well below `rtol` for them to
# have any digits.
_ATOL_PER_RTOL = 1e-3

# A solve that takes longer than this, in seconds, is timed once and shows its progress.
_LONG_RUN = 2.0

_HEADER = (
    f"{'solver':<24}{'steps':>9}{'rejected':>10}{'compile (s)':>13}{'run (s)':>10}"
    f"{'energy error':>14}{'position error (AU)':>21}"
)


class _OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _years(text: str) -> float:
    years = float(text)
    if not 0 < years <= 1e6:
        raise argparse.ArgumentTypeError(
            f"must be more than 0 and at most 1e6 years, but is {text}"
        )
    return years


def _order(text: str) -> int:
    order = int(text)
    if not 1 <= order <= 64:
        raise argparse.ArgumentTypeError(f"must be from 1 to 64, but is {text}")
    return order


def _rtol(text: str) -> float:
    rtol = float(text)
    # Below 1e-15 rounding exceeds the tolerance; above 1e-2 planets are lost.
    if not 1e-15 <= rtol <= 1e-2:
        raise argparse.ArgumentTypeError(f"must be from 1e-15 to 1e-2, but is {text}")
    return rtol


def _plot_file(text: str) -> pathlib.Path:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise argparse.ArgumentTypeError(
            "needs matplotlib: run `pip install eqx_taylor[plot]`, or leave --plot out"
        ) from None
    path = pathlib.Path(text)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in one of {', '.join('.' + x for x in sorted(formats))}"
        )
    # Find out now, rather than after the run, whether the file can be written.
    is_new = not path.exists()
    try:
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as e:
        raise argparse.ArgumentTypeError(
            f"cannot write {text!r}: {e.strerror}"
        ) from None
    return path


# `argparse` names a type by its function when `float(text)` and `int(text)` fail.
_years.__name__ = "number of years"
_order.__name__ = "whole number"
_rtol.__name__ = "number"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _OneLineParser(
        prog="python -m eqx_taylor",
        description=(
            "Integrate the outer Solar System with TaylorSolver and with Diffrax's "
            "Dopri8 and Tsit5, and print what each of them cost and how far off it "
            f"was. A solve that takes longer than {_LONG_RUN:g} seconds shows its "
            "progress."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--years", type=_years, default=1000.0, help="time to cover (1000)"
    )
    parser.add_argument(
        "--order", type=_order, default=20, help="the order of TaylorSolver (20)"
    )
    parser.add_argument(
        "--rtol",
        type=_rtol,
        default=1e-14,
        help="relative tolerance of all three (1e-14)",
    )
    parser.add_argument(
        "--plot",
        type=_plot_file,
        metavar="FILE",
        help="draw the orbits and the energy error over time; needs matplotlib",
    )
    return parser.parse_args(argv)


class _Progress:
    """Shows on stderr how far a solve has come, once it has run for `_LONG_RUN`."""

    def __init__(self, name: str):
        self.name = name
        self.start()

    def start(self):
        self._shown_at = time.monotonic() + _LONG_RUN - 0.5
        self._anything_shown = False

    def show(self, progress: ArrayLike):
        now = time.monotonic()
        if now >= self._shown_at + 0.5:
            self._shown_at = now
            self._anything_shown = True
            sys.stderr.write(
                f"\r{self.name}: {100 * np.asarray(progress).item():5.1f} %"
            )
            sys.stderr.flush()

    def finish(self):
        if self._anything_shown:
            # Wipe the line, so that the table's row takes its place.
            sys.stderr.write("\r" + " " * (len(self.name) + 9) + "\r")
            sys.stderr.flush()


class _ProgressMeter(diffrax.AbstractProgressMeter):
    """Calls `show(progress)` every `steps` steps.

    Diffrax's own meters always print, also in a solve that lasts 0.1 s, where printing
    takes longer than solving.
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
    """A solver and how its steps are chosen. A `dt0` of `None` is for it to choose."""

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
            # Nothing is differentiated here, so nothing need be kept for it.
            adjoint=diffrax.ForwardMode(),
            **kwargs,
        )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What one solve cost, and where it ended."""

    y1: State
    num_steps: int
    num_rejected: int
    compile_time: float
    run_time: float
    energy_error: float

    def row(self, name: str, reference: State) -> str:
        offset = np.linalg.norm(np.asarray(self.y1[0] - reference[0]), axis=-1)
        return (
            f"{name:<24}{self.num_steps:>9}{self.num_rejected:>10}"
            f"{self.compile_time:>13.2f}{self.run_time:>10.3f}"
            f"{self.energy_error:>14.1e}{offset.max():>21.1e}"
        )


def _relative_energy_error(y: State) -> jax.Array:
    return jnp.abs(energy(y) / energy(initial_state()) - 1)


# Energy drifts by all that is truncated. Errors a hundred times below the tolerance
# cost a quarter more steps at order 20, and leave rounding as the larger part.
_SAFETY = 0.8


def _methods(order: int, rtol: float) -> list[_Method]:
    atol = _ATOL_PER_RTOL * rtol
    pid = diffrax.PIDController(rtol=rtol, atol=atol)
    return [
        _Method(
            f"TaylorSolver(order={order})",
            TaylorSolver(order=order),
            TaylorController(rtol=rtol, atol=atol, safety=_SAFETY),
        ),
        _Method("Dopri8()", diffrax.Dopri8(), pid),
        _Method("Tsit5()", diffrax.Tsit5(), pid),
    ]


def _reference_method(t1: float) -> _Method:
    return _Method(
        "reference",
        TaylorSolver(order=_REFERENCE_ORDER),
        diffrax.ConstantStepSize(),
        dt0=t1 / math.ceil(t1 / _REFERENCE_STEP),
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
    ts = jnp.linspace(0, drawn_years * DAYS_PER_YEAR, 2000)
    sol = methods[0].solve(
        initial_state(),
        float(ts[-1]),
        max_steps=None,
        saveat=diffrax.SaveAt(ts=ts, fn=lambda t, y, args: y[0]),
    )
    positions = np.asarray(sol.ys)
    for i, body in enumerate(BODIES):
        (line,) = orbit_axes.plot(positions[:, i, 0], positions[:, i, 1], lw=1)
        orbit_axes.plot(
            *positions[-1, i, :2], "o", ms=4, color=line.get_color(), label=body
        )
    orbit_axes.set(
        title=f"Orbits over the first {drawn_years:g} years",
        xlabel="x (AU)",
        ylabel="y (AU)",
        aspect="equal",
    )
    # Below the axes: nothing but orbits is within.
    orbit_axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=len(BODIES),
        columnspacing=1.0,
        handletextpad=0.0,
        frameon=False,
    )

    for method, run in zip(methods, runs):
        # The energy at the solver's own steps, about 500 of them: between them the
        # interpolation of a Runge-Kutta method is less accurate than its steps.
        sol = method.solve(
            initial_state(),
            t1,
            # Rounding may differ from that of the timed run, and so the steps.
            max_steps=run.num_steps + run.num_steps // 10 + 100,
            saveat=diffrax.SaveAt(
                steps=max(1, run.num_steps // 500),
                t1=True,
                fn=lambda t, y, args: _relative_energy_error(y),
            ),
        )
        is_saved = np.isfinite(np.asarray(sol.ts))
        energy_axes.semilogy(
            np.asarray(sol.ts)[is_saved] / DAYS_PER_YEAR,
            # An error of exactly 0 has no place on a logarithmic axis.
            np.maximum(np.asarray(sol.ys)[is_saved], 1e-17),
            label=method.name,
            lw=1,
        )
    energy_axes.set(
        title="Relative energy error", xlabel="time (years)", ylabel="|E(t)/E(0) - 1|"
    )
    energy_axes.grid(alpha=0.3)
    energy_axes.legend()
    figure.savefig(path, dpi=150)


def _demonstrate(options: argparse.Namespace):
    years, rtol = options.years, options.rtol
    t1 = years * DAYS_PER_YEAR
    print(
        f"The outer Solar System over {years:g} years, in float64, with rtol = "
        f"{rtol:g} and atol = {_ATOL_PER_RTOL * rtol:g}.\n\n{_HEADER}",
        flush=True,
    )
    reference_method = _reference_method(t1)
    reference = _run(reference_method, t1)
    methods = _methods(options.order, rtol)
    runs = []
    for method in methods:
        runs.append(_run(method, t1))
        print(runs[-1].row(method.name, reference.y1), flush=True)
    print(
        f"""
steps: all that were tried, the rejected ones among them; chosen by TaylorController
  (safety={_SAFETY:g}) for TaylorSolver, and by PIDController for the others.
compile: tracing and compiling. run: the fastest of up to three runs.
energy error: |E(t1) / E(t0) - 1|.
position error: of the body that is furthest off at t1, against a reference, which is
  TaylorSolver(order={_REFERENCE_ORDER}) in {reference.num_steps} steps of \
{reference_method.dt0:.4g} days (its energy error: {reference.energy_error:.1e})."""
    )
    if options.plot is not None:
        _plot(options.plot, years, methods, runs)
        print(f"\nWrote {options.plot}.")


def main(argv: list[str] | None = None):
    """Runs the demonstration; `argv` is the command line, `sys.argv` if not given."""
    options = _parse(argv)
    # float64, as 1e-12 needs it. And on the CPU: the arrays have 18 elements.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        _demonstrate(options)


if __name__ == "__main__":
    main()
