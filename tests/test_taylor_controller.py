"""The steps of `TaylorSolver`: with `TaylorController`, and with Diffrax's own."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
import scipy.integrate

from benchmarks import problems
from benchmarks.problems import kepler_slopes, lorenz_slopes
from eqx_taylor import TaylorController, TaylorSolver


RESULTS = diffrax.RESULTS


def solve(field, order, y0, t1, controller, *, t0=0.0, dt0=None, args=None, **kwargs):
    """Numbers are passed as arrays, so that another value does not compile it anew."""
    dtype = jnp.result_type(t1)
    y0, t0, t1, dt0, args, controller = jtu.tree_map(
        lambda x: jnp.asarray(x, dtype) if isinstance(x, float) else x,
        (y0, t0, t1, dt0, args, controller),
    )
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        TaylorSolver(order),
        t0,
        t1,
        dt0,
        y0,
        args,
        stepsize_controller=controller,
        **(dict(throw=False) | kwargs),
    )


STEPS = diffrax.SaveAt(t0=True, steps=True)


def lengths(solution):
    """Of the steps taken, where `STEPS` are saved."""
    return np.diff(solution.ts[np.isfinite(solution.ts)])


# -- problems of the literature


def _lorenz(t, u, args):
    return jnp.stack(lorenz_slopes(u))


def _kepler(t, u, args):
    return jnp.concatenate(kepler_slopes(u[:2], u[2:]))


def _stacked(problem):
    """A problem whose state is positions and velocities, with one array of both."""

    def field(t, u, args):
        return jnp.stack(problem.field(t, (u[0], u[1]), args))

    return field, np.stack(problem.y0)


def _henon_heiles(t, u, args):
    x, y, px, py = u
    return jnp.stack([px, py, -x - 2 * x * y, -y - x**2 + y**2])


def _pendulum(t, u, args):
    return jnp.stack([u[1], -jnp.sin(u[0])])


def _fitzhugh_nagumo(t, u, args):
    v, w = u
    return jnp.stack([v - v**3 / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w)])


def _brusselator(t, u, args):
    x, y = u
    return jnp.stack([1 + x**2 * y - 4 * x, 3 * x - x**2 * y])


def _van_der_pol(t, u, args):
    x, y = u
    mu = 1.0 if args is None else args
    return jnp.stack([y, mu * (1 - x**2) * y - x])


def _lorenz96(t, u, args):
    return (jnp.roll(u, -1) - jnp.roll(u, 2)) * jnp.roll(u, 1) - u + 8.0


_MLP = eqx.nn.MLP(4, 4, 8, 1, activation=jnp.tanh, key=jax.random.key(0))


def _neural(t, u, args):
    return 3 * _MLP(u)


# Field, initial state, final time, order, tolerance.
PROBLEMS = {
    "Lorenz": (_lorenz, [1.0, 1, 1], 5.0, 8, 1e-7),
    "Kepler": (_kepler, [0.4, 0, 0, 2], 20.0, 10, 1e-9),
    "Arenstorf": (*_stacked(problems.arenstorf()), 8.0, 5, 1e-6),
    "Pleiades": (*_stacked(problems.pleiades()), 2.0, 5, 1e-6),
    "outer Solar System": (*_stacked(problems.outer_solar_system()), 2e4, 5, 1e-6),
    "Henon-Heiles": (_henon_heiles, [0.0, 0.1, 0.5, 0], 30.0, 6, 1e-6),
    "pendulum": (_pendulum, [3.0, 0], 20.0, 12, 1e-11),
    "FitzHugh-Nagumo": (_fitzhugh_nagumo, [-1.0, 1], 60.0, 5, 1e-4),
    "Brusselator": (_brusselator, [1.5, 3], 20.0, 6, 1e-6),
    "Van der Pol": (_van_der_pol, [2.0, 0], 20.0, 6, 1e-6),
    "Lorenz96": (_lorenz96, [9.0, 8, 7, 8, 8, 6, 5], 3.0, 4, 1e-4),
    "MLP": (_neural, [1.0, -0.5, 0.3, 2], 10.0, 5, 1e-4),
}


def _reference(field, y0, t1):
    """The solution by Runge-Kutta of order 8, and how many times larger a small
    perturbation of it becomes."""
    direction = np.cos(np.arange(y0.size)).reshape(y0.shape)
    pair = np.stack([y0, y0 + 1e-7 * np.max(np.abs(y0)) * direction])
    slope = jax.jit(jax.vmap(lambda t, u: field(t, u, None), (None, 0)))
    sol = scipy.integrate.solve_ivp(
        lambda t, u: np.ravel(slope(t, u.reshape(pair.shape))),
        (0.0, t1),
        np.ravel(pair),
        "DOP853",
        rtol=1e-13,
        atol=1e-16,
    )
    assert sol.success
    pair1 = sol.y[:, -1].reshape(pair.shape)
    growth = np.max(np.abs(pair1[1] - pair1[0])) / np.max(np.abs(pair[1] - pair[0]))
    return pair1[0], growth


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", PROBLEMS)
def test_problems(name):
    """Next to no step is rejected, and the error is what one tolerance at every step
    makes, when the problem enlarges it as it does a perturbation at the start."""
    field, y0, t1, order, tol = PROBLEMS[name]
    y0 = np.asarray(y0)
    solution = solve(field, order, jnp.asarray(y0), t1, TaylorController(tol, tol))
    assert solution.result == RESULTS.successful
    steps, rejected = (int(solution.stats[f"num_{x}steps"]) for x in ("", "rejected_"))
    reference, growth = _reference(field, y0, t1)
    error = np.max(np.abs(solution.ys[0] - reference))
    size = 1 + np.max(np.abs(y0))
    assert rejected <= 0.01 * steps
    assert error <= steps * max(growth, 1) * tol * size


# -- solutions in closed form


def _combination(t, y, args):
    """y' = c_0 + c_1 t + c_2 t² + c_3 t³ + rate y"""
    c, rate = args
    return c[0] + t * (c[1] + t * (c[2] + t * c[3])) + rate * y


