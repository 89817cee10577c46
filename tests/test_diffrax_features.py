"""Features of `diffrax.diffeqsolve` with `TaylorSolver` and `TaylorController`."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optimistix
import pytest
from jaxtyping import Array

import eqx_taylor
from eqx_taylor import TaylorController, TaylorSolver


RESULTS = diffrax.RESULTS


def _field(t, y, args):
    """Its solution is `y0 exp(args (sin t - sin t0))`."""
    return args * y * jnp.cos(t)


def _exact(t, y0, args=1.0, t0=0.0):
    return y0 * np.exp(args * (np.sin(t) - np.sin(t0)))


Y0 = np.array([1.0, -0.5])


def solve(
    field=_field, *, order=6, t0=0.0, t1=3.0, y0=None, args=None, tol=1e-9, **kwargs
):
    """Numbers are passed as arrays, so that another value does not compile it anew."""
    solver = kwargs.pop("solver", TaylorSolver(order, event=kwargs.get("event")))
    terms = kwargs.pop("terms", None)
    defaults = dict(
        dt0=None, stepsize_controller=TaylorController(tol, tol), max_steps=128, throw=False,
    )  # fmt: skip
    dynamic = dict(
        t0=t0,
        t1=t1,
        y0=jnp.asarray(Y0) if y0 is None else y0,
        args=1.0 if args is None else args,
    )
    dynamic, defaults = jtu.tree_map(
        lambda x: (
            jnp.asarray(x, jnp.result_type(t1, 0.0)) if isinstance(x, float) else x
        ),
        (dynamic, defaults | kwargs),
    )
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field) if terms is None else terms, solver, **dynamic, **defaults,
    )  # fmt: skip


# -- what is saved


def test_all_forms_of_saveat():
    """Together, as a PyTree, and the dense output besides."""
    ts = np.linspace(0.0, 3.0, 17)
    inside = jnp.array([0.0, 0.2, 1.1, 2.9, 3.0])
    subs = dict(
        ends=diffrax.SubSaveAt(t0=True, t1=True),
        times=(diffrax.SubSaveAt(ts=jnp.asarray(ts)), diffrax.SubSaveAt(steps=3, t1=True)),
        function=diffrax.SubSaveAt(t0=True, steps=True, fn=lambda t, y, args: dict(t=t, product=jnp.prod(y) * args)),
    )  # fmt: skip

    @jax.jit
    def run():
        solution = solve(saveat=diffrax.SaveAt(subs=subs, dense=True))
        values = {
            left: jax.vmap(lambda t: solution.evaluate(t, left=left))(inside)
            for left in (True, False)
        }
        slopes = jax.vmap(solution.derivative)(inside)
        increment = solution.evaluate(0.3, 2.4), solution.evaluate(2.4, 0.3)
        return solution.ts, solution.ys, solution.stats, values, slopes, increment

    all_ts, ys, stats, values, slopes, increment = run()
    steps = int(stats["num_accepted_steps"])
    assert steps > 6

    np.testing.assert_array_equal(all_ts["ends"], [0, 3])
    np.testing.assert_array_equal(ys["ends"][0], Y0)
    np.testing.assert_allclose(
        ys["ends"], _exact(np.array([[0.0], [3.0]]), Y0), rtol=1e-8
    )
    np.testing.assert_array_equal(all_ts["times"][0], ts)
    np.testing.assert_allclose(ys["times"][0], _exact(ts[:, None], Y0), rtol=1e-8)
    third, every = all_ts["times"][1], all_ts["function"]
    third, every = third[np.isfinite(third)], every[np.isfinite(every)]
    assert len(every) == steps + 1
    expected = every[3::3] if steps % 3 == 0 else [*every[3::3], 3.0]
    np.testing.assert_array_equal(third, expected)
    np.testing.assert_allclose(
        ys["times"][1][: len(third)], _exact(third[:, None], Y0), rtol=1e-8
    )
    function = ys["function"]
    np.testing.assert_array_equal(function["t"][: len(every)], every)
    np.testing.assert_allclose(
        function["product"][: len(every)], -0.5 * np.exp(2 * np.sin(every)), rtol=2e-8
    )

    exact = _exact(np.asarray(inside)[:, None], Y0)
    np.testing.assert_array_equal(values[True], values[False])
    np.testing.assert_allclose(values[True], exact, rtol=1e-8)
    np.testing.assert_allclose(slopes, exact * np.cos(inside)[:, None], atol=1e-6)
    difference = _exact(2.4, Y0) - _exact(0.3, Y0)
    np.testing.assert_allclose(increment, [difference, -difference], rtol=1e-7)


def test_order_inside_a_step():
    """One step, and 0.6 of it: halving it divides the error by 2^(K + 1) there."""
    order = 5

    @jax.jit
    def error(h):
        solution = solve(
            order=order, t1=h, dt0=h, stepsize_controller=diffrax.ConstantStepSize(), saveat=diffrax.SaveAt(dense=True), max_steps=4,
        )  # fmt: skip
        return solution.evaluate(0.6 * h), solution.derivative(0.6 * h)

    def errors(h):
        y, slope = error(h)
        exact = _exact(0.6 * h, Y0)
        return np.abs([y - exact, slope - exact * np.cos(0.6 * h)])

    rates = np.log2(errors(0.1) / errors(0.05))
    np.testing.assert_allclose(rates[0], order + 1, atol=0.3)
    np.testing.assert_allclose(rates[1], order, atol=0.3)


# -- events

ROOT_FINDER = optimistix.Newton(rtol=1e-14, atol=1e-14)


def _oscillator(t, y, args):
    return jnp.stack([y[1], -y[0]])


def _level(t, y, args, **kwargs):
    return y[0] - 0.3


def _late(t, y, args, **kwargs):
    return t > 1.7


def _crossing(direction):
    """Of `y = (sin, cos)(t + phase)`, its first component and 0.3."""
    saveat = diffrax.SaveAt(t1=True, ts=jnp.linspace(0.0, 10.0, 41), dense=True)
    condition = dict(level=_level, other=(_level,))
    event = diffrax.Event(condition, ROOT_FINDER, direction)

    @jax.jit
    def run(y0):
        solution = solve(
            _oscillator, order=12, tol=1e-14, t1=10.0, y0=y0, event=event, saveat=saveat
        )
        return (
            solution.ts,
            solution.ys,
            solution.result,
            solution.event_mask,
            solution.evaluate(0.9 * solution.ts[0]),
        )

    return run


def test_events_by_direction():
    """Several, in a PyTree, with saved times and dense output up to the event."""
    up, down = np.arcsin(0.3), np.pi - np.arcsin(0.3)
    run = _crossing(dict(level=True, other=(False,)))
    # The start, the time of the crossing, and whether it is one upwards.
    for phase, expected, upwards in [
        (0.0, up, True),
        (1.0, down - 1.0, False),
        (4.0, up + 2 * np.pi - 4, True),
    ]:
        y0 = jnp.array([np.sin(phase), np.cos(phase)])
        ts, ys, result, mask, inside = run(y0)
        assert result == RESULTS.event_occurred
        assert bool(mask["level"]) == upwards and bool(mask["other"][0]) != upwards
        saved = np.linspace(0, 10, 41)
        saved = saved[saved < expected]
        taken = np.isfinite(ts)
        np.testing.assert_array_equal(ts[taken][:-1], saved)
        np.testing.assert_allclose(ts[taken][-1], expected, rtol=0, atol=1e-12)
        exact = np.stack([np.sin(ts[taken] + phase), np.cos(ts[taken] + phase)], 1)
        np.testing.assert_allclose(ys[taken], exact, rtol=0, atol=1e-12)
        t = 0.9 * ts[0]
        np.testing.assert_allclose(
            inside, [np.sin(t + phase), np.cos(t + phase)], atol=1e-12
        )
    # At `t0` exactly: Diffrax counts "zero, then above it" as a crossing upwards.
    ts, ys, result, mask, _ = run(jnp.array([0.3, np.sqrt(0.91)]))
    assert result == RESULTS.event_occurred and bool(mask["level"])
    end = ts[np.isfinite(ts)][-1]
    np.testing.assert_allclose(end, 0, atol=1e-12)


@pytest.mark.slow
def test_real_and_boolean_events():
    """Whichever comes first. The boolean one ends at the end of the step in which it
    becomes true; or before the first, if it is true at `t0`."""
    event = diffrax.Event((_level, _late), ROOT_FINDER)

    def run(phase, t0):
        y0 = jnp.array([np.sin(t0 + phase), np.cos(t0 + phase)])
        solution = solve(
            _oscillator, order=8, tol=1e-11, t0=t0, t1=10.0, y0=y0, event=event, saveat=diffrax.SaveAt(t0=True, t1=True),
        )  # fmt: skip
        assert solution.result == RESULTS.event_occurred
        t = solution.ts[1]
        np.testing.assert_allclose(
            solution.ys[1], [np.sin(t + phase), np.cos(t + phase)], atol=1e-10
        )
        return solution

    crossing = run(0.0, 0.0)
    assert crossing.event_mask[0] and not crossing.event_mask[1]
    np.testing.assert_allclose(crossing.ts[1], np.arcsin(0.3), atol=1e-10)
    late = run(0.5, 0.0)
    assert late.event_mask[1] and not late.event_mask[0]
    assert 1.7 < late.ts[1] < np.pi - np.arcsin(0.3) - 0.5
    at_once = run(0.5, 1.75)
    assert at_once.event_mask[1] and at_once.stats["num_steps"] == 0
    assert at_once.ts[1] == 1.75


def _parabola(t, y, args):
    """y' = 1 - 2 t, and y = -(t - 1/4) (t - 3/4)"""
    return 1 - 2 * t + 0 * y


