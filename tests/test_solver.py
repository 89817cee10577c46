"""`TaylorSolver` in Diffrax, and the interpolation that comes with it."""

import functools as ft

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
import scipy.integrate
from helpers import assert_close

from benchmarks.problems import kepler_slopes, lorenz_slopes, pleiades
from eqx_taylor import ode_jet, TaylorController, TaylorInterpolation, TaylorSolver


TIGHT = diffrax.PIDController(rtol=1e-12, atol=1e-12)


def _field(t, y, args):
    """Non-autonomous, with a solution in closed form."""
    return args * y * jnp.cos(t)


def _exact(t, y0, args=1.0, t0=0.0):
    return y0 * np.exp(args * (np.sin(t) - np.sin(t0)))


def _solve(field=_field, *, order=12, t0=0.0, t1=3.0, y0=None, args=1.0, **kwargs):
    kwargs = dict(dt0=None, stepsize_controller=TIGHT) | kwargs
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        TaylorSolver(order=order, event=kwargs.get("event")),
        t0=t0,
        t1=t1,
        y0=jnp.array([1.0, -0.5]) if y0 is None else y0,
        args=args,
        **kwargs,
    )


Y0 = np.array([1.0, -0.5])


# -- order of convergence


@pytest.mark.sample(3)
@pytest.mark.parametrize("order", range(1, 11))
def test_order_of_convergence(order):
    """Halving the step divides the error by 2^K. All derivatives of the solution are
    positive, so that the errors of the steps add up.

    Steps that are short enough for the limit have errors below rounding at high order,
    so that the rate, which is `K + O(h)`, is extrapolated to it."""

    @jax.jit
    def solve(dt):
        controller = diffrax.ConstantStepSize()
        field = lambda t, y, args: (1 + t) * y  # noqa: E731
        return _solve(
            field, order=order, dt0=dt, t1=1.5, stepsize_controller=controller
        ).ys[0]

    exact = Y0 * np.exp(1.5 + 1.5**2 / 2)
    errors = [np.max(np.abs(solve(1.5 / n) - exact)) for n in (4, 8, 16)]
    coarse, fine = -np.diff(np.log2(errors))
    assert coarse < fine < order
    assert abs(2 * fine - coarse - order) < 0.2, errors


@pytest.mark.sample(2)
@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_error_estimate(order):
    """Asymptotically it is the local error itself."""
    solver = TaylorSolver(order)
    term = diffrax.ODETerm(_field)
    y0, t0, dt = jnp.asarray(Y0), 0.3, 0.02

    @jax.jit
    def step(dt):
        state = solver.init(term, t0, t0 + dt, y0, 1.0)
        y1, y_error, *_ = solver.step(term, t0, t0 + dt, y0, 1.0, state, False)
        return y1, y_error.error

    if order > 5:
        dt = 0.2  # For the error to stand out from the roundings.
    y1, y_error = step(dt)
    error = np.abs(y1 - _exact(t0 + dt, Y0, t0=t0))
    np.testing.assert_allclose(np.abs(y_error), error, rtol=5 * dt)


def test_orders_of_the_solver():
    solver = TaylorSolver(order=7)
    term = diffrax.ODETerm(_field)
    assert solver.order(term) == 7 and solver.error_order(term) == 8
    assert TaylorSolver().order(term) == 5
    assert solver == TaylorSolver(7) and hash(solver) == hash(TaylorSolver(7))


# -- step size control


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "order, rtol", [(3, 1e-6), (8, 1e-9), (20, 1e-13), (32, 1e-13)]
)
def test_adaptive_steps_keep_the_tolerance(order, rtol):
    controller = diffrax.PIDController(rtol=rtol, atol=rtol)
    solution = jax.jit(
        lambda: _solve(order=order, t1=10.0, stepsize_controller=controller)
    )()
    error = np.max(np.abs(solution.ys[0] - _exact(10.0, Y0)))
    assert error < 50 * rtol
    # The steps are not needlessly small either.
    assert solution.stats["num_steps"] < (100 if order > 3 else 250)


