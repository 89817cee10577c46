"""Events that end a solve: the first of all, at any length of step, against closed forms
of the harmonic oscillator and of others."""

import itertools
import warnings

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optimistix
import pytest
import scipy.optimize
from diffrax import RESULTS

from eqx_taylor import TaylorController, TaylorSolver


NEWTON = optimistix.Newton(1e-12, 1e-12)
CHORD = optimistix.Chord(1e-12, 1e-12)
BISECTION = optimistix.Bisection(1e-13, 1e-13)
Y0 = jnp.array([1.0, 0.0])
TERM = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -y[0]]))


def solve(event, y0=Y0, t0=0.0, t1=10.0, args=None, *, term=TERM, tol=1e-12, **kwargs):
    kwargs = dict(
        dict(
            dt0=None,
            stepsize_controller=TaylorController(tol, tol),
            solver=TaylorSolver(order=16, event=event),
        ),
        **kwargs,
    )
    return diffrax.diffeqsolve(
        term, t0=t0, t1=t1, y0=y0, args=args, event=event, throw=False, **kwargs
    )


# The solution is (cos t, -sin t). Conditions are linear in (y, 1, t), so that all of them
# are in one program.
def linear(i):
    return lambda t, y, args, **kwargs: jnp.dot(args[i, :2], y) + args[i, 2] + args[i, 3] * t  # fmt: skip


A, B, TOUCH = [1, 0, -0.5, 0], [0, 1, 0.5, 0], [1, 0, 0.95, 0]
ZERO, FROM_ZERO, AT_ONE = [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 1]
NEVER = [0, 0, 1, 0]
ROOT_OF_A, ROOT_OF_B, ROOT_OF_TOUCH = np.pi / 3, np.pi / 6, np.arccos(-0.95)


def program(root_finder, number=3, direction=None, **kwargs):
    conditions = tuple(map(linear, range(number)))
    event = diffrax.Event(conditions if number > 1 else conditions[0], root_finder, direction)  # fmt: skip

    @jax.jit
    def run(conditions, t1=10.0):
        args = jnp.asarray(conditions, float)
        solution = solve(event, args=args, t1=t1, **kwargs)
        occurred = solution.result == RESULTS.event_occurred
        stats = solution.stats["num_rejected_steps"]
        return solution.ts, solution.ys, solution.event_mask, occurred, stats

    return run


def check(found, root, which=0, tol=1e-11):
    ts, ys, mask, occurred, _ = found
    assert occurred
    np.testing.assert_allclose(ts[-1], root, rtol=0, atol=tol)
    exact = [np.cos(root), -np.sin(root)]
    np.testing.assert_allclose(ys[-1], exact, rtol=0, atol=tol)
    flags = [*map(bool, jax.tree.leaves(mask))]
    assert flags == [i == which for i in range(len(flags))]


@pytest.mark.slow
def test_the_first_of_several():
    """Whatever place it has in the tuple. At the ends of steps `a` alone was seen, or
    nothing."""
    run = program(NEWTON)
    for order in itertools.permutations([A, B, TOUCH]):
        found = run(order)
        check(found, ROOT_OF_B, order.index(B))
        assert found[-1] == 1  # One step was rejected.
    check(run([A, TOUCH, NEVER]), ROOT_OF_A, 0)
    check(run([NEVER, NEVER, TOUCH]), ROOT_OF_TOUCH, 2)
    # A condition that is zero all along never changes its sign.
    check(run([ZERO, B, ZERO]), ROOT_OF_B, 1)
    occurred = run([ZERO, NEVER, NEVER])[3]
    assert not occurred
    # From zero: Diffrax counts that as a change of sign, if no direction is given. The
    # other one, first in the tuple, is later.
    check(run([B, FROM_ZERO, NEVER]), 0.0, 1)
    check(run([NEVER, NEVER, AT_ONE], 1.0), 1.0, 2)
    # Backwards.
    check(run([TOUCH, A, NEVER], -10.0), -ROOT_OF_A, 1)


