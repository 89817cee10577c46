"""Integrals along solutions, compared with those of nested `jvp` and closed forms."""

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import assert_raises, nested_ode_jet

from eqx_taylor import (
    AbstractRegularizer,
    GaussLegendre,
    JacobianFrobenius,
    KineticEnergy,
    regularized,
    regularized_rms_seminorm,
    SolutionDerivative,
    TaylorController,
    TaylorSolver,
)


ORDERS = range(1, 6)
POINTS = GaussLegendre(0.0, 1.0, num_points=20)


class Field(eqx.Module):
    """Of a PyTree; with parameters, and what is no parameter."""

    mlp: eqx.nn.MLP
    drive: float = eqx.field(static=True)

    def __call__(self, t, y, args):
        x = jnp.append(y["x"], jnp.sin(self.drive * t))
        out = self.mlp(jnp.concatenate([x, y["v"]])) * (1 if args is None else args)
        return {"x": out[:2] - 0.3 * y["x"], "v": out[2:]}


def make_field(drive):
    mlp = eqx.nn.MLP(4, 3, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    return Field(mlp, drive)


Y0 = {"x": np.array([1.0, -0.5]), "v": np.array([0.3])}


def solve(term, y0, solver=None, saveat=None, controller=None, args=None, **kwargs):
    return diffrax.diffeqsolve(
        term,
        diffrax.Dopri8() if solver is None else solver,
        kwargs.pop("t0", 0.0),
        kwargs.pop("t1", 1.0),
        kwargs.pop("dt0", 1 / 32 if controller is None else None),
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        **({} if controller is None else dict(stepsize_controller=controller)),
        **kwargs,
    )


def integrals_of_nested_jvp(field, y0, args):
    """Of all `ORDERS`, with rates by `jvp` of `jvp`, and by a rule of quadrature."""
    saveat = diffrax.SaveAt(ts=POINTS.ts)
    controller = diffrax.PIDController(rtol=1e-13, atol=1e-13)
    ys = solve(
        diffrax.ODETerm(field), y0, saveat=saveat, controller=controller, args=args
    ).ys

    def rates(t, y):
        _, *terms = nested_ode_jet(field, t, y, args, max(ORDERS))
        return jnp.stack(
            [
                (math.factorial(k) ** 2 / 3)
                * sum(jnp.sum(leaf**2) for leaf in jtu.tree_leaves(term))
                for k, term in enumerate(terms, 1)
            ]
        )

    return POINTS.weights @ jax.lax.map(lambda at: rates(*at), (POINTS.ts, ys))


@pytest.mark.slow
@pytest.mark.parametrize("drive", [0.0, 2.0], ids=["autonomous", "driven"])
def test_nested_jvp(drive):
    """Values to 1e-10 and gradients to 1e-8, as a state and by quadrature."""
    field, y0, args = make_field(drive), jtu.tree_map(jnp.asarray, Y0), jnp.array(0.9)
    regularizers = [SolutionDerivative(k) for k in ORDERS]

    def as_states(field, y0):
        start = y0, [0.0] * len(regularizers)
        term = regularized(field, regularizers)
        return jnp.concatenate(solve(term, start, args=args).ys[1])

    def by_quadrature(field, y0):
        saveat = diffrax.SaveAt(ts=POINTS.ts)
        ys = solve(diffrax.ODETerm(field), y0, saveat=saveat, args=args).ys
        return jnp.stack(POINTS.integrate(field, ys, args, regularizers))

    def of_nested_jvp(field, y0):
        return integrals_of_nested_jvp(field, y0, args)

    def value_and_jacobian(fun):
        dynamic, static = eqx.partition((field, y0), eqx.is_inexact_array)

        def of_arrays(dynamic):
            out = fun(*eqx.combine(dynamic, static))
            return out, out

        return jax.jit(jax.jacrev(of_arrays, has_aux=True))(dynamic)

    expected_rows, expected = value_and_jacobian(of_nested_jvp)
    scale = np.asarray(expected)
    assert np.all(scale > 1e-7)
    for fun in (as_states, by_quadrature):
        rows, values = value_and_jacobian(fun)
        np.testing.assert_allclose(values, expected, rtol=1e-10)
        for a, e in zip(jtu.tree_leaves(rows), jtu.tree_leaves(expected_rows)):
            largest = np.max(np.abs(e).reshape(len(ORDERS), -1), axis=1)
            size = np.maximum(largest, scale).reshape(-1, *[1] * (e.ndim - 1))
            np.testing.assert_allclose((a - e) / size, 0, atol=1e-8)


@pytest.mark.sample(3)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_closed_forms(order):
    """`exp(-t)`; and `sin t` by time alone, whose derivatives in `y` are all zero."""
    fall = solve(regularized(lambda t, y, args: -y, order=order), (jnp.array(1.0), 0.0))
    np.testing.assert_allclose(fall.ys[1], (1 - np.exp(-2)) / 2, rtol=1e-13)
    time = solve(
        regularized(lambda t, y, args: jnp.cos(t)[None], order=order),
        (jnp.zeros(1), 0.0),
    )
    sign = 1 if order % 2 == 1 else -1
    np.testing.assert_allclose(time.ys[1], 0.5 + sign * np.sin(2) / 4, rtol=1e-13)
    # In the other direction the integral is negative.
    back = solve(
        regularized(lambda t, y, args: -y, order=order),
        (jnp.exp(-1.0), 0.0),
        t0=1.0,
        t1=0.0,
        dt0=-1 / 32,
    )
    np.testing.assert_allclose(back.ys[1], -(1 - np.exp(-2)) / 2, rtol=1e-13)


# -- Diffrax


ADJOINTS = {
    "checkpoints": diffrax.RecursiveCheckpointAdjoint(),
    "direct": diffrax.DirectAdjoint(),
    "backsolve": diffrax.BacksolveAdjoint(
        solver=diffrax.Dopri8(),
        stepsize_controller=diffrax.PIDController(
            rtol=1e-10, atol=1e-10, norm=diffrax.adjoint_rms_seminorm
        ),
    ),
    "forward": diffrax.ForwardMode(),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_adjoints(adjoint):
    """Gradients by a parameter in the term, of `exp(-a t)`: `R_2 = a³ (1 - exp(-2a)) / 2`."""

    class Decay(eqx.Module):
        rate: Any

        def __call__(self, t, y, args):
            return -self.rate * y

    def integral(a):
        term = regularized(diffrax.ODETerm(Decay(a)), order=2)
        start = jnp.ones(2), jnp.array(0.0)
        controller = diffrax.PIDController(
            rtol=1e-10, atol=1e-10, norm=regularized_rms_seminorm
        )
        return solve(term, start, controller=controller, adjoint=ADJOINTS[adjoint]).ys[
            1
        ][0]

    a = jnp.array(1.3)
    derivative = jax.jacfwd if adjoint == "forward" else jax.grad
    e = np.exp(-2.6)
    expected = 3 * 1.69 * (1 - e) / 2 + 1.3**3 * e
    np.testing.assert_allclose(jax.jit(derivative(integral))(a), expected, rtol=1e-7)


SOLVERS = {
    "Euler": (diffrax.Euler(), None, 0.2),
    "Tsit5": (diffrax.Tsit5(), None, 1e-8),
    "Kvaerno3": (diffrax.Kvaerno3(), diffrax.PIDController(1e-6, 1e-8), 1e-4),
    "Taylor": (TaylorSolver(order=8), TaylorController(1e-9, 1e-9), 1e-7),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name):
    solver, controller, allowed = SOLVERS[name]

    @jax.jit
    @jax.vmap
    def integral(y0):
        term = regularized(lambda t, y, args: {"y": -(y["y"] ** 2)}, order=3)
        return solve(term, ({"y": y0}, 0.0), solver, controller=controller).ys

    y0 = jnp.array([0.5, 1.0])
    _, r = integral(y0)
    # y = y0 / (1 + y0 t), y''' = -6 y^4; the integral of 36 y0^8 / (1 + y0 t)^8.
    expected = 36 / 7 * y0**7 * (1 - (1 + y0) ** -7.0)
    np.testing.assert_allclose(r[:, 0], expected, rtol=allowed)


def test_steps_are_those_without():
    """With the seminorm. Without it the integral is solved as accurately as the state,
    and where it is much rougher than that, in more steps."""

    def field(t, y, args):
        return jnp.stack([y[1], -y[0]]) + 1e-3 * jnp.sin(20 * t)

    y0 = jnp.array([1.0, 0.0])

    def steps(term, y0, **kwargs):
        controller = diffrax.PIDController(rtol=1e-6, atol=1e-6, **kwargs)
        solution = solve(
            term, y0, diffrax.Tsit5(), controller=controller, max_steps=4096
        )
        y1 = solution.ys if isinstance(y0, jax.Array) else solution.ys[0]
        return int(solution.stats["num_steps"]), y1

    term = regularized(field, order=4)
    plain, y1 = steps(diffrax.ODETerm(field), y0)
    seminorm, same_y1 = steps(term, (y0, 0.0), norm=regularized_rms_seminorm)
    full, _ = steps(term, (y0, 0.0))
    assert plain == seminorm < full
    np.testing.assert_allclose(y1, same_y1, rtol=1e-12)


def test_terms():
    """A sum of terms, and a control that was converted to one."""
    ts = jnp.linspace(0.0, 1.0, 5)
    control = diffrax.CubicInterpolation(
        ts, diffrax.backward_hermite_coefficients(ts, jnp.sin(ts))
    )

    def scaled(t, y, args):
        return -y

    term = diffrax.ControlTerm(scaled, control).to_ode()
    both = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: jnp.cos(y)), term)

    def field(t, y, args):
        return jnp.cos(y) - y * control.derivative(t)

    t, y = jnp.array(0.3), jnp.array(0.4)
    _, *terms = nested_ode_jet(field, t, y, None, 3)
    slope, rate = regularized(both, order=3).vf(t, (y, jnp.array(0.0)), None)
    np.testing.assert_allclose(slope, terms[0], rtol=1e-14)
    np.testing.assert_allclose(rate, (6 * terms[2]) ** 2, rtol=1e-12)


