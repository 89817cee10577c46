"""All events of a solution, and solves that go on from them, against closed forms."""

import functools as ft

import diffrax
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from diffrax import RESULTS

from eqx_taylor import find_events, hybrid_solve, TaylorController, TaylorSolver


Y0 = jnp.array([1.0, 0.0])
CIRCLE = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -y[0]]))
DENSE = diffrax.SaveAt(dense=True)


def dense(term, y0, t0, t1, tol=1e-14, order=12, args=None):
    return diffrax.diffeqsolve(
        term, TaylorSolver(order), t0=t0, t1=t1, dt0=None, y0=y0, args=args, saveat=DENSE,
        stepsize_controller=TaylorController(tol, tol), max_steps=256,
    )  # fmt: skip


def listed(events):
    """Times, conditions and directions, checked for what they say of each other."""
    number = int(events.num_events)
    ts, index, upwards = (
        np.asarray(x) for x in (events.ts, events.index, events.upwards)
    )
    assert np.all(np.isinf(ts[number:])) and np.all(index[number:] == -1)
    masks = np.stack(jax.tree.leaves(events.event_mask))
    np.testing.assert_array_equal(masks, index == np.arange(len(masks))[:, None])
    return ts[:number], index[:number], upwards[:number]


# Conditions with closed forms on (cos t, -sin t): their roots in [0, 10] for `args`.
CONDITIONS = dict(
    level=lambda t, y, args, **kwargs: y[0] - args,
    kink=lambda t, y, args, **kwargs: jnp.abs(y[1]) - args,
    product=lambda t, y, args, **kwargs: y[0] * y[1],
    rapid=lambda t, y, args, **kwargs: jnp.sin(7 * t - 0.2),
    steep=lambda t, y, args, **kwargs: jnp.exp(20 * (y[0] - args)) - 1,
    touching=lambda t, y, args, **kwargs: y[0] + 1,
    zero=lambda t, y, args, **kwargs: 0.0 * y[0],
    from_zero=lambda t, y, args, **kwargs: y[1],
    time=lambda t, y, args, **kwargs: (t - 2.5) * (t - 2.500001),
    end=lambda t, y, args, **kwargs: t - 10.0,
)
NAMES = sorted(CONDITIONS)  # As `jax.tree` has them.


def roots(c, t1):
    """Times and directions by the name of the condition."""
    k = np.arange(-8, 9)
    down = np.arccos(c) + 2 * np.pi * k
    up = -np.arccos(c) + 2 * np.pi * k
    a = np.arcsin(c)
    sines = np.concatenate([a + np.pi * k, -a + np.pi * k])
    found = dict(
        level=[*((t, False) for t in down), *((t, True) for t in up)],
        steep=[*((t, False) for t in down), *((t, True) for t in up)],
        kink=[(t, np.sin(2 * t) > 0) for t in sines],
        # -sin(2 t) / 2
        product=[(t, np.cos(2 * t) < 0) for t in np.pi / 2 * np.arange(17)],
        rapid=[(t, np.cos(7 * t - 0.2) > 0) for t in (0.2 + np.pi * np.arange(40)) / 7],
        touching=[],
        zero=[],
        from_zero=[(t, np.cos(t) < 0) for t in np.pi * k],
        time=[(2.5, False), (2.500001, True)],
        end=[(10.0, True)],
    )
    return {
        name: sorted((t, up) for t, up in found[name] if 1e-12 < t <= t1 + 1e-12)
        for name in NAMES
    }