@pytest.mark.slow
def test_chord():
    run = program(CHORD)
    check(run([A, B, TOUCH]), ROOT_OF_B, 1)
    check(run([A, NEVER, TOUCH]), ROOT_OF_A, 0)
    check(run([NEVER, TOUCH, NEVER]), ROOT_OF_TOUCH, 1)


@pytest.mark.slow
def test_bisection():
    """Of one condition; Diffrax makes a system of several, which it refuses."""
    run = program(BISECTION, 1)
    for condition, root in [(A, ROOT_OF_A), (B, ROOT_OF_B), (TOUCH, ROOT_OF_TOUCH)]:
        check(run([condition]), root)


def test_without_a_root_finder():
    """The step ends behind the root by rounding errors, whatever the size of the
    condition, and of the other one."""
    run = program(None, 2)
    for a, b in itertools.product([1e-300, 1.0, 1e300], repeat=2):
        check(run([a * np.array(A), b * np.array(B)]), ROOT_OF_B, 1)


@pytest.mark.slow
def test_directions():
    """A change of sign the other way is gone past, however near."""
    up = program(NEWTON, 2, (True, False))
    check(up([B, NEVER]), 5 * np.pi / 6, 0)
    check(up([B, B]), ROOT_OF_B, 1)
    # Zero and then above it is a crossing upwards, and zero and then below it is none.
    check(up([FROM_ZERO, NEVER]), np.pi, 0)
    check(up([NEVER, FROM_ZERO]), 2 * np.pi, 1)


def kinked(t, y, args, **kwargs):
    return jnp.abs(y[0] - 0.2) - 0.3


def chosen(t, y, args, **kwargs):
    return jnp.where(t < 1.0, 1.0, y[0] - 0.1)


def root_of(t, y, args, **kwargs):
    return jnp.sqrt(jnp.maximum(y[0] + 0.5, 0)) - 0.3


def steep(t, y, args, **kwargs):
    return 1e-3 * jnp.exp(-30 * y[0]) - 1


def of_time(t, y, args, **kwargs):
    return (t - 0.4) * (t - 2.5)


def tube(t, y, args, **kwargs):
    return jnp.where(y[0] > 0.0, jnp.sqrt(jnp.abs(y[0])), -jnp.sqrt(jnp.abs(y[0])))


