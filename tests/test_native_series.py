"""Series of solutions as machine code, without the solve around them."""

import functools as ft
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from helpers import assert_close, mp_ode_coefficients, nested_ode_jet
from jax import lax


pytest.importorskip("llvmlite", reason="llvmlite writes the machine code")

from machine_code import coefficients, flat, program_of, run  # noqa: E402

from eqx_taylor._native import looped  # noqa: E402
from eqx_taylor._native.atoms import NotNative  # noqa: E402


EPS = float(np.finfo(np.float64).eps)

# How a series is written: all orders one after the other, or a loop over them; and the
# entries of a vector.
FORMS = [
    dict(unroll=True, width=1),
    dict(unroll=True, width=4),
    dict(unroll=False, width=1),
    dict(unroll=False, width=8),
]
forms = pytest.mark.parametrize("form", FORMS, ids=str)


def assert_rows_close(actual, expected, ulps: float):
    """Each entry of the state on its own: in roundings of its largest coefficient up to
    this order, with the radius of convergence taken as the unit of time."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.all(np.isfinite(actual))
    eps = float(np.finfo(actual.dtype).eps)
    for row, (a, e) in enumerate(zip(actual.T, expected.T)):
        orders = np.arange(len(e))
        with np.errstate(divide="ignore"):
            unit = np.max(np.abs(e[2:]) ** (1 / orders[2:]), initial=1e-30)
        scaled = np.abs(e) / unit**orders
        size = np.maximum.accumulate(scaled) * unit**orders
        error = np.max(np.abs(a - e) / np.where(size == 0, 1, size)) / eps
        assert error <= ulps, f"entry {row}: {error:.3g} ulps, allowed {ulps}"


# -- functions

MP = mpmath.mp

# A function, the same of mpmath, and where its argument begins.
FUNCTIONS = {
    "exp": (jnp.exp, MP.exp, 0.5),
    "exp2": (jnp.exp2, lambda x: MP.power(2, x), 0.5),
    "expm1": (jnp.expm1, MP.expm1, 1e-3),
    "log": (jnp.log, MP.log, 0.7),
    "log1p": (jnp.log1p, MP.log1p, 0.3),
    "log2": (lambda x: lax.log2_p.bind(x, accuracy=None) if hasattr(lax, "log2_p") else jnp.log2(x), lambda x: MP.log(x, 2), 0.7),
    "sin": (jnp.sin, MP.sin, 0.7),
    "cos": (jnp.cos, MP.cos, 0.7),
    "tan": (jnp.tan, MP.tan, 0.4),
    "sinh": (jnp.sinh, MP.sinh, 0.7),
    "cosh": (jnp.cosh, MP.cosh, 0.7),
    "tanh": (jnp.tanh, MP.tanh, 0.4),
    "tanh, saturated": (jnp.tanh, MP.tanh, -9.0),
    "logistic": (jax.nn.sigmoid, lambda x: 1 / (1 + MP.exp(-x)), 0.4),
    "logistic, saturated": (jax.nn.sigmoid, lambda x: 1 / (1 + MP.exp(-x)), 11.0),
    "softplus": (jax.nn.softplus, lambda x: MP.log1p(MP.exp(x)), 0.4),
    "softplus, negative": (jax.nn.softplus, lambda x: MP.log1p(MP.exp(x)), -20.0),
    "silu": (jax.nn.silu, lambda x: x / (1 + MP.exp(-x)), 0.4),
    "asin": (jnp.arcsin, MP.asin, 0.3),
    "acos": (jnp.arccos, MP.acos, 0.3),
    "atan": (jnp.arctan, MP.atan, 0.6),
    "asinh": (jnp.arcsinh, MP.asinh, 0.6),
    "acosh": (jnp.arccosh, MP.acosh, 1.8),
    "atanh": (jnp.arctanh, MP.atanh, 0.3),
    "erf": (lax.erf, MP.erf, 0.4),
    "erfc": (lax.erfc, MP.erfc, 0.4),
    "sqrt": (jnp.sqrt, MP.sqrt, 0.6),
    "rsqrt": (lax.rsqrt, lambda x: 1 / MP.sqrt(x), 0.6),
    "cbrt": (jnp.cbrt, MP.cbrt, 0.6),
    "x^2": (jnp.square, lambda x: x**2, 0.6),
    "x^3": (lambda x: x**3, lambda x: x**3, -0.6),
    "x^7": (lambda x: x**7, lambda x: x**7, -0.6),
    "x^-1": (lambda x: x**-1, lambda x: 1 / x, -0.6),
    "x^-2": (lambda x: x**-2, lambda x: x**-2, -0.6),
    "x^-1.5": (lambda x: x**-1.5, lambda x: x ** MP.mpf(-1.5), 0.6),
    "x^0.3": (lambda x: x**0.3, lambda x: x ** MP.mpf(0.3), 0.6),
    "1/x": (lambda x: 1 / x, lambda x: 1 / x, 0.6),
    "(1+x)/(2+x)": (lambda x: (1 + x) / (2 + x), lambda x: (1 + x) / (2 + x), 0.6),
    "x exp(x)": (lambda x: x * jnp.exp(x), lambda x: x * MP.exp(x), 0.6),
}  # fmt: skip

# The argument is `x e^s`, which has a linear equation: s is the time.
SPEED = 0.25


def _fields(dtype):
    names = list(FUNCTIONS)
    starts = np.array([FUNCTIONS[name][2] for name in names], dtype)

    def field(t, y, args):
        x, _ = y
        values = [FUNCTIONS[name][0](x[i]) for i, name in enumerate(names)]
        return jnp.asarray(SPEED, dtype) * x, jnp.stack(values)

    return field, (jnp.asarray(starts), jnp.zeros(len(names), dtype)), names


@ft.cache
def _expected_functions(order: int, dtype: str) -> np.ndarray:
    """`s -> f(x e^(s SPEED))`, by differences of numbers of many digits."""
    columns = []
    with mpmath.workdps(60):
        for _, fun, start in FUNCTIONS.values():
            start = mpmath.mpf(float(np.dtype(dtype).type(start)))
            along = lambda s: fun(start * MP.exp(s * SPEED))  # noqa: E731
            terms = mpmath.taylor(along, 0, order - 1)
            column = [mpmath.mpf(0), *(c / (k + 1) for k, c in enumerate(terms))]
            columns.append([float(x.real) for x in map(MP.mpc, column)])
    return np.array(columns).T


@forms
def test_functions(form):
    order = 12
    field, y0, names = _fields("float64")
    found = coefficients(field, 0.0, y0, order=order, **form)[:, len(names) :]
    assert_rows_close(found, _expected_functions(order, "float64"), ulps=40)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_vectors(dtype):
    """What has a form of its own for vectors, over all its domain: y' = f(y) at 0."""
    info = np.finfo(dtype)
    limit = math.log(float(info.max))
    x = np.concatenate([
        np.linspace(-limit, limit, 61) * (1 - 1e-3),
        np.linspace(-1.3, 1.3, 41), [1e-9, -1e-9, 0.625, 12.0, -30.0],
    ]).astype(dtype)  # fmt: skip
    beyond = np.array([2 * limit, -2 * limit, np.inf, -np.inf, np.nan], dtype)

    def field(t, y, args):
        return jnp.stack([jnp.exp(y[0]), jnp.tanh(y[1]), jax.nn.sigmoid(y[2])])

    y0 = jnp.asarray(np.concatenate([x, beyond]))
    y0 = jnp.stack([y0, y0, y0])
    with mpmath.workdps(40):
        numbers = [mpmath.mpf(float(value)) for value in x]
        functions = [mpmath.exp, mpmath.tanh, lambda x: 1 / (1 + mpmath.exp(-x))]
        expected = [[float(fun(value)) for value in numbers] for fun in functions]
    zero = np.zeros((), dtype)[()]
    for form in [FORMS[1], dict(unroll=False, width=64 // zero.itemsize)]:
        found = coefficients(field, zero, y0, order=1, **form)[1].reshape(3, -1)
        error = np.abs(found[:, : len(x)] - np.array(expected))
        # What is below the smallest normal number may be zero.
        rounding = 4 * float(info.eps) * np.abs(expected) + float(info.tiny)
        assert np.all(error <= rounding), np.max(error / rounding)
        exps, tanhs, sigmoids = found[:, len(x) :]
        assert list(exps[:4]) == [np.inf, 0, np.inf, 0]
        assert list(tanhs[:4]) == [1, -1, 1, -1]
        assert list(sigmoids[:4]) == [1, 0, 1, 0]
        assert np.all(np.isnan([exps[4], tanhs[4], sigmoids[4]]))


def test_functions_in_float32(monkeypatch):
    # Here all are in one function, and above each kind has its own.
    monkeypatch.setattr(looped, "_MOST_GROUPS", 1000)
    order = 8
    field, y0, names = _fields("float32")
    for form in (FORMS[0], FORMS[-1]):
        found = coefficients(field, np.float32(0), y0, order=order, **form)
        assert found.dtype == np.float32
        expected = _expected_functions(order, "float32")
        assert_rows_close(found[:, len(names) :], expected, ulps=40)


@pytest.mark.parametrize("unroll", [True, False, None])
@pytest.mark.parametrize("shared", [True, False])
def test_lanes(unroll, shared, monkeypatch):
    """Solves side by side are those that are made alone."""
    if unroll is None:
        unroll = False
        # Each kind has a function of its own.
        monkeypatch.setattr(looped, "_MOST_GROUPS", 0)

    def field(t, y, args):
        rate, shift = args
        return jnp.exp(-rate * y) * jnp.sin(t + y[::-1]) + shift * jnp.stack(
            [y[0] * y[1], t]
        )

    rng = np.random.default_rng(0)
    points = [
        (rng.uniform(), rng.uniform(size=2), rng.uniform(size=3)) for _ in range(4)
    ]
    args = jnp.asarray(0.0), jnp.zeros(2)
    program = program_of(field, 0.0, jnp.zeros(2), args)
    found = run(program, points, 9, unroll=unroll, shared=shared)
    for lane, (t, y, values) in enumerate(points):
        if shared:
            values = points[0][2]
        alone = run(program, [(t, y, values)], 9, unroll=unroll, width=1)
        assert_close(found[..., lane], alone[..., 0], ulps=4)


def _ring(t, y, args):
    """Sums of few terms of many entries."""
    given, known = args, np.linspace(1.0, 2.0, y.size)
    neighbours = given[0] * jnp.roll(y, 1) - 2 * y + known * jnp.roll(y, -1)
    return neighbours + given[1]


def _matrix(t, y, args):
    """A matrix that is given, and one that is known; so are the constants."""
    given = args[: y.size * 9].reshape(9, y.size)
    known = np.cos(np.arange(9.0 * y.size)).reshape(y.size, 9)
    inner = given @ y + np.arange(9.0)
    return known @ jnp.sin(inner) + args[: y.size]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("field", [_ring, _matrix])
def test_lanes_of_sums(field, shared):
    """Coefficients and constants, of which some are each lane's own."""
    size, order = 83, 4
    rng = np.random.default_rng(0)
    points = [(0.0, rng.normal(size=size), rng.normal(size=9 * size)) for _ in range(2)]
    program = program_of(field, 0.0, jnp.zeros(size), jnp.zeros(9 * size))
    found = run(program, points, order, unroll=False, shared=shared)
    for lane, (t, y, values) in enumerate(points):
        values = points[0][2] if shared else values
        alone = run(program, [(t, y, values)], order, unroll=False, width=8)
        assert_close(found[..., lane], alone[..., 0], ulps=100)
        slope = field(t, y, jnp.asarray(values))
        assert_close(found[1, :, lane], np.asarray(slope), ulps=100)


# -- whole fields


def _lorenz(t, y, args):
    a, b, c = y
    return jnp.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 * c / 3])