@pytest.mark.parametrize(
    "y0, c, rate, most",
    [
        (1.0, [0.0, 0, 0, 0], 0.0, 1),
        (0.0, [0.0, 0, 0, 0], 0.0, 1),
        (0.0, [0.0, 0, 0, 0], -3.0, 1),
        (0.0, [0.25, 0, 0, 0], 0.0, 1),
        (1.0, [-2.0, 0, 0, 0], 0.0, 1),
        (1.0, [1.0, 0, 3, 0], 0.0, 5),
        (-2.0, [1.0, 2, 3, -4], 0.0, 5),
        (1e-300, [0.0, 0, 0, 0], 0.0, 1),
        (1e300, [0.0, 0, 0, 0], 0.0, 1),
    ],
)
def test_polynomials(y0, c, rate, most):
    """The series ends, or is zero: nothing limits the steps, and they are exact."""
    t1 = 16.0
    controller = TaylorController(1e-9, 1e-9)
    args = jnp.asarray(c), rate
    solution = solve(_combination, 6, y0, t1, controller, args=args, saveat=STEPS)
    assert solution.result == RESULTS.successful
    steps = lengths(solution)
    assert np.all(np.isfinite(steps)) and np.all(steps > 0)
    assert len(steps) == solution.stats["num_steps"] <= most
    exact = y0 + np.polynomial.polynomial.polyval(t1, [0, *np.array(c) / [1, 2, 3, 4]])
    size = np.abs(y0) + np.sum(np.abs(c) * t1 ** np.arange(1.0, 5.0))
    end = solution.ys[np.isfinite(solution.ts)][-1]
    assert abs(end - exact) <= 4 * len(steps) * np.finfo(float).eps * size


def _cosine(t, y, args):
    """y' = args y cos(args t), whose unit of time is 1/args."""
    return args * y * jnp.cos(args * t)


