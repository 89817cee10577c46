"""Gradients by steps that are made again: against closed forms, a variational
integration by SciPy, and Diffrax's `DirectAdjoint`, which differentiates the same steps.
"""

import functools as ft

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest
from helpers import assert_close
from scipy.integrate import solve_ivp

from eqx_taylor import ReplayAdjoint, TaylorController, TaylorSolver


def solve(
    field,
    y0,
    t1=2.0,
    args=None,
    *,
    t0=0.0,
    solver=None,
    tol=1e-9,
    saveat=None,
    **kwargs,
):
    solver = TaylorSolver(order=8) if solver is None else solver
    is_taylor = isinstance(solver, TaylorSolver)
    controller = TaylorController if is_taylor else diffrax.PIDController
    kwargs.setdefault("stepsize_controller", controller(rtol=tol, atol=tol))
    kwargs.setdefault("adjoint", ReplayAdjoint())
    kwargs.setdefault("max_steps", 128)
    saveat = diffrax.SaveAt(t1=True) if saveat is None else saveat
    term = field
    if not isinstance(field, diffrax.AbstractTerm):
        term = diffrax.ODETerm(field)
    return diffrax.diffeqsolve(
        term, solver, t0, t1, None, y0, args, saveat=saveat, **kwargs
    )


# -- the same steps, differentiated by `DirectAdjoint`

TAYLOR, TSIT5 = TaylorSolver(order=3), diffrax.Tsit5()
SOLVERS = {
    "TaylorSolver": TAYLOR,
    "Tsit5": TSIT5,
    "Kvaerno5": diffrax.Kvaerno5(),
    # A second state is carried from step to step.
    "ReversibleHeun": diffrax.HalfSolver(diffrax.ReversibleHeun()),
    "Dopri8": diffrax.Dopri8(),
    "HalfSolver": diffrax.HalfSolver(TAYLOR),
    "ReversibleHeun, checkpoints": diffrax.HalfSolver(diffrax.ReversibleHeun()),
    "TaylorSolver, checkpoints": TAYLOR,
}


def _all_saved(y0, args, times, adjoint, solver):
    """Of a state with `None` in it, whatever can be saved."""
    t0, t1, ts = times

    def field(t, y, args):
        a, b = args
        return dict(x=a * y["v"] * jnp.cos(t), v=-b * jnp.sin(y["x"]), none=None)

    def fn(t, y, args):
        return t * y["x"], args[0] * y["v"], None

    subs = [
        diffrax.SubSaveAt(t0=True, ts=ts),
        diffrax.SubSaveAt(steps=1, fn=lambda t, y, args: jnp.sin(t * y["v"])),
        diffrax.SubSaveAt(steps=3, t1=True, ts=ts[1:3], fn=fn),
    ]
    saveat = diffrax.SaveAt(subs=subs, dense=True)
    # The same controller for all: that of `TaylorSolver` has no derivative by `t0`.
    controller = diffrax.PIDController(rtol=1e-4, atol=1e-4)
    solution = solve(
        field, y0, t1, args, t0=t0, solver=solver, saveat=saveat, adjoint=adjoint,
        stepsize_controller=controller, max_steps=64,
    )  # fmt: skip
    values = jax.tree.leaves((solution.ys, [s for s in (solution.evaluate(0.4),)]))
    values = [v for v in values if eqx.is_inexact_array(v)]
    return sum(jnp.sum(jnp.sin(jnp.where(jnp.isfinite(v), v, 0))) for v in values)


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", SOLVERS)
def test_same_as_direct_adjoint(name):
    y0 = dict(x=jnp.array([0.5, 1.0]), v=jnp.array([0.1, 0.2]), none=None)
    args = jnp.array(1.3), jnp.array(0.7)
    times = jnp.array(0.0), jnp.array(1.5), jnp.array([0.0, 0.3, 0.35, 1.0, 1.5])

    def gradient(adjoint):
        fun = ft.partial(_all_saved, adjoint=adjoint, solver=SOLVERS[name])
        return jax.jit(jax.grad(fun, (0, 1, 2)))(y0, args, times)

    replay = ReplayAdjoint(checkpoint_every=3 if "checkpoints" in name else 1)
    actual, expected = map(gradient, (replay, diffrax.DirectAdjoint()))
    if name == "Kvaerno5":
        # Its step before the last has half of the length to `t1`, after one that was
        # rejected. To Diffrax the middle between `t` and `t1` moves with both.
        actual, expected = ((*x[:2], x[2][2]) for x in (actual, expected))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(a, e, ulps=1000)


