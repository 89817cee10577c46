"""What happens to the vector field inside a long step, and at the ends of a solve."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from eqx_taylor import TaylorController, TaylorSolver


RESULTS = diffrax.RESULTS


def solve(field, t0, t1, y0, order, tol, *, probes=1, controller=None, **kwargs):
    if controller is None:
        controller = TaylorController(tol, tol)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t, y)),
        TaylorSolver(order, probes=probes, event=kwargs.get("event")),
        jnp.asarray(t0),
        jnp.asarray(t1),
        None,
        jnp.asarray(y0),
        stepsize_controller=controller,
        **(dict(throw=False) | kwargs),
    )


def _half_wave(t, y):
    return jnp.maximum(jnp.sin(t), 0.0) + 0.0 * y


def _power_of_sine(t, y):
    return jnp.sin(t) ** 8 + 0.0 * y


def _bell(t, y):
    return (t * (2.0 - t)) ** 8 + 0.0 * y


# All of these are zero at both ends, and so are their low derivatives: neither a series
# at the start nor the defect at the end sees anything.
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "field, t0, t1, order, expected",
    [
        (_half_wave, -1.0, 5.0, 12, 2.0),
        (_power_of_sine, 0.0, 2 * np.pi, 5, 2 * np.pi * 35 / 128),
        (_power_of_sine, 0.0, 2 * np.pi, 8, 2 * np.pi * 35 / 128),
        # The beta function.
        (_bell, 0.0, 2.0, 8, 2.0**17 / (17 * 12870)),
    ],
    ids=["half wave", "sine, order 5", "sine, order 8", "bell"],
)
def test_what_is_nothing_at_both_ends(field, t0, t1, order, expected):
    solution = solve(field, t0, t1, 0.0, order, 1e-9)
    assert solution.result == RESULTS.successful
    assert abs(solution.ys[0] - expected) < 1e-7
    # It is the probe that sees it.
    blind = solve(field, t0, t1, 0.0, order, 1e-9, probes=0)
    assert abs(blind.ys[0] - expected) > 0.1


@pytest.mark.sample(3)
@pytest.mark.parametrize("tol", [1e-6, 1e-9, 1e-12])
def test_kinks_of_a_network(tol):
    """Which are many, and often two in a step."""
    keys = jax.random.split(jax.random.key(0), 2)
    outer = jax.random.normal(keys[0], (3, 16)) / 4
    inner = jax.random.normal(keys[1], (16, 3))

    def field(t, y):
        return outer @ jax.nn.relu(inner @ y + 0.1 * jnp.cos(9.0 * t)) - 0.1 * y

    ends = [
        diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(t, y)), solver, 0.0, 10.0, None,
            jnp.ones(3), stepsize_controller=controller, max_steps=100_000,
        ).ys[0]
        for solver, controller in [
            (TaylorSolver(8), TaylorController(tol, tol)),
            (diffrax.Dopri8(), diffrax.PIDController(1e-13, 1e-13)),
        ]
    ]  # fmt: skip
    np.testing.assert_allclose(*ends, rtol=300 * tol)


def _jump(t, y):
    return jnp.where(t < 0.37, -y, jnp.cos(t) * y)


JUMP = np.exp(-0.37 + np.sin(2.0) - np.sin(0.37))


@pytest.mark.sample(2)
@pytest.mark.parametrize("order", [5, 8, 12, 20])
def test_error_of_a_jump(order):
    """At most the fifty tolerances that the documentation says, grown as much as the
    solution does from there on, for the steps at the jump and those before."""
    run = jax.jit(lambda tol: solve(_jump, 0.0, 2.0, 1.0, order, tol).ys[0])
    for tol in (1e-4, 1e-6, 1e-8, 1e-10):
        assert abs(run(tol) - JUMP) < 2 * 50 * tol


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("order", [8, 12])
def test_gradient_across_rejected_steps(mode, order):
    """The field is linear in `y`, and so the solution in `y0`, whatever the steps."""

    def end(y0):
        adjoint = diffrax.RecursiveCheckpointAdjoint()
        if mode is jax.jacfwd:
            adjoint = diffrax.ForwardMode()
        solution = solve(
            _jump, 0.0, 2.0, y0, order, 1e-7, max_steps=256, adjoint=adjoint
        )
        value = solution.ys[0]
        return value, (value, solution.stats["num_rejected_steps"])

    slope, (value, rejected) = jax.jit(mode(end, has_aux=True))(jnp.array(1.0))
    assert rejected > 5
    np.testing.assert_allclose(slope, value, rtol=1e-12)


# -- the ends of a solve


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "field, t0, t1, expected",
    [
        (lambda t: jnp.sqrt(1.0 - t), 0.0, 1.0, 2 / 3),
        (lambda t: jnp.abs(1.0 - t) ** 1.5, 0.0, 1.0, 2 / 5),
        (lambda t: jnp.sqrt(t), 1.0, 0.0, -2 / 3),
        # At both.
        (lambda t: jnp.sqrt(jnp.maximum(t * (2.0 - t), 0.0)), 0.0, 2.0, np.pi / 2),
    ],
    ids=["square root", "power 3/2", "backwards", "semicircle"],
)
def test_singular_where_it_ends(field, t0, t1, expected):
    solution = solve(lambda t, y: field(t) + 0.0 * y, t0, t1, 0.0, 12, 1e-9)
    assert solution.result == RESULTS.successful
    assert abs(solution.ys[0] - expected) < 1e-7


def test_a_pole_is_still_told():
    solution = solve(lambda t, y: y * y, 0.0, 1.0, 3.0, 12, 1e-9)
    assert solution.result == RESULTS.dt_min_reached


def test_no_end_but_an_event():
    """A ball in the air: the solution is a polynomial, and any step is short enough."""
    solution = solve(
        lambda t, y: jnp.stack([y[1], -9.8 + 0.0 * y[1]]), 0.0, jnp.inf, [10.0, 0.0], 8,
        1e-9, event=diffrax.Event(
            lambda t, y, args, **kwargs: y[0], optx.Bisection(1e-12, 1e-12)
        ),
    )  # fmt: skip
    assert solution.result == RESULTS.event_occurred
    assert solution.stats["num_rejected_steps"] <= 1
    np.testing.assert_allclose(solution.ts[0], np.sqrt(20 / 9.8), rtol=1e-11)


# -- a solve that is resumed


def _oscillator(t, y):
    return jnp.stack([y[1], -y[0]])


SAVED = diffrax.SaveAt(t1=True, solver_state=True, controller_state=True)


def _resume(first, t0, t1, y0, **kwargs):
    return solve(
        _oscillator, t0, t1, y0, 8, 1e-9, solver_state=first.solver_state,
        controller_state=first.controller_state, **kwargs,
    )  # fmt: skip


def test_resumed_after_an_event():
    """Which is inside a step: the series that is carried belongs to its end."""
    event = diffrax.Event(
        lambda t, y, args, **kwargs: y[0] - 0.5, optx.Bisection(1e-12, 1e-12)
    )
    first = solve(_oscillator, 0.0, 3.0, [0.0, 1.0], 8, 1e-9, event=event, saveat=SAVED)
    np.testing.assert_allclose(first.ts[0], np.pi / 6, rtol=1e-9)
    second = _resume(first, first.ts[0], 3.0, first.ys[0])
    np.testing.assert_allclose(
        second.ys[0], [np.sin(3.0), np.cos(3.0)], rtol=0, atol=1e-8
    )


@pytest.mark.slow
def test_resumed_from_another_state_or_time():
    first = solve(_oscillator, 0.0, 1.0, [0.0, 1.0], 8, 1e-9, saveat=SAVED)
    kicked = _resume(first, 1.0, 2.0, [3.0, 0.0])
    np.testing.assert_allclose(
        kicked.ys[0], [3 * np.cos(1.0), -3 * np.sin(1.0)], rtol=1e-8
    )
    # The field does not depend on the time; that of the series does.
    later = _resume(first, 5.0, 6.0, first.ys[0])
    np.testing.assert_allclose(later.ys[0], [np.sin(2.0), np.cos(2.0)], rtol=1e-8)


@pytest.mark.slow
def test_gradient_of_a_resumed_solve():
    """As the documentation says: with `made_jump`."""
    first = solve(_oscillator, 0.0, 1.0, [0.0, 1.0], 8, 1e-9, saveat=SAVED)

    def end(y0):
        return _resume(first, 1.0, 2.0, y0, made_jump=True, max_steps=64).ys[0]

    c, s = np.cos(1.0), np.sin(1.0)
    np.testing.assert_allclose(
        jax.jacrev(end)(first.ys[0]), [[c, s], [-s, c]], rtol=1e-8
    )


@pytest.mark.slow
def test_lanes_start_anew_where_they_have_to():
    """Under `vmap`: two lanes go on, the third begins elsewhere."""

    def start(y0):
        return solve(_oscillator, 0.0, 1.0, y0, 8, 1e-9, saveat=SAVED)

    first = jax.vmap(start)(jnp.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]))
    y0 = first.ys[:, 0].at[2].set(jnp.array([3.0, 0.0]))
    ends = jax.vmap(lambda first, y0: _resume(first, 1.0, 2.0, y0).ys[0])(first, y0)
    c, s = np.cos(1.0), np.sin(1.0)
    expected = np.array([[np.sin(2.0), np.cos(2.0)], [0, 0], [3 * c, -3 * s]])
    expected[1] = 2 * expected[0]
    np.testing.assert_allclose(ends, expected, rtol=1e-8)


@pytest.mark.slow
def test_resumed_with_another_order():
    first = solve(_oscillator, 0.0, 1.0, [0.0, 1.0], 10, 1e-9, saveat=SAVED)
    with pytest.raises(ValueError, match="series of order 10.*solver is of order 8"):
        _resume(first, 1.0, 2.0, first.ys[0])


# -- bad input


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(dtmin=1.0, dtmax=0.1), "`dtmin` must not exceed `dtmax`.*1.0.*0.1"),
        (dict(dtmin=-1.0), "`dtmin` must not be negative; got -1.0"),
        (dict(dtmax=0.0), "`dtmax` must be positive; got 0.0"),
        (dict(safety=0.0), r"`safety` must be in \(0, 1\]; got 0.0"),
        (dict(factormax=1.0), "`factormax` must be above 1.*got 1.0"),
    ],
)
def test_limits_of_the_controller(kwargs, message):
    with pytest.raises(ValueError, match=f"TaylorController: {message}"):
        TaylorController(1e-6, 1e-6, **kwargs)


def test_norm_that_is_none():
    controller = TaylorController(1e-6, 1e-6, norm=lambda y: y)
    with pytest.raises(ValueError, match=r"`norm` must return a scalar.*shape \(2,\)"):
        solve(_oscillator, 0.0, 1.0, [0.0, 1.0], 4, 1e-6, controller=controller)


@pytest.mark.parametrize("probes", [-1, True])
def test_number_of_probes(probes):
    with pytest.raises((ValueError, TypeError), match="TaylorSolver: `probes` must be"):
        TaylorSolver(5, probes=probes)
