"""Fields that users write, as machine code: powers and angles, choices that depend on
the arguments, arguments of all types, and matrices. Series against mpmath and nested
derivatives, solves against SciPy and XLA."""

import math
import warnings
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.scipy as jsp
import mpmath
import numpy as np
import pytest
from helpers import assert_close, nested_ode_jet
from jax import lax
from scipy.integrate import solve_ivp


pytest.importorskip("llvmlite", reason="llvmlite writes the machine code")

from machine_code import coefficients, flat, program_of, run  # noqa: E402

from eqx_taylor import NativeAdjoint, TaylorController, TaylorSolver  # noqa: E402
from eqx_taylor._native.atoms import NotNative  # noqa: E402


MP: Any = mpmath.mp
FORMS = [
    dict(unroll=True, width=1),
    dict(unroll=True, width=4),
    dict(unroll=False, width=8),
]

# -- functions of a state and a parameter


def _power(x, p):
    return x**p


def _mp_power(x, p):
    return MP.power(x, p)


# A function, the same of mpmath, where its argument begins, and the parameter.
FUNCTIONS = {
    "x^2.3": (_power, _mp_power, 0.6, 2.3),
    "x^0.7": (_power, _mp_power, 0.6, 0.7),
    "x^-1.5": (_power, _mp_power, 0.6, -1.5),
    "x^0.001": (_power, _mp_power, 0.6, 0.001),
    "x^0": (_power, _mp_power, 0.6, 0.0),
    "x^1": (_power, _mp_power, 0.6, 1.0),
    "x^41": (_power, _mp_power, 1.1, 41.0),
    "x^3 below 0": (_power, _mp_power, -0.6, 3.0),
    "x^2 below 0": (_power, _mp_power, -0.6, 2.0),
    "x^-2 below 0": (_power, _mp_power, -0.6, -2.0),
    "Hill": (
        lambda x, p: x**p / (0.5**p + x**p),
        lambda x, p: 1 / (1 + (x / MP.mpf(0.5)) ** -p),
        0.6, 2.5,
    ),
    "2^x": (lambda x, p: 2.0**x, lambda x, p: MP.power(2, x), 0.6, 0.0),
    "0.75^x": (lambda x, p: 0.75**x, lambda x, p: MP.power(0.75, x), 0.6, 0.0),
    "p^x": (lambda x, p: p**x, lambda x, p: MP.power(p, x), -0.6, 1.7),
    "p^-x": (lambda x, p: p**-x, lambda x, p: MP.power(p, -x), 0.6, 0.3),
    "0^x": (lambda x, p: p**x, lambda x, p: 0 * x, 0.6, 0.0),
    "x^x": (lambda x, p: x ** (x + p), lambda x, p: MP.power(x, x + p), 0.6, 0.3),
    "atan2(x - 0.5, p)": (
        lambda x, p: jnp.arctan2(x - 0.5, p), lambda x, p: MP.atan((x - 0.5) / p),
        0.6, 0.3,
    ),
    "atan2(p, x) on the left": (
        jnp.arctan2, lambda x, p: MP.atan(x / p), -0.6, 0.3,
    ),
    "atan2(x, x^2) behind": (
        lambda x, p: jnp.arctan2(x, -(x**2)), lambda x, p: MP.pi - MP.atan(1 / x),
        0.6, 0.3,
    ),
    "sum of logarithms": (
        lambda x, p: jnp.logaddexp2(x, p) + jsp.special.xlogy(x, x + p),
        lambda x, p: MP.log(2**x + 2**p, 2) + x * MP.log(x + p),
        0.6, 0.3,
    ),
}  # fmt: skip

# The argument is `x e^s`, which has a linear equation: s is the time.
SPEED = 0.25


def _table(order, dtype):
    columns = []
    with mpmath.workdps(60):
        for _, fun, start, p in FUNCTIONS.values():
            start, p = (mpmath.mpf(float(np.dtype(dtype).type(x))) for x in (start, p))
            along = lambda s: fun(start * MP.exp(s * SPEED), p)  # noqa: E731
            terms = mpmath.taylor(along, 0, order - 1)
            column = [mpmath.mpf(0), *(c / (k + 1) for k, c in enumerate(terms))]
            columns.append([float(MP.mpc(x).real) for x in column])
    return np.array(columns).T