def test_order_1_is_eulers_method():
    solution = _solve(
        order=1, dt0=0.1, t1=1.0, stepsize_controller=diffrax.ConstantStepSize()
    )
    y = Y0
    for n in range(10):
        y = y + 0.1 * y * np.cos(0.1 * n)
    np.testing.assert_allclose(solution.ys[0], y, rtol=1e-14)


def test_high_orders_take_few_steps():
    """The Kepler orbit, once around, nearly to the tolerance. (Which steps are made
    depends on the estimates of those that are rejected.)"""

    def field(t, y, args):
        return kepler_slopes(*y)

    y0 = jnp.array([0.4, 0.0]), jnp.array([0.0, 2.0])
    solution = jax.jit(lambda: _solve(field, order=20, y0=y0, t1=2 * np.pi))()
    assert_close(jtu.tree_map(lambda y: y[0], solution.ys), y0, 2e5)
    assert solution.stats["num_steps"] < 40


@pytest.mark.slow
def test_pleiades():
    """Seven stars, some of which pass each other closely (Hairer, Norsett, Wanner,
    "Solving Ordinary Differential Equations I", II.10; final values from the Test Set
    for IVP Solvers, Mazzia and Magherini)."""
    problem = pleiades()
    # fmt: off
    expected = [
        [0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310,
         0.3425581707156584, 1.562172101400631, -0.7003092922212495],
        [-3.943437585517392, -3.271380973972550, 5.225081843456543, -2.590612434977470,
         1.198213693392275, -0.2429682344935824, 1.091449240428980],
    ]
    # fmt: on
    solution = jax.jit(
        lambda: _solve(problem.field, y0=problem.y0, t1=problem.t1, order=15)
    )()
    np.testing.assert_allclose(solution.ys[0][0].T, expected, rtol=1e-8)


def test_kink_is_noticed():
    """The field has a jump in its slope in the middle of what would be one step."""

    def field(t, y, args):
        return jnp.abs(t - args)

    solution = _solve(field, y0=jnp.array(0.0), t1=2.0, args=0.7, dt0=1.5)
    exact = (0.7**2 + 1.3**2) / 2
    np.testing.assert_allclose(solution.ys[0], exact, rtol=1e-10)
    assert solution.stats["num_rejected_steps"] > 0


def test_blow_up_ends_in_failure():
    """y' = y² has a pole at 1/3; no solver may report success beyond it."""
    solution = _solve(
        lambda t, y, args: y**2,
        y0=jnp.array(3.0),
        t1=0.4,
        max_steps=200,
        throw=False,
    )
    assert solution.result != diffrax.RESULTS.successful


def test_close_to_a_pole():
    """Up to a hundredth of the way to the pole."""
    solution = _solve(lambda t, y, args: y**2, y0=jnp.array(3.0), t1=0.33, order=20)
    np.testing.assert_allclose(solution.ys[0], 3 / (1 - 3 * 0.33), rtol=1e-10)


# -- what is saved


def test_save_at():
    """At the ends, at times within steps and at steps, all of a function of the state."""
    ts = np.linspace(0.0, 3.0, 31)
    saveat = diffrax.SaveAt(
        subs=[
            diffrax.SubSaveAt(t0=True, t1=True, ts=ts),
            diffrax.SubSaveAt(steps=True),
            diffrax.SubSaveAt(t0=True, ts=ts, fn=lambda t, y, args: jnp.sum(y) * t),
        ]
    )
    solution = jax.jit(lambda: _solve(saveat=saveat))()
    [all_ts, step_ts, fn_ts], [ys, step_ys, fn_ys] = solution.ts, solution.ys
    exact = _exact(all_ts[:, None], Y0)
    np.testing.assert_allclose(ys, exact, rtol=1e-11)
    np.testing.assert_array_equal(ys[0], Y0)
    taken = np.isfinite(step_ts)
    assert 1 < taken.sum() == solution.stats["num_accepted_steps"]
    expected = _exact(step_ts[taken][:, None], Y0)
    np.testing.assert_allclose(step_ys[taken], expected, rtol=1e-11)
    np.testing.assert_allclose(fn_ys, _exact(fn_ts, Y0.sum()) * fn_ts, rtol=1e-11)