# -- the other rates


def jacobian(field, t, y):
    return np.asarray(jax.jacfwd(lambda y: field(t, y, None))(y))


@pytest.mark.slow
def test_rnode():
    """Kinetic energy and Jacobian; of a state that is a batch, too."""

    def field(t, y, args):
        return jnp.tanh(y @ jnp.array([[1.0, 2.0], [-0.5, 0.3]])) + t

    t, y = jnp.array(0.2), jnp.array([[0.1, 0.4], [0.2, -0.7], [1.0, 0.3]])
    exact = np.sum(jacobian(field, t, y) ** 2) / y.size
    term = regularized(
        field, dict(kinetic=KineticEnergy(), frobenius=JacobianFrobenius())
    )
    start = dict(kinetic=jnp.array(0.0), frobenius=jnp.array(0.0))
    slope, rates = term.vf(t, (y, start), None)
    np.testing.assert_array_equal(slope, field(t, y, None))
    np.testing.assert_allclose(rates["kinetic"], np.mean(slope**2), rtol=1e-15)
    np.testing.assert_allclose(rates["frobenius"], exact, rtol=1e-14)

    @jax.jit
    @jax.vmap
    def estimate(key):
        term = regularized(field, JacobianFrobenius(key))
        return term.vf(t, (y, jnp.array(0.0)), None)[1]

    samples = np.asarray(estimate(jax.random.split(jax.random.key(0), 4000)))
    assert abs(samples.mean() - exact) < 3 * samples.std() / np.sqrt(len(samples))
    assert samples.std() > 0