@pytest.mark.slow
def test_two_crossings_in_one_step():
    """A polynomial is one step long, and the sign is the same at its ends."""
    event = diffrax.Event(lambda t, y, args, **kwargs: y, ROOT_FINDER)

    def run(t0):
        y0 = -(t0 - 0.25) * (t0 - 0.75)
        return solve(
            _parabola,
            order=4,
            t0=t0,
            t1=2.0,
            y0=jnp.asarray(y0),
            event=event,
        )

    first = run(0.0)
    assert first.result == RESULTS.event_occurred
    np.testing.assert_allclose(first.ts, [0.25], rtol=0, atol=1e-12)
    second = run(0.26)
    assert second.result == RESULTS.event_occurred
    np.testing.assert_allclose(second.ts, [0.75], rtol=0, atol=1e-12)


# -- adjoints

ADJOINTS = {
    "default": (jax.jacrev, diffrax.RecursiveCheckpointAdjoint()),
    "direct": (jax.jacrev, diffrax.DirectAdjoint()),
    "backsolve": (jax.jacrev, diffrax.BacksolveAdjoint()),
    "forward": (jax.jacfwd, diffrax.ForwardMode()),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", ADJOINTS)
def test_adjoints(name):
    """With respect to initial state and parameter, against the closed form."""
    jacobian, adjoint = ADJOINTS[name]

    def end(y0, args):
        return solve(
            order=4, tol=1e-8, t1=2.0, y0=y0, args=args, adjoint=adjoint, max_steps=64
        ).ys[0]

    by_y0, by_args = jax.jit(jacobian(end, argnums=(0, 1)))(
        jnp.asarray(Y0), jnp.array(0.8)
    )
    growth = np.exp(0.8 * np.sin(2.0))
    np.testing.assert_allclose(by_y0, growth * np.eye(2), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(by_args, Y0 * growth * np.sin(2.0), rtol=1e-6)


# -- kinds of states


class _Pair(eqx.Module):
    first: Array
    second: dict
    name: str = eqx.field(static=True)


# Diffrax warns that its support of complex numbers is not complete.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Complex dtype support")
def test_kinds_of_states():
    """A module of a scalar, a nested dict, `None`, an empty array, complex numbers; and
    backwards in time. z' = z² has the solution z0/(1 - z0 (t - t0)), and is solved for
    real and imaginary part, too."""

    def field(t, y, args):
        x, v = y.second["plane"]
        z, w = y.second["complex"]
        plane = x**2 - v**2, 2 * x * v
        rates = dict(
            plane=plane,
            complex=[z**2, (0.5 - 2j) * w],
            none=None,
            empty=y.second["empty"],
        )
        return _Pair(-y.first * t, rates, y.name)

    z0 = 0.4 - 0.3j
    second = dict(
        plane=(jnp.array(z0.real), jnp.array(z0.imag)),
        complex=[jnp.array(z0), jnp.array([1.0 + 0j, 2j])],
        none=None,
        empty=jnp.zeros((0, 3)),
    )
    y0 = _Pair(jnp.array(1.5), second, "state")
    ts = np.array([1.0, 0.25, -0.5])
    with jax.numpy_dtype_promotion("standard"):
        solution = solve(
            field,
            order=8,
            tol=1e-11,
            t0=1.0,
            t1=-0.5,
            y0=y0,
            saveat=diffrax.SaveAt(ts=jnp.asarray(ts)),
        )
    assert solution.result == RESULTS.successful
    ys = solution.ys
    assert jtu.tree_structure(ys) == jtu.tree_structure(y0)
    np.testing.assert_array_equal(solution.ts, ts)
    np.testing.assert_allclose(ys.first, 1.5 * np.exp((1 - ts**2) / 2), rtol=1e-9)
    z = z0 / (1 - z0 * (ts - 1))
    np.testing.assert_allclose(ys.second["complex"][0], z, rtol=1e-9)
    np.testing.assert_allclose(ys.second["plane"], [z.real, z.imag], rtol=1e-9)
    w = np.array([1.0, 2j]) * np.exp((0.5 - 2j) * (ts[:, None] - 1))
    np.testing.assert_allclose(ys.second["complex"][1], w, rtol=1e-9)
    assert ys.second["empty"].shape == (3, 0, 3) and ys.second["none"] is None


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "y0",
    [{}, dict(none=None), dict(empty=np.zeros((0,)))],
    ids=["no leaves", "None", "no numbers"],
)
def test_nothing_to_solve(y0):
    solution = solve(lambda t, y, args: y, order=3, y0=y0)
    assert solution.result == RESULTS.successful
    assert solution.stats["num_steps"] == 1


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "time, state",
    [("float32", "float64"), ("float64", "float32")],
)
def test_dtypes_of_time_and_state(time, state):
    """Diffrax widens the state to the dtype of time. Where time is the narrower one, its
    roundings are what limits the accuracy."""
    time = np.dtype(time).type
    solution = solve(
        lambda t, y, args: -y, order=8, tol=1e-10, t0=time(0), t1=time(3), y0=jnp.asarray(Y0, state), saveat=diffrax.SaveAt(t1=True, dense=True),
    )  # fmt: skip
    assert solution.result == RESULTS.successful
    assert solution.ts.dtype == time and solution.ys.dtype == jnp.float64
    rtol = 1e-6 if time == np.float32 else 1e-8
    np.testing.assert_allclose(solution.ys[0], np.exp(-3.0) * Y0, rtol=rtol)
    np.testing.assert_allclose(
        solution.evaluate(time(1.5)), np.exp(-1.5) * Y0, rtol=rtol
    )