@pytest.mark.parametrize(
    "order, dtype", [(20, "float64"), (4, "float64"), (8, "float32")]
)
def test_functions_with_parameters(order, dtype):
    """The unit of error is the largest coefficient so far, in the unit of time in
    which neither those of the argument nor those of the result grow."""
    starts = np.array([case[2] for case in FUNCTIONS.values()], dtype)
    given = np.array([case[3] for case in FUNCTIONS.values()], dtype)
    functions = [case[0] for case in FUNCTIONS.values()]
    n = len(functions)

    def field(t, y, p):
        values = [fun(y[0][i], p[i]) for i, fun in enumerate(functions)]
        return jnp.asarray(SPEED, dtype) * y[0], jnp.stack(values)

    y0, zero = (jnp.asarray(starts), jnp.zeros(n, dtype)), np.zeros((), dtype)[()]
    expected = _table(order, dtype)
    orders = np.arange(order + 1)[:, None]
    unit = np.max(np.abs(expected[2:]) ** (1 / orders[2:]), axis=0)
    unit = np.maximum(unit, SPEED)
    size = np.maximum.accumulate(np.abs(expected) / unit**orders) * unit**orders
    for form in FORMS if order == 20 else FORMS[1:]:
        found = coefficients(field, zero, y0, jnp.asarray(given), order=order, **form)
        assert found.dtype == dtype
        error = np.abs(found[:, n:] - expected) / np.where(size == 0, 1, size)
        worst = np.max(error, axis=0) / np.finfo(dtype).eps
        assert np.all(worst < 100), dict(zip(FUNCTIONS, worst))


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("dtype, order", [("float64", 18), ("float32", 6)])
def test_powers_of_zero(unroll, dtype, order):
    """x' = 1, y' = x^p from x = 0, where y = t^(p + 1) / (p + 1) for p = 0, 1, 2, ...;
    for other p there is no series. Lanes of both kinds, and with bases that are not
    zero, go together."""
    exponents = [0.0, 1.0, 2.0, 3.0, 7.0, 17.0, 63.0, 2.5, -1.0, 64.0]
    zero = np.zeros((), dtype)[()]

    def field(t, y, p):
        slopes = [jnp.ones((), dtype), y[0] ** p, y[3] ** p, 0 * y[3]]
        return jnp.stack(slopes)

    like = jnp.zeros(4, dtype), jnp.zeros((), dtype)
    program = program_of(field, zero, *like)
    start = np.array([0, 0.5, 0.25, 0.25], dtype)
    points = [(zero, start, np.array([p], dtype)) for p in exponents]
    found = run(program, points[:8], order, unroll=unroll, shared=False)
    rest = run(program, points[-2:], order, unroll=unroll, shared=False)
    found = np.concatenate([found, rest], axis=2)
    for lane, p in enumerate(exponents):
        exact = np.zeros(order + 1)
        exact[0] = 0.5
        if 0 < p + 1 <= order:
            exact[int(p) + 1] = 1 / (p + 1)
        column = found[:, 1, lane]
        if p in (2.5, -1.0, 64.0):
            assert not np.all(np.isfinite(column[2:]))
        else:
            np.testing.assert_allclose(column, exact, rtol=4 * np.finfo(dtype).eps)
        other = found[:, 2, lane]
        np.testing.assert_allclose(other[1], 0.25**p, rtol=1e-5)
        np.testing.assert_array_equal(other[2:], 0)
    alone = coefficients(field, zero, jnp.asarray(start), jnp.asarray(3.0, dtype), order=order, unroll=unroll)  # fmt: skip
    np.testing.assert_array_equal(alone, found[..., 3])


# -- whatever else is smooth

Y0 = np.array([0.3, 0.7, 0.5, 0.9])
ARGS = np.array([2.0, 1.3, 0.3, 0.4])


def _m(y):
    return jnp.reshape(y, (2, 2))


def _s(y):
    return _m(y) @ _m(y).T + jnp.eye(2)


def _index(a):
    return a[0].astype(int)


def _solved(y, a):
    """Systems whose pivots are zero, or not the largest."""
    matrix = jnp.outer(y[:3], y[1:]) + jnp.array([[0.0, 1, 1], [2, 0.1, 0], [0, 1, 0]])
    matrix = matrix - y[0] * y[1] * jnp.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    return jnp.append(jnp.linalg.solve(matrix, y[:3]), a[0])