@forms
def test_lorenz(form):
    def mp_field(t, y):
        a, b, c = y
        # In floats 8/3 is this.
        return [(b - a) * 10, a * (c * -1 + 28) - b, a * b - c * mpmath.mpf(8 / 3)]

    y0 = np.array([1.0, -2.0, 20.5])
    found = coefficients(_lorenz, 0.0, jnp.asarray(y0), order=20, **form)
    expected = mp_ode_coefficients(mp_field, 0.0, y0, 20)
    assert_rows_close(found, np.array(expected, float).T, ulps=20)


@forms
def test_time(form):
    """y' = cos(t) + 3 t², y = sin(t) + t³: by its expansion around t."""

    def field(t, y, args):
        return jnp.stack([jnp.cos(t) + 3 * t**2, y[0] * 0 + t])

    t = 0.7
    found = coefficients(field, t, jnp.zeros(2), order=10, **form)
    sines = [math.sin(t + k * math.pi / 2) / math.factorial(k) for k in range(11)]
    cubes = [t**3, 3 * t**2, 3 * t, 1.0, *[0.0] * 7]
    first = [0.0, *(a + b for a, b in zip(sines[1:], cubes[1:]))]
    second = [0.0, t, 0.5, *[0.0] * 8]
    assert_rows_close(found, np.array([first, second]).T, ulps=4)