def test_dense():
    """As accurate within the steps as at their ends; its derivative is the field."""
    ts = np.linspace(0.0, 3.0, 101)

    @jax.jit
    def run(ts):
        solution = _solve(saveat=diffrax.SaveAt(dense=True, steps=True))
        values = jax.vmap(solution.evaluate)(ts)
        slopes = jax.vmap(lambda t: jax.jvp(solution.evaluate, (t,), (1.0,))[1])(ts)
        return values, slopes, solution.derivative(1.3), solution.evaluate(0.4, 1.1)

    values, slopes, slope, increment = run(ts)
    exact = _exact(ts[:, None], Y0)
    np.testing.assert_array_equal(values[0], Y0)
    np.testing.assert_allclose(values, exact, rtol=1e-11)
    np.testing.assert_allclose(slopes, exact * np.cos(ts)[:, None], atol=1e-10)
    np.testing.assert_allclose(slope, _exact(1.3, Y0) * np.cos(1.3), atol=1e-10)
    np.testing.assert_allclose(increment, _exact(1.1, Y0) - _exact(0.4, Y0), rtol=1e-10)


def test_interpolation():
    """A polynomial in units of the step, on a PyTree of a state."""
    coefficients = dict(
        a=jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), b=jnp.array([0.1, 0.2, 0.3])
    )
    interpolation = TaylorInterpolation(
        t0=2.0, t1=2.5, unit=0.5, coefficients=coefficients
    )
    start, middle = interpolation.evaluate(2.0), interpolation.evaluate(2.25)
    np.testing.assert_array_equal(start["a"], [1, 2])
    np.testing.assert_array_equal(start["b"], 0.1)
    np.testing.assert_allclose(middle["a"], [1 + 1.5 + 1.25, 2 + 2 + 1.5], rtol=1e-15)
    np.testing.assert_allclose(
        interpolation.evaluate(2.0, 2.25)["b"], 0.1 + 0.075, rtol=1e-14
    )


@pytest.mark.parametrize("t", [1.0, 1.5])
def test_interpolation_of_no_length(t):
    """An event handler starts with it: there is no 0/0, nor in derivatives."""
    coefficients = jnp.array([[1.0, 2.0], [3.0, 4.0]])

    def evaluate(t0, t1):
        return TaylorInterpolation(
            t0=t0, t1=t1, unit=t1 - t0, coefficients=coefficients
        ).evaluate(t)

    np.testing.assert_array_equal(evaluate(1.0, 1.0), [1, 2])
    for slope in jax.jacrev(evaluate, argnums=(0, 1))(1.0, 1.0):
        assert np.all(np.isfinite(slope))


@pytest.mark.parametrize(
    "saveat", [diffrax.SaveAt(t1=True), diffrax.SaveAt(dense=True)]
)
def test_no_time_passes(saveat):
    solution = _solve(t1=0.0, dt0=0.1, saveat=saveat)
    y1 = solution.evaluate(0.0) if saveat.dense else solution.ys[0]
    np.testing.assert_array_equal(y1, Y0)


# -- kinds of problems


def test_reverse_time():
    @jax.jit
    def run():
        saveat = diffrax.SaveAt(ts=np.array([2.5, 1.0, 0.0]), dense=True)
        solution = _solve(t0=3.0, t1=0.0, saveat=saveat)
        return solution.ys, solution.evaluate(1.7)

    ys, inside = run()
    exact = _exact(np.array([[2.5], [1.0], [0.0]]), Y0, t0=3.0)
    np.testing.assert_allclose(ys, exact, rtol=1e-11)
    np.testing.assert_allclose(inside, _exact(1.7, Y0, t0=3.0), rtol=1e-11)