Y0 = np.array([1.0, -0.5])


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_units_of_time(dtype):
    """The first step comes from the jet at `t0`: in another unit, it is another number
    but the same step, and so are all others."""
    tol = 1e-8 if dtype == np.float64 else 1e-4
    controller = TaylorController(dtype(tol), dtype(tol))
    y0 = jnp.asarray(Y0, dtype)

    def run(rate):
        rate = dtype(rate)
        return solve(
            _cosine,
            6,
            y0,
            dtype(3) / rate,
            controller,
            t0=dtype(0),
            args=rate,
            saveat=STEPS,
            max_steps=64,
        )

    # Powers of two, that cost no rounding.
    runs = {n: run(2.0**n) for n in (-20, -3, 0, 3, 20)}
    first = None
    for n, solution in runs.items():
        assert solution.result == RESULTS.successful
        assert solution.stats["num_rejected_steps"] == 0
        taken = np.isfinite(solution.ts)
        ts = np.asarray(solution.ts)[taken] * dtype(2.0**n)
        exact = Y0 * np.exp(np.sin(ts.astype(float)))[:, None]
        errors = np.max(np.abs(np.asarray(solution.ys)[taken] - exact), 1)
        # The first step uses the tolerance, and no more than it.
        assert 1e-3 * tol < errors[1] < tol
        assert 0.1 * np.median(np.diff(ts)) < ts[1] < 10 * np.median(np.diff(ts))
        assert errors[-1] < 10 * tol
        if first is None:
            first = ts
        np.testing.assert_allclose(ts, first, rtol=1e-5)


# -- what the tolerances mean


def _two_sizes(t, y, args):
    """Solutions `y0_i exp(sin(w_i t))`, the second eight times as fast."""
    w = np.array([1.0, 8.0])
    return w * y * jnp.cos(w * t)


def test_rtol_and_atol_are_by_component():
    """A component of 1e-8 of the size of the other one: `rtol` alone holds its relative
    error, too; with `atol` only its size matters, and it is none of the controller's
    business below that."""
    y0 = np.array([1.0, 1e-8])

    def run(rtol, atol):
        solution = solve(
            _two_sizes, 8, jnp.asarray(y0), 3.0, TaylorController(rtol, atol)
        )
        assert solution.result == RESULTS.successful
        exact = y0 * np.exp(np.sin(np.array([1.0, 8.0]) * 3))
        return np.abs(solution.ys[0] - exact), int(solution.stats["num_steps"])

    relative, many = run(1e-9, 0.0)
    assert np.all(relative < 1e-8 * y0)
    absolute, few = run(0.0, 1e-9)
    assert np.all(absolute < 1e-8) and few < many / 2
    assert absolute[1] > 1e-8 * y0[1]
    both, between = run(1e-9, 1e-12)
    assert both[0] < 1e-8 and few < between < many


def test_component_that_is_zero():
    """With `atol=0`: it has no error at all, which is no 0/0."""
    solution = solve(
        _two_sizes,
        8,
        jnp.array([1.0, 0.0]),
        3.0,
        TaylorController(1e-9, 0.0),
        max_steps=64,
    )
    assert solution.result == RESULTS.successful
    np.testing.assert_allclose(solution.ys[0], [np.exp(np.sin(3.0)), 0], rtol=1e-8)


@pytest.mark.parametrize("dtype, end", [(np.float32, 100.0), (np.float64, 800.0)])
def test_component_that_underflows(dtype, end):
    """With `atol=0` its tolerance underflows long before it does itself. At the end
    exp(-t) has underflowed, too."""
    rtol = 1e-5
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: y * jnp.stack([jnp.cos(t), -args])),
        TaylorSolver(8),
        jnp.zeros((), dtype),
        jnp.asarray(end, dtype),
        None,
        jnp.ones(2, dtype),
        jnp.ones((), dtype),
        stepsize_controller=TaylorController(rtol, 0.0),
        max_steps=3000,
        throw=False,
    )
    assert solution.result == RESULTS.successful
    steady, decayed = solution.ys[0]
    assert steady.dtype == dtype
    np.testing.assert_allclose(steady, np.exp(np.sin(end)), rtol=100 * rtol)
    assert abs(decayed) < 100 * np.finfo(dtype).tiny


# -- the other arguments of the controller


def _first_only(y):
    return jnp.abs(y[0])