@pytest.mark.parametrize("size", [7, 40])
@pytest.mark.parametrize("given", [True, False])
def test_matrices(size, given):
    """y' = A y + b: coefficient k is `A^(k-1) (A y + b) / k!`."""
    rng = np.random.default_rng(0)
    matrix, shift = rng.normal(size=(size, size)) / 4, rng.normal(size=size)
    y0, order = rng.normal(size=size), 9

    def field(t, y, args):
        a, b = args if given else (matrix, shift)
        return a @ y + b

    args = (jnp.asarray(matrix), jnp.asarray(shift)) if given else None
    expected = [y0, matrix @ y0 + shift]
    for k in range(2, order + 1):
        expected.append(matrix @ expected[-1] / k)
    for form in FORMS[1:]:
        found = coefficients(field, 0.0, jnp.asarray(y0), args, order=order, **form)
        assert_close(found, np.array(expected), ulps=200)
        # Lanes have one matrix, or one each.
    if given:
        program = program_of(field, 0.0, jnp.asarray(y0), args)
        values = flat(args, np.float64)
        for shared in (True, False):
            points = [(0.0, y0, values), (0.0, 2 * y0, values)]
            found = run(program, points, order, shared=shared, unroll=False)
            assert_close(found[..., 0], np.array(expected), ulps=200)