# -- terms and progress meters


def test_multi_term_and_progress_meter(capfd):
    """With integers for times."""
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(_field), diffrax.ODETerm(lambda t, y, args: -y)
    )
    solution = solve(
        terms=terms, t0=0, t1=3, progress_meter=diffrax.TextProgressMeter()
    )
    jax.effects_barrier()
    assert solution.result == RESULTS.successful
    np.testing.assert_allclose(
        solution.ys[0], _exact(3.0, Y0) * np.exp(-3.0), rtol=1e-7
    )
    assert "100.00%" in capfd.readouterr().out


@pytest.mark.slow
def test_tqdm_progress_meter(capfd):
    pytest.importorskip("tqdm")
    solution = solve(progress_meter=diffrax.TqdmProgressMeter())
    jax.effects_barrier()
    assert solution.result == RESULTS.successful
    assert "100.00%" in capfd.readouterr().err


@pytest.mark.slow
def test_half_solver():
    """Its own estimate of the error, for a controller that takes any."""
    controller = diffrax.PIDController(rtol=1e-8, atol=1e-8)
    solution = solve(
        solver=diffrax.HalfSolver(TaylorSolver(4)),
        stepsize_controller=controller,
        max_steps=256,
    )
    assert solution.result == RESULTS.successful
    error = np.max(np.abs(solution.ys[0] - _exact(3.0, Y0)))
    assert error < 1e-7 and solution.stats["num_steps"] < 150


