"""Fields that are not smooth, or whose derivatives are not their own: steps, errors in
tolerances, and messages. The solutions are closed forms."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from benchmarks import nonsmooth
from eqx_taylor import TaylorController, TaylorSolver


RESULTS = diffrax.RESULTS
CASES = {case.name: case for case in (make() for make in nonsmooth.CASES)}
# Errors here are in tolerances.
TOLERANCE = 1e-6


def solve(field, y0, t1, *, t0=0.0, order=8, tol=TOLERANCE, controller=None, **kwargs):
    y0 = jnp.asarray(y0, None if hasattr(y0, "dtype") else float)
    dtype = y0.dtype
    tol = jnp.asarray(tol, dtype)
    options = dict(max_steps=4096, throw=False, adjoint=diffrax.ForwardMode())
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        TaylorSolver(order),
        jnp.asarray(t0, dtype),
        jnp.asarray(t1, dtype),
        kwargs.pop("dt0", None),
        y0,
        stepsize_controller=controller or TaylorController(tol, tol),
        **(options | kwargs),
    )


# -- 10 tolerances, in three times the steps of Dopri8

# The others have tests of their own.
FIELDS = sorted(
    set(CASES) - {"network of relu", "100 linear pieces", "Bessel's equation through 0"}
)


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", FIELDS)
def test_errors_and_steps(name):
    case = CASES[name]
    [row] = nonsmooth.measure(case, TaylorSolver(8), TaylorController, [TOLERANCE])
    [rival] = nonsmooth.measure(
        case, diffrax.Dopri8(), diffrax.PIDController, [TOLERANCE]
    )
    assert row.result == ""
    assert row.error < 10
    assert row.steps <= 3 * rival.steps


def test_many_kinks():
    """A hundred of them, each of which may leave something."""
    case = CASES["100 linear pieces"]
    tolerances = [1e-4, 1e-6]
    rows = nonsmooth.measure(case, TaylorSolver(8), TaylorController, tolerances)
    for row in rows:
        assert row.error < 10 and row.result == ""


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["stop_gradient", "tank that runs empty"])
def test_float32(name):
    case = CASES[name]
    y0 = jnp.asarray(case.y0, jnp.float32)
    solution = solve(case.field, y0, case.t1, order=6, tol=1e-4)
    assert solution.result == RESULTS.successful and solution.ys.dtype == jnp.float32
    assert abs(float(solution.ys[0]) - case.end) < 10e-4
    assert solution.stats["num_steps"] < 50


def _mixed(t, y, args):
    """Smooth for one value of `args`, and not for the others."""
    return jnp.where(args == 0, -y, -jax.lax.stop_gradient(y) * args)


@pytest.mark.slow
def test_lanes_with_and_without():
    """Each lane takes the steps that it takes alone, and has the same end; dense output
    is the polynomial of whatever method made the step."""

    def run(args):
        saveat = diffrax.SaveAt(ts=jnp.linspace(0.0, 2.0, 7))
        solution = solve(_mixed, 1.0, 2.0, args=args, saveat=saveat, order=10, tol=1e-9)
        return solution.ys, solution.stats["num_steps"], solution.result

    args = jnp.array([0.0, 1.0, 3.0])
    ys, steps, result = jax.jit(jax.vmap(run))(args)
    one = jax.jit(run)
    rates = np.array([1.0, 1.0, 3.0])
    exact = np.exp(-rates[:, None] * np.linspace(0.0, 2.0, 7))
    np.testing.assert_allclose(ys, exact, rtol=0, atol=1e-7)
    for k, rate in enumerate(args):
        alone = one(rate)
        assert steps[k] == alone[1]
        np.testing.assert_allclose(ys[k], alone[0], rtol=0, atol=1e-14)


@pytest.mark.sample(2)
@pytest.mark.parametrize("order", [2, 3, 5, 7, 12])
def test_dense_output_of_a_replaced_step(order):
    """One step, of `-stop_gradient(y)`: its end is that of the Runge--Kutta method, and
    inside it is a polynomial of the solver's order, if that is below 6."""

    @jax.jit
    def step(h):
        solver = TaylorSolver(order)
        term = diffrax.ODETerm(lambda t, y, args: -jax.lax.stop_gradient(y))
        y0 = jnp.array([1.0, 2.0])
        state = solver.init(term, 0.0, h, y0, None)
        y1, error, dense, *_ = solver.step(term, 0.0, h, y0, None, state, False)
        dense = solver.interpolation_cls(t0=0.0, t1=h, **dense)
        inside = jax.vmap(dense.evaluate)(h * jnp.linspace(0.0, 1.0, 9))
        return y1, error.error, inside

    h = 0.25
    y1, error, inside = step(jnp.array(h))
    exact = np.exp(-h * np.linspace(0.0, 1.0, 9))[:, None] * np.array([1.0, 2.0])
    np.testing.assert_allclose(y1, exact[-1], rtol=3e-14)
    assert np.all(error < 1e-9)
    np.testing.assert_allclose(inside[-1], y1, rtol=1e-15)
    bound = {2: 1e-3, 3: 1e-5}.get(order, 1e-8)
    assert np.max(np.abs(inside - exact)) < bound


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd])
def test_derivatives(mode):
    """Of a tank's level before it is empty, and of a body beside one at rest, through
    steps that are replaced, with respect to the state at the start."""
    adjoint = diffrax.RecursiveCheckpointAdjoint()
    if mode is jax.jacfwd:
        adjoint = diffrax.ForwardMode()

    def end(y0):
        # y' = -y where y > 0.1, then a constant: a kink of the state.
        def field(t, y, args):
            return -jnp.maximum(y, 0.1)

        kwargs = dict(adjoint=adjoint, max_steps=128)
        return solve(field, y0, 3.0, order=8, tol=1e-8, **kwargs).ys[0]

    # y = 0.1 at T = log(10 y0), and 0.1 (1 - (t - T)) after it.
    y0 = jnp.array(1.0)
    value, slope = end(y0), mode(end)(y0)
    np.testing.assert_allclose(value, 0.1 * (1 - 3 + np.log(10.0)), atol=1e-7)
    np.testing.assert_allclose(slope, 0.1, rtol=1e-4)