def test_one_vector_of_signs_for_the_whole_solution():
    """An adaptive solver needs a rate that is the same function all the time."""
    key = jax.random.key(3)
    matrix = jnp.array([[1.0, 2.0], [-3.0, 0.5]])
    term = regularized(lambda t, y, args: matrix @ y, JacobianFrobenius(key))
    r = solve(term, (jnp.ones(2), 0.0)).ys[1]
    signs = np.asarray(jax.random.rademacher(key, (2,), float))
    np.testing.assert_allclose(r, np.mean((matrix @ signs) ** 2), rtol=1e-13)


def test_rate_of_ones_own():
    class Work(AbstractRegularizer):
        order: int = eqx.field(default=2, init=False, static=True)

        def rate(self, term, t, y, args, derivatives):
            velocity, acceleration, *_ = derivatives
            return jnp.sum(velocity * acceleration)

    # Of exp(-t): the integral of -exp(-2t).
    r = solve(regularized(lambda t, y, args: -y, Work()), (jnp.array(1.0), 0.0)).ys[1]
    np.testing.assert_allclose(r, -(1 - np.exp(-2)) / 2, rtol=1e-13)


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex128])
def test_dtypes(dtype):
    t, y = jnp.array(0.5, jnp.float32), jnp.array([1.0, 2.0], dtype)
    factor = jnp.array(-1.0 if dtype == jnp.float32 else 1j, dtype)
    # The state is (y, r) of other dtypes, each of which is kept.
    r = jnp.array(0.0, jnp.float32 if dtype == jnp.float32 else jnp.float64)
    slope, rate = regularized(lambda t, y, args: factor * y, order=3).vf(
        t, (y, r), None
    )
    assert slope.dtype == dtype and rate.dtype == r.dtype
    np.testing.assert_allclose(rate, 2.5, rtol=1e-6)


