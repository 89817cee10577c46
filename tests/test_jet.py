"""`jet`: what `jax.experimental.jet.jet` does, and more."""

import math

import jax
import jax.experimental.jet
import jax.numpy as jnp
import jax.tree_util as jtu
import mpmath
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    derivatives,
    nested_jet,
    random_series,
    relative_error,
)

from eqx_taylor import jet


def _line(order):
    return [1.0] + [0.0] * (order - 1)


# -- the example of the front page


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_ten_derivatives(jit):
    def fun(t):
        return 0.3 * jnp.sin(t) * t**10

    def mp_fun(t):
        return mpmath.mpf(0.3) * mpmath.sin(t) * t**10

    with mpmath.workdps(60):
        exact = [mpmath.diff(mp_fun, mpmath.mpf(1.1), k) for k in range(11)]

    def run(t):
        value, terms = jet(fun, (t,), (_line(10),))
        return [value, *terms]

    actual = (jax.jit(run) if jit else run)(1.1)
    assert relative_error(actual, exact) < 1e-13


def _logistic(x):
    return 1 / (1 + mpmath.exp(-x))


@pytest.mark.parametrize(
    "fun, mp_fun, x, orders",
    [
        # Near zero the even derivatives of odd functions are lost beside the odd ones.
        (jnp.tanh, mpmath.tanh, 1e-9, [0, 1, 3]),
        (jnp.tanh, mpmath.tanh, 15.0, [0, 1, 2, 3]),
        (jnp.expm1, mpmath.expm1, 1e-12, [0, 1, 2, 3]),
        (jnp.log1p, mpmath.log1p, 1e-12, [0, 1, 2, 3]),
        (jax.scipy.special.erfc, mpmath.erfc, 8.0, [0, 1, 2, 3]),
        (jnp.arcsinh, mpmath.asinh, -1e9, [0, 1, 2, 3]),
        (jax.nn.sigmoid, _logistic, 40.0, [0, 1, 2, 3]),
        (jax.nn.sigmoid, _logistic, -40.0, [0, 1, 2, 3]),
        (jax.nn.softplus, lambda x: mpmath.log1p(mpmath.exp(x)), -30.0, [0, 1, 2, 3]),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_relative_accuracy_at_the_extremes(fun, mp_fun, x, orders):
    """Where the obvious formulas cancel or overflow."""
    with mpmath.workdps(80):
        h = mpmath.mpf(10) ** -15
        exact = [mpmath.diff(mp_fun, mpmath.mpf(x), k, h=h) for k in orders]
    value, terms = jet(fun, (x,), (_line(3),))
    actual = [value, *terms]
    assert relative_error([actual[k] for k in orders], exact) < 1e-13


# -- the layout of jax.experimental.jet


X = np.array([0.3, -0.7, 0.9])
Y = np.array([0.5, 0.4, -0.2])

_SWAPS = {
    "scalar": (lambda t: 0.3 * jnp.sin(t) * t**10, (1.1,)),
    "elementwise": (
        lambda x, y: jnp.exp(x) * jnp.tanh(y) + jnp.sin(x) / (2 + y),
        (X, Y),
    ),
    "matrix": (lambda x, y: jnp.dot(jnp.outer(x, y), x), (X, Y)),
    "tuple": (lambda x: (x * x, jnp.sum(jnp.cos(x))), (X,)),
    "dict": (lambda x, y: dict(a=x * y, b=[x + 1.0, (jnp.sin(y),)]), (X, Y)),
    "reductions": (lambda x: jax.nn.logsumexp(x) + jnp.max(x), (X,)),
    "constant": (lambda x: (x, jnp.ones(2)), (X,)),
}


@pytest.mark.parametrize("factorial_scaled", [True, False])
@pytest.mark.parametrize("name", _SWAPS)
def test_import_swap(name, factorial_scaled):
    fun, primals = _SWAPS[name]
    series = random_series(primals, 4)
    actual, expected = (
        f(fun, primals, series, factorial_scaled=factorial_scaled)
        for f in (jet, jax.experimental.jet.jet)
    )
    # jet's factorials are off by some 1e-15; the structure is compared, too.
    assert_close(actual, expected, 500)


@pytest.mark.parametrize("container", [tuple, list])
def test_tuples_and_lists(container):
    primals = container([jnp.asarray(X), jnp.asarray(Y)])
    series = container([container([X, Y]), container([Y, X])])
    out = jet(jnp.multiply, primals, series)
    assert isinstance(out, tuple) and isinstance(out[1], list)
    expected = nested_jet(jnp.multiply, [X, Y], [[X, Y], [Y, X]])
    assert_orders_close([out[0], *out[1]], expected)


def test_pytrees():
    """One sequence of terms in the place of every leaf, in arguments and results."""

    def fun(p, scale):
        return {"out": (p["w"] @ p["b"] * scale, p["w"].sum())}, jnp.sin(p["b"])

    w, b, scale = jnp.outer(X, Y), jnp.asarray(Y), jnp.asarray(0.7)
    [dw, db, ds] = random_series([w, b, scale], 3)
    value, series = jet(fun, (dict(w=w, b=b), scale), (dict(w=tuple(dw), b=db), ds))
    leaves = nested_jet(
        lambda w, b, s: jtu.tree_leaves(fun(dict(w=w, b=b), s)),
        [w, b, scale],
        [dw, db, ds],
    )
    assert jtu.tree_structure(value) == jtu.tree_structure(fun(dict(w=w, b=b), scale))
    assert_close(jtu.tree_leaves(value), leaves[0])
    by_leaf = jtu.tree_structure(value).flatten_up_to(series)
    assert all(isinstance(terms, list) and len(terms) == 3 for terms in by_leaf)
    assert_orders_close([list(terms) for terms in zip(*by_leaf)], leaves[1:])


def test_integers_do_not_move():
    def fun(x, n):
        return x * n.astype(x.dtype), n + 1

    x, n = jnp.asarray(X), jnp.array([1, 2, 3])
    zero, float0 = jnp.zeros(3, int), np.zeros(3, jax.dtypes.float0)
    value, (dx, dn) = jet(fun, (x, n), ([x, x], [zero, float0]))
    np.testing.assert_array_equal(value[1], [2, 3, 4])
    np.testing.assert_allclose(dx[0], X * np.array([1, 2, 3]), rtol=1e-15)
    assert all(term.shape == (3,) and not term.any() for term in dn)


def test_python_numbers():
    value, terms = jet(lambda x, y: x * y, (2, 3.0), ([0, 0], [1, 0.0]))
    assert float(value) == 6 and [float(x) for x in terms] == [2, 0]


def test_results_are_arrays():
    """Also those that are constants in the program, or arguments."""
    out = jet(lambda x, y: (3.0, x, y, np.ones(2), 1), (0.5, 2), ([1.0], [0]))
    assert all(isinstance(leaf, jax.Array) for leaf in jtu.tree_leaves(out))


def test_empty_and_unused_arguments():
    value, terms = jet(
        lambda x, y: x, (jnp.zeros((0, 2)), 1.0), ([jnp.zeros((0, 2))], [1.0])
    )
    assert value.shape == terms[0].shape == (0, 2)


# -- factorials


@pytest.mark.parametrize("order", [1, 2, 5, 12, 25])
def test_factorials_are_exact(order):
    """The last derivative of `x**n / n` is an integer that float32 can hold."""
    x = jnp.float32(0.0)
    _, terms = jet(lambda x: x**order, (x,), ([jnp.float32(v) for v in _line(order)],))
    expected = np.float32(math.factorial(order))
    assert terms[-1] == expected and not any(terms[:-1])
    assert terms[-1].dtype == jnp.float32


@pytest.mark.parametrize(
    "dtype, order",
    [("float16", 10), ("bfloat16", 12), ("float32", 12), ("float32", 40),
     ("float64", 20), ("float64", 180)],
)  # fmt: skip
def test_high_orders_neither_overflow_nor_underflow(dtype, order):
    """The derivatives are of the size of 1, though `order!` and its reciprocal are not
    numbers of this dtype."""
    one = np.ones((), jnp.dtype(dtype))
    _, terms = jet(lambda x: 2 * x + 1, (one,), ([one] * order,))
    assert_orders_close(terms, [2 * one] * order, 4)


@pytest.mark.parametrize(
    "dtype, order", [("float16", 10), ("float32", 12), ("float64", 20)]
)
def test_derivatives_of_exp(dtype, order):
    zero, one = np.zeros((), dtype), np.ones((), dtype)
    _, terms = jet(jnp.exp, (zero,), ([one] + [zero] * (order - 1),))
    assert_orders_close(terms, [one] * order, 2 * order)


def test_unscaled():
    """Taylor coefficients in and out: those of `1 / (1 - t)` are all 1."""
    _, terms = jet(
        jnp.reciprocal, (1.0,), ([-1.0] + [0.0] * 29,), factorial_scaled=False
    )
    np.testing.assert_array_equal(terms, np.ones(30))


# -- with JAX's own transformations


def test_nested_jets_are_not_confused():
    """d/dx (x · d/dy (x + y)) = 1, and not 2."""

    def inner(x):
        _, [slope] = jet(lambda y: x + y, (1.0,), ([1.0],))
        return x * slope

    _, terms = jet(inner, (2.0,), ([1.0, 0.0],))
    assert [float(term) for term in terms] == [1, 0]


def test_hessian_of_a_jet():
    """Reverse mode over forward mode over a jet, of a function of several variables."""

    def fun(x):
        return jnp.sum(jnp.sin(x) * jnp.roll(x, 1) ** 3)

    v = jnp.asarray(Y)

    def third(x):
        return jet(fun, (x,), ([v, v * 0, v * 0],))[1][2]

    def nested(x):
        return derivatives(lambda t: fun(x + t * v), 3)(jnp.array(0.0))[3]

    actual, expected = (
        jax.device_get(jax.jit(jax.hessian(f))(jnp.asarray(X))) for f in (third, nested)
    )
    assert_close(actual, expected, 100)


def test_jet_of_grad_and_of_jvp_and_of_vmap():
    def fun(x):
        return jnp.sum(jnp.sin(x) * jnp.roll(x, 1) ** 3)

    def through_all(x):
        grads = jax.grad(fun)(x)
        _, slopes = jax.jvp(jnp.tanh, (x,), (grads,))
        return jax.vmap(lambda a, b: a * jnp.exp(b))(grads, slopes), jax.hessian(fun)(x)

    series = random_series([X], 3)
    value, terms = jet(through_all, (jnp.asarray(X),), series)
    by_order = [list(term) for term in zip(*terms)]
    expected = nested_jet(lambda x: list(through_all(x)), [X], series)
    assert_orders_close([list(value), *by_order], expected, 100)


def test_vmap_over_series_only():
    """The primal is shared by all directions."""
    x = jnp.asarray(X)
    directions = jnp.stack([x, 2 * x, 3 * x])

    def third(v):
        return jet(lambda x: jnp.sum(x**3), (x,), ([v, v * 0, v * 0],))[1][2]

    expected = 6 * np.sum(X**3) * np.array([1, 8, 27])
    np.testing.assert_allclose(jax.vmap(third)(directions), expected, rtol=1e-15)


def test_scan_of_jets():
    """Newton's method with two derivatives (Halley's), in a scan."""

    def body(x, _):
        f, (d1, d2) = jet(lambda x: x**3 - 2, (x,), ([1.0, 0.0],))
        return x - 2 * f * d1 / (2 * d1**2 - f * d2), None

    root, _ = jax.jit(lambda x: jax.lax.scan(body, x, None, length=6))(1.0)
    np.testing.assert_allclose(root, 2 ** (1 / 3), rtol=4e-16)


def test_jit_is_not_traced_again():
    traces = []

    @jax.jit
    def run(x):
        traces.append(x)
        return jet(lambda x: jnp.sin(x) * x, (x,), ([x, x],))

    run(jnp.asarray(X))
    run(jnp.asarray(Y))
    assert len(traces) == 1