def test_pytree_state():
    """With `None`, a scalar, an empty array, and a complex array apart."""

    def field(t, y, args):
        return dict(q=y["p"][0], p=(-y["q"],), none=None, empty=y["empty"], s=-y["s"])

    y0 = dict(q=jnp.ones(2), p=(jnp.zeros(2),), none=None, empty=jnp.zeros((0,)), s=2.0)
    solution = jax.jit(lambda: _solve(field, y0=y0))()
    np.testing.assert_allclose(
        solution.ys["q"][0], np.cos(3.0) * np.ones(2), rtol=1e-11
    )
    np.testing.assert_allclose(solution.ys["s"][0], 2 * np.exp(-3.0), rtol=1e-11)
    assert solution.ys["empty"].shape == (1, 0)


# Diffrax warns that its support of complex numbers is not complete.
@pytest.mark.filterwarnings("ignore:Complex dtype support")
def test_complex_state():
    """y' = i y, and real and imaginary parts as a pair of real numbers."""
    with jax.numpy_dtype_promotion("standard"):
        solution = _solve(lambda t, y, args: 1j * y, y0=jnp.array([1.0 + 0j, 2.0]))
    np.testing.assert_allclose(
        solution.ys[0], np.exp(3j) * np.array([1, 2]), rtol=1e-11
    )


def test_scalar_state_and_integer_times():
    solution = _solve(lambda t, y, args: -y, y0=2.0, t0=0, t1=3)
    np.testing.assert_allclose(solution.ys, [2 * np.exp(-3.0)], rtol=1e-11)


def test_float32():
    """All through, the coefficients included."""
    controller = diffrax.PIDController(rtol=1e-5, atol=1e-5)

    @jax.jit
    def run(t0, t1, y0, args):
        return _solve(
            t0=t0,
            t1=t1,
            y0=y0,
            args=args,
            order=8,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(t1=True, dense=True),
        )

    zero, three, one = (np.float32(x) for x in (0, 3, 1))
    solution = run(zero, three, jnp.asarray(Y0, jnp.float32), one)
    assert solution.ys.dtype == jnp.float32
    np.testing.assert_allclose(solution.ys[0], _exact(3.0, Y0), rtol=1e-4)
    dtypes = {x.dtype.name for x in jtu.tree_leaves(solution.interpolation.infos)}
    assert dtypes == {"float32"}


def test_time_units_do_not_matter():
    """Coefficients are scaled by the step: nothing overflows in float32 where a unit
    of time is a thousandth of the step's."""

    def field(t, y, args):
        return -1e-3 * y

    y0 = jnp.asarray(Y0, jnp.float32)
    controller = diffrax.PIDController(rtol=1e-5, atol=1e-5)
    solution = _solve(
        field,
        t0=np.float32(0),
        t1=np.float32(3000),
        y0=y0,
        order=20,
        stepsize_controller=controller,
    )
    np.testing.assert_allclose(solution.ys[0], np.exp(-3.0) * Y0, rtol=1e-5)


def test_multi_term():
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(_field), diffrax.ODETerm(lambda t, y, args: -y)
    )
    solution = diffrax.diffeqsolve(
        terms,
        TaylorSolver(12),
        t0=0.0,
        t1=3.0,
        dt0=None,
        y0=jnp.asarray(Y0),
        args=1.0,
        stepsize_controller=TIGHT,
    )
    expected = _exact(3.0, Y0) * np.exp(-3.0)
    np.testing.assert_allclose(solution.ys[0], expected, rtol=1e-10)


