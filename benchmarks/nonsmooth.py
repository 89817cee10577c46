"""Fields that are not smooth: errors and steps of `TaylorSolver` and of `Dopri8`.

A series knows the field at the start of a step. Each of these fields is another one
somewhere inside of the steps than it says: it has kinks, jumps or infinite derivatives,
or JAX's derivatives are not its own. The solutions are known in closed form, but for
that of the network, which is made by Dopri8 with a tolerance of 1e-13.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from eqx_taylor import TaylorController, TaylorSolver

from ._timing import print_machine


TOLERANCES = [1e-4, 1e-6, 1e-8]


class Case(NamedTuple):
    name: str
    field: Callable[..., Any]
    t0: float
    t1: float
    y0: Any
    # At the end; `None` where it has no closed form.
    end: Any


# -- kinks at times that are not named


def _pieces() -> Case:
    """Forcing by 100 linear pieces, of numbers between -1 and 1."""
    ts = np.linspace(0.0, 10.0, 101)
    us = np.random.default_rng(0).uniform(-1, 1, 101)

    def field(t, y, args):
        return jnp.interp(t, jnp.asarray(ts), jnp.asarray(us)) + 0 * y

    return Case("100 linear pieces", field, 0.0, 10.0, 0.0, np.trapezoid(us, ts))


def _jump() -> Case:
    def field(t, y, args):
        return jnp.where(t < 0.37, -y, jnp.cos(t) * y)

    end = np.exp(-0.37 + np.sin(2.0) - np.sin(0.37))
    return Case("jump", field, 0.0, 2.0, 1.0, end)


def _kink_of_the_state() -> Case:
    """A spring that only pushes: half a period of it, and then in a straight line."""

    def field(t, y, args):
        x, v = y
        return jnp.stack([v, jnp.maximum(-x, 0.0)])

    return Case(
        "spring that only pushes",
        field,
        0.0,
        5.0,
        [-1.0, 0.0],
        [5.0 - np.pi / 2, 1.0],
    )


def _network() -> Case:
    keys = jax.random.split(jax.random.key(0), 2)
    outer = jax.random.normal(keys[0], (3, 16)) / 4
    inner = jax.random.normal(keys[1], (16, 3))

    def field(t, y, args):
        return outer @ jax.nn.relu(inner @ y + 0.1 * jnp.cos(9.0 * t)) - 0.1 * y

    return Case("network of relu", field, 0.0, 10.0, [1.0, 1.0, 1.0], None)


# -- derivatives that are not those of the field


def _tangent() -> Case:
    """y' = y / tan t through y = sin t, behind two `where`s: at 0 the derivatives are
    those of the constant that stands there."""

    def field(t, y, args):
        at_zero = t <= 0
        return jnp.where(at_zero, 1.0, y / jnp.tan(jnp.where(at_zero, 1.0, t)))

    return Case("y / tan t behind two wheres", field, 0.0, 1.5, 0.0, np.sin(1.5))


def _stopped() -> Case:
    def field(t, y, args):
        return -jax.lax.stop_gradient(y)

    return Case("stop_gradient", field, 0.0, 1.0, 1.0, np.exp(-1.0))


def _bisection() -> Case:
    """y' = -x, where x + x³ = y is found by bisection, whose derivative is zero."""

    def root(y):
        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            above = middle + middle**3 > y
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        low, high = jax.lax.fori_loop(
            0, 60, halve, (jnp.full_like(y, -2.0), jnp.full_like(y, 2.0))
        )
        return (low + high) / 2

    # (1 + 3 x²) x' = -x: log x + 3 x² / 2 = 3 / 2 - t.
    x = np.sqrt(np.real(scipy.special.lambertw(3 * np.exp(2 * (1.5 - 3.0)))) / 3)
    return Case(
        "root by bisection", lambda t, y, args: -root(y), 0.0, 3.0, 2.0, x + x**3
    )


# -- infinite derivatives


def _tank() -> Case:
    def field(t, y, args):
        return -jnp.sqrt(jnp.maximum(y, 0.0))

    return Case("tank that runs empty", field, 0.0, 5.0, 1.0, 0.0)