CASES = dict(
    abs=(kinked, np.arccos(0.5)),
    where=(chosen, np.arccos(0.1)),
    sqrt=(root_of, np.arccos(-0.41)),
    sqrt_at_the_crossing=(tube, np.pi / 2),
    exp=(steep, np.arccos(-np.log(1e3) / 30)),
    time=(of_time, 0.4),
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(4)
def test_conditions_that_are_no_polynomials(name):
    """Where the condition is not its series it is looked at in so many points. Another
    condition, with a later root, is first in the tuple."""
    condition, root = CASES[name]

    def later(t, y, args, **kwargs):
        return t - root - 1e-3

    # Newton's method has an infinite slope there.
    event = diffrax.Event((later, condition), None if "at_the" in name else NEWTON)
    solution = solve(event)
    assert solution.result == RESULTS.event_occurred
    np.testing.assert_allclose(solution.ts[0], root, rtol=0, atol=1e-10)
    assert [*map(bool, solution.event_mask)] == [False, True]


@pytest.mark.slow
def test_not_a_number():
    """It has changed its sign, as Diffrax has it."""

    def nan(t, y, args, **kwargs):
        return jnp.where(t > 0.3, jnp.nan, 1.0) + 0.0 * y[0]

    solution = solve(diffrax.Event(nan, None))
    assert solution.result == RESULTS.event_occurred
    np.testing.assert_allclose(solution.ts[0], 0.3, rtol=0, atol=1e-12)


CONTROLLERS = dict(
    limited=TaylorController(1e-12, 1e-12, dtmax=0.45, dtmin=0.1),
    clipped=diffrax.ClipStepSizeController(
        TaylorController(1e-12, 1e-12), step_ts=[0.5, 0.53], jump_ts=[0.2]
    ),
)


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.sample(2)
def test_whatever_chose_the_step(name):
    run = program(NEWTON, stepsize_controller=CONTROLLERS[name], dt0=0.55)
    check(run([TOUCH, A, B]), ROOT_OF_B, 2)
    check(run([TOUCH, A, NEVER]), ROOT_OF_A, 1)


@pytest.mark.slow
def test_saved_and_dense():
    grid = jnp.linspace(0.0, 10.0, 101)
    every = diffrax.SubSaveAt(steps=True)
    at = diffrax.SubSaveAt(t0=True, t1=True, ts=grid)
    saveat = diffrax.SaveAt(subs=(at, every), dense=True)
    event = diffrax.Event((linear(0), linear(1)), NEWTON)
    solution = solve(event, args=jnp.array([A, B], float), saveat=saveat)
    ts, steps = (ts[np.isfinite(ts)] for ts in map(np.asarray, solution.ts))
    np.testing.assert_allclose(ts, [0.0, *grid[:6], ROOT_OF_B], rtol=0, atol=1e-12)
    np.testing.assert_allclose(steps[-1], ROOT_OF_B, rtol=0, atol=1e-12)
    exact = np.stack([np.cos(ts), -np.sin(ts)], 1)
    for ys in (solution.ys[0][: len(ts)], jax.vmap(solution.evaluate)(ts)):
        np.testing.assert_allclose(ys, exact, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_complex_states():
    def real_part(t, y, args, **kwargs):
        return y.real - 0.5

    term = diffrax.ODETerm(lambda t, y, args: -1j * y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Complex dtype support")
        solution = solve(
            diffrax.Event(real_part, None), jnp.array(1.0 + 0.0j), term=term
        )
    np.testing.assert_allclose(solution.ts[0], ROOT_OF_A, atol=1e-11)


@pytest.mark.slow
def test_single_precision():
    # With float64 switched on Diffrax takes no root finder in float32.
    event = diffrax.Event(tuple(map(linear, range(3))))
    args = jnp.array([A, B, TOUCH], jnp.float32)
    solution = solve(
        event, Y0.astype(jnp.float32), np.float32(0.0), np.float32(10.0), args,
        tol=1e-5, solver=TaylorSolver(7, event=event),
    )  # fmt: skip
    np.testing.assert_allclose(solution.ts[0], ROOT_OF_B, rtol=0, atol=3e-5)
    assert [*map(bool, solution.event_mask)] == [False, True, False]


def test_large_states():
    """Many events of many conditions on five oscillators, one of them with kinks, each
    event against the first change of sign of closed forms."""
    rates = np.arange(1.0, 6.0)

    def field(t, y, args):
        return jnp.stack([y[:, 1], -y[:, 0]], axis=1) * rates[:, None]

    event = diffrax.Event(
        (
            lambda t, y, args, **kwargs: y[0, 0] - args[0],
            lambda t, y, args, **kwargs: jnp.dot(y[1], y[4]) - args[1],
            lambda t, y, args, **kwargs: jnp.abs(y[3, 0]) + 0.1 * y[2, 1] - args[2],
        ),
        NEWTON,
    )

    # The solution is (cos, -sin) of each rate.
    def closed_forms(t):
        cosines, sines = np.cos(np.outer(rates, t)), np.sin(np.outer(rates, t))
        return np.stack(
            [
                cosines[0],
                cosines[1] * cosines[4] + sines[1] * sines[4],
                np.abs(cosines[3]) - 0.1 * sines[2],
            ]
        )

    y0 = jnp.stack([jnp.ones(5), jnp.zeros(5)], axis=1)
    term = diffrax.ODETerm(field)

    @jax.jit
    def run(args):
        solver = TaylorSolver(order=12, event=event)
        solution = solve(event, y0, args=args, term=term, tol=1e-11, solver=solver)
        return solution.ts[0], jnp.stack(solution.event_mask)

    grid = np.linspace(0, 10, 200_001)
    on_grid = closed_forms(grid)
    rng = np.random.default_rng(0)
    kinds = set()
    for case in range(60):
        args = rng.uniform(-1.2, 1.2, 3)
        # Two of them are often out of reach; some nearly touch.
        args[rng.integers(3)] = rng.choice([-1, 1]) * (1 - 10 ** rng.uniform(-5, -1))
        args = np.where(rng.uniform(size=3) < 0.6, 2.0, args)
        if case == 0:
            # A step that ended at this event by a rounding was one without an event.
            args = np.array([2.0, -0.99999, 2.0])
        signs = np.sign(on_grid - args[:, None])
        changes = np.argmax(signs != signs[:, :1], axis=1)
        changes = np.where(np.all(signs == signs[:, :1], axis=1), len(grid), changes)
        i = int(np.argmin(changes))
        t, mask = run(args)
        if changes[i] == len(grid):
            assert t == 10 and not mask.any()
            kinds.add(None)
            continue
        exact = scipy.optimize.brentq(
            lambda t: closed_forms(t)[i, 0] - args[i],
            *grid[changes[i] - 1 : changes[i] + 1],
            xtol=1e-14,
        )
        # A time is known as well as the state, divided by the slope of the condition.
        error = closed_forms(np.array([t]))[i, 0] - args[i]
        assert abs(t - exact) < 1e-6 and abs(error) < 1e-9, (case, args)
        assert mask[i] and mask.sum() == 1
        kinds.add(i)
    assert kinds == {None, 0, 1, 2}


@pytest.mark.slow
def test_a_field_with_kinks():
    """Whose steps are made by a Runge--Kutta method: y' = |t - 1/2|."""
    term = diffrax.ODETerm(lambda t, y, args: jnp.abs(t - 0.5) + 0 * y)

    def early(t, y, args, **kwargs):
        return y - 0.25

    def late(t, y, args, **kwargs):
        return y - 0.3

    event = diffrax.Event((late, early), NEWTON)
    solution = solve(event, jnp.array(0.0), term=term, tol=1e-9)
    # 1/8 by 1/2, then (t - 1/2)^2 / 2.
    np.testing.assert_allclose(solution.ts[0], 1.0, atol=1e-8)
    assert bool(solution.event_mask[1])


def level(t, y, args, **kwargs):
    return y[0] - args


ADJOINTS = dict(
    recursive=diffrax.RecursiveCheckpointAdjoint(),
    forward=diffrax.ForwardMode(),
    direct=diffrax.DirectAdjoint(),
)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.sample(3)
def test_lanes_and_gradients(adjoint):
    """Of the time, arccos(c), and of the state there, (c, -sqrt(1 - c^2)), for levels
    that are crossed in other steps; another condition is later."""

    def later(t, y, args, **kwargs):
        return y[1] + jnp.sqrt(1 - args**2) + 0.01

    event = diffrax.Event((later, level), NEWTON)

    def run(c):
        kwargs = dict(adjoint=ADJOINTS[adjoint], max_steps=16)
        kwargs["solver"] = TaylorSolver(order=8, event=event)
        solution = solve(event, args=c, t1=1.6, tol=1e-11, **kwargs)
        return jnp.append(solution.ys[0], solution.ts[0]), solution.event_mask[1]

    jacobian = jax.jacfwd if adjoint == "forward" else jax.jacrev

    @jax.jit
    @jax.vmap
    def both(c):
        (slope, mask), (value, _) = jacobian(run, has_aux=True)(c), run(c)
        return value, slope, mask

    c = jnp.array([0.999, 0.5, 0.1, -0.01])
    values, slopes, masks = both(c)
    assert masks.all()
    root = np.sqrt(1 - c**2)
    expected = np.stack([c, -root, np.arccos(c)], 1)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-11)
    expected = np.stack([np.ones(4), c / root, -1 / root], 1)
    np.testing.assert_allclose(slopes, expected, rtol=1e-9)


# -- what is asked for is checked


def first(t, y, args, **kwargs):
    return y[0] - 0.5


class Level(eqx.Module):
    level: float

    def __call__(self, t, y, args, **kwargs):
        return y[0] - self.level


def test_a_hop_that_rounding_hides():
    """A ball that leaves the ground for 2e-7 of a second, in a step of five seconds."""
    event = diffrax.Event(lambda t, y, args, **kwargs: y[0], direction=False)
    ball = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -10.0 + 0.0 * y[1]]))
    y0 = jnp.array([1e-16, 1e-6])
    solution = solve(event, y0, term=ball, t1=5.0, tol=1e-10)
    assert solution.result == RESULTS.event_occurred
    assert 2e-7 < solution.ts[-1] < 1e-6