@pytest.mark.slow
def test_high_orders():
    """Factorials that no integer of 32 or 64 bits holds."""
    t, y = jnp.array(0.5, jnp.float32), jnp.ones(2, jnp.float32)
    for order in (13, 21):
        term = regularized(lambda t, y, args: -y, order=order)
        _, rate = term.vf(t, (y, jnp.array(0.0, jnp.float32)), None)
        np.testing.assert_allclose(rate, 1, rtol=1e-5)


def test_rates_that_are_numbers():
    """Of no floating-point type: they are not rounded to integers on the way."""

    class Count(AbstractRegularizer):
        order: int = eqx.field(default=0, init=False, static=True)

        def rate(self, term, t, y, args, derivatives):
            return jnp.sum(y > 0)

    class Nothing(Count):
        def rate(self, term, t, y, args, derivatives):
            return 0.5

    regularizers = [Count(), Nothing()]
    rule = GaussLegendre(0.0, 1.0, 3)
    y = jnp.array([1.0, -1.0, 2.0])
    integrals = rule.integrate(_field, jnp.stack([y] * 3), regularizer=regularizers)
    np.testing.assert_allclose(integrals, [2, 0.5], rtol=1e-14)
    zeros = [jnp.array(0.0)] * 2
    _, rates = regularized(_field, regularizers).vf(jnp.array(0.0), (y, zeros), None)
    np.testing.assert_array_equal(rates, [2, 0.5])


def test_nothing_to_regularise():
    """A state without numbers has a rate of zero, not 0 / 0."""
    term = regularized(lambda t, y, args: y, order=2)
    _, rate = term.vf(jnp.array(0.0), (jnp.zeros(0), jnp.array(0.0)), None)
    assert rate == 0


# -- quadrature


def test_quadrature_is_exact():
    """For polynomials of degree 7 with 4 points, and no higher: `y = t^5 / 5` has
    `y'' = 4 t³`, and its square is of degree 6."""
    rule = GaussLegendre(0.5, 2.0, 4)
    np.testing.assert_allclose(jnp.sum(rule.weights), 1.5, rtol=1e-15)
    np.testing.assert_allclose(
        rule.weights @ rule.ts**7, (2**8 - 0.5**8) / 8, rtol=1e-14
    )
    assert abs(rule.weights @ rule.ts**8 - (2**9 - 0.5**9) / 9) > 1e-4
    integral = rule.integrate(lambda t, y, args: t**4, rule.ts**5 / 5, order=2)
    np.testing.assert_allclose(integral, 16 * (2**7 - 0.5**7) / 7, rtol=1e-14)
    # From right to left.
    back = GaussLegendre(2.0, 0.5, 4)
    np.testing.assert_allclose(back.ts, rule.ts[::-1], rtol=1e-15)
    np.testing.assert_allclose(
        back.integrate(lambda t, y, args: t**4, back.ts**5 / 5, order=2),
        -integral,
        rtol=1e-14,
    )
    assert GaussLegendre(jnp.float32(0), jnp.float32(1), 3).ts.dtype == jnp.float32


# -- bad input


def _control():
    path = diffrax.LinearInterpolation(jnp.arange(3.0), jnp.arange(3.0))
    return diffrax.ControlTerm(lambda t, y, args: y, path)


def _field(t, y, args):
    return -y


def _started(start, regularizer=SolutionDerivative(2)):
    return lambda: solve(regularized(_field, regularizer), start)


_Y = np.ones(2)


class _Rate(AbstractRegularizer):
    value: Any
    order: int = eqx.field(default=1, init=False, static=True)

    def rate(self, term, t, y, args, derivatives):
        return self.value


def _rated(value):
    term = regularized(_field, _Rate(value))
    return lambda: term.vf(jnp.array(0.0), (jnp.ones(2), jnp.array(0.0)), None)


def _branching(t, y, args):
    return y if y[0] > 0 else -y