def _power() -> Case:
    def field(t, y, args):
        return -0.1 - jnp.maximum(y, 0.0) ** 1.5

    # The time at which y is 0: the integral of 1 / (0.1 + y^1.5) from 0 to 1.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    # y = u², which takes the root out of it.
    u, w = (nodes + 1) / 2, weights / 2
    empty = np.sum(w * 2 * u / (0.1 + u**3))
    return Case("max(y, 0)**1.5", field, 0.0, 20.0, 1.0, -0.1 * (20 - empty))


def _drag() -> Case:
    """Two bodies, one of which is at rest."""

    def field(t, y, args):
        v = y
        return -jnp.linalg.norm(v, axis=1, keepdims=True) * v

    v0 = np.array([[3.0, 4.0], [0.0, 0.0]])
    return Case("drag, one body at rest", field, 0.0, 2.0, v0, v0 / (1 + 5 * 2.0))


def _bessel() -> Case:
    """y'' + y' / t + y = 0 through t = 0, where y' / t is 0 / 0."""

    def field(t, y, args):
        x, v = y
        return jnp.stack([v, -v / t - x])

    start, end = -3.0, 3.1
    j0, j1 = scipy.special.j0, scipy.special.j1
    return Case(
        "Bessel's equation through 0",
        field,
        start,
        end,
        [j0(start), -j1(start)],
        [j0(end), -j1(end)],
    )


CASES = [
    _pieces,
    _jump,
    _kink_of_the_state,
    _network,
    _tangent,
    _stopped,
    _bisection,
    _tank,
    _power,
    _drag,
    _bessel,
]


class Row(NamedTuple):
    """An error in tolerances, and steps, of which the rejected ones."""

    error: float
    steps: int
    rejected: int
    result: str


def measure(
    case: Case, solver: Any, controller: Callable[..., Any], tolerances: list[float]
) -> list[Row]:
    end = case.end
    if end is None:
        [row] = _ends(case, diffrax.Dopri8(), diffrax.PIDController, [1e-13])
        end = row[0]
    rows = []
    for tol, (y, stats, result) in zip(
        tolerances, _ends(case, solver, controller, tolerances)
    ):
        error = float(np.max(np.abs(y - np.asarray(end)) / (1 + np.abs(end))))
        steps, rejected = stats["num_steps"], stats["num_rejected_steps"]
        words = "" if result == diffrax.RESULTS.successful else diffrax.RESULTS[result]
        rows.append(Row(error / tol, int(steps), int(rejected), words))
    return rows


def _ends(case, solver, controller, tolerances):
    @jax.jit
    def solve(tol):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(case.field),
            solver,
            case.t0,
            case.t1,
            None,
            jnp.asarray(case.y0, float),
            stepsize_controller=controller(rtol=tol, atol=tol),
            adjoint=diffrax.ForwardMode(),
            max_steps=20_000,
            throw=False,
        )
        assert solution.ys is not None
        return solution.ys[0], solution.stats, solution.result

    return [solve(jnp.asarray(tol)) for tol in tolerances]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="a part of the name of one case")
    parser.add_argument("--order", type=int, help="instead of that of the tolerance")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print_machine()
    print(
        "\n| | rtol, atol | order | error, tolerances | steps | Dopri8: error | steps |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for make in CASES:
        case = make()
        if args.only and args.only not in case.name:
            continue
        rivals = measure(case, diffrax.Dopri8(), diffrax.PIDController, TOLERANCES)
        for tol, rival in zip(TOLERANCES, rivals):
            solver = TaylorSolver(rtol=tol, atol=tol)
            if args.order is not None:
                solver = TaylorSolver(args.order)
            [row] = measure(case, solver, TaylorController, [tol])
            cells = [
                f"{r.error:.2g} | {r.steps}" + (f" ({r.result})" if r.result else "")
                for r in (row, rival)
            ]
            print(
                f"| {case.name} | {tol:.0e} | {solver.taylor_order} | "
                f"{cells[0]} | {cells[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