def test_the_solver_is_not_told():
    event = diffrax.Event(first, NEWTON)
    with pytest.warns(UserWarning, match="is given an event, and the solver is not"):
        solve(event, solver=TaylorSolver(order=8))
    # Boolean conditions have no root: nothing is to be told.
    solution = solve(
        diffrax.Event(lambda t, y, args, **kwargs: t > 1.0),
        solver=TaylorSolver(order=8),
    )
    assert solution.result == RESULTS.event_occurred
    with pytest.raises(ValueError, match="watches for other conditions"):
        solve(
            event, solver=TaylorSolver(order=8, event=diffrax.Event((first, linear(0))))
        )
    with pytest.raises(ValueError, match="watches for other conditions"):
        solve(
            diffrax.Event(Level(0.5)),
            solver=TaylorSolver(order=8, event=diffrax.Event(Level(-0.9))),
        )
    with pytest.warns(UserWarning, match="that `diffeqsolve` is not given"):
        solve(None, t1=1.0, solver=TaylorSolver(order=8, event=event))
    # Users run without checks of types.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(TypeError, match="must be the `diffrax.Event`"):
            TaylorSolver(order=8, event=first)  # pyright: ignore
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "controller",
    [
        diffrax.PIDController(1e-8, 1e-8),
        diffrax.ConstantStepSize(),
        diffrax.ClipStepSizeController(diffrax.PIDController(1e-8, 1e-8)),
    ],
    ids=lambda controller: type(controller).__name__,
)
def test_another_controller(controller):
    with pytest.raises(TypeError, match="TaylorController"):
        solve(diffrax.Event(first, NEWTON), dt0=0.1, stepsize_controller=controller)