def test_field_with_control_flow():
    """A scan and a cond in the field; the equation is still y' = cos(t) y."""

    def field(t, y, args):
        total, _ = jax.lax.scan(
            lambda c, x: (c + x * y, None), 0 * y, jnp.full(4, 0.25)
        )
        return jax.lax.cond(t < 100, lambda y: y * jnp.cos(t), lambda y: -y, total)

    solution = jax.jit(lambda: _solve(field, order=8))()
    np.testing.assert_allclose(solution.ys[0], _exact(3.0, Y0), rtol=1e-10)


def test_events():
    """The first time the state is one half, found by a root finder on the dense
    output; a boolean event stops at a step's end."""

    def run(condition, root_finder):
        event = diffrax.Event(condition, root_finder)
        controller = TaylorController(1e-12, 1e-12)
        return _solve(
            lambda t, y, args: -y,
            y0=jnp.array(1.0),
            event=event,
            stepsize_controller=controller,
        )

    root_finder = optimistix_newton()
    solution = run(lambda t, y, args, **kwargs: y - 0.5, root_finder)
    assert solution.result == diffrax.RESULTS.event_occurred
    np.testing.assert_allclose(solution.ts[0], np.log(2.0), rtol=1e-9)
    np.testing.assert_allclose(solution.ys[0], 0.5, rtol=1e-9)
    solution = run(lambda t, y, args, **kwargs: y < 0.5, None)
    assert solution.result == diffrax.RESULTS.event_occurred
    np.testing.assert_allclose(solution.ys[0], np.exp(-solution.ts[0]), rtol=1e-9)


def optimistix_newton():
    optimistix = pytest.importorskip("optimistix")
    return optimistix.Newton(rtol=1e-12, atol=1e-12)


# -- transformations


def test_vmap():
    """Over initial states and parameters: each lane takes steps of its own."""
    y0s = jnp.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 1.0]])
    args = jnp.array([1.0, 0.2, 5.0])

    @jax.jit
    @jax.vmap
    def run(y0, args):
        solution = _solve(y0=y0, args=args)
        return solution.ys[0], solution.stats["num_steps"]

    ys, steps = run(y0s, args)
    for y, y0, arg in zip(ys, y0s, args):
        np.testing.assert_allclose(
            y, _exact(3.0, np.asarray(y0), float(arg)), rtol=1e-10
        )
    assert len(set(steps.tolist())) > 1


def _exact_jacobians(t1, args):
    """Of `y0 exp(args sin t1)`."""
    growth = np.exp(args * np.sin(t1))
    by_y0 = np.eye(2) * growth
    by_args = Y0 * growth * np.sin(t1)
    by_t1 = Y0 * growth * args * np.cos(t1)
    return by_y0, by_args, by_t1


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "jacobian, adjoint, order, rtol",
    [
        (jax.jacrev, diffrax.RecursiveCheckpointAdjoint(), 8, 1e-7),
        (jax.jacrev, diffrax.RecursiveCheckpointAdjoint(), 14, 1e-7),
        (jax.jacrev, diffrax.DirectAdjoint(), 8, 1e-7),
        (jax.jacfwd, diffrax.ForwardMode(), 8, 1e-9),
        (jax.jacfwd, diffrax.DirectAdjoint(), 8, 1e-9),
    ],
    ids=["default", "default, order 14", "direct", "forward", "direct forward"],
)
def test_jacobians_of_adaptive_solves(jacobian, adjoint, order, rtol):
    """With respect to initial state, parameters and final time.

    Reverse mode runs steps again, compiled otherwise: step sizes that were made of
    rounding errors would not be the same again.
    """

    @jax.jit
    def run(y0, args, t1):
        def solve(y0, args, t1):
            return _solve(
                y0=y0, args=args, t1=t1, adjoint=adjoint, order=order, max_steps=64
            ).ys[0]

        return jacobian(solve, argnums=(0, 1, 2))(y0, args, t1)

    jacobians = run(jnp.asarray(Y0), jnp.array(0.8), jnp.array(2.0))
    for actual, exact in zip(jacobians, _exact_jacobians(2.0, 0.8)):
        np.testing.assert_allclose(actual, exact, rtol=rtol, atol=1e-12)