# -- saving and resuming


@pytest.mark.slow
@pytest.mark.parametrize("clipped", [False, True], ids=["plain", "clipped"])
def test_resuming(clipped):
    """Two halves take the steps of one solve, bit for bit: with compensation, and with a
    jump in the first of them or in the second."""

    def field(t, y, args):
        return args * y * jnp.where(t < 1.5, jnp.cos(t), -0.5)

    controller = TaylorController(jnp.array(1e-9), jnp.array(1e-9))
    if clipped:
        controller = diffrax.ClipStepSizeController(
            controller, jump_ts=jnp.array([1.5])
        )
    saveat = diffrax.SaveAt(
        t0=True, steps=True, solver_state=True, controller_state=True, made_jump=True
    )

    def run(t0, t1, y0, **kwargs):
        return solve(
            field, solver=TaylorSolver(6, compensated=True), t0=t0, t1=t1, y0=y0, stepsize_controller=controller, saveat=saveat, **kwargs,
        )  # fmt: skip

    def resume(half, t0, t1):
        state = half.controller_state
        return run(
            t0,
            t1,
            half.ys[half.stats["num_accepted_steps"]],
            # Diffrax chooses another first step, if it is not told which.
            dt0=(state.inner_state if clipped else state)[0],
            solver_state=half.solver_state,
            controller_state=state,
            made_jump=jnp.asarray(half.made_jump),
        )

    def assert_same(actual, expected, first, ulps):
        steps = int(actual.stats["num_accepted_steps"])
        part = slice(first, first + steps + 1)
        np.testing.assert_array_equal(actual.ts[: steps + 1], expected.ts[part])
        rtol = ulps * np.finfo(float).eps
        np.testing.assert_allclose(actual.ys[: steps + 1], expected.ys[part], rtol=rtol)

    # The first step is given: the last digit of the one that is chosen depends on `t1`,
    # by the unit of time that is taken from it.
    whole = run(0.0, 3.0, jnp.asarray(Y0), dt0=0.1)
    assert whole.result == RESULTS.successful
    n = int(whole.stats["num_accepted_steps"])
    start = run(0.0, whole.ts[2], jnp.asarray(Y0), dt0=0.1)
    assert_same(start, whole, 0, ulps=0)
    # A solve that is resumed is another program: XLA may round it otherwise.
    rest = resume(start, whole.ts[2], 3.0)
    assert_same(rest, whole, 2, ulps=2)
    assert rest.stats["num_accepted_steps"] == n - 2
    # Not where steps are rejected: Diffrax makes these again otherwise, near `t1`.
    assert rest.ts[6] < 1.3 and rest.ts[n - 6] > 1.6
    for cut in (6, n - 6):
        half = resume(start, whole.ts[2], rest.ts[cut])
        assert_same(half, rest, 0, ulps=0)
        other = resume(half, rest.ts[cut], 3.0)
        assert half.stats["num_accepted_steps"] == cut
        assert other.stats["num_accepted_steps"] == n - 2 - cut
        assert_same(other, rest, cut, ulps=0)


