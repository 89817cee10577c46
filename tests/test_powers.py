"""Powers and roots: exponents of every kind, along curves and at bases that are zero."""

import functools as ft
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from balls import exact_terms, power, size, to_ball
from flint import acb, arb, arb_series, ctx
from helpers import assert_close, count_equations, derivatives, jet
from jax import lax

import eqx_taylor as et


ORDER = 20


def coefficients(fun, terms):
    """Along the curve with these coefficients, whose arrays have any shape."""
    rest = list(terms[1:])
    value, rest = et.filter_jet(fun, (terms[0],), (rest,), factorial_scaled=False)
    return jnp.stack([value, *rest])


# -- along curves that stay away from zero


EXPONENTIALS = {
    "array": [-1.5, 0.5, 1.5, 2.0, 7.5],
    "complex array": [2j, 1 - 0.5j],
    "argument": [-1.5],
    "batched": [-1.5, 0.5],
    "literal": [-1.5],
    "complex literal": [2j],
    "moving": [-1.5, 2.0],
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", EXPONENTIALS)
def test_powers_of_the_exponential(kind):
    """Coefficients are `p^k exp(p t) / k!`: a base that is known to a rounding has a
    power whose coefficient k is known to (|p| + 2)^k roundings over k!."""
    t, exponents = 0.3, EXPONENTIALS[kind]
    one = exponents[0]

    def along(p, s):
        x = jnp.broadcast_to(jnp.exp(s), jnp.shape(p)).astype(jnp.asarray(one).dtype)
        # So that it is not known that it does not move.
        return x ** (p + 0 * s) if kind == "moving" else x**p

    def series(p):
        return jnp.stack(et.derivatives(ft.partial(along, p), t, ORDER))

    if "literal" in kind:
        actual = jax.jit(lambda: series(one))()[:, None]
    elif kind == "argument":
        actual = jax.jit(series)(one)[:, None]
    elif kind == "batched":
        actual = jax.jit(jax.vmap(series, 0, 1))(jnp.array(exponents))
    else:
        actual = jax.jit(series)(jnp.array(exponents))
    for i, p in enumerate(exponents):
        for k, y in enumerate(np.asarray(actual)[:, i]):
            expected = complex(acb(p) ** k * (acb(p) * acb(t)).exp())
            scale = (abs(p) + 2) ** k * abs(np.exp(p * t))
            assert abs(complex(y) - expected) <= 20 * 2.0**-52 * scale, (p, k)
        if p == -1.5:
            expected = (-1.5) ** 15 * math.exp(-0.45)
            assert abs(actual[15, i] / expected - 1) < 2e-10


CURVES = [
    [1.0, 1.0, 1e-3],
    [2.0, -1.0, 0.7, 0.4],
    [0.5, 0.25, -0.25, 0.5, 0.1],
    [1 + math.sin(0.3), *[math.sin(0.3 + k * math.pi / 2) / math.factorial(k) for k in range(1, ORDER + 1)]],
    [1e-30, 1e-30, -1e-30],
    [1e30, -1e30, 5e29],
]  # fmt: skip
EXPONENTS = [-3.0, -1.5, 1 / 3, 1.5, 2.0, 2.5, 3.0, 7.5]


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_an_exponent_at_run_time_along_curves(dtype):
    """Against ball arithmetic, in roundings of the terms of a majorant."""
    eps = float(jnp.finfo(dtype).eps)
    curves = np.zeros((ORDER + 1, len(CURVES), 1))
    for i, curve in enumerate(CURVES):
        curves[: len(curve), i, 0] = curve
    scale = 1 + 0.5j if dtype == "complex128" else 1.0
    terms = list(jnp.asarray(curves * scale, dtype))
    p = jnp.asarray(EXPONENTS, dtype)
    actual = jax.jit(lambda p: coefficients(lambda x: x ** p[None], terms))(p)
    for i in range(len(CURVES)):
        own = [term[i, 0].item() for term in terms]
        for n, r in enumerate(np.asarray(p)):
            exact = exact_terms(power(r.item().real), own, ORDER)
            ctx.cap = ORDER + 1
            h = arb_series([0, *[abs(x / own[0]) for x in own[1:]]])
            terms_of = (-abs(arb(float(r.real))) * (1 - h).log()).exp()
            for k in range(ORDER + 1):
                largest = float(size(exact[0])) * float(terms_of[k])
                if not 1e-30 < largest < 1e30 and dtype == "float32":
                    continue  # Out of its range, or nearly.
                error = float(size(exact[k] - to_ball(actual[k, i, n].item())))
                assert error <= 50 * (k + 1) * eps * largest, (i, r, k)


def test_gradients_of_coefficients():
    """With respect to the base and to the exponent, against nested derivatives."""

    def along(x, p, t):
        return (x + jnp.sin(t)) ** p

    def both(how):
        return jax.jit(jax.jacrev(how, argnums=(0, 1)))(1.3, -1.7)

    def ours(x, p):
        return jnp.stack(et.derivatives(lambda t: along(x, p, t), 0.2, 4))

    def nested(x, p):
        return jnp.stack(derivatives(lambda t: along(x, p, t), 4)(jnp.array(0.2)))

    assert_close(both(ours), both(nested), 200)


# -- integer exponents at run time where the base is zero

# From the first order on that is not zero, 1, 2 and 3; and one that stays zero.
ZEROS = np.array(
    [
        [0, 0.75, -2, 0.5, 0, 1, 3],
        [0, 0, 3, 1, -1, 0, 2],
        [0, 0, 0, -2, 1, 0.5, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0.5, 0, 2, 1, 0, 0, 1],
    ]
)
INTEGERS = [0, 1, 2, 3, 4, 6, 7, 25]


def products(terms, n):
    out = np.zeros_like(terms)
    out[0] = 1
    for _ in range(n):
        out = np.convolve(out, terms)[: len(terms)]
    return out


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["int32", "float64", "complex128", "field", "scan", "moving"])  # fmt: skip
def test_integer_exponents_at_zero(kind):
    expected = np.stack([[[products(x, n)[k] for n in INTEGERS] for x in ZEROS] for k in range(7)])  # fmt: skip
    terms = [jnp.asarray(ZEROS[:, k, None]) for k in range(7)]
    p = jnp.asarray(INTEGERS, kind if kind[-1].isdigit() else float)
    if kind == "complex128":
        terms = [term.astype(complex) for term in terms]
    if kind in ("field", "scan"):
        # The base is a part of the state: known order by order.
        def slope(t):
            return sum(k * terms[k] * t ** (k - 1) for k in range(1, 7))

        def field(t, y, p):
            if kind == "field":
                return slope(t), y[0] ** p[None]

            def step(total, p):
                return total, y[0][:, 0] ** p

            return slope(t), lax.scan(step, 0.0, p)[1].T

        y0 = terms[0], jnp.zeros((len(ZEROS), len(INTEGERS)))
        _, out = jax.jit(lambda p: et.ode_jet(field, 0.0, y0, p, order=6))(p)
        actual = out[1:] * jnp.arange(1.0, 7.0)[:, None, None]
        expected = expected[:6]
    else:

        def fun(x):
            exponent = p[None]
            if kind == "moving":  # Though its coefficients are zero.
                exponent = exponent + 0 * x
            return lax.pow(*jnp.broadcast_arrays(x, exponent))

        actual = jax.jit(lambda: coefficients(fun, terms))()
    wide = np.max(np.abs(expected))
    assert_close(actual, expected.astype(actual.dtype), 30, scale=wide)