def test_other_controllers():
    """Fixed steps and PID are right as well."""
    case = CASES["stop_gradient"]
    fixed = solve(
        case.field, 1.0, 1.0, controller=diffrax.ConstantStepSize(), dt0=0.125
    )
    np.testing.assert_allclose(fixed.ys[0], case.end, rtol=1e-12)
    pid = diffrax.PIDController(rtol=1e-6, atol=1e-6)
    adaptive = solve(case.field, 1.0, 1.0, controller=pid)
    assert adaptive.stats["num_steps"] < 20
    np.testing.assert_allclose(adaptive.ys[0], case.end, rtol=1e-5)


# -- what is not finite


def _clamped_power(t, y, args):
    return -0.1 - jnp.maximum(y, 0.0) ** args


@functools.cache
def _empty(power):
    """The time at which `_clamped_power` from 1 is at 0, by quadrature in u = y^(1/4)."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    u, w = (nodes + 1) / 2, weights / 2
    return np.sum(w * 4 * u**3 / (0.1 + u ** (4 * power)))


def test_infinite_derivatives_in_the_middle():
    """Powers at the edge of their domain, below which they are clamped."""
    run = jax.jit(lambda power: solve(_clamped_power, 1.0, 20.0, args=power))
    for power in (0.5, 1.5, 2.5):
        solution = run(jnp.array(power))
        assert solution.result == RESULTS.successful
        end = -0.1 * (20 - _empty(power))
        assert abs(float(solution.ys[0]) - end) < 10 * TOLERANCE * (1 + abs(end))
        assert solution.stats["num_steps"] < 60


def test_one_component_without_higher_derivatives():
    """The other one has them."""

    def field(t, y, args):
        return jnp.stack([jnp.sqrt(jnp.abs(t - 1.0)), -y[1]])

    solution = solve(field, jnp.array([0.0, 1.0]), 2.0)
    assert solution.result == RESULTS.successful
    end = np.array([4 / 3, np.exp(-2.0)])
    assert np.all(np.abs(solution.ys[0] - end) < 10 * TOLERANCE * (1 + end))
    assert solution.stats["num_steps"] < 60


@pytest.mark.parametrize("start", [0.2, -1.0], ids=["later", "from the start"])
def test_field_that_is_not_a_number(start):
    """In its own words, soon, and never as a success."""

    def field(t, y, args):
        return jnp.where(t < start, -y, jnp.nan)

    solution = solve(field, 1.0, 1.0)
    assert solution.result == RESULTS.nonfinite
    assert solution.stats["num_steps"] < 200
    fixed = solve(field, 1.0, 1.0, controller=diffrax.ConstantStepSize(), dt0=0.125)
    assert fixed.result == RESULTS.nonfinite


def test_solution_that_overflows():
    """exp(t) beyond the largest number, at 709.78."""
    solution = solve(lambda t, y, args: y, 1.0, 1000.0, order=12, tol=1e-8)
    assert solution.result in (RESULTS.nonfinite, RESULTS.dt_min_reached)
    assert solution.stats["num_rejected_steps"] < 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_first_step_that_overflows(dtype):
    field = lambda t, y, args: jnp.sin(t) - y  # noqa: E731
    y0 = jnp.asarray(1.0, dtype)
    dt0 = jnp.asarray(730.0, dtype)
    solution = solve(field, y0, 800.0, order=20, tol=1e-5, dt0=dt0)
    assert solution.result == RESULTS.successful
    exact = (np.sin(800.0) - np.cos(800.0)) / 2
    assert abs(float(solution.ys[0]) - exact) < 5e-4


def test_no_nan_is_a_marker():
    """`jax_debug_nans` finds none where there is none to find."""

    def end(y0):
        adjoint = diffrax.RecursiveCheckpointAdjoint()
        field = lambda t, y, args: -y  # noqa: E731
        return solve(field, y0, 1.0, order=3, adjoint=adjoint, max_steps=64).ys[0]

    with jax.debug_nans(True):
        slope = jax.grad(end)(jnp.array(1.0))
        still = solve(
            lambda t, y, args: -y,
            1.0,
            0.0,
            order=3,
            saveat=diffrax.SaveAt(t1=True, solver_state=True),
        )
    np.testing.assert_allclose(slope, np.exp(-1.0), rtol=1e-4)
    leaves = jax.tree.leaves(still.solver_state)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


# -- where the field is singular, and where the solve ends


@pytest.mark.sample(2)
@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_singular_point_ends_the_solve_or_is_gone_over(tol):
    """Bessel's equation through 0, where rounding is enlarged without end."""
    case = CASES["Bessel's equation through 0"]
    solution = solve(
        case.field, jnp.array(case.y0), case.t1, t0=case.t0, order=10, tol=tol
    )
    assert solution.stats["num_steps"] < 300
    if solution.result == RESULTS.successful:
        np.testing.assert_allclose(solution.ys[0], case.end, atol=20 * tol)
    else:
        assert solution.result == RESULTS.dt_min_reached