def _with_arguments(**kwargs):
    base = dict(rtol=1e-8, atol=1e-8, dtmin=0.0, dtmax=10.0)
    controller = TaylorController(**(base | kwargs))
    return solve(
        _two_sizes, 6, jnp.asarray(Y0), 3.0, controller, saveat=STEPS, max_steps=512
    )


@pytest.mark.slow
def test_arguments_of_the_controller():
    run = _with_arguments
    plain = lengths(run())
    assert 60 < len(plain) < 300
    # `dtmax` is the longest, and does nothing to the shorter.
    longest = np.max(plain)
    clipped = lengths(run(dtmax=0.6 * longest))
    assert np.max(clipped) < 0.6 * longest * (1 + 1e-13)
    assert len(plain) < len(clipped) < 1.5 * len(plain)
    # `safety` is a factor of every length.
    half = lengths(run(safety=0.45))
    np.testing.assert_allclose(half[0], plain[0] / 2, rtol=1e-14)
    assert 1.8 * len(plain) < len(half) < 2.2 * len(plain)
    # `factormax` bounds the growth from one to the next.
    grown = lengths(run(factormax=1.05))
    assert np.max(plain[1:] / plain[:-1]) > 1.06
    assert np.max(grown[1:] / grown[:-1]) < 1.05 * (1 + 1e-10)
    # `dtmin` is the shortest, whatever the error: the last one ends at `t1`.
    coarse = run(dtmin=0.25)
    assert coarse.result == RESULTS.successful
    assert np.all(lengths(coarse)[:-1] > 0.25 * (1 - 1e-13))
    assert coarse.stats["num_rejected_steps"] == 0
    exact = Y0 * np.exp(np.sin(np.array([1.0, 8.0]) * 3))
    assert np.max(np.abs(coarse.ys[np.isfinite(coarse.ts)][-1] - exact)) > 1e-4
    # Or it is an end.
    stopped = run(dtmin=0.25, force_dtmin=False)
    assert stopped.result == RESULTS.dt_min_reached
    # `norm` says what counts: here not the fast component.
    slow = lengths(run(norm=_first_only))
    assert 3 < len(slow) < len(plain) / 3


def test_steps_of_dtmin_are_accepted():
    """Also where `dtmin` is no multiple of a place of time."""
    solution = _with_arguments(dtmin=0.2)
    assert solution.result == RESULTS.successful
    np.testing.assert_allclose(lengths(solution), np.full(15, 0.2), rtol=1e-10)


def test_factormax_from_a_short_first_step():
    """It grows tenfold until the length is reached that the series asks for."""
    controller = TaylorController(1e-8, 1e-8)
    solution = solve(
        _cosine,
        6,
        jnp.asarray(Y0),
        3.0,
        controller,
        dt0=1e-7,
        args=1.0,
        saveat=STEPS,
        max_steps=64,
    )
    steps = lengths(solution)
    assert solution.result == RESULTS.successful
    np.testing.assert_allclose(steps[:5], 1e-7 * 10.0 ** np.arange(5), rtol=1e-5)
    np.testing.assert_allclose(
        solution.ys[len(steps)], Y0 * np.exp(np.sin(3.0)), rtol=1e-7
    )


# -- other controllers


def test_fixed_steps():
    """`StepTo` and `ConstantStepSize` take the steps they are told, and the same where
    these are the same."""
    ts = jnp.linspace(0.0, 3.0, 13)
    kwargs = dict(args=1.0, max_steps=16)
    by_times = solve(_cosine, 3, jnp.asarray(Y0), 3.0, diffrax.StepTo(ts), **kwargs)
    by_length = solve(
        _cosine, 3, jnp.asarray(Y0), 3.0, diffrax.ConstantStepSize(), dt0=0.25, **kwargs
    )
    np.testing.assert_array_equal(by_times.ys, by_length.ys)
    assert by_times.stats["num_steps"] == by_length.stats["num_steps"] == 12
    np.testing.assert_allclose(by_times.ys[0], Y0 * np.exp(np.sin(3.0)), rtol=1e-2)


