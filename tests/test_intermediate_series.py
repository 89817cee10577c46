"""Rules with series of their own, which nobody has registered: right wherever their
function stands, also where a coefficient is supposed first, and taken back."""

import contextlib
import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    count_equations,
    derivatives,
    nested_ode_jet,
)
from jax import lax

import eqx_taylor
from eqx_taylor import rules


def _with_rule(fun, rule):
    """A linear function with this rule, and the same function without."""
    own = jax.custom_jvp(fun)
    own.defjvp(lambda primals, tangents: (own(*primals), own(*tangents)))
    rules.register(own)(rule)
    return own, fun


def _of_each(fun, x):
    return lambda k: None if x[k] is None else fun(x[k])


# -- the functions: all linear, of vectors of two entries or more


def _mix(x):
    return 2 * x + 0.5 * jnp.flip(x, -1)


def _twice_rule(walk, eqn, inputs):
    [x] = inputs
    aval = eqn.outvars[0].aval
    inner = rules.Series(aval, x.support, _of_each(_mix, x))
    return [rules.Series(aval, x.support, _of_each(_mix, inner))]


# Three of them, of other shapes and dtypes than the output.
def _smooth(x):
    n = x.shape[-1]
    spectrum = jnp.fft.rfft(x)
    weights = jnp.asarray(1 / (1 + np.arange(n // 2 + 1)), x.dtype)
    return jnp.fft.irfft(spectrum * weights.astype(spectrum.dtype), n) + 0.5 * x


def _smooth_rule(walk, eqn, inputs):
    [x] = inputs
    n, aval = x.aval.shape[-1], eqn.outvars[0].aval
    other = jax.eval_shape(jnp.fft.rfft, jax.ShapeDtypeStruct(aval.shape, aval.dtype))
    weights = jnp.asarray(1 / (1 + np.arange(n // 2 + 1)), other.dtype)
    spectrum = rules.Series(other, x.support, _of_each(jnp.fft.rfft, x))
    weighted = rules.Series(other, x.support, _of_each(lambda z: z * weights, spectrum))
    back = rules.Series(
        aval, x.support, _of_each(lambda z: jnp.fft.irfft(z, n), weighted)
    )

    def compute(k):
        return rules.add(back[k], rules.scale(x[k], 0.5))

    return [rules.Series(aval, x.support, compute)]


# Constructed when a coefficient is computed.
def _lazy_rule(walk, eqn, inputs):
    [x] = inputs
    aval = eqn.outvars[0].aval

    @ft.cache
    def inner():
        return rules.Series(aval, x.support, _of_each(_mix, x))

    def compute(k):
        if k == 0:
            return rules.bind(eqn, [x[0]])[0]
        return None if inner()[k] is None else _mix(inner()[k])

    return [rules.Series(aval, x.support, compute)]


# One order ahead of the output: y' = mix(x').
def _slope_rule(walk, eqn, inputs):
    [x] = inputs
    aval = eqn.outvars[0].aval
    slope = rules.Series(aval, x.support >> 1, _of_each(_mix, x.derivative))
    again = rules.Series(aval, x.support >> 1, lambda k: slope[k])

    def compute(k):
        if k == 0:
            return rules.bind(eqn, [x[0]])[0]
        return rules.scale(again[k - 1], 1 / k)

    return [rules.Series(aval, x.support | 1, compute)]


# By way of the slope of a series of its own.
def _slope_of_own_rule(walk, eqn, inputs):
    [x] = inputs
    aval = eqn.outvars[0].aval
    mixed = rules.Series(aval, x.support, _of_each(_mix, x))

    def compute(k):
        return mixed[0] if k == 0 else rules.scale(mixed.derivative[k - 1], 1 / k)

    return [rules.Series(aval, x.support | 1, compute)]


FUNCTIONS = {
    "twice": _with_rule(lambda x: _mix(_mix(x)), _twice_rule),
    "smooth": _with_rule(_smooth, _smooth_rule),
    "lazy": _with_rule(lambda x: _mix(_mix(x)), _lazy_rule),
    "slope": _with_rule(_mix, _slope_rule),
    "slope of its own": _with_rule(_mix, _slope_of_own_rule),
}
B = np.array([1.0, -1.0])


# -- where they stand: functions of `linear` and of a number


def _cramer(matvec, b):
    (a, c), (d, e) = (matvec(unit) for unit in jnp.eye(2, dtype=b.dtype))
    return jnp.stack([e * b[0] - d * b[1], a * b[1] - c * b[0]]) / (a * e - c * d)


def _solution(matvec, b, transpose_solve=_cramer):
    return lax.custom_linear_solve(matvec, b, _cramer, transpose_solve)


def _system(linear, p):
    return _solution(lambda x: p * linear(x), jnp.asarray(B, jnp.result_type(p)))


def _moving_right_hand_side(linear, p):
    b = jnp.stack([jnp.sin(p), p * p])
    return _solution(lambda x: jnp.exp(p) * linear(x) + p * x, b)


def _twice_in_a_matvec(linear, p):
    return _solution(lambda x: linear(p * linear(x)), jnp.asarray(B))


def _scan_in_a_matvec(linear, p):
    def matvec(x):
        return lax.scan(lambda x, q: (q * linear(x), None), x, jnp.stack([p, 2 * p]))[0]

    return _solution(matvec, jnp.asarray(B))


def _while_in_a_matvec(linear, p):
    def matvec(x):
        def turn(carry):
            n, x = carry
            return n + 1, p * linear(x)

        return lax.while_loop(lambda carry: carry[0] < 2, turn, (0, x))[1]

    return _solution(matvec, jnp.asarray(B), None)


def _branch_in_a_matvec(linear, p):
    def matvec(x):
        return lax.cond(p > 0, lambda x: p * linear(x), lambda x: x, x)

    return _solution(matvec, jnp.asarray(B))


def _scan_of_a_branch_in_a_matvec(linear, p):
    def matvec(x):
        def turn(x, q):
            return lax.cond(q > 0, lambda x: q * linear(x), lambda x: x, x), None

        return lax.scan(turn, x, jnp.stack([p, -p, 2 * p]))[0]

    return _solution(matvec, jnp.asarray(B))


def _checkpoint_in_a_matvec(linear, p):
    return _solution(jax.checkpoint(lambda x: p * linear(x)), jnp.asarray(B))


def _call_in_a_matvec(linear, p):
    return _solution(jax.jit(lambda x: p * linear(x)), jnp.asarray(B))


def _solve_in_a_matvec(linear, p):
    def matvec(x):
        return p * linear(x) + _solution(lambda y: p * p * linear(y), x)

    return _solution(matvec, jnp.asarray(B))


def _lineax(linear, p):
    def matvec(x):
        return jnp.exp(p) * linear(x)

    operator = lx.FunctionLinearOperator(matvec, jax.ShapeDtypeStruct((2,), float))
    return lx.linear_solve(operator, jnp.asarray(B), lx.LU()).value


def _root(linear, p):
    def residual(x):
        return p * linear(x) - B + jnp.sin(p) * x

    def solve(f, x):
        # The residual is linear, but for a constant.
        return _cramer(lambda y: f(y) - f(x), -f(x))

    return lax.custom_root(residual, jnp.zeros(2), solve, _cramer)


def _loop_of_systems(linear, p):
    def turn(x, q):
        return _solution(lambda y: q * linear(y) + y, x), None

    return lax.scan(turn, jnp.asarray(B) * p, jnp.stack([p, p * p]))[0]


def _branch(linear, p):
    return lax.cond(p > 0, lambda x: p * linear(x), lambda x: x, jnp.sin(p) * B)


CONTEXTS = [
    _system,
    _moving_right_hand_side,
    _twice_in_a_matvec,
    _scan_in_a_matvec,
    _while_in_a_matvec,
    _branch_in_a_matvec,
    _scan_of_a_branch_in_a_matvec,
    _checkpoint_in_a_matvec,
    _call_in_a_matvec,
    _solve_in_a_matvec,
    _lineax,
    _root,
    _loop_of_systems,
    _branch,
]


def test_closed_form():
    """`twice` multiplies (1, -1) by 9/4, so that x = 4 b / (9 p)."""
    p, (twice, _) = 0.7, FUNCTIONS["twice"]

    def solve(p):
        return _system(twice, p)

    k = np.arange(6)
    factorials = np.array([1, 1, 2, 6, 24, 120])
    exact = factorials * (-1.0) ** k / (2.25 * p ** (k + 1))
    exact = exact[:, None] * B
    assert_close(np.round(exact[2:, 0], 2), np.array([2.59, -11.11, 63.47, -453.33]))

    def all_derivatives(p):
        return eqx_taylor.derivatives(solve, p, 5)

    assert_close(all_derivatives(p), exact)
    assert_close(jax.jit(all_derivatives)(p), exact)
    points = jnp.array([p, 0.9])
    assert_close(jax.vmap(all_derivatives)(points)[0], exact)
    # The gradient of a derivative is the next one.
    slope = jax.jacrev(lambda p: all_derivatives(p)[:5])(p)
    assert_close(slope, exact[1:])
    # In a narrower type.
    found = all_derivatives(np.float32(p))
    assert found.dtype == np.float32
    assert_close(found, exact.astype(np.float32), ulps=100)


def _names(context):
    """All functions where it matters how a coefficient is taken back; else some."""
    every = context in (_system, _scan_in_a_matvec, _solve_in_a_matvec)
    return list(FUNCTIONS) if every else ["smooth", "slope"]


@pytest.mark.sample(5)
@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.__name__[1:])
def test_in_a_jet(context):
    p, order, names = jnp.array(0.7), 3, _names(context)

    def of_all(which):
        return lambda p: [context(FUNCTIONS[name][which], p) for name in names]

    expected = jax.jit(derivatives(of_all(1), order))(p)
    actual = jax.jit(lambda p: eqx_taylor.derivatives(of_all(0), p, order))(p)
    for name, a, *e in zip(names, actual, *expected, strict=True):
        with _told(name):
            assert_orders_close(list(a), e, ulps=200)


@contextlib.contextmanager
def _told(name):
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


FIELDS = [_system, _scan_in_a_matvec, _scan_of_a_branch_in_a_matvec, _loop_of_systems]


@pytest.mark.sample(4)
@pytest.mark.parametrize("context", FIELDS, ids=lambda context: context.__name__[1:])
def test_in_a_vector_field(context):
    names = ["smooth", "slope"]

    def of_all(which):
        def field(t, y, args):
            slopes = [
                context(FUNCTIONS[name][which], 1 + y_i[0] * y_i[1]) + y_i
                for name, y_i in zip(names, y)
            ]
            return jnp.stack(slopes)

        return field

    y = jnp.array([[0.6, -0.4]] * len(names))
    expected = nested_ode_jet(of_all(1), jnp.array(0.0), y, None, 3)
    actual = jax.jit(lambda y: eqx_taylor.ode_jet(of_all(0), 0.0, y, order=3))(y)
    for i, name in enumerate(names):
        with _told(name):
            assert_orders_close(
                list(actual[:, i]), [term[i] for term in expected], ulps=200
            )


@pytest.mark.slow
def test_gradient_and_vmap_of_a_vector_field():
    def total(which, y):
        linear = FUNCTIONS["smooth"][which]

        def field(t, y, args):
            return _scan_in_a_matvec(linear, 1 + y[0] * y[1]) + y

        if which == 0:
            terms = eqx_taylor.ode_jet(field, 0.0, y, order=3)
        else:
            terms = nested_ode_jet(field, jnp.array(0.0), y, None, 3)
        return jnp.sum(terms[3] ** 2)

    ys = jnp.array([[0.6, -0.4], [0.2, 0.3]])
    actual, expected = (
        jax.jit(jax.vmap(jax.grad(ft.partial(total, which))))(ys) for which in (0, 1)
    )
    assert_close(actual, expected, ulps=1000)


def test_what_is_computed_stays_computed():
    """In a loop in a vector field each order computes one coefficient of each series,
    also of the rule's own: the programs grow with the square of the order at most."""
    linear, _ = FUNCTIONS["twice"]

    def field(t, y, args):
        return lax.scan(lambda y, _: (linear(y) * 0.1, None), y, length=3)[0]

    def count(order):
        return count_equations(
            lambda y: eqx_taylor.ode_jet(field, 0.0, y, order=order), jnp.array(B)
        )

    low, middle, high = count(4), count(8), count(16)
    assert high - middle < 2.5 * (middle - low)


def test_a_series_of_its_own_is_known_as_far_as_the_inputs():
    """Or the rule would be told that it can have coefficients that do not exist yet."""
    seen = []

    @jax.custom_jvp
    def fun(x):
        return 2 * x

    fun.defjvp(lambda primals, tangents: (fun(*primals), fun(*tangents)))

    @rules.register(fun)
    def rule(walk, eqn, inputs):
        [x] = inputs
        own = rules.Series(x.aval, x.support, _of_each(lambda x: 2 * x, x))
        seen.append((x.is_known, own.is_known))
        return [rules.Series(x.aval, x.support, lambda k: own[k])]

    eqx_taylor.filter_jet(fun, (1.0,), ([1.0, None],))
    eqx_taylor.ode_jet(lambda t, y, args: fun(y), 0.0, jnp.array(1.0), order=2)
    assert seen == [(True, True), (False, False)]
    assert eqx.tree_equal(
        eqx_taylor.ode_jet(lambda t, y, args: fun(y), 0.0, jnp.array(1.0), order=2),
        jnp.array([1.0, 2.0, 2.0]),
    )
