"""What is compiled for a solve: one series in the program of a step, which is traced once;
and with `unroll=False` a loop over orders, whose size does not depend on the order."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, count_equations, count_primitives

from eqx_taylor import TaylorController, TaylorSolver


Y = jnp.array([0.9, -0.3])


def _field(t, y, rate):
    """A pendulum: one sine, which a series turns into a sine and a cosine."""
    return jnp.stack([y[1], -rate * jnp.sin(y[0]) - 0.1 * y[1] * t])


def _solve(y, rate, order=8, unroll=None, field=_field, adjoint=None, tol=1e-12):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        TaylorSolver(order=order, unroll=unroll),
        t0=0.0,
        t1=2.0,
        dt0=None,
        y0=y,
        args=rate,
        stepsize_controller=TaylorController(rtol=tol, atol=tol),
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
    ).ys[-1]


def test_one_series():
    """The sine of the state is computed by the controller's first jet, by the step's
    series, by the look inside of the step, and by the Runge--Kutta method."""
    assert count_primitives(_solve, Y, 2.0)["sin"] <= 4


def test_field_is_called_a_few_times():
    calls = []

    def field(t, y, rate):
        calls.append(None)
        return _field(t, y, rate)

    jax.make_jaxpr(lambda y: _solve(y, 2.0, field=field))(Y)
    # Diffrax asks for its type, and so does `step`; and there are the four above.
    assert len(calls) <= 8


def _outside_of_loops(jaxpr):
    """The equations that are in no loop, and the loops."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn
            continue
        inner = [x for x in map(_program, eqn.params.values()) if x is not None]
        yield from [eqn] if not inner else []
        for program in inner:
            yield from _outside_of_loops(program)


def _program(parameter):
    parameter = getattr(parameter, "jaxpr", parameter)
    return parameter if hasattr(parameter, "eqns") else None


def test_fixed_cost():
    """On a CPU each operation outside of a loop, and each array that a loop carries,
    costs a dispatch of its own."""

    def outside(solver, controller):
        def solve(y):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(_field),
                solver,
                t0=0.0,
                t1=2.0,
                dt0=None,
                y0=y,
                args=2.0,
                stepsize_controller=controller,
                adjoint=diffrax.ForwardMode(),
            ).ys

        eqns = list(_outside_of_loops(jax.make_jaxpr(solve)(Y).jaxpr))
        return eqns, [eqn for eqn in eqns if eqn.primitive.name == "while"]

    eqns, (first_step, steps) = outside(TaylorSolver(8), TaylorController(1e-6, 1e-6))
    _, (other,) = outside(diffrax.Dopri8(), diffrax.PIDController(1e-6, 1e-6))
    assert len(steps.outvars) <= len(other.outvars)
    assert len(first_step.outvars) == 2
    assert "sin" not in {eqn.primitive.name for eqn in eqns}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "adjoint", [diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()]
)
def test_rolled_solve(adjoint):
    def result(unroll):
        def last(y, rate):
            return _solve(y, rate, 12, unroll, adjoint=adjoint)

        if isinstance(adjoint, diffrax.ForwardMode):
            return jax.jit(lambda: jax.jvp(last, (Y, 2.0), (Y, 1.0)))()
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(last(*x)), (0, 1)))(Y, 2.0)

    for rolled, unrolled in zip(*map(jax.tree.leaves, (result(False), result(True)))):
        assert_close(rolled, unrolled, 1000)


@pytest.mark.slow
def test_rolled_ensemble():
    ys = jnp.stack([Y, -Y, 2 * Y])
    rolled, unrolled = (
        jax.jit(jax.vmap(lambda y: _solve(y, 2.0, 12, unroll)))(ys)
        for unroll in (False, True)
    )
    assert_close(rolled, unrolled, 1000)


def test_size_does_not_depend_on_the_order():
    sizes = [
        count_equations(lambda y, n=n: _solve(y, 2.0, n, False), Y) for n in (5, 20)
    ]
    # Polynomials are evaluated term by term.
    assert sizes[1] < 1.25 * sizes[0]


def test_no_loop():
    """Where there is none, an explicit `unroll=False` says so, and nothing is wrong."""

    def field(t, y, rate):
        return jax.lax.cond(y[0] > 0, lambda: -y, lambda: -y * rate)

    with pytest.warns(UserWarning, match="TaylorSolver: `unroll=False` has no effect"):
        y = _solve(Y, 2.0, unroll=False, field=field)
    np.testing.assert_allclose(y, Y * np.exp(-2.0), rtol=1e-10)


def test_steps_by_hand_compile_once():
    """Times are no part of the program of a step."""
    calls = []

    def field(t, y, args):
        calls.append(None)
        return -y

    solver, term = TaylorSolver(order=3), diffrax.ODETerm(field)
    y, state = jnp.array(1.0), solver.init(term, 0.0, 1.0, jnp.array(1.0), None)
    y, *_, state, _ = solver.step(term, 0.0, 0.125, y, None, state, False)
    first = len(calls)
    for n in range(1, 8):
        t = n / 8
        y, *_, state, _ = solver.step(term, t, t + 0.125, y, None, state, False)
    assert len(calls) == first
    np.testing.assert_allclose(y, np.exp(-1.0), rtol=1e-4)