@pytest.mark.parametrize(
    "condition, error, message",
    [
        (lambda t, y, args, **kwargs: y, ValueError, "array of shape (2,)"),
        (lambda t, y, args, **kwargs: (y[0], y[1]), TypeError, "Write a PyTree of"),
        (
            lambda t, y, args, **kwargs: jax.lax.complex(y[0], y[1]),
            TypeError,
            "has no sign",
        ),
        (lambda t, y, args, **kwargs: 3, TypeError, "int"),
        (lambda t, y, args, **kwargs: y["x"], ValueError, "raised TypeError"),
        (lambda t, y, args: y[0], ValueError, "`f(t, y, args, **kwargs)`"),
        (lambda t, y, args, **k: y[0] if y[0] > 0 else 0, TypeError, "Python code"),
    ],
    ids=["shape", "tuple", "complex", "integer", "raises", "arguments", "branch"],
)
def test_conditions_that_are_none(condition, error, message):
    """Of these some are found by Diffrax first, in a solve."""
    event = diffrax.Event(condition, NEWTON)
    solver = TaylorSolver(order=8, event=event)
    state = solver.init(TERM, 0.0, 1.0, Y0, None)
    with pytest.raises(error) as raised:
        solver.step(TERM, 0.0, 1.0, Y0, None, state, False)
    assert message in str(raised.value)


def test_nothing_is_computed_where_nothing_is_watched():
    """The programs of a step without an event, and with boolean conditions alone, are
    the same to the equation."""

    def count(event):
        solver = TaylorSolver(order=8, event=event)
        state = solver.init(TERM, 0.0, 1.0, Y0, None)

        def step(y0, state):
            return solver.step(TERM, 0.0, 1.0, y0, None, state, False)[:2]

        return str(jax.make_jaxpr(step)(Y0, state)).count("\n")

    boolean = diffrax.Event(lambda t, y, args, **kwargs: t > 1.0)
    assert count(None) == count(boolean) < count(diffrax.Event(first))