# -- compensation


@pytest.mark.slow
def test_compensation_over_a_long_time():
    """Many steps of an oscillator: the errors are those of rounding, and fewer of them
    with compensation."""
    t1, tol = 5000.0, 1e-18
    angles = np.linspace(0.0, 1.5, 8)
    y0 = np.stack([np.cos(angles), np.sin(angles)], 1)
    # From the numbers in `y0`: the rounding of `angles + t1` would be too large.
    flow = np.array([[np.cos(t1), np.sin(t1)], [-np.sin(t1), np.cos(t1)]])
    exact = y0 @ flow.T
    errors = []
    for compensated in (False, True):
        solver = TaylorSolver(12, compensated=compensated)

        def end(y0, solver=solver):
            solution = solve(
                _oscillator, solver=solver, tol=tol, t1=t1, y0=y0, max_steps=None
            )
            return solution.ys[0], solution.stats["num_steps"]

        y1, steps = jax.jit(jax.vmap(end))(jnp.asarray(y0))
        assert np.min(steps) > 10_000
        errors.append(np.sqrt(np.mean((y1 - exact) ** 2)) / np.finfo(float).eps)
    # Measured: 25 and 4 units of the last place, after 26000 steps.
    assert errors[1] < 10 and errors[1] < 0.5 * errors[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Complex dtype support")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compensation_with_jumps(dtype):
    """In float32 and float64, of a PyTree with complex numbers, over a jump of the
    field, behind which the series starts anew but what was left is kept."""
    time = np.dtype(dtype).type
    eps = float(np.finfo(dtype).eps)
    complex_dtype = dict(float32=jnp.complex64, float64=jnp.complex128)[dtype]

    def field(t, y, args):
        rate = jnp.where(t < time(1.5), time(1), time(-1))
        return dict(x=rate * y["x"], z=-y["z"] * jnp.asarray(2j, complex_dtype))

    y0 = dict(x=jnp.asarray(Y0, dtype), z=jnp.ones((), complex_dtype))
    controller = diffrax.ClipStepSizeController(
        TaylorController(time(eps), time(eps)), jump_ts=jnp.asarray([1.5], dtype)
    )
    with jax.numpy_dtype_promotion("standard"):
        solution = solve(
            field, solver=TaylorSolver(8, compensated=True), t0=time(0), t1=time(3), y0=y0, args=time(1), stepsize_controller=controller,
        )  # fmt: skip
    assert solution.result == RESULTS.successful
    assert solution.ys["x"].dtype == dtype and solution.ys["z"].dtype == complex_dtype
    # The jump itself is skipped: two places of time are not integrated.
    np.testing.assert_allclose(solution.ys["x"][0], Y0, rtol=30 * eps)
    np.testing.assert_allclose(solution.ys["z"][0], np.exp(-6j), rtol=30 * eps)


# -- transformations


def test_vmap_over_everything():
    """Initial state, parameter, final time and tolerance: every lane takes the steps of
    a solve of its own."""
    lanes = (
        jnp.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 1.0]]),
        jnp.array([1.0, 0.2, 4.0]),
        jnp.array([3.0, 0.5, 6.0]),
        jnp.array([1e-9, 1e-4, 1e-6]),
    )

    def run(y0, args, t1, tol):
        return solve(y0=y0, args=args, t1=t1, tol=tol)

    together = jax.jit(jax.vmap(run))(*lanes)
    steps = together.stats["num_steps"]
    assert len(set(steps.tolist())) == 3
    for k in range(3):
        y0, args, t1, tol = (x[k] for x in lanes)
        alone = run(y0, args, t1, tol)
        assert alone.stats["num_steps"] == steps[k]
        np.testing.assert_allclose(together.ys[k], alone.ys, rtol=1e-13)
        exact = _exact(t1, np.asarray(y0), args)
        np.testing.assert_allclose(alone.ys[0], exact, rtol=20 * tol)