@pytest.mark.slow
def test_reverse_mode_and_the_variational_equation():
    """Of the Lorenz system, with respect to the state and a parameter: by the default
    adjoint of an adaptive solve, and by another program's integration of `V' = f'(y) V`.
    """

    def field(t, y, rho):
        return jnp.stack(lorenz_slopes(y, rho=rho))

    def variational(t, v):
        (a, b, c), matrix = v[:3], v[3:].reshape(3, 4)
        slope = lorenz_slopes((a, b, c))
        jacobian = np.array([[-10, 10, 0], [28 - c, -1, -a], [b, a, -8 / 3]])
        by_rho = np.outer([0, a, 0], [0, 0, 0, 1])
        return np.concatenate([slope, (jacobian @ matrix + by_rho).ravel()])

    start = np.concatenate([[1.0, 2.0, 3.0], np.eye(3, 4).ravel()])
    reference = scipy.integrate.solve_ivp(
        variational, (0.0, 2.0), start, "DOP853", rtol=1e-13, atol=1e-13
    ).y[3:, -1]

    @jax.jit
    @ft.partial(jax.jacrev, argnums=(0, 1))
    def jacobians(y0, rho):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            TaylorSolver(rtol=1e-13, atol=1e-13),
            0.0,
            2.0,
            None,
            y0,
            rho,
            stepsize_controller=TaylorController(1e-13, 1e-13),
            max_steps=256,
        ).ys[0]

    by_y0, by_rho = jacobians(jnp.array([1.0, 2.0, 3.0]), jnp.array(28.0))
    actual = np.concatenate([by_y0, by_rho[:, None]], axis=1)
    expected = reference.reshape(3, 4)
    assert np.max(np.abs(actual - expected)) < 1e-9 * np.max(np.abs(expected))


@pytest.mark.slow
def test_jacobians_of_constant_steps():
    """Reverse mode, forward mode and a jvp of the whole, to the last digits."""

    def solve(y0, args):
        controller = diffrax.ConstantStepSize()
        return _solve(
            y0=y0,
            args=args,
            t1=2.0,
            dt0=0.1,
            stepsize_controller=controller,
            max_steps=32,
            adjoint=diffrax.DirectAdjoint(),
        ).ys[0]

    @jax.jit
    def run(*x):
        along = jax.jvp(solve, x, (jnp.ones(2), jnp.array(1.0)))[1]
        return (
            jax.jacrev(solve, argnums=(0, 1))(*x),
            jax.jacfwd(solve, argnums=(0, 1))(*x),
            along,
        )

    reverse, forward, along = run(jnp.asarray(Y0), jnp.array(0.8))
    by_y0, by_args, _ = _exact_jacobians(2.0, 0.8)
    for jacobians in (reverse, forward):
        np.testing.assert_allclose(jacobians[0], by_y0, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(jacobians[1], by_args, rtol=1e-12)
    np.testing.assert_allclose(along, by_y0 @ np.ones(2) + by_args, rtol=1e-12)


@pytest.mark.slow
def test_gradient_of_a_neural_ode():
    """Reverse mode with the default adjoint, against finite differences."""
    mlp = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))

    def loss(mlp):
        solution = _solve(
            lambda t, y, mlp: mlp(y),
            args=mlp,
            order=8,
            dt0=0.1,
            t1=1.0,
            stepsize_controller=diffrax.ConstantStepSize(),
        )
        return jnp.sum(solution.ys[0] ** 2)

    direction = jtu.tree_map(jnp.ones_like, eqx.filter(mlp, eqx.is_inexact_array))

    @eqx.filter_jit
    def shifted(h):
        moved = eqx.apply_updates(mlp, jtu.tree_map(lambda x: h * x, direction))
        return loss(moved)

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(mlp)
    along = sum(float(jnp.sum(g)) for g in jtu.tree_leaves(gradient))
    h = 2e-3
    # Six-point central difference: an error of h^6 f^(7)/140.
    weights = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}
    expected = sum(
        w * (shifted(jnp.array(n * h)) - shifted(jnp.array(-n * h))) / h
        for n, w in weights.items()
    )
    np.testing.assert_allclose(along, expected, rtol=1e-10)