# -- variational integration


def _lorenz(t, y, args):
    del t
    sigma, rho, beta = args
    x, v, z = y
    return jnp.stack([sigma * (v - x), x * (rho - z) - v, x * v - beta * z])


@pytest.mark.slow
def test_against_variational_integration():
    """Of Lorenz's equations at t = 1, by the state and by three parameters."""
    y0, args = jnp.array([1.0, 1.0, 1.0]), jnp.array([10.0, 28.0, 8 / 3])

    @jax.jit
    def linearised(y):
        by_y, by_args = jax.jacfwd(_lorenz, (1, 2))(0.0, y, args)
        return _lorenz(0.0, y, args), by_y, by_args

    def right_hand_side(t, z):
        slope, by_y, by_args = map(np.asarray, linearised(z[:3]))
        moved = by_y @ z[3:].reshape(3, 6)
        moved[:, 3:] += by_args
        return np.concatenate([slope, moved.ravel()])

    start = np.concatenate([y0, np.eye(3, 6).ravel()])
    exact = solve_ivp(
        right_hand_side, (0, 1), start, method="DOP853", rtol=1e-13, atol=1e-13
    )
    exact = exact.y[3:, -1].reshape(3, 6)

    def end(y0, args, solver):
        return solve(_lorenz, y0, 1.0, args, solver=solver, tol=1e-12).ys[0]

    for solver in (TaylorSolver(order=10), diffrax.Dopri8()):
        jacobian = jax.jit(jax.jacrev(ft.partial(end, solver=solver), (0, 1)))
        actual = np.concatenate(jacobian(y0, args), axis=1)
        np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-9 * exact.max())


# -- closed forms


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize(
    "solver", [TaylorSolver(order=8), TSIT5], ids=["taylor", "tsit5"]
)
@pytest.mark.slow
def test_lanes_of_different_numbers_of_steps(solver, every):
    """y' = -p y³ cos(p t), where y(t) is y0/sqrt(1 + 2 y0² sin(p t)), with saved times
    between steps; p is closed over, and y0 spans lanes of one step to dozens."""
    ts = jnp.array([0.0, 0.7, 0.75, 2.0])
    y0, p = jnp.array([0.0, 0.01, 1.0, 9.0]), jnp.array(1.2)

    def exact(y0, p):
        return y0 / jnp.sqrt(1 + 2 * y0**2 * jnp.sin(p * ts))

    def saved(y0, p):
        def field(t, y, args):
            return -p * y**3 * jnp.cos(p * t)

        return solve(
            field, y0, solver=solver, saveat=diffrax.SaveAt(ts=ts),
            adjoint=ReplayAdjoint(checkpoint_every=every),
        ).ys  # fmt: skip

    def of(fun):
        weights = jnp.array([1.0, -2.0, 3.0, 5.0])
        gradient = jax.grad(lambda y0, p: jnp.sum(weights * fun(y0, p)), (0, 1))
        return jax.jit(jax.vmap(gradient, (0, None)))(y0, p)

    for actual, expected in zip(of(saved), of(exact), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_times_that_all_lanes_share():
    """y' = a, of which t y is saved: t1 (y0 + a t1). With steps of one length the end is
    the same in all lanes, and so is the number of steps."""

    def saved(a, t1):
        saveat = diffrax.SaveAt(t1=True, fn=lambda t, y, args: t * y)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: a), diffrax.Heun(), 0.0, t1, 0.25,
            jnp.array(0.5), saveat=saveat, adjoint=ReplayAdjoint(), max_steps=16,
        )  # fmt: skip
        return solution.ys[0]

    def total(a, t1):
        return jnp.sum(jax.vmap(saved, (0, None))(a, t1))

    a, t1 = jnp.array([1.0, 2.0, -5.0]), jnp.array(1.1)
    by_a, by_t1 = jax.jit(jax.grad(total, (0, 1)))(a, t1)
    assert_close(by_a, np.full(3, 1.1**2), ulps=20)
    assert_close(by_t1, np.sum(0.5 + 2 * np.asarray(a) * 1.1), ulps=50)