def test_a_variable_to_an_exponent_at_run_time():
    """`t ** p` at 0, where the base is a straight line."""
    p = jnp.array([0.0, 1, 2, 3, 2.5, 0.5, 9])

    def fun(t):
        return jnp.broadcast_to(t, p.shape) ** p

    actual = jax.jit(lambda: jnp.stack(et.derivatives(fun, 0.0, 5)))()
    expected = np.zeros((6, 7))
    for i in range(4):
        expected[i, i] = math.factorial(i)
    inf = np.inf  # With the signs that they have on the right of zero.
    expected[3:, 4] = inf, -inf, inf
    expected[1:, 5] = inf, -inf, inf, -inf, inf
    np.testing.assert_array_equal(actual, expected)


# -- base and exponent vary, where the base is zero


@pytest.mark.parametrize("power", [lax.pow, jnp.power, jnp.float_power])
@pytest.mark.parametrize("p, order", [(2.5, 2), (3.0, 3)])
def test_base_and_exponent_vary_at_zero(power, p, order):
    def fun(z):
        return power(z[0], z[1])

    nested = fun
    for _ in range(order):
        nested = jax.jacfwd(nested)
    z = jnp.array([0.0, p])
    expected = nested(z)
    assert np.all(np.isfinite(expected))
    tensor = jax.jit(lambda z: et.derivative_tensor(fun, z, order))
    assert_close(tensor(z), expected, 30, scale=6)