def _structural(t, y, args):
    """Everything that moves entries, on a state of shape (3, 4)."""
    a, b = y["a"], y["b"]
    index = jnp.array([2, 0, 1])
    moved = [
        a.T.reshape(2, 6)[:, ::2],
        jnp.pad(a[:2, 1:], ((0, 0), (0, 0)), constant_values=0.5),
        jnp.concatenate([a[2:, :3], jnp.ones((1, 3))]),
        jnp.flip(a, 0)[:2, :3],
        jnp.roll(a, 1, axis=1)[1:, :3],
        a[index][:2, jnp.array([3, 1, 0])],
        jnp.where(jnp.arange(6).reshape(2, 3) % 2 == 0, a[:2, :3], 2.0),
        jnp.cumsum(a, axis=1)[:2, :3],
        lax.dynamic_slice(a, (1, 1), (2, 3)),
        jnp.tile(b, (2, 1)),
        jnp.zeros((2, 3)).at[jnp.array([0, 1, 1]), index].add(a[0, :3]),
        jnp.zeros((2, 3)).at[0].set(b),
        lax.dynamic_update_slice(a, b[None], (0, 1))[:2, :3],
        jnp.einsum("ij,kj->ik", a, a)[:2],
        jnp.broadcast_to(jnp.stack([jnp.sum(a), jnp.mean(b)])[:, None], (2, 3)),
    ]
    total = sum(moved[1:], moved[0])

    def body(carry, x):
        return jnp.sin(carry + x), carry * x

    @jax.custom_jvp
    def identity(x):
        return x

    identity.defjvps(lambda dx, y, x: dx)
    b = jax.checkpoint(jnp.sin)(identity(b))
    b = b + lax.cond(jnp.asarray(3) > 2, jnp.sin, jnp.cos, jnp.prod(a[:2], axis=0)[:3])
    b = lax.while_loop(lambda x: x[0] < 2, lambda x: (x[0] + 1, x[1] * b), (0, b))[1]
    last, products = lax.scan(body, b, a[:, :3])
    first, others = lax.scan(body, b, a[:, :3], reverse=True)
    last = last + jnp.cos(first + others[0])
    slope_b = last + products[1] + total[1] * args
    wide = jnp.concatenate([total, products[:1]], axis=0)
    return {"a": jnp.concatenate([wide, b[:, None]], axis=1), "b": slope_b}


@pytest.mark.parametrize("unroll", [True, False])
def test_structure(unroll):
    y0 = {
        "a": jnp.linspace(-0.5, 0.7, 12).reshape(3, 4),
        "b": jnp.array([0.3, -0.2, 0.5]),
    }
    args, order = jnp.asarray(0.7), 3
    expected = nested_ode_jet(_structural, 0.3, y0, args, order)
    expected = np.stack([flat(x, np.float64) for x in expected])
    found = coefficients(_structural, 0.3, y0, args, order=order, unroll=unroll)
    assert_close(found, expected, ulps=100)