@pytest.mark.filterwarnings("ignore:Complex dtype support")
@pytest.mark.slow
def test_complex_and_backwards_in_time():
    """y' = i p t y from t = 2 to 0, where y(t) is y0 exp(i p (t² - 4)/2)."""
    y0, p = jnp.array([0.5 + 0.1j, 1.0]), jnp.array(1.2)
    ts = jnp.array([1.5, 0.3, 0.0])

    def exact(y0, p):
        return y0[None] * jnp.exp(jax.lax.complex(0 * ts, p * (ts**2 - 4) / 2)[:, None])

    def saved(y0, p):
        def field(t, y, args):
            return jax.lax.complex(0 * t, p * t) * y

        return solve(field, y0, 0.0, t0=2.0, saveat=diffrax.SaveAt(ts=ts)).ys

    def of(fun):
        def loss(y0, p):
            y = fun(y0, p)
            return jnp.sum(y.real**3 + y.real * y.imag)

        return jax.jit(jax.grad(loss, (0, 1)))(y0, p)

    for actual, expected in zip(of(saved), of(exact), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_steps_by_runge_kutta():
    """y' = |t - c| and y' = 1 + relu(y - 1) have kinks inside of steps, which are made
    by a Runge--Kutta method."""
    ts = jnp.array([0.9, 1.5, 2.0])

    def ends(y0, c):
        def field(t, y, args):
            return jnp.stack([jnp.abs(t - c), 1 + jax.nn.relu(y[1] - 1)])

        saveat = diffrax.SaveAt(ts=ts)
        solver = TaylorSolver(order=6)
        return jnp.sum(solve(field, y0, tol=1e-8, solver=solver, saveat=saveat).ys, 0)

    y0, c = jnp.array([0.3, 0.49]), jnp.array(0.77)
    by_y0, by_c = jax.jit(jax.jacrev(ends, (0, 1)))(y0, c)
    # Behind the kinks y(t) is y0 + (c² + (t - c)²)/2, and exp(t - 1 + y0). The
    # derivative of a step over a kink is less accurate than the step.
    growth = np.sum(np.exp(ts - 1 + 0.49))
    np.testing.assert_allclose(by_y0, np.diag([3, growth]), rtol=1e-3, atol=1e-5)
    by_c_exact = np.sum(2 * 0.77 - ts)
    np.testing.assert_allclose(by_c, [by_c_exact, 0], rtol=1e-2, atol=1e-5)


@pytest.mark.slow
def test_time_of_a_jump():
    """y' = y before c and -2 y behind it: y(2) is y0 exp(c - 2 (2 - c))."""

    def end(y0, c, solver):
        is_taylor = isinstance(solver, TaylorSolver)
        controller = TaylorController if is_taylor else diffrax.PIDController
        clipped = diffrax.ClipStepSizeController(
            controller(rtol=1e-9, atol=1e-9), jump_ts=jnp.stack([c])
        )

        def field(t, y, args):
            return jnp.where(t < c, 1.0, -2.0) * y

        return solve(field, y0, solver=solver, stepsize_controller=clipped).ys[0]

    y0, c = jnp.array(0.5), jnp.array(0.7)
    growth = np.exp(0.7 - 2 * 1.3)
    for solver in (TaylorSolver(order=6), TSIT5):
        gradient = jax.jit(jax.grad(ft.partial(end, solver=solver), (0, 1)))
        actual = gradient(y0, c)
        np.testing.assert_allclose(actual, [growth, 1.5 * growth], rtol=1e-6)


def test_start_and_end():
    """y' = y cos t is y0 exp(sin(t1) - sin(t0)); without a step the state is y0."""

    def end(t0, t1):
        return solve(lambda t, y, args: y * jnp.cos(t), jnp.array(1.0), t1, t0=t0).ys[0]

    gradient = jax.jit(jax.value_and_grad(end, (0, 1)))
    value, (by_t0, by_t1) = gradient(jnp.array(0.3), jnp.array(1.9))
    expected = np.exp(np.sin(1.9) - np.sin(0.3))
    np.testing.assert_allclose(value, expected, rtol=1e-8)
    np.testing.assert_allclose(by_t0, -np.cos(0.3) * expected, rtol=1e-6)
    np.testing.assert_allclose(by_t1, np.cos(1.9) * expected, rtol=1e-6)

    def at_start(y0):
        return solve(lambda t, y, args: y, y0, 0.0).ys[0]

    assert jax.grad(at_start)(jnp.array(2.0)) == 1


@pytest.mark.parametrize("name", ["taylor", "tsit5"])
def test_event(name):
    """A ball thrown from height h at speed v: it lands at (v + sqrt(v² + 2 g h))/g with
    the speed -sqrt(v² + 2 g h)."""
    event = diffrax.Event(
        lambda t, y, args, **kwargs: y[0],
        root_finder=optimistix.Newton(1e-10, 1e-10, optimistix.rms_norm),
    )
    solver = TaylorSolver(order=4, event=event) if name == "taylor" else TSIT5

    def landing(y0, g):
        def field(t, y, args):
            return jnp.stack([y[1], -g])

        solution = solve(field, y0, 9.0, solver=solver, event=event)
        return solution.ts[0], solution.ys[0, 1]

    def exact(y0, g):
        speed = jnp.sqrt(y0[1] ** 2 + 2 * g * y0[0])
        return (y0[1] + speed) / g, -speed

    point = jnp.array([1.0, 0.3]), jnp.array(2.0)
    actual, expected = (
        jax.jit(jax.jacrev(fun, (0, 1)))(*point) for fun in (landing, exact)
    )
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_hessian():
    """y' = -p y³ has y(t) = y0/sqrt(1 + 2 p t y0²): forward over reverse."""

    def end(x):
        y0, p = x
        return solve(lambda t, y, args: -p * y**3, y0, 1.0, tol=1e-11).ys[0]

    def exact(x):
        y0, p = x
        return y0 / jnp.sqrt(1 + 2 * p * y0**2)

    x = jnp.array([0.8, 0.7])
    actual = jax.jit(jax.jacfwd(jax.grad(end)))(x)
    np.testing.assert_allclose(actual, jax.hessian(exact)(x), rtol=1e-7)


@pytest.mark.slow
def test_resumed_solve():
    """Of the state at which it is resumed, whatever is carried."""

    def end(y0, solver):
        saveat = diffrax.SaveAt(t1=True, solver_state=True)

        def field(t, y, args):
            return -(y**2)

        first = solve(field, y0, 1.0, solver=solver, saveat=saveat)
        second = solve(
            field, first.ys[0], 2.0, t0=1.0, solver=solver,
            solver_state=first.solver_state,
        )  # fmt: skip
        return second.ys[0]

    for solver in (TaylorSolver(order=8), TSIT5):
        actual = jax.jit(jax.grad(ft.partial(end, solver=solver)))(jnp.array(0.5))
        # y0/(1 + 2 y0)
        np.testing.assert_allclose(actual, 0.25, rtol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype(dtype):
    """The gradient has the dtype of the state; times are narrower or as wide."""

    def end(y0):
        time = jnp.array(1.0, jnp.float32)

        def field(t, y, args):
            return -y

        return solve(field, y0, time, t0=0 * time, tol=1e-5).ys[0]

    gradient = jax.jit(jax.grad(end))(jnp.array(1.0, dtype))
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, np.exp(-1.0), rtol=1e-4)


@pytest.mark.slow
def test_stochastic():
    """Geometric Brownian motion, on steps of one length: against `DirectAdjoint`."""

    def end(y0, mu, adjoint):
        path = diffrax.VirtualBrownianTree(0.0, 2.0, 1e-3, (), jax.random.key(0))
        drift = diffrax.ODETerm(lambda t, y, args: mu * y)
        noise = diffrax.ControlTerm(lambda t, y, args: 0.3 * mu * y, path)
        return diffrax.diffeqsolve(
            diffrax.MultiTerm(drift, noise), diffrax.Heun(), 0.0, 2.0, 0.1, y0,
            adjoint=adjoint, max_steps=32, saveat=diffrax.SaveAt(ts=jnp.array([0.55, 2])),
        ).ys.sum()  # fmt: skip

    def gradient(adjoint):
        fun = ft.partial(end, adjoint=adjoint)
        return jax.jit(jax.grad(fun, (0, 1)))(jnp.array(1.0), jnp.array(0.7))

    actual, expected = map(gradient, (ReplayAdjoint(), diffrax.DirectAdjoint()))
    assert_close(jnp.stack(actual), jnp.stack(expected), ulps=50)


# -- training


@pytest.mark.slow
def test_training():
    """200 steps of Adam end at the loss at which they end with the default adjoint."""
    net = eqx.nn.MLP(2, 2, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    parameters, static = eqx.partition(net, eqx.is_inexact_array)
    ts = jnp.linspace(0.0, 2.0, 9)
    y0 = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    turn = jnp.stack([jnp.cos(ts), jnp.sin(ts)], 1)
    data = jnp.stack([turn, 0.5 * turn[:, ::-1]])
    optimizer = optax.adam(1e-2)

    def train(adjoint):
        def loss(parameters):
            net = eqx.combine(parameters, static)

            def saved(y0):
                def field(t, y, args):
                    return net(y)

                return solve(
                    field, y0, tol=1e-5, solver=TaylorSolver(order=4), max_steps=32,
                    saveat=diffrax.SaveAt(ts=ts), adjoint=adjoint,
                ).ys  # fmt: skip

            return jnp.mean((jax.vmap(saved)(y0) - data) ** 2)

        def step(state, _):
            parameters, memory = state
            value, gradient = jax.value_and_grad(loss)(parameters)
            with jax.numpy_dtype_promotion("standard"):
                updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(parameters, updates), memory), value

        state = parameters, optimizer.init(parameters)
        _, values = jax.jit(lambda state: jax.lax.scan(step, state, length=200))(state)
        return values

    actual, expected = (
        train(ReplayAdjoint()),
        train(diffrax.RecursiveCheckpointAdjoint()),
    )
    assert expected[-1] < expected[0] / 20
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


# -- what it cannot do


def _end(y0):
    return solve(lambda t, y, args: -(y**2), y0, 1.0, tol=1e-3, solver=TSIT5).ys[0]


def test_forward_mode():
    for transform in (lambda f: f, jax.jit):
        with pytest.raises(TypeError, match=r"ReplayAdjoint: it has no.*ForwardMode"):
            transform(jax.jacfwd(_end))(jnp.array(1.0))


def test_reverse_over_reverse():
    def twice(y0):
        return jax.grad(_end)(y0) * y0

    for fun in (jax.grad(_end), lambda y0: jax.value_and_grad(twice)(y0)[0]):
        with pytest.raises(RuntimeError, match=r"ReplayAdjoint: its grad.*jax.hessian"):
            jax.grad(fun)(jnp.array(1.0))


def test_checkpoint_every():
    with pytest.raises(
        ValueError, match="`checkpoint_every` must be at least 1; got 0"
    ):
        ReplayAdjoint(checkpoint_every=0)
    with pytest.raises(TypeError, match="`checkpoint_every` must be an integer"):
        ReplayAdjoint(checkpoint_every=2.0)  # pyright: ignore


def test_without_a_bound():
    with pytest.raises(ValueError, match=r"`max_steps=None`.*RecursiveCheckpoint"):
        solve(lambda t, y, args: -y, jnp.array(1.0), max_steps=None)


def test_unsafe_brownian_path():
    path = diffrax.UnsafeBrownianPath((), jax.random.key(0))
    noise = diffrax.ControlTerm(lambda t, y, args: y, path)
    with pytest.raises(ValueError, match=r"UnsafeBrownianPath.*VirtualBrownianTree"):
        diffrax.diffeqsolve(
            noise, diffrax.Heun(), 0.0, 1.0, 0.1, jnp.array(1.0),
            adjoint=ReplayAdjoint(), max_steps=16,
        )  # fmt: skip


def test_what_a_solve_returns_for_later():
    def carried(y0):
        saveat = diffrax.SaveAt(t1=True, solver_state=True)
        solution = solve(lambda t, y, args: -y, y0, saveat=saveat)
        return jnp.sum(solution.solver_state.coefficients)

    with pytest.raises(Exception, match="`solver_state` that a solve returns"):
        jax.block_until_ready(jax.grad(carried)(jnp.array(1.0)))