def _triangular(y, a):
    solve, right = lax.linalg.triangular_solve, _m(y)
    kinds = [(True, False, False), (False, False, True), (False, True, False)]
    outs = [
        solve(_s(y), right, left_side=left, lower=lower, transpose_a=transposed)
        for left, lower, transposed in kinds
    ]
    outs.append(solve(_s(y), right, left_side=True, lower=True, unit_diagonal=True))
    return sum(outs[1:], outs[0]).ravel()


FIELDS = {
    "softmax": lambda y, a: jax.nn.softmax(3 * y * a) + jax.nn.log_softmax(_m(y), 0).ravel(),
    "logsumexp": lambda y, a: y * jax.nn.logsumexp(y) + a * jax.nn.logsumexp(_m(y), axis=0)[0],
    "cond": lambda y, a: lax.cond(a[0] > 0, jnp.sin, jnp.cos, y),
    "switch": lambda y, a: lax.switch(_index(a), [jnp.sin, jnp.cos, lambda x: x * x], y),
    "where": lambda y, a: jnp.where(a > 1, jnp.sin(y), y * jnp.where(a > 0.35, jnp.full(4, 2.0), y)),
    "index": lambda y, a: y * y[_index(a)] + a[_index(a)],
    "index of an update": lambda y, a: (y * y).at[_index(a)].set(y[0]) + y.at[_index(a)].add(y[1] * y[2]),
    "of arguments": lambda y, a: y * jnp.sort(a) + jnp.abs(a - 1) * jnp.linalg.solve(jnp.eye(4) + jnp.outer(a, a), y),
    "convolutions": lambda y, a: jnp.convolve(y, a[:3], "same") + jnp.convolve(y, y, "same") + jnp.convolve(a, y, "same") + jnp.convolve(y, np.array([1.0, 2.0]), "same"),
    "cumulative": lambda y, a: jnp.cumsum(y) * jnp.cumprod(y) + lax.cumlogsumexp(y, reverse=True),
    "windows": lambda y, a: lax.reduce_window(y * y, 0.0, lax.add, (2,), (1,), "SAME"),
    "polynomials": lambda y, a: jnp.polyval(a, y) + jnp.polyval(y, y),
    "a derivative": lambda y, a: jax.jvp(jnp.tanh, (y,), (y,))[1],
    "norms": lambda y, a: y**2 / jnp.linalg.norm(y) + jnp.append(jnp.cross(y[:3], y[1:]), 1.0),
    "systems": _solved,
    "inverse": lambda y, a: jnp.linalg.inv(_s(y)).ravel(),
    "determinants": lambda y, a: jnp.linalg.det(_s(y)) * y + jnp.linalg.det(jnp.outer(y, y[::-1]) + jnp.diag(a) + jnp.cos(jnp.outer(a, a))) * y,
    "Cholesky": lambda y, a: jnp.linalg.cholesky(_s(y)).ravel() + jnp.tile(jsp.linalg.cho_solve(jsp.linalg.cho_factor(_s(y)), y[:2]), 2),
    "triangular": _triangular,
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_smooth_fields(name):
    field = lambda t, y, a: FIELDS[name](y, a)  # noqa: E731
    y0, args = jnp.asarray(Y0), jnp.asarray(ARGS)
    expected = np.stack(nested_ode_jet(field, 0.0, y0, args, 3))
    for form in FORMS[1:]:
        found = coefficients(field, 0.0, y0, args, order=3, **form)
        assert_close(found, expected, ulps=200)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanes_with_their_own_choices(dtype):
    """Pivots, indices, branches and exponents, side by side."""

    def field(t, y, a):
        matrix = jnp.array([[y[0] - y[1], y[2]], [y[1], y[3] - y[0]]])
        x = jnp.linalg.solve(matrix, y[:2])
        chosen = lax.cond(a[1] > 0.5, lambda y: y**2, lambda y: jnp.sin(y), y)
        return jnp.append(x, y[_index(a)] ** a[1]) @ jnp.ones((3, 4), dtype) * chosen

    rng = np.random.default_rng(0)
    zero = np.zeros((), dtype)[()]
    like = jnp.zeros(4, dtype), jnp.zeros(2, dtype)
    program = program_of(field, zero, *like)
    points = []
    for i in range(4):
        args = np.array([i, rng.uniform()], dtype)
        points.append((zero, rng.uniform(size=4).astype(dtype), args))
    for unroll in (True, False):
        found = run(program, points, 5, unroll=unroll, shared=False)
        for lane, (t, y, a) in enumerate(points):
            alone = run(program, [(t, y, a)], 5, unroll=unroll, width=4)
            assert_close(found[..., lane], alone[..., 0], ulps=50)
            slope = field(t, jnp.asarray(y), jnp.asarray(a))
            assert_close(found[1, :, lane], np.asarray(slope), ulps=100)


def test_what_is_not_chosen_may_be_anything():
    """As by `select_n`: the logarithm of a negative number is not seen."""

    def field(t, y, a):
        return jnp.where(a > 0, jnp.log(y), y) + lax.cond(a > 0, jnp.sqrt, jnp.exp, y)

    for a in (1.0, -1.0):
        y0 = jnp.array([0.5 * a])
        found = coefficients(field, 0.0, y0, jnp.asarray(a), order=6)
        slope = field(0.0, y0, a)
        assert np.all(np.isfinite(found))
        assert_close(found[1], np.asarray(slope), ulps=4)


def test_arguments_are_what_the_field_needs():
    """Whatever else is computed of them is left to JAX, and a number that is moved, or
    broadcast, is one argument."""

    def field(t, y, a):
        for _ in range(64):
            a = jnp.sin(a) * a + 0.1
        return a[0] * y + jnp.broadcast_to(a[1], y.shape)[::-1] * y**2

    program = program_of(field, 0.0, jnp.ones(50), jnp.ones(7))
    assert program.arguments == 2 and len(program.parameters) == 2


# -- what is refused

REFUSED = {
    "a largest value": (lambda y, a: jnp.max(y) * y, "`reduce_max`.*the largest"),
    "a largest value, in part": (
        lambda y, a: jax.nn.softmax(y) * jnp.exp(-jnp.max(y)), "`reduce_max`.*the largest",
    ),
    "a length": (
        lambda y, a: lax.fori_loop(0, _index(a), lambda i, x: x * y, y),
        "`while`.*its length depends on the arguments",
    ),
    "another dtype": (
        lambda y, a: lax.dot(y, a.astype(jnp.float32), preferred_element_type=jnp.float64) * y,
        "`dot_general`.*arguments is of dtype float32.*float64",
    ),
    "pivots": (lambda y, a: lax.linalg.lu(_s(y))[0].ravel(), "`lu`.*pivots"),
    "too many choices": (
        lambda y, a: jnp.tile(y, 30)[_index(a) + jnp.arange(120)][:4], "`gather`.*4096",
    ),
    "a large determinant": (
        lambda y, a: jnp.linalg.det(jnp.outer(jnp.tile(y, 3), jnp.tile(y, 3))) * y,
        "more than 8 rows",
    ),
    "a sign": (lambda y, a: jnp.abs(y - 1) * y, "`abs`"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_fields(name):
    fun, message = REFUSED[name]
    with pytest.raises(NotNative, match=message) as error:
        program_of(lambda t, y, a: fun(y, a), 0.0, jnp.asarray(Y0), jnp.asarray(ARGS))
    assert "\n" not in str(error.value)


# -- solves


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of machine code: not that of the user."""
    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(tmp_path))


def _solve(field, y0, t1, args, *, adjoint=None, tol=1e-12, order=16, dt0=None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(field), TaylorSolver(order=order),
            jnp.zeros((), y0.dtype), jnp.asarray(t1, y0.dtype), dt0, y0, args,
            stepsize_controller=TaylorController(rtol=tol, atol=tol),
            adjoint=adjoint or NativeAdjoint(), max_steps=400,
        )  # fmt: skip
    return found


def _gene(t, y, args):
    """Two genes, with integers, booleans and keys of random numbers among the
    arguments."""
    k, n = args["k"], args["n"]
    rate = jnp.where(args["is_on"], args["rates"][args["which"]], 0.0).astype(y.dtype)
    noise = jax.random.uniform(args["key"], dtype=y.dtype)
    up = y[0] ** n / (k**n + y[0] ** n)
    return jnp.stack([1 / (1 + (y[1] / k) ** n) - y[0] + rate, up - y[1] * noise])


def _gene_args(n, is_on, dtype):
    return dict(
        k=jnp.asarray(0.5, dtype),
        n=jnp.asarray(n, dtype),
        rates=jnp.asarray([0.1, 0.3], dtype),
        which=jnp.asarray(1),
        is_on=jnp.asarray(is_on),
        key=jax.random.key(3),
        unused=jax.random.key(4),
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "dtype, order, tol", [("float64", 16, 1e-12), ("float32", 7, 1e-5)]
)
def test_arguments_of_all_types(dtype, order, tol):
    """Alone and under `vmap`, also from zero with exponents that are integers: against
    SciPy."""
    exponents = np.array([2.0, 3.0, 2.0, 1.0])
    switches = np.array([True, False, False, True])
    noise = float(jax.random.uniform(jax.random.key(3), dtype=dtype))

    def exact(n, is_on):
        def field(t, y):
            rate = float(np.asarray(0.3, dtype)) if is_on else 0.0
            up = y[0] ** n / (0.5**n + y[0] ** n)
            return [1 / (1 + (y[1] / 0.5) ** n) - y[0] + rate, up - y[1] * noise]

        solved = solve_ivp(
            field, (0, 5), [0.0, 0.0], method="DOP853", rtol=1e-13, atol=1e-13
        )
        return solved.y[:, -1]

    def end(n, is_on, key=None):
        args = {**_gene_args(0.0, False, dtype), "n": n, "is_on": is_on}
        args["unused"] = args["unused"] if key is None else key
        return _solve(_gene, jnp.zeros(2, dtype), 5.0, args, order=order, tol=tol).ys[0]

    given = jnp.asarray(exponents, dtype), jnp.asarray(switches)
    found = jax.jit(jax.vmap(end))(*given)
    assert found.dtype == dtype
    for i, (n, is_on) in enumerate(zip(exponents, switches)):
        np.testing.assert_allclose(found[i], exact(n, is_on), rtol=30 * tol)
    alone = jax.jit(end)(given[0][1], given[1][1], jax.random.key(0))
    np.testing.assert_allclose(alone, found[1], rtol=30 * tol)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_steps_and_gradients_are_those_of_xla():
    y0, adjoint = jnp.array([0.3, 0.2]), diffrax.RecursiveCheckpointAdjoint()
    args = _gene_args(2.3, True, "float64")

    def end(k, adjoint):
        found = _solve(_gene, y0, 5.0, {**args, "k": k}, dt0=0.01, adjoint=adjoint)
        return found.ys[0, 0], found.stats["num_steps"]

    k = jnp.asarray(0.5)
    run = lambda adjoint: jax.jit(lambda k: end(k, adjoint))(k)  # noqa: E731
    (value, steps), (of_xla, steps_of_xla) = run(None), run(adjoint)
    assert steps == steps_of_xla
    np.testing.assert_allclose(value, of_xla, rtol=1e-11)
    grad = jax.jit(jax.grad(lambda k: end(k, None)[0]))(k)
    h = 1e-5
    slope = (end(k + h, None)[0] - end(k - h, None)[0]) / (2 * h)
    np.testing.assert_allclose(grad, slope, rtol=1e-6)


@pytest.mark.usefixtures("folder")
def test_a_mass_matrix():
    """The double pendulum, whose energy is kept: by a system of equations in each step,
    and angles that turn around."""

    def field(t, y, masses):
        q, v = y[:2], y[2:]
        c, s = jnp.cos(q[0] - q[1]), jnp.sin(q[0] - q[1])
        m = masses[1] * c
        matrix = jnp.array([[masses[0] + masses[1], m], [m, masses[1]]])
        force = jnp.array(
            [
                -masses[1] * s * v[1] ** 2 - (masses[0] + masses[1]) * jnp.sin(q[0]),
                masses[1] * s * v[0] ** 2 - masses[1] * jnp.sin(q[1]),
            ]
        )
        return jnp.append(v, jnp.linalg.solve(matrix, force))

    def energy(y, masses):
        q, v = y[:2], y[2:]
        total = masses[0] + masses[1]
        kinetic = total * v[0] ** 2 / 2 + masses[1] * v[1] ** 2 / 2
        kinetic += masses[1] * v[0] * v[1] * np.cos(q[0] - q[1])
        return kinetic - total * np.cos(q[0]) - masses[1] * np.cos(q[1])

    y0, masses = jnp.array([2.0, -1.0, 0.3, 1.5]), jnp.array([1.0, 0.7])
    found = jax.jit(lambda y, m: _solve(field, y, 5.0, m, tol=1e-13).ys[0])(y0, masses)
    exact = solve_ivp(
        lambda t, y: np.asarray(field(t, y, masses)), (0, 5), np.asarray(y0),
        method="DOP853", rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(found, exact.y[:, -1], rtol=1e-8)
    assert math.isclose(energy(found, masses), energy(y0, masses), rel_tol=1e-12)
    assert len(flat(found, "float64")) == 4