@pytest.mark.slow
def test_all_events():
    """In order, with directions, in lanes; a root at the end is one, and a root at the
    start is none."""
    t1 = 10.0
    event = diffrax.Event(CONDITIONS)

    @jax.jit
    @jax.vmap
    def run(c):
        solution = dense(CIRCLE, Y0, 0.0, t1)
        return find_events(solution, event, c, max_events=80)

    levels = [0.5, -0.3]
    lanes = run(jnp.array(levels))
    assert not np.any(lanes.has_more)
    for i, c in enumerate(levels):
        events = jax.tree.map(lambda x, i=i: x[i], lanes)
        ts, index, upwards = listed(events)
        assert np.all(np.diff(ts) >= 0)
        np.testing.assert_allclose(events.ys[: len(ts), 0], np.cos(ts), atol=1e-13)
        for j, (name, expected) in enumerate(roots(c, t1).items()):
            exact = np.array([t for t, _ in expected])
            # A quadratic function with two roots 1e-6 apart loses half of the digits;
            # and |y| has no root at a negative level.
            if name == "kink" and c < 0:
                expected, exact = [], exact[:0]
            tol = 1e-9 if name == "time" else 2e-13
            found = ts[index == j]
            assert len(found) == len(exact), (name, found, exact)
            np.testing.assert_allclose(found, exact, rtol=0, atol=tol, err_msg=name)
            assert [up for _, up in expected] == list(upwards[index == j]), name


def level(t, y, args, **kwargs):
    return y[0] - args


@pytest.mark.slow
def test_directions_backwards_and_no_room():
    event = diffrax.Event([level, level], direction=[True, False])

    @jax.jit
    def run(t1):
        solution = dense(CIRCLE, Y0, 0.0, t1)
        both = [find_events(solution, event, 0.5, max_events=n) for n in (3, 8)]
        return both

    few, all_of_them = run(10.0)
    # Downwards at pi / 3, upwards at 5 pi / 3, and so on.
    exact = np.pi * np.array([1, 5, 7]) / 3
    ts, index, upwards = listed(all_of_them)
    np.testing.assert_allclose(ts, exact, rtol=1e-14)
    assert list(index) == [1, 0, 1] and list(upwards) == [False, True, False]
    assert not few.has_more and few.num_events == 3
    # Backwards, in the order of the solve.
    few, all_of_them = run(-14.0)
    exact = -np.pi * np.array([1, 5, 7, 11, 13]) / 3
    ts, index, upwards = listed(all_of_them)
    np.testing.assert_allclose(ts, exact, rtol=1e-14)
    assert list(upwards) == [False, True, False, True, False]
    assert few.has_more and few.num_events == 3
    np.testing.assert_allclose(few.ts, exact[:3], rtol=1e-14)


@pytest.mark.slow
def test_gradients_of_all_events():
    """With respect to the start, the level and a parameter of the field, in both modes:
    y = a cos(w t)."""
    term = diffrax.ODETerm(lambda t, y, w: jnp.stack([y[1], -w * w * y[0]]))
    event = diffrax.Event(level)

    def run(p):
        a, w, c = p
        y0 = jnp.stack([a, jnp.zeros_like(a)])
        solution = dense(term, y0, 0.0, 6.0, args=w)
        events = find_events(solution, event, c, max_events=5)
        return events.ts, events.ys[:, 1]

    def exact(p):
        a, w, c = p
        angle = jnp.arccos(c / a)
        ts = jnp.stack([angle, 2 * jnp.pi - angle, 2 * jnp.pi + angle]) / w
        return ts, -a * w * jnp.sin(w * ts)

    p = jnp.array([2.0, 1.3, 0.5])
    expected = jax.jacfwd(exact)(p)
    for found in jax.jit(lambda p: (jax.jacrev(run)(p),))(p):
        for actual, slope in zip(found, expected):
            assert np.all(np.isfinite(actual))
            np.testing.assert_allclose(actual[:3], slope, rtol=1e-10, atol=1e-11)
            np.testing.assert_array_equal(actual[3:], 0)


@pytest.mark.slow
def test_a_pendulum_at_rest():
    """Its velocity is zero each half period, an elliptic integral: to 1e-13."""
    term = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -9.8 * jnp.sin(y[0])]))
    y0 = jnp.array([0.25, 0.0])
    solution = dense(term, y0, 0.0, 10.0, tol=1e-17, order=16)
    event = diffrax.Event(lambda t, y, args, **kwargs: y[1])
    events = find_events(solution, event, max_events=20)
    with mpmath.workdps(30):
        modulus = mpmath.sin(mpmath.mpf("0.125")) ** 2
        half = 2 * mpmath.ellipk(modulus) / mpmath.sqrt(mpmath.mpf("9.8"))
        exact = [float(k * half) for k in range(1, int(10 / half) + 1)]
    ts, _, upwards = listed(events)
    np.testing.assert_allclose(ts, exact, rtol=0, atol=1e-13)
    assert list(upwards) == [k % 2 == 0 for k in range(len(ts))]