@pytest.mark.sample(2)
@pytest.mark.parametrize("inner", [TaylorController, diffrax.PIDController])
def test_clipped_steps(inner):
    """`step_ts` are hit; behind a jump in `jump_ts` the series starts afresh. The length
    of the first step there was chosen before: it alone may be rejected."""
    controller = diffrax.ClipStepSizeController(
        inner(rtol=1e-9, atol=1e-9),
        step_ts=jnp.array([0.123, 0.7]),
        jump_ts=jnp.array([0.37]),
    )
    solution = solve(
        _broken, 6, 0.0, 1.0, controller, args=(0.37, 1.0), saveat=STEPS, max_steps=64
    )
    assert solution.result == RESULTS.successful
    assert solution.stats["num_rejected_steps"] <= 1
    for t in (0.123, 0.7):
        assert np.sum(solution.ts == t) == 1
    near = np.abs(solution.ts - 0.37) < 1e-15
    assert np.any(near)
    end = solution.ys[np.isfinite(solution.ts)][-1]
    np.testing.assert_allclose(end, _after(0.37, 1.0), rtol=1e-8)


# -- jumps and kinks


def _broken(t, y, args):
    """cos(t) from the first of `args` on, if the second is 1; or |t - args[0]|, if 0."""
    at, jump = args
    return (
        jump * jnp.where(t < at, 0.0, jnp.cos(t)) + (1 - jump) * jnp.abs(t - at) + 0 * y
    )


def _after(jump, t1):
    return np.sin(t1) - np.sin(jump)


CONTROLLERS = {
    "Taylor": TaylorController(1e-7, 1e-7),
    "PID": diffrax.PIDController(rtol=1e-7, atol=1e-7),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("order", [4, 10])
@pytest.mark.parametrize("name", CONTROLLERS)
def test_jumps_and_kinks_are_not_stepped_over(name, order):
    """The series before them knows nothing of them. The step that crosses one is
    accepted with ten tolerances at the most, of which the error is `K + 1` times as
    large: the estimate takes it for one that grows like the power `K + 1`."""
    for at in (0.37, 0.05, 0.9):
        for jump in (1.0, 0.0):
            solution = solve(
                _broken,
                order,
                0.0,
                1.0,
                CONTROLLERS[name],
                args=(at, jump),
                max_steps=256,
            )
            assert solution.result == RESULTS.successful
            exact = _after(at, 1.0) if jump else (at**2 + (1 - at) ** 2) / 2
            allowed = 1e-7 * (10 * (order + 1) + int(solution.stats["num_steps"]))
            assert abs(solution.ys[0] - exact) < allowed
            assert 1 <= solution.stats["num_rejected_steps"] < 100


# -- poles, tolerances that cannot be met, failures


def _square(t, y, args):
    return y**2


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "order, tols, most", [(20, [1e-12, 1e-18], 1e-10), (28, [1e-20], 1e-11)]
)
def test_close_to_a_pole(order, tols, most):
    """A hundredth of the way before it. Tolerances below rounding are none to reach;
    steps get shorter, but the solve ends and is accurate."""
    for tol in tols:
        solution = solve(_square, order, 3.0, 0.33, TaylorController(tol, tol))
        assert solution.result == RESULTS.successful
        np.testing.assert_allclose(solution.ys[0], 3 / (1 - 3 * 0.33), rtol=most)
        assert solution.stats["num_steps"] < 100
        assert solution.stats["num_rejected_steps"] == 0


def _failing(t, y, args):
    """y' = y² with NaN from `t = args` on."""
    return jnp.where(t < args, y**2, jnp.nan)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", CONTROLLERS)