@pytest.mark.slow
def test_backsolve_adjoint():
    """The augmented equation is solved by TaylorSolver too: its field is a vjp."""

    @jax.jit
    def run(y0):
        adjoint = diffrax.BacksolveAdjoint()
        return jax.jacrev(
            lambda y0: _solve(y0=y0, t1=2.0, order=6, adjoint=adjoint).ys[0]
        )(y0)

    expected, _, _ = _exact_jacobians(2.0, 1.0)
    np.testing.assert_allclose(run(jnp.asarray(Y0)), expected, rtol=1e-8, atol=1e-10)


def test_step_is_ode_jet():
    """One step is the polynomial whose coefficients `ode_jet` returns."""
    y0, dt = jnp.asarray(Y0), 0.3
    solution = _solve(
        order=9, t1=dt, dt0=dt, stepsize_controller=diffrax.ConstantStepSize()
    )
    coefficients = ode_jet(_field, 0.0, y0, 1.0, order=9)
    expected = np.polynomial.polynomial.polyval(dt, np.asarray(coefficients))
    np.testing.assert_allclose(solution.ys[0], expected, rtol=4e-16)


@pytest.mark.slow
def test_steps_by_hand():
    """`Diffrax`'s interface for loops of one's own."""
    term, solver = diffrax.ODETerm(_field), TaylorSolver(10)
    y, t, dt = jnp.asarray(Y0), 0.0, 0.25
    state = solver.init(term, t, t + dt, y, 1.0)

    @eqx.filter_jit
    def step(t, y, state):
        y, _, _, state, _ = solver.step(term, t, t + dt, y, 1.0, state, False)
        return y, state

    for _ in range(12):
        y, state = step(t, y, state)
        t = t + dt
    np.testing.assert_allclose(y, _exact(3.0, Y0), rtol=1e-9)
    np.testing.assert_allclose(solver.func(term, 0.3, y, 1.0), _field(0.3, y, 1.0))


@pytest.mark.parametrize("jacobian", [jax.jacrev, jax.jacfwd], ids=["rev", "fwd"])
@pytest.mark.sample(2)
def test_gradients_by_the_ends_with_the_controller(jacobian):
    """Of `y1 = y0 exp(-(t1 - t0))`, where the lengths of steps hang on both ends; and of
    `y1 = y0 + t1^2 - t0^2`, which one step is enough for."""
    adjoint = diffrax.ForwardMode() if jacobian is jax.jacfwd else None
    kwargs = {} if adjoint is None else dict(adjoint=adjoint)

    @jax.jit
    def slopes(t0, t1):
        def end(t0, t1, field):
            solution = _solve(
                field,
                order=6,
                t0=t0,
                t1=t1,
                y0=jnp.array(2.0),
                stepsize_controller=TaylorController(1e-12, 1e-12),
                **kwargs,
            )
            return solution.ys[0]

        by_ends = jacobian(end, argnums=(0, 1))
        decay, parabola = lambda t, y, args: -y, lambda t, y, args: 2 * t + 0 * y
        return by_ends(t0, t1, decay), by_ends(t0, t1, parabola)

    y1 = 2 * np.exp(-1.4)
    of_decay, of_parabola = slopes(jnp.array(0.1), jnp.array(1.5))
    np.testing.assert_allclose(of_decay, [y1, -y1], rtol=1e-10)
    np.testing.assert_allclose(of_parabola, [-0.2, 3.0], rtol=1e-10)
