"""The gradient of a neural ODE's final state with respect to its parameters: the time
for an error, by `TaylorSolver` and by Dopri8.

Both with Diffrax's default adjoint, at several tolerances. The error is that of the
gradient, relative to its norm, from one at a tolerance at which little more than
rounding errors is left. Between tolerances the time follows a power law.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from eqx_taylor import TaylorController, TaylorSolver

from ._heyoka import Time, timed
from ._report import Figure, main, Report
from .work_precision import take_turns, time_to_error


TITLE = "Gradients of a neural ODE at equal error, against Dopri8"
ERRORS = [1e-6, 1e-9]
# `TaylorSolver` has an order for each, which takes a compilation.
TOLERANCES = [1e-5, 1e-7, 1e-9, 1e-11]
REFERENCE_TOLERANCE = 1e-13
T1 = 10.0
AT_MOST = 0.7


class Row(NamedTuple):
    method: str
    tolerance: float
    order: int
    steps: int
    error: float
    run: float
    spread: float
    compile: float


def problem() -> tuple[jax.Array, Callable]:
    """The parameters, and a function of them, a solver and a controller: the norm of
    the final state, and the number of steps.

    With the weights that it is initialised to the field is so smooth that five steps
    will do, and what is measured is Diffrax's loop; twice as large they are here.
    """
    net = eqx.nn.MLP(8, 8, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    parameters, static = eqx.partition(net, eqx.is_inexact_array)
    vector, unravel = ravel_pytree(parameters)
    vector = 2 * vector
    y0 = jnp.linspace(-1.0, 1.0, 8)

    def loss(vector, solver, controller):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, net: net(y)),
            solver,
            t0=0.0,
            t1=T1,
            dt0=None,
            y0=y0,
            args=eqx.combine(unravel(vector), static),
            stepsize_controller=controller,
        )
        assert solution.ys is not None
        return jnp.linalg.norm(solution.ys[-1]), solution.stats["num_steps"]

    return vector, loss


def _compiled(
    loss: Callable, vector: jax.Array, solver: Any, controller: Callable
) -> tuple[Callable, float]:
    """The gradient as a function of parameters and of a tolerance."""

    def gradient(vector, tolerance):
        def fun(vector):
            return loss(vector, solver, controller(rtol=tolerance, atol=tolerance))

        return jax.grad(fun, has_aux=True)(vector)

    lower = jax.jit(gradient).lower
    return timed(lambda: lower(vector, jnp.array(1e-3)).compile())


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    vector, loss = problem()
    dopri8, dopri8_compile = _compiled(
        loss, vector, diffrax.Dopri8(), diffrax.PIDController
    )
    reference, _ = dopri8(vector, jnp.array(REFERENCE_TOLERANCE))
    rows: dict[str, list[Row]] = {"TaylorSolver": [], "Dopri8": []}
    for tolerance in TOLERANCES:
        solver = TaylorSolver(rtol=tolerance, atol=tolerance)
        taylor, compile_time = _compiled(loss, vector, solver, TaylorController)
        rivals = [taylor, dopri8]
        args = vector, jnp.array(tolerance)
        results = [jax.block_until_ready(rival(*args)) for rival in rivals]
        times = take_turns([lambda f=f: f(*args) for f in rivals], seconds)
        for name, order, (gradient, steps), taken, compiled in zip(
            rows,
            [solver.taylor_order, 8],
            results,
            times,
            [compile_time, dopri8_compile],
        ):
            difference = jnp.linalg.norm(gradient - reference)
            error = float(difference / jnp.linalg.norm(reference))
            # Both are gradients of the same solution.
            assert error <= 1e4 * tolerance, (name, tolerance, error)
            row = Row(
                name, tolerance, order, int(steps), error, *Time.of(taken), compiled
            )
            rows[name].append(row)
    figures: list[Figure] = []
    missing = []
    for target in ERRORS:
        found = {name: time_to_error(of_one, target) for name, of_one in rows.items()}
        lacking = [name for name, time in found.items() if time is None]
        if lacking:
            missing.append(
                f"\n**fails**: {', '.join(lacking)}: no tolerance of these brings an "
                f"error of {target:g}."
            )
            continue
        # The spread, as a part of the time, is that of the tolerance nearest by.
        near = {name: _nearest(of_one, target) for name, of_one in rows.items()}
        ours, theirs = [time[0] for time in found.values() if time is not None]
        spreads = [row.spread / row.run for row in near.values()]
        work = f"gradient with an error of {target:g}"
        figures.append(
            Figure(
                work,
                "run",
                "Dopri8",
                ours,
                theirs,
                "s",
                ours * spreads[0],
                theirs * spreads[1],
                AT_MOST,
            )
        )
        ours, theirs = [row.compile for row in near.values()]
        figures.append(Figure(work, "compile", "Dopri8", ours, theirs))
    return Report(TITLE, "\n".join([_text(vector), table(rows), *missing]), figures)


def _nearest(rows: Sequence[Row], target: float) -> Row:
    return min(rows, key=lambda row: abs(math.log(row.error / target)))


def _text(vector: jax.Array) -> str:
    return f"""
The field is a tanh MLP 8-24-24-8 with {vector.size} parameters, twice their
initial values. The solve is in float64, to $t = {T1:g}$; the gradient is that
of the norm of the final state, by Diffrax's default adjoint. `TaylorSolver` takes its
order from the tolerance. Errors are relative.
"""


def table(rows: dict[str, list[Row]]) -> str:
    lines = [
        "| | rtol | order | steps | error | run, ms | ± | compile, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, of_one in rows.items():
        for row in of_one:
            lines.append(
                f"| {name} | {row.tolerance:g} | {row.order} | {row.steps} "
                f"| {row.error:.1e} | {1e3 * row.run:.3g} | {1e3 * row.spread:.1g} "
                f"| {row.compile:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main(run)