REFUSED = {
    "order 0": (lambda: regularized(_field, order=0), ValueError, ["order", "got 0"]),
    "order of SolutionDerivative": (lambda: SolutionDerivative(-1), ValueError, ["-1"]),
    "order 1.5": (lambda: regularized(_field, order=1.5), TypeError, ["1.5"]),
    "no order": (lambda: regularized(_field), ValueError, ["either `order`"]),
    "both": (
        lambda: regularized(_field, KineticEnergy(), order=2),
        ValueError,
        ["either `order`", "KineticEnergy()"],
    ),
    "order as regularizer": (lambda: regularized(_field, 3), TypeError, ["`order=`"]),
    "class": (
        lambda: regularized(_field, KineticEnergy),
        TypeError,
        ["KineticEnergy()"],
    ),
    "nothing": (lambda: regularized(_field, []), TypeError, ["got []"]),
    "no field": (lambda: regularized(3, order=2), TypeError, ["vector_field"]),
    "field of two": (
        lambda: regularized(lambda t, y: y, order=2),
        TypeError,
        ["f(t, y, args)"],
    ),
    "control": (lambda: regularized(_control(), order=2), ValueError, ["to_ode()"]),
    "no pair": (_started(_Y), ValueError, ["(y0, 0.0)"]),
    "other structure": (_started((_Y, [0.0])), ValueError, ["start it from 0.0"]),
    "two regularizers": (
        _started((_Y, 0.0), [KineticEnergy(), KineticEnergy()]),
        ValueError,
        ["start it from [0.0, 0.0]"],
    ),
    "no scalar": (_started((_Y, np.zeros(2))), ValueError, ["real scalars", "(2,)"]),
    "integers": (
        lambda: regularized(_field, order=2).vf(0.0, (np.arange(2), 0.0), None),
        TypeError,
        ["floating-point", "int64"],
    ),
    "field of another structure": (
        lambda: solve(regularized(lambda t, y, args: (y, y), order=2), (_Y, 0.0)),
        ValueError,
        ["structure of `y0`"],
    ),
    "term of another structure": (
        lambda: solve(
            regularized(diffrax.ODETerm(lambda t, y, args: (y, y)), order=2), (_Y, 0.0)
        ),
        ValueError,
        ["structure of `y0`"],
    ),
    "complex Jacobian": (
        lambda: regularized(_field, JacobianFrobenius()).vf(
            jnp.array(0.0), (jnp.ones(2, complex), jnp.array(0.0)), None
        ),
        TypeError,
        ["must be real", "complex128"],
    ),
    "rate of two": (_rated(jnp.ones(2)), TypeError, ["_Rate", "scalar", "(2,)"]),
    "complex rate": (_rated(jnp.array(1j)), TypeError, ["_Rate", "real"]),
    "list": (_started([_Y, 0.0]), ValueError, ["(y0, 0.0)"]),
    "branch": (
        lambda: solve(regularized(_branching, order=2), (_Y, 0.0)),
        TypeError,
        ["regularized: the Python code of the vector field"],
    ),
    "no key": (
        lambda: regularized(_field, JacobianFrobenius(3)).vf(
            jnp.array(0.0), (jnp.ones(2), jnp.array(0.0)), None
        ),
        TypeError,
        ["JacobianFrobenius: `key`", "jax.random.key", "3"],
    ),
    "complex time": (lambda: GaussLegendre(0.0, 1j, 3), TypeError, ["`t1`", "real"]),
    "seminorm": (lambda: regularized_rms_seminorm(_Y), TypeError, ["pair"]),
    "no points": (lambda: GaussLegendre(0.0, 1.0, 0), ValueError, ["num_points"]),
    "array of times": (lambda: GaussLegendre(_Y, 1.0, 3), TypeError, ["`t0`", "(2,)"]),
    "other points": (
        lambda: GaussLegendre(0.0, 1.0, 3).integrate(_field, _Y, order=2),
        ValueError,
        ["3 points", "(2,)", "SaveAt"],
    ),
}


@pytest.mark.usefixtures("without_types")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    assert_raises(call, kind, words)


def test_float32_stays_what_it_is():
    """Under x64, too: what is added to a loss in float32 must not widen it."""
    quadrature = GaussLegendre(jnp.float32(0), jnp.float32(1), num_points=2)
    ys = jnp.ones((2, 3), jnp.float32)
    r = quadrature.integrate(lambda t, y, args: -y, ys, order=2)
    assert r.dtype == jnp.float32
    assert abs(float(r) - 1.0) < 1e-6