# -- hybrid systems

G, RESTITUTION, HEIGHT = 9.81, 0.8, 3.0
BALL = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -args[0] + 0.0 * y[1]]))


def bounce(t, y, args, event_mask):
    return jnp.stack([y[0], -args[1] * y[1]])


def bounces(p, max_events=8, t1=6.0, **kwargs):
    """`p` is gravity, restitution and height."""
    return hybrid_solve(
        BALL,
        TaylorSolver(order=6),
        t0=0.0,
        t1=t1,
        dt0=None,
        y0=jnp.stack([p[2], jnp.zeros_like(p[2])]),
        args=p,
        event=diffrax.Event(lambda t, y, args, **kwargs: y[0]),
        update=bounce,
        max_events=max_events,
        stepsize_controller=TaylorController(1e-12, 1e-12),
        **kwargs,
    )


def exact_bounces(p, number, t1):
    g, e, height = p
    fall = jnp.sqrt(2 * height / g)
    ts = [fall]
    for k in range(1, number):
        ts.append(ts[-1] + 2 * fall * e**k)
    velocity, dt = g * fall * e**number, t1 - ts[-1]
    y1 = jnp.stack([velocity * dt - g * dt**2 / 2, velocity - g * dt])
    return jnp.stack(ts), y1


def test_a_bouncing_ball():
    """To 1e-13, with its gradients by reverse mode to 1e-9."""
    p = jnp.array([G, RESTITUTION, HEIGHT])

    @jax.jit
    def run(p):
        solution = bounces(p, max_events=4, t1=3.5)
        return solution, jax.jacrev(lambda p: _results(bounces(p, 4, 3.5)))(p)

    solution, (ts_slope, y1_slope) = run(p)
    assert solution.result == RESULTS.successful and not solution.events.has_more
    ts, index, upwards = listed(solution.events)
    exact_ts, exact_y1 = exact_bounces(p, 3, 3.5)
    np.testing.assert_allclose(ts, exact_ts, rtol=0, atol=1e-13)
    np.testing.assert_allclose(solution.y1, exact_y1, rtol=0, atol=1e-13)
    assert solution.t1 == 3.5 and not upwards.any()
    before, after = solution.events.ys[:3, 1], solution.ys_after[:3, 1]
    np.testing.assert_allclose(after, -RESTITUTION * before, rtol=1e-15)
    slopes = jax.jacfwd(lambda p: exact_bounces(p, 3, 3.5))(p)
    np.testing.assert_allclose(ts_slope[:3], slopes[0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(y1_slope, slopes[1], rtol=1e-9, atol=1e-9)


def _results(solution):
    return solution.events.ts, solution.y1


@pytest.mark.slow
def test_more_bounces_than_there_is_room_for():
    p = jnp.array([G, RESTITUTION, HEIGHT])
    solution = jax.jit(ft.partial(bounces, throw=False))(p)
    assert solution.events.has_more and solution.events.num_events == 8
    exact_ts, _ = exact_bounces(p, 9, 6.0)
    np.testing.assert_allclose(solution.events.ts, exact_ts[:8], rtol=0, atol=1e-13)
    np.testing.assert_allclose(solution.t1, exact_ts[8], rtol=0, atol=1e-13)


def test_too_many_bounces_are_an_error():
    """The state is that of an earlier time than was asked for."""
    p = jnp.array([G, RESTITUTION, HEIGHT])
    with pytest.raises(Exception, match="more events than `max_events`=1"):
        jax.block_until_ready(bounces(p, max_events=1).y1)


@pytest.mark.slow
def test_all_events_without_keeping_the_solution():
    """Of two conditions, one with a direction, and backwards."""
    event = diffrax.Event(
        (level, lambda t, y, args, **kwargs: y[1]), None, (None, True)
    )

    @jax.jit
    def run(t1):
        return hybrid_solve(
            CIRCLE, TaylorSolver(order=12), 0.0, t1, None, Y0, 0.5, event=event, max_events=6,
            stepsize_controller=TaylorController(1e-13, 1e-13),
        )  # fmt: skip

    events = run(10.0).events
    ts, index, upwards = listed(events)
    # The velocity goes upwards through zero at pi and at 3 pi.
    exact = np.pi * np.array([1, 3, 5, 7, 9]) / 3
    np.testing.assert_allclose(ts, exact, rtol=0, atol=1e-12)
    assert list(index) == [0, 1, 0, 0, 1]
    assert list(upwards) == [False, True, True, False, True]


def test_one_direction_again_and_again():
    """The condition goes through zero the other way in between, which is no event."""
    condition = diffrax.Event(lambda t, y, args, **kwargs: y[1], direction=True)
    solution = hybrid_solve(
        CIRCLE, TaylorSolver(order=8), 0.0, 18.0, None, Y0, event=condition, max_events=5,
        stepsize_controller=TaylorController(1e-11, 1e-11),
    )  # fmt: skip
    ts, _, upwards = listed(solution.events)
    np.testing.assert_allclose(ts, np.pi * np.array([1, 3, 5]), rtol=0, atol=1e-9)
    assert upwards.all()


# -- many events at one time, or at none


def _listed_times(field, condition, t1, order=6, y0=1.0, args=None, atol=1e-30):
    solution = hybrid_solve(
        field, TaylorSolver(order), 0.0, t1, None, jnp.array(y0), args,
        event=diffrax.Event(condition), max_events=6,
        stepsize_controller=TaylorController(1e-10, atol),
    )  # fmt: skip
    return listed(solution.events)


@pytest.mark.slow
def test_a_condition_that_decays():
    """What is zero after an event is a rounding error of then, and not of later."""
    times = jax.jit(
        lambda rate: hybrid_solve(
            lambda t, y, args: -args * y, TaylorSolver(6), 0.0, 11.0, None, jnp.array(1.0),
            rate, event=diffrax.Event(lambda t, y, args, **kwargs: y * jnp.cos(t)),
            max_events=6, stepsize_controller=TaylorController(1e-10, 1e-30),
        ).events.ts
    )  # fmt: skip
    exact = np.pi * np.array([0.5, 1.5, 2.5, 3.5, np.inf, np.inf])
    for rate in (5.0, 8.0, 10.0):
        np.testing.assert_allclose(times(rate), exact, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_poles_and_roots():
    """The tangent changes its sign at both."""
    ts, _, upwards = _listed_times(
        lambda t, y, args: jnp.cos(t) + 0.0 * y,
        lambda t, y, args, **kwargs: jnp.tan(t - 0.1),
        7.0,
        y0=0.0,
        atol=1e-10,
    )
    exact = 0.1 + np.pi / 2 * np.arange(5)
    np.testing.assert_allclose(ts, exact, rtol=0, atol=1e-9)
    assert list(upwards) == [True, False, True, False, True]


@pytest.mark.sample(1)
@pytest.mark.parametrize("direction", [None, (False, False)])
def test_a_ball_in_a_corner(direction):
    """Both walls are hit at the same time: each turns one velocity around."""
    solution = hybrid_solve(
        lambda t, y, args: jnp.stack([y[2], y[3], 0.0 * y[0], 0.0 * y[0]]),
        TaylorSolver(order=4),
        t0=0.0,
        t1=3.0,
        dt0=None,
        y0=jnp.array([1.0, 1.0, -1.0, -1.0]),
        event=diffrax.Event(
            tuple(lambda t, y, args, i=i, **kwargs: y[i] for i in (0, 1)),
            direction=direction,
        ),
        update=lambda t, y, args, mask: jnp.concatenate(
            [y[:2], jnp.where(jnp.stack(mask), -y[2:], y[2:])]
        ),
        max_events=4,
        stepsize_controller=TaylorController(1e-10, 1e-10),
    )  # fmt: skip
    ts, index, _ = listed(solution.events)
    np.testing.assert_allclose(ts, [1.0, 1.0], rtol=0, atol=1e-14)
    assert sorted(index) == [0, 1]
    np.testing.assert_allclose(solution.y1, [2.0, 2.0, 1.0, 1.0], rtol=0, atol=1e-13)


@pytest.mark.slow
def test_a_ball_that_comes_to_rest():
    """Hops that are below rounding errors: it never falls through the ground."""
    p = jnp.array([G, 0.5, 1.0])
    solution = jax.jit(ft.partial(bounces, max_events=60, throw=False))(p)
    assert solution.events.has_more and solution.events.num_events == 60
    exact_ts, _ = exact_bounces(p, 15, 6.0)
    np.testing.assert_allclose(solution.events.ts[:15], exact_ts, rtol=0, atol=1e-12)
    rest = jnp.sqrt(2 / G) * 3
    np.testing.assert_allclose(solution.t1, rest, rtol=0, atol=1e-5)
    assert jnp.max(jnp.abs(solution.events.ys[:, 0])) < 1e-12


# -- what is asked for is checked


@pytest.mark.parametrize("throw", [True, False])
def test_times_that_are_not_numbers(throw):
    p = jnp.array([G, RESTITUTION, HEIGHT])
    with pytest.raises(Exception, match="must not be NaN, and must not both"):
        jax.block_until_ready(bounces(p, max_events=1, t1=jnp.nan, throw=throw).y1)


def test_what_cannot_be_searched():
    solution = dense(CIRCLE, Y0, 0.0, 1.0)
    event = diffrax.Event(level)
    for arguments, error, message in [
        ((solution, level), TypeError, "must be a `diffrax.Event`"),
        ((solution, diffrax.Event(lambda t, y, args: t > 1.0)), TypeError, "a boolean condition"),
        ((solution, diffrax.Event(lambda t, y, args: y)), ValueError, "must return a scalar"),
        ((solution, event, None, 0), ValueError, "at least 1"),
        ((solution, event, "x"), ValueError, "raised"),
    ]:  # fmt: skip
        *first, count = arguments if len(arguments) == 4 else (*arguments, 4)
        with pytest.raises(error, match=message):
            _unchecked(find_events)(*first, max_events=count)
    other = diffrax.diffeqsolve(
        CIRCLE, diffrax.Tsit5(), 0.0, 1.0, 0.1, Y0, saveat=DENSE
    )
    with pytest.raises(TypeError, match="must be by `eqx_taylor.TaylorSolver`"):
        find_events(other, event, max_events=1)
    kept = diffrax.diffeqsolve(CIRCLE, diffrax.Tsit5(), 0.0, 1.0, 0.1, Y0)
    with pytest.raises(ValueError, match="must be dense"):
        find_events(kept, event, max_events=1)


def _unchecked(function):
    """Without the check of annotations that the tests have switched on."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.mark.parametrize(
    "changed, error, message",
    [
        (dict(solver=diffrax.Tsit5()), TypeError, "`solver` must be an"),
        (dict(event=level), TypeError, "must be a `diffrax.Event`"),
        (dict(update=3), TypeError, "must be a function"),
        (dict(update=lambda t, y, args, mask: (y, y)), ValueError, "of the structure"),
        (dict(update=lambda t, y, args, mask: y[0]), ValueError, "shapes and dtypes"),
        (dict(max_events=0), ValueError, "at least 1"),
        (dict(event=diffrax.Event(lambda t, y, args, **k: t > 1)), TypeError, "boolean"),
    ],
    ids=["solver", "event", "update", "structure", "shape", "max_events", "boolean"],
)  # fmt: skip
def test_what_is_no_hybrid_system(changed, error, message):
    arguments = dict(
        vector_field=CIRCLE, solver=TaylorSolver(order=4), t0=0.0, t1=1.0, dt0=None, y0=Y0, args=0.5,
        event=diffrax.Event(level), max_events=2,
        stepsize_controller=TaylorController(1e-6, 1e-6),
    )  # fmt: skip
    with pytest.raises(error, match=message):
        _unchecked(hybrid_solve)(**(arguments | changed))


# -- against 40 digits


def _swing(p):
    """A pendulum that is let go at an angle, is kicked when it is down, and comes to
    rest: the times of both events, the angle at the second, by elliptic integrals."""
    angle, g, kick = p
    k = mpmath.sin(angle / 2)
    down = mpmath.ellipk(k**2) / mpmath.sqrt(g)
    k = kick * k
    rest = down + mpmath.ellipk(k**2) / mpmath.sqrt(g)
    return [down, rest, -2 * mpmath.asin(k)]


def _differences(function, p):
    """Values and derivatives, by central differences of 40 digits."""
    with mpmath.workdps(40):
        p, h = [mpmath.mpf(x) for x in p], mpmath.mpf("1e-13")
        columns = []
        for i in range(len(p)):
            ends = ([x + s * h * (i == j) for j, x in enumerate(p)] for s in (1, -1))
            pairs = zip(*map(function, ends))
            columns.append([float((a - b) / (2 * h)) for a, b in pairs])
        return np.array([float(x) for x in function(p)]), np.array(columns).T


@pytest.mark.slow
def test_gradients_against_forty_digits():
    """Of the times of events, and of the state behind a state change: the saltation
    matrix. Conditions may be of any size."""

    def condition(i):
        return lambda t, y, args, **kwargs: args[3 + i] * y[i]

    def kicked(t, y, args, event_mask):
        factor = jnp.where(event_mask[0], args[2], 1.0)
        return jnp.stack([y[0], factor * y[1]])

    def run(p, sizes):
        solution = hybrid_solve(
            lambda t, y, args: jnp.stack([y[1], -args[1] * jnp.sin(y[0])]),
            TaylorSolver(order=16),
            t0=0.0,
            t1=1.2,
            dt0=None,
            y0=jnp.stack([p[0], jnp.zeros_like(p[0])]),
            args=jnp.concatenate([p, sizes]),
            event=diffrax.Event((condition(0), condition(1))),
            update=kicked,
            max_events=2,
            stepsize_controller=TaylorController(1e-15, 1e-15),
        )
        events = solution.events
        return jnp.append(events.ts, events.ys[1, 0]), events.index

    p = [1.0, 9.8, 0.7]
    values, slopes = _differences(_swing, p)
    both = jax.jit(lambda p, sizes: (run(p, sizes), jax.jacrev(run, has_aux=True)(p, sizes)))  # fmt: skip
    for sizes in ([1.0, 1.0], [1e-300, 1e300]):
        (found, index), (jacobian, _) = both(jnp.array(p), jnp.array(sizes))
        assert list(index) == [0, 1]
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-13)
        np.testing.assert_allclose(jacobian, slopes, rtol=1e-9, atol=1e-10)


def test_a_condition_that_is_narrower_than_time():
    """In float32, in a solve in float64: as a network or a table has it."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -y[0]])),
        TaylorSolver(order=12),
        0.0,
        10.0,
        None,
        jnp.array([1.0, 0.0]),
        stepsize_controller=TaylorController(1e-10, 1e-10),
        saveat=diffrax.SaveAt(dense=True),
    )
    event = diffrax.Event(
        lambda t, y, args, **kwargs: y[0].astype(jnp.float32) - np.float32(0.3)
    )
    found = find_events(solution, event, max_events=8)
    first = np.arccos(np.float32(0.3).astype(float))
    exact = [first, 2 * np.pi - first, 2 * np.pi + first]
    assert found.num_events == 3
    np.testing.assert_allclose(found.ts[:3], exact, atol=2e-6)


@pytest.mark.parametrize("bend", [1.0, -1.0])
def test_let_go_at_zero(bend):
    """A body at rest at the ground does not pass through it: t^2 / 2 and -t^2 / 2."""
    found = hybrid_solve(
        diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], bend + 0 * y[0]])),
        TaylorSolver(order=4),
        0.0,
        3.0,
        None,
        jnp.zeros(2),
        event=diffrax.Event(lambda t, y, args, **kwargs: y[0]),
        stepsize_controller=TaylorController(1e-8, 1e-8),
        max_events=2,
    )
    assert found.events.num_events == 0
    np.testing.assert_allclose(found.y1, [4.5 * bend, 3.0 * bend], rtol=1e-12)
