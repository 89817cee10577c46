"""Jets through `diffrax.diffeqsolve`, steps and error control included: derivatives of
the program, which nested forward mode has too."""

import functools as ft

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from helpers import nested_jet, random_series

import eqx_taylor


ORDER = 4
# Asked of every coefficient, in units of the largest up to its order.
TOLERANCE = 1e-8

SOLVERS = {
    "Tsit5": diffrax.Tsit5(),
    "Dopri8": diffrax.Dopri8(),
    "Kvaerno5": diffrax.Kvaerno5(),
    "TaylorSolver": eqx_taylor.TaylorSolver(order=5),
}
# Without an adaptive step, Newton's method has to be told how exact it must be.
_NEWTON = optx.Newton(rtol=1e-9, atol=1e-9)
CONTROLLERS = {
    "fixed": diffrax.ConstantStepSize(),
    "adaptive": diffrax.PIDController(rtol=1e-5, atol=1e-5),
}


class Pendulum(eqx.Module):
    damping: jax.Array
    frequency: jax.Array

    def __call__(self, t, y, args):
        angle, velocity = y
        pull = self.frequency**2 * jnp.sin(angle)
        return velocity, -pull - self.damping * velocity + args * jnp.cos(t)


def end_of(solver, controller, adjoint, saveat):
    """The solution as a function of the initial state and of all parameters."""

    def solve(y0, frequency, push):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(Pendulum(jnp.array(0.1), frequency)),
            solver,
            0.0,
            1.0,
            0.2,
            (y0[0], y0[1]),
            push,
            stepsize_controller=controller,
            adjoint=adjoint,
            saveat=saveat,
            max_steps=32,
        )
        return jnp.stack(solution.ys)

    return solve


PRIMALS = (jnp.array([1.2, -0.4]), jnp.array(1.5), jnp.array(0.3))
SERIES = random_series(PRIMALS, ORDER)
SERIES[0][2] = None  # An order of the initial state that does not move.


def order_of(name):
    """Nested derivatives grow exponentially: to order 4 of the smallest solver only."""
    return ORDER if name == "Tsit5" else ORDER - 1


def series_of(name):
    return [terms[: order_of(name)] for terms in SERIES]


def jet_of(name, fun):
    value, terms = jax.jit(lambda x, h: eqx_taylor.filter_jet(fun, x, h))(
        PRIMALS, tuple(series_of(name))
    )
    return [value, *terms]


SAVED = {
    "t1": diffrax.SaveAt(t1=True),
    "ts": diffrax.SaveAt(ts=jnp.array([0.3, 0.55, 1.0])),
}


def solve_of(name, controller, saved="t1", adjoint=None):
    """By default with the adjoint that JAX can nest."""
    solver = SOLVERS[name]
    if name == "Kvaerno5" and controller == "fixed":
        solver = eqx.tree_at(lambda s: s.root_finder, solver, _NEWTON)
    adjoint = diffrax.DirectAdjoint() if adjoint is None else adjoint
    return end_of(solver, CONTROLLERS[controller], adjoint, SAVED[saved])


@ft.cache
def expected_of(name, controller, saved="t1"):
    return nested_jet(solve_of(name, controller, saved), PRIMALS, series_of(name))


def assert_orders_agree(actual, expected):
    scale = 0.0
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        scale = max(scale, float(np.max(np.abs(e))))
        error = float(np.max(np.abs(a - e))) / scale
        assert error <= TOLERANCE, f"order {k}: {error:.2g}"


@pytest.mark.sample(8)
@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name, controller):
    actual = jet_of(name, solve_of(name, controller))
    assert_orders_agree(actual, expected_of(name, controller))


# Of these JAX can nest only the second, and the default not even once.
@pytest.mark.slow
@pytest.mark.parametrize(
    "adjoint", [None, diffrax.ForwardMode()], ids=["default", "forward"]
)
@pytest.mark.parametrize("saved", SAVED)
def test_adjoints_and_dense_output(adjoint, saved):
    if adjoint is None:
        adjoint = diffrax.RecursiveCheckpointAdjoint()
    actual = jet_of("Tsit5", solve_of("Tsit5", "adaptive", saved, adjoint))
    assert_orders_agree(actual, expected_of("Tsit5", "adaptive", saved))