def test_many_entries():
    """Loops over blocks of entries, and over tables of their places: Lorenz 96, whose
    coefficients for a state that repeats are those of a small one."""

    def field(t, y, args):
        return (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + args

    few = np.sin(np.arange(5.0))
    small = coefficients(field, 0.0, jnp.asarray(few), jnp.asarray(8.0), order=12)
    for form in FORMS[2:]:
        many = jnp.asarray(np.tile(few, 61))
        found = coefficients(field, 0.0, many, jnp.asarray(8.0), order=12, **form)
        assert_close(found, np.tile(small, (1, 61)), ulps=20)
    expected = nested_ode_jet(field, 0.0, jnp.asarray(few), jnp.asarray(8.0), 3)
    assert_close(small[:4], np.stack(expected), ulps=20)


def test_parameters():
    """What does not depend on the state is computed once, by `prepare`: y' = g(a) y."""

    def field(t, y, args):
        a, b = args
        rate = jnp.exp(a) * jnp.sqrt(b) / (a + b**3) - jnp.tanh(a) * b**-1.5 + 2 * a
        return rate * y + lax.rsqrt(b)

    a, b = 0.3, 1.7
    rate = math.exp(a) * b**0.5 / (a + b**3) - math.tanh(a) * b**-1.5 + 2 * a
    expected = [0.5, rate * 0.5 + b**-0.5]
    for k in range(2, 9):
        expected.append(rate * expected[-1] / k)
    args = jnp.asarray(a), jnp.asarray(b)
    y0 = jnp.array([0.5])
    assert len(program_of(field, 0.0, y0, args).atoms) == 1
    for form in FORMS:
        found = coefficients(field, 0.0, y0, args, order=8, **form)
        assert_close(found[:, 0], np.array(expected), ulps=10)


@pytest.mark.parametrize("form", FORMS[2:], ids=str)
def test_long_chains(form):
    """Functions of functions, of which equal ones share their code."""

    def step(x, sin):
        return x * (x * -1.0 + 1.0) * 0.5 + sin(x) * 0.5

    def field(t, y, args):
        return lax.scan(lambda x, _: (step(x, jnp.sin), None), y, None, length=8)[0]

    def mp_field(t, y):
        for _ in range(8):
            y = [step(x, lambda x: x.sin()) for x in y]
        return y

    y0 = np.array([0.3, 0.4, 0.7])
    found = coefficients(field, 0.0, jnp.asarray(y0), order=6, **form)
    expected = mp_ode_coefficients(mp_field, 0.0, y0, 6)
    assert_rows_close(found, np.array(expected, float).T, ulps=1000)


def test_equal_work_is_done_once():
    """Of the pull between two bodies, each way, there is one distance."""

    def field(t, y, args):
        x, v = y
        d = x[None] - x[:, None]
        weight = (jnp.sum(d**2, -1) + np.eye(4)) ** -1.5
        return v, jnp.sum(weight[:, :, None] * d, axis=1)

    program = program_of(field, 0.0, (jnp.ones((4, 3)), jnp.ones((4, 3))))
    kinds = [atom.kind for atom in program.atoms]
    assert kinds.count("power") == 6
    assert kinds.count("square") == kinds.count("product") == 18


def test_keys():
    """The content of a program is its key."""
    y0 = jnp.ones(3)
    key = program_of(_lorenz, 0.0, y0).key
    assert key == program_of(lambda t, y, args: _lorenz(t, y, args), 0.0, y0).key
    assert key != program_of(lambda t, y, args: 2 * _lorenz(t, y, args), 0.0, y0).key


# -- what is refused


def _in_order(y):
    return y * jnp.sort(y)


REFUSED = {
    "a primitive": (_in_order, "sort.*test_native_series.py.*_in_order"),
    "a kink": (lambda y: jnp.maximum(y, 0.5), "`max`"),
    "a choice": (lambda y: jnp.where(y > 0, y, 1.0), "`gt`|`select_n`"),
    "an index": (lambda y: y[jnp.argmax(y)] * y, "`argmax`"),
    "a loop": (lambda y: lax.while_loop(lambda x: x[0] < 3, lambda x: 2 * x, y), "`lt`|its length"),
    "a complex value": (lambda y: jnp.abs(lax.complex(y, y)), "complex128"),
    "another dtype": (lambda y: jnp.sin(y.astype(jnp.float32)).astype(jnp.float64), "`convert_element_type`.*float32"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_fields(case):
    fun, message = REFUSED[case]
    with pytest.raises(NotNative, match=message) as error:
        program_of(lambda t, y, args: fun(y), 0.0, jnp.array([0.3, 0.7]))
    assert "\n" not in str(error.value)


def test_refused_dtypes():
    with pytest.raises(NotNative, match="of one dtype.*float32, float64"):
        program_of(lambda t, y, args: y, np.float32(0), jnp.ones(2))
    with pytest.raises(NotNative, match="complex128"):
        program_of(lambda t, y, args: y, 0.0, jnp.ones(2, complex))


def test_a_traced_array_is_an_argument():
    def outer(a):
        return program_of(lambda t, y, args: a * y, 0.0, jnp.ones(2))

    with pytest.raises(NotNative, match="closes over"):
        jax.jit(outer)(1.0)