def test_no_series_with_a_logarithm():
    """`t^(1 + t)` has none from order 2 on; `0^(1 + t)` is zero."""

    def fun(t):
        return jnp.stack([t, 0 * t]) ** (1 + jnp.stack([t, t]))

    actual = np.stack(et.derivatives(fun, 0.0, 4))
    np.testing.assert_array_equal(actual[:2, 0], [0, 1])
    assert not np.any(np.isfinite(actual[2:, 0]))
    np.testing.assert_array_equal(actual[:, 1], 0)


# -- a base that stays zero

POSITIVE_POWERS = {
    "sqrt": jnp.sqrt,
    "cbrt": jnp.cbrt,
    "square": jnp.square,
    "x**3": lambda x: x**3,
    "x**0.5": lambda x: x**0.5,
    "x**0.3": lambda x: x**0.3,
    "x**1.5": lambda x: x**1.5,
    "x**2.5": lambda x: x**2.5,
    "0.5 at run time": lambda x: lax.pow(x, jnp.full_like(x, 0.5)),
    "1.5 at run time": lambda x: lax.pow(x, jnp.full_like(x, 1.5)),
    "2 at run time": lambda x: lax.pow(x, jnp.full_like(x, 2)),
    "1.5 moving": lambda x: lax.pow(x, 1.5 + x),
}
NOT_COMPLEX = ("cbrt",)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_powers_of_what_stays_zero(dtype):
    powers = [f for name, f in POSITIVE_POWERS.items() if dtype != "complex128" or name not in NOT_COMPLEX]  # fmt: skip

    def fun(x):
        cut = [x * 0] if dtype == "complex128" else [x * 0, jax.nn.relu(x), jnp.maximum(x, 0.0), jnp.clip(x, 0.0)]  # fmt: skip
        return jnp.stack([f(u) for f in powers for u in cut])

    terms = [jnp.asarray(v, dtype) for v in (-1.3, 0.7, 2.0, -0.2)]
    # Not as constants: XLA of JAX 0.10 folds the factors of zero of which it is made.
    actual = jax.jit(lambda *terms: coefficients(fun, terms))(*terms)
    np.testing.assert_array_equal(actual, 0)


def test_powers_of_what_stays_zero_in_a_field():
    """Order by order, and element by element: y' = -0.1 - max(y, 0)^p."""
    powers = [f for name, f in POSITIVE_POWERS.items() if name != "1.5 moving"]

    def field(t, y, args):
        return jnp.stack([-0.1 - f(jnp.maximum(u, 0.0)) for f, u in zip(powers, y)])

    y0 = jnp.broadcast_to(jnp.array([-0.5, 0.7]), (len(powers), 2))
    actual = jax.jit(lambda y0: et.ode_jet(field, 0.0, y0, order=6))(y0)
    assert np.all(np.isfinite(actual))
    expected = np.zeros((7, len(powers)))
    expected[0], expected[1] = -0.5, -0.1
    np.testing.assert_array_equal(actual[:, :, 0], expected)
    batched = jax.jit(jax.vmap(lambda y0: et.ode_jet(field, 0.0, y0, order=6), 1, 2))
    assert_close(batched(y0), actual)