def test_failures(name):
    """A pole, and a vector field that is NaN from some time on, or from the start. What
    cannot be gone past ends the solve: with `dtmin`, as soon as it is known; with
    `TaylorController`, at the latest when time stands still, and it says which of the
    two it was."""
    tols = dict(rtol=1e-7, atol=1e-7, force_dtmin=False)
    make = TaylorController if name == "Taylor" else diffrax.PIDController

    def run(nan, t1, dtmin):
        controller = make(dtmin=dtmin, **tols)
        return solve(_failing, 5, 3.0, t1, controller, args=nan, max_steps=2000)

    for nan, t1 in [(1.0, 0.4), (0.2, 0.3), (-1.0, 0.3)]:
        late, early = run(nan, t1, 0.0).result, run(nan, t1, 1e-6).result
        if name == "Taylor":
            why = RESULTS.dt_min_reached if nan == 1.0 else RESULTS.nonfinite
            assert late == early == why
        else:
            # Without a slope at the start a step of no length is accepted, and no success.
            why = RESULTS.nonfinite if nan == -1.0 else RESULTS.max_steps_reached
            assert late == why
            assert early == RESULTS.dt_min_reached
    fine = run(1.0, 0.3, 1e-6)
    assert fine.result == RESULTS.successful
    np.testing.assert_allclose(fine.ys[0], 30, rtol=1e-4)


# -- tolerances that are traced


def test_traced_tolerances():
    """Under `jit` and `vmap`: each lane is what a solve of its own is."""

    def run(rtol, atol):
        controller = TaylorController(rtol, atol)
        kwargs = dict(args=1.0, saveat=STEPS, max_steps=64)
        return solve(_cosine, 6, jnp.asarray(Y0), 3.0, controller, **kwargs)

    rtols, atols = jnp.array([1e-3, 1e-6, 1e-9]), jnp.array([1e-4, 1e-6, 0.0])
    lanes = jax.jit(jax.vmap(run))(rtols, atols)
    for k, tol in enumerate(rtols):
        one = run(rtols[k], atols[k])
        steps = int(one.stats["num_steps"])
        assert lanes.stats["num_steps"][k] == steps
        np.testing.assert_allclose(lanes.ys[k], one.ys, rtol=1e-13)
        error = np.max(np.abs(one.ys[steps] - Y0 * np.exp(np.sin(3.0))))
        assert 1e-3 * tol < error < 10 * tol
    assert np.all(np.diff(lanes.stats["num_steps"]) > 3)


# -- stiffness


def _relaxation(t, y, args):
    """y' = A (y - cos t)"""
    return args @ (y - jnp.cos(t))


def _stiff_solve(field, y0, t1, max_steps=280, **kwargs):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        TaylorSolver(4, warn_if_stiff=True),
        jnp.array(0.0),
        t1,
        None,
        y0,
        stepsize_controller=TaylorController(jnp.array(1e-6), jnp.array(1e-6)),
        max_steps=max_steps,
        throw=False,
        **kwargs,
    )


WARNS = dict(expected_warning=UserWarning, match="stiff.*implicit.*Kvaerno5")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "matrix",
    [[[-1000.0, 0], [0, -1000]], [[-600.0, 800], [-800, -600]]],
    ids=["real", "complex pair"],
)
def test_stiffness_is_told(matrix):
    with pytest.warns(**WARNS):
        solution = _stiff_solve(
            _relaxation, jnp.ones(2), jnp.array(100.0), args=jnp.asarray(matrix)
        )
        jax.effects_barrier()
    assert solution.result == RESULTS.max_steps_reached


def test_stiffness_of_van_der_pol():
    with pytest.warns(**WARNS):
        solution = _stiff_solve(
            _van_der_pol,
            jnp.array([2.0, 0.0]),
            jnp.array(100.0),
            args=jnp.array(1000.0),
        )
        jax.effects_barrier()
    assert solution.result == RESULTS.max_steps_reached


def test_many_steps_are_not_stiffness():
    """An oscillation, whose steps accuracy limits. Warnings are errors here."""
    matrix = jnp.array([[0.0, 10], [-10, 0]])
    solution = _stiff_solve(_relaxation, jnp.ones(2), jnp.array(100.0), args=matrix)
    jax.effects_barrier()
    assert solution.stats["num_accepted_steps"] > 256


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_stiffness_under_transformations(transform):
    def end(rate):
        # The solution stays at 1 + rate t / 1000, roughly.
        return _stiff_solve(_decay, jnp.array(1.0), jnp.array(100.0), args=rate).ys[0]

    with pytest.warns(**WARNS):
        if transform == "vmap":
            jax.jit(jax.vmap(end))(jnp.array([-1000.0, -0.1]))
        else:
            jax.jit(jax.grad(end))(jnp.array(-1000.0))
        jax.effects_barrier()


