"""What a solve costs, compared with calls that are counted one by one."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_raises

from eqx_taylor import solve_cost, TaylorSolver


def field(t, y, args):
    return jnp.stack([y[1], -jnp.sin(y[0]) * jnp.cos(t)])


Y0 = np.array([1.0, 0.3])
TOLERANCES = dict(rtol=1e-4, atol=1e-4)


def counted(solver, y0, field=field, t1=4.0, **tolerances):
    """Evaluations and steps of Diffrax's own solve."""
    calls = []

    def counting(t, y, args):
        jax.debug.callback(lambda: calls.append(None))
        return field(t, y, args)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(counting),
        solver,
        0.0,
        t1,
        None,
        y0,
        stepsize_controller=diffrax.PIDController(**{**TOLERANCES, **tolerances}),
    )
    jax.effects_barrier()
    return len(calls), solution.stats


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "solver",
    # Without and with an evaluation that two steps share; and what is not explicit.
    [
        diffrax.Heun(),
        diffrax.Bosh3(),
        diffrax.Tsit5(),
        diffrax.Dopri5(),
        diffrax.Dopri8(),
        diffrax.Kvaerno3(),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_evaluations(solver):
    cost = solve_cost(field, solver, 0.0, 4.0, Y0, **TOLERANCES)
    calls, stats = counted(solver, Y0)
    assert cost.num_evaluations == calls > 10
    assert cost.num_steps == stats["num_steps"]
    assert cost.num_rejected_steps == stats["num_rejected_steps"]


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Dopri8()], ids=["5", "8"])
def test_rejected_at_the_start(solver):
    """The first step is 0.01 long, and much too long here. As long as none is accepted,
    no evaluation is that of the step before."""

    def fast(t, y, args):
        return -400 * (y - jnp.cos(t))

    cost = solve_cost(fast, solver, 0.0, 0.1, jnp.array(0.0), rtol=1e-6, atol=1e-6)
    with_one = diffrax.diffeqsolve(
        diffrax.ODETerm(fast),
        solver,
        0.0,
        0.1,
        None,
        jnp.array(0.0),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        max_steps=1,
        throw=False,
    )
    assert with_one.stats["num_rejected_steps"] == 1
    calls, stats = counted(solver, jnp.array(0.0), fast, t1=0.1, rtol=1e-6, atol=1e-6)
    assert cost.num_steps == stats["num_steps"]
    assert cost.num_evaluations == calls


def test_no_step():
    cost = solve_cost(field, diffrax.Tsit5(), 1.0, 1.0, Y0, **TOLERANCES)
    assert cost.num_evaluations == cost.num_steps == 0


def test_sum_of_terms():
    both = diffrax.MultiTerm(diffrax.ODETerm(field), diffrax.ODETerm(field))
    cost = solve_cost(both, diffrax.Kvaerno3(), 0.0, 1.0, Y0, **TOLERANCES)
    assert cost.num_evaluations > cost.num_steps > 0


def test_lanes():
    y0 = jnp.array([[1.0, 0.3], [3.0, 0.0], [0.0, 0.0]])
    solver = diffrax.Dopri5()

    @jax.jit
    @jax.vmap
    def evaluations(y0):
        return solve_cost(
            diffrax.ODETerm(field), solver, 0.0, 4.0, y0, **TOLERANCES
        ).num_evaluations

    expected = [counted(solver, y)[0] for y in y0]
    assert len(set(expected)) == 3
    np.testing.assert_array_equal(evaluations(y0), expected)


def _of(**changed):
    arguments = dict(vector_field=field, solver=diffrax.Tsit5(), t0=0.0, t1=1.0, y0=Y0)
    return lambda: solve_cost(**{**arguments, **TOLERANCES, **changed})


REFUSED = {
    "Taylor": (_of(solver=TaylorSolver(5)), TypeError, ["jets", "num_steps"]),
    "no estimate": (_of(solver=diffrax.Euler()), TypeError, ["estimate", "Euler"]),
    "no solver": (_of(solver="Tsit5"), TypeError, ["`solver`", "'Tsit5'"]),
    "class": (_of(solver=diffrax.Tsit5), TypeError, ["`solver`", "Dopri5()"]),
    "field of two": (_of(vector_field=lambda t, y: y), TypeError, ["f(t, y, args)"]),
    "integers": (_of(y0=np.arange(2)), TypeError, ["int64"]),
    "tolerances": (_of(rtol=0, atol=0.0), ValueError, ["rtol"]),
    "negative": (_of(rtol=-1.0), ValueError, ["rtol", "-1.0"]),
    "too many": (_of(max_steps=1), RuntimeError, ["max"]),
    "two fields": (_of(solver=diffrax.KenCarp3()), TypeError, ["sum of two"]),
    "implicit, traced within": (
        lambda: jax.jit(
            lambda a: _of(
                vector_field=lambda t, y, args: -a * y, solver=diffrax.Kvaerno3()
            )()
        )(2.0),
        TypeError,
        ["Kvaerno3", "jit"],
    ),
    "implicit, traced": (
        lambda: jax.vmap(lambda y0: _of(solver=diffrax.Kvaerno3(), y0=y0)())(Y0[None]),
        TypeError,
        ["Kvaerno3", "vmap"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    assert_raises(*REFUSED[case])