@pytest.mark.slow
def test_jet_through_a_solve():
    """Of y' = y², whose solution y0/(1 - y0 t) has the derivatives
    k! t^(k - 1)/(1 - y0 t)^(k + 1) with respect to y0: steps are not differentiated, and
    those that are long enough for the value are so for the derivatives, nearly."""

    @jax.jit
    def run(y0):
        def end(y0):
            return solve(lambda t, y, args: y**2, order=8, tol=1e-12, t1=0.4, y0=y0).ys[
                0
            ]

        return eqx_taylor.filter_jet(end, (y0,), ([1.0, None, None],))

    value, derivatives = run(jnp.array(1.5))
    np.testing.assert_allclose(value, 1.5 / 0.4, rtol=1e-10)
    exact = [math.factorial(k) * 0.4 ** (k - 1) / 0.4 ** (k + 1) for k in (1, 2, 3)]
    np.testing.assert_allclose(derivatives, exact, rtol=1e-6)


@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
def test_a_steady_state_is_reached_at_a_tenth_of_the_tolerance(tol):
    """What the documentation advises: with equal tolerances the field stays above that
    of the event. The steady state of `p - y**3` is the cube root of `p`."""
    event = diffrax.Event(diffrax.steady_state_event(rtol=tol, atol=tol))
    solver, controller = eqx_taylor.taylor_method(rtol=tol / 10, atol=tol / 10)

    def steady(p):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, p: p - y**3),
            solver,
            t0=0.0,
            t1=jnp.inf,
            dt0=None,
            y0=jnp.array(3.0),
            args=p,
            stepsize_controller=controller,
            event=event,
            adjoint=diffrax.ImplicitAdjoint(),
            max_steps=100,
        )
        return solution.ys[-1]

    # Diffrax multiplies times by an integer there.
    with jax.numpy_dtype_promotion("standard"):
        y, slope = jax.jit(jax.value_and_grad(steady))(2.0)
    root = 2.0 ** (1 / 3)
    # The slope of the field is -3 y**2, about -4.8.
    np.testing.assert_allclose(y, root, atol=tol)
    np.testing.assert_allclose(slope, 1 / (3 * root**2), rtol=5 * tol)