def _bessel(t, y, args):
    x, v = y
    return jnp.stack([v, -v / t - x])


def _legendre(t, y, args):
    """Of degree 2: with the solution (3 t^2 - 1) / 2, regular at 1 as well."""
    x, v = y
    return jnp.stack([v, (2 * t * v - 6 * x) / (1 - t**2)])


_J0, _J1 = scipy.special.j0, scipy.special.j1
# The field, the start and its state, the end, and the state there if there is any.
SINGULAR = dict(
    bessel_backwards=(_bessel, 3.1, [_J0(3.1), -_J1(3.1)], -3.0, [_J0(3.0), _J1(3.0)]),
    legendre=(_legendre, 0.5, [-0.125, 1.5], 1.6, [3.34, 4.8]),
    pole=(lambda t, y, args: 1 + y**2, 0.0, [0.0], 2.0, None),
    pole_backwards=(lambda t, y, args: -y / t, 1.0, [1.0], -1.0, None),
)


@pytest.mark.parametrize(
    "name, dtype",
    [*[(name, np.float64) for name in SINGULAR], ("bessel_backwards", np.float32)],
)
def test_singular_points(name, dtype):
    """Where a solution is regular, it may be gone over; a pole never is. Either ends
    after few steps, 20 for each digit of the time."""
    field, t0, y0, t1, end = SINGULAR[name]
    tol = 1e-5 if dtype is np.float32 else 1e-6
    solution = solve(field, jnp.asarray(y0, dtype), t1, t0=t0, order=7, tol=tol)
    assert solution.stats["num_steps"] < 20 * -np.log10(np.finfo(dtype).eps)
    if solution.result == RESULTS.successful:
        assert end is not None
        np.testing.assert_allclose(solution.ys[0], end, atol=20 * tol)
    else:
        assert solution.result == RESULTS.dt_min_reached
        assert end is None or name == "bessel_backwards"


# -- rounding


@pytest.mark.parametrize("coefficients", [(0.3, 0.3, 0.85), (0.0, 1.0, 0.9)])
def test_tolerance_of_rounding_size(coefficients):
    """An estimate below rounding does not shrink the steps of Diffrax's controller."""
    pcoeff, icoeff, safety = coefficients

    def field(t, u, args):
        x, v = u
        return v, -x / jnp.sum(x**2) ** 1.5

    y0 = jnp.array([0.4, 0.0]), jnp.array([0.0, 2.0])
    steps = []
    for controller in [
        TaylorController(1e-15, 1e-15),
        diffrax.PIDController(
            1e-15, 1e-15, pcoeff=pcoeff, icoeff=icoeff, safety=safety
        ),
    ]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            TaylorSolver(20),
            0.0,
            20 * np.pi,
            None,
            y0,
            stepsize_controller=controller,
            adjoint=diffrax.ForwardMode(),
        )
        for end, start in zip(solution.ys, y0):
            np.testing.assert_allclose(end[0], start, atol=1e-10)
        steps.append(int(solution.stats["num_steps"]))
    assert steps[1] < 4 * steps[0]