def test_a_body_at_rest():
    v0 = jnp.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])

    def field(t, v, args):
        return -jnp.linalg.norm(v, axis=1, keepdims=True) * v

    actual = jax.jit(lambda v: et.ode_jet(field, 0.0, v, order=5))(v0)
    # |v| = 3 / (1 + 3 t)
    expected = [v0 * (-3.0) ** k for k in range(6)]
    assert_close(actual, jnp.stack(expected), 20)

    def norms(t):
        return jnp.linalg.norm(v0 * jnp.exp(t), axis=1)

    np.testing.assert_array_equal(np.stack(et.derivatives(norms, 0.0, 3))[:, 1], 0)
    assert et.laplacian(lambda v: jnp.linalg.norm(0 * v), v0[0]) == 0


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("kind", ["literal", "argument"])
def test_gradients_where_the_base_stays_zero(p, kind):
    """y' = -0.1 - max(y, 0)^p below zero: the sum of coefficients is y_0 - 0.1, whose
    derivative with respect to p is zero."""

    def total(y, q):
        power = p if kind == "literal" else q

        def field(t, y, args):
            return -0.1 - jnp.maximum(y, 0.0) ** power

        return jnp.sum(et.ode_jet(field, 0.0, y, order=4))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(-1.0, p)
    np.testing.assert_array_equal(np.stack(gradients), [1, 0])


# -- what is not smooth stays infinite


@pytest.mark.parametrize("fun", [jnp.sqrt, jnp.cbrt, lambda x: x**0.3], ids=["sqrt", "cbrt", "0.3"])  # fmt: skip
def test_roots_at_zero(fun):
    along_t = np.stack(et.derivatives(fun, 0.0, 3))
    np.testing.assert_array_equal(along_t, [0, np.inf, -np.inf, np.inf])
    # Its coefficients up to an order decide: it may stay zero, until it does not.
    along_square = np.stack(et.derivatives(lambda t: fun(t * t), 0.0, 3))
    assert not np.any(np.isfinite(along_square[2:]))


def test_powers_begin_at_a_multiple_of_the_exponent():
    """`(t²)^1.5` and `(t²)^2.5`: smooth below orders 3 and 5."""
    for p, order in ((1.5, 3), (2.5, 5)):
        actual = np.stack(et.derivatives(lambda t, p=p: (t * t) ** p, 0.0, 6))
        np.testing.assert_array_equal(actual[:order], 0)
        assert not np.isfinite(actual[order])
    assert et.laplacian(lambda x: jnp.sum(x * x) ** 1.5, jnp.zeros(3)) == 0


def test_negative_powers_at_zero():
    for fun in (lax.rsqrt, lambda x: x**-1.5, lambda x: x**-2, lambda x: x ** jnp.array(-1.5)):  # fmt: skip
        assert not np.any(np.isfinite(np.stack(et.derivatives(fun, 0.0, 3))))


# -- no infinity that is not wanted


@pytest.mark.parametrize(
    "fun",
    [
        jnp.cbrt,
        jnp.sqrt,
        lax.rsqrt,
        lambda x: x**1.5,
        lambda x: x**-1.5,
        lambda x: x ** jnp.array(1.5),
        lambda x: jnp.exp(x) ** jnp.array(-1.5),
        lambda x: x ** jnp.sin(x),
        lambda x: x**2j,
        lambda x: jnp.sqrt(0 * x),
        lambda x: (0 * jnp.sin(x)) ** jnp.array(2.0),
    ],
)
def test_debugging_is_silent(fun):
    with jax.debug_infs(True), jax.debug_nans(True):
        et.derivatives(fun, 1.3, 3)


def test_equations_are_few():
    """Of a power at run time: along a line they grow linearly."""

    def count(fun, order):
        return count_equations(lambda p: et.derivatives(lambda t: fun(t) ** p, 1.3, order), 2.5)  # fmt: skip

    line = [count(lambda t: t, order) for order in (5, 10, 15)]
    assert line[2] - line[1] == line[1] - line[0]
    assert line[1] < 330
    assert count(jnp.sin, 10) < 780


def test_jets_of_jets():
    """Nested, with an exponent at run time, at a base that is zero."""
    p = jnp.array([2.0, 3.0])

    def fun(t):
        return jnp.stack([t, t]) ** p

    def inner(t):
        return et.nth_derivative(fun, t, 1)

    actual = et.nth_derivative(inner, 0.0, 1)
    assert_close(actual, jnp.array([2.0, 0.0]))
    again = jet(inner, [jnp.array(1.0)], [[jnp.array(1.0), None]])
    assert_close(again, [jnp.array([2.0, 3]), jnp.array([2.0, 6]), jnp.array([0.0, 6])])