def _decay(t, y, args):
    return args * (y - jnp.cos(t))


# -- wrong inputs


def _exponential(t, y, args):
    return -y


def _with(solver=None, controller=None, term=None, y0=1.0, dt0=None, t1=1.0):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_exponential) if term is None else term,
        TaylorSolver(3) if solver is None else solver,
        0.0,
        t1,
        dt0,
        y0,
        stepsize_controller=TaylorController(1e-3, 1e-3)
        if controller is None
        else controller,
    )


class _Sine(diffrax.AbstractPath):
    """A control that is differentiable as often as one likes."""

    t0: float = 0.0
    t1: float = 3.0

    def evaluate(self, t0, t1=None, left=True):
        return jnp.sin(t0) if t1 is None else jnp.sin(t1) - jnp.sin(t0)

    def derivative(self, t, left=True):
        return jnp.cos(t)


CONTROL = diffrax.ControlTerm(lambda t, y, args: -y, _Sine())

WRONG = {
    "order 0": (lambda: TaylorSolver(0), ValueError, ["TaylorSolver", "`order`", "at least 1", "0"]),
    "order -3": (lambda: TaylorSolver(-3), ValueError, ["TaylorSolver", "`order`", "at least 1", "-3"]),
    "order 2.5": (lambda: TaylorSolver(2.5), TypeError, ["TaylorSolver", "`order`", "integer", "2.5"]),
    "order True": (lambda: TaylorSolver(True), TypeError, ["TaylorSolver", "`order`", "integer", "True"]),
    "order and rtol": (lambda: TaylorSolver(5, rtol=1e-6), ValueError, ["TaylorSolver", "not both", "order=5", "rtol=1e-06"]),
    "negative tolerance for the order": (lambda: TaylorSolver(rtol=-1e-6), ValueError, ["TaylorSolver", "`rtol`", "negative", "-1e-06"]),
    "NaN tolerance for the order": (lambda: TaylorSolver(atol=float("nan")), ValueError, ["TaylorSolver", "`atol`", "nan"]),
    "infinite tolerance for the order": (lambda: TaylorSolver(atol=float("inf")), ValueError, ["TaylorSolver", "`atol`", "finite", "inf"]),
    "zero tolerance for the order": (lambda: TaylorSolver(rtol=0.0), ValueError, ["TaylorSolver", "above zero"]),
    "string tolerance for the order": (lambda: TaylorSolver(rtol="1e-6"), TypeError, ["TaylorSolver", "`rtol`", "scalar", "'1e-6'"]),
    "traced tolerance for the order": (lambda: jax.jit(lambda r: jnp.array(TaylorSolver(rtol=r).taylor_order))(1e-6), TypeError, ["TaylorSolver", "`rtol`", "before tracing"]),
    "misspelt keyword": (lambda: TaylorSolver(compensate=True), TypeError, ["compensate"]),
    "negative tolerance": (lambda: TaylorController(-1e-6, 1e-6), ValueError, ["TaylorController", "`rtol`", "negative", "-1e-06"]),
    "NaN tolerance": (lambda: TaylorController(1e-6, float("nan")), ValueError, ["TaylorController", "`atol`", "nan"]),
    "zero tolerances": (lambda: TaylorController(0.0, 0.0), ValueError, ["TaylorController", "above zero"]),
    "zero tolerances as arrays": (lambda: TaylorController(jnp.array(0.0), jnp.array(0.0)), ValueError, ["TaylorController", "above zero"]),
    "string tolerance": (lambda: TaylorController("1e-6", 1e-6), TypeError, ["TaylorController", "`rtol`", "scalar", "'1e-6'"]),
    "tolerance by component": (lambda: TaylorController(1e-6, jnp.ones(2)), TypeError, ["TaylorController", "`atol`", "scalar", "(2,)"]),
    "misspelt keyword of the controller": (lambda: TaylorController(1e-6, 1e-6, dt_max=1.0), TypeError, ["dt_max"]),
    "Tsit5": (lambda: _with(diffrax.Tsit5()), TypeError, ["TaylorController", "Tsit5", "PIDController"]),
    "Tsit5 and dt0": (lambda: _with(diffrax.Tsit5(), dt0=0.1), TypeError, ["TaylorController", "Tsit5", "PIDController"]),
    "Tsit5, clipped": (
        lambda: _with(diffrax.Tsit5(), diffrax.ClipStepSizeController(TaylorController(1e-3, 1e-3), step_ts=[0.5])),
        TypeError,
        ["TaylorController", "Tsit5", "PIDController"],
    ),
    "HalfSolver": (lambda: _with(diffrax.HalfSolver(TaylorSolver(3))), TypeError, ["TaylorController", "TaylorSolver", "PIDController"]),
    "ControlTerm": (lambda: _with(term=CONTROL), ValueError, ["TaylorSolver", "ControlTerm", "to_ode()"]),
    "ControlTerm and dt0": (lambda: _with(term=CONTROL, dt0=0.1), ValueError, ["TaylorSolver", "ControlTerm", "to_ode()"]),
    "ControlTerm within MultiTerm": (lambda: _with(term=diffrax.MultiTerm(diffrax.ODETerm(_exponential), CONTROL)), ValueError, ["TaylorSolver", "ControlTerm", "to_ode()"]),
    "integer state": (
        lambda: TaylorSolver(3).init(diffrax.ODETerm(_exponential), 0.0, 1.0, dict(a=1.0, n=jnp.array(1)), None),
        TypeError,
        ["TaylorSolver", "y0['n']", "int"],
    ),
    "dt0 of the wrong sign": (lambda: _with(dt0=-0.1), (ValueError, RuntimeError), ["dt0", "-0.1"]),
    "dt0 of the wrong sign, backwards": (lambda: _with(dt0=0.1, t1=-1.0), (ValueError, RuntimeError), ["dt0", "0.1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("without_types")
def test_wrong_inputs(name):
    """One message, which names the argument, shows what was given and says what to do."""
    wrong, kind, words = WRONG[name]
    with pytest.raises(kind) as info:
        wrong()
    message = str(info.value)
    for word in words:
        assert word in message, message


def test_control_term_as_an_ode():
    """The remedy in the message: `dy = -y d(sin t)`, whose solution is `exp(-sin t)`."""
    solution = diffrax.diffeqsolve(
        CONTROL.to_ode(),
        TaylorSolver(6),
        0.0,
        2.5,
        None,
        1.0,
        stepsize_controller=TaylorController(1e-9, 1e-9),
        throw=False,
    )
    assert solution.result == RESULTS.successful
    np.testing.assert_allclose(solution.ys[0], np.exp(-np.sin(2.5)), rtol=5e-8)


@pytest.mark.sample(3)
@pytest.mark.parametrize("y0", [(1.0, 0.0), (0.0, 0.0)], ids=["moving", "at rest"])
@pytest.mark.parametrize("t1", [1e3, 1e12])
def test_first_step_of_a_long_solve_in_float32(y0, t1):
    """A unit of time as long as the solve has coefficients that overflow, or the squares
    of which do."""

    def oscillator(t, y, args):
        return jnp.stack([y[1], jnp.cos(t) - jnp.float32(900.0) * y[0]])

    y0 = jnp.array(y0, jnp.float32)
    solution = solve(
        oscillator,
        8,
        y0,
        jnp.float32(t1),
        TaylorController(rtol=1e-6, atol=1e-6),
        t0=jnp.float32(0.0),
        saveat=STEPS,
        max_steps=8,
    )
    assert solution.result == RESULTS.max_steps_reached
    short = solve(
        oscillator,
        8,
        y0,
        jnp.float32(1.0),
        TaylorController(rtol=1e-6, atol=1e-6),
        t0=jnp.float32(0.0),
        saveat=STEPS,
        max_steps=8,
    )
    np.testing.assert_allclose(lengths(solution), lengths(short), rtol=1e-4)
