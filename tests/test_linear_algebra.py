"""Factorisations and triangular systems: their recurrences, and what is built on them."""

import functools as ft
import math

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    count_primitives,
    derivatives,
    polynomial,
    random_series,
)
from jax import lax

import eqx_taylor


L = lax.linalg
FACTORISATIONS = ("cholesky", "lu", "qr", "eigh", "eig", "svd")


def _adjoint(a):
    return jnp.swapaxes(jnp.conj(a), -1, -2)


def _hermitian(a):
    return (a + _adjoint(a)) / 2


def _definite(a):
    return _hermitian(a) + 6 * jnp.eye(a.shape[-1], dtype=a.dtype)


def _any(a):
    return a


def _separate(a):
    """With a spread of eigenvalues and pivots."""
    return a + 3 * jnp.diag(jnp.arange(1.0, 1 + a.shape[-1])).astype(a.dtype)


def _spread(a):
    return _hermitian(_separate(a))


def _tridiagonal(a):
    lower, diagonal, upper = (a[..., i, :] for i in range(3))
    return L.tridiagonal_solve(lower, diagonal + 4, upper, a[..., :, :2])


def _triangular(**params):
    def solve(a):
        b = a[..., :, :2] if params["left_side"] else a[..., :2, :]
        return L.triangular_solve(a, b, **params)

    return solve


def _with_fixed_matrix(a):
    fixed = jnp.broadcast_to(_separate(jnp.ones((4, 4), a.dtype)), a.shape)
    return L.triangular_solve(fixed, a, left_side=True)


_eig = ft.partial(L.eig, enable_eigvec_derivs=True)
_eigvals = ft.partial(
    _eig, compute_left_eigenvectors=False, compute_right_eigenvectors=False
)
_thin_svd = ft.partial(L.svd, full_matrices=False)

# Functions of a matrix, each a primitive that is applied to it, their shape, and what
# is done with a random matrix before.
PRIMITIVES = {
    "cholesky": (ft.partial(L.cholesky, symmetrize_input=False), (4, 4), _definite),
    "lu": (lambda a: L.lu(a)[0], (4, 4), _separate),
    "lu, tall": (lambda a: L.lu(a)[0], (5, 3), _any),
    "lu, wide": (lambda a: L.lu(a)[0], (3, 5), _any),
    "qr": (L.qr, (4, 4), _separate),
    "qr, tall": (ft.partial(L.qr, full_matrices=False), (5, 3), _any),
    "qr, wide": (L.qr, (3, 5), _any),
    "qr, all columns": (L.qr, (5, 3), _any),
    "qr, pivoting": (lambda a: L.qr(a, full_matrices=False, pivoting=True)[:2], (5, 3), _any),
    "eigh": (ft.partial(L.eigh, symmetrize_input=False), (4, 4), _spread),
    "eigh, upper": (ft.partial(L.eigh, symmetrize_input=False, lower=False), (4, 4), _spread),
    "eig": (_eig, (4, 4), _separate),
    "eig, left": (ft.partial(_eig, compute_right_eigenvectors=False), (4, 4), _separate),
    "eigvals": (_eigvals, (4, 4), _separate),
    "svd": (L.svd, (4, 4), _separate),
    "svd, tall": (_thin_svd, (5, 3), _any),
    "svd, wide": (_thin_svd, (3, 5), _any),
    "svd, values": (ft.partial(L.svd, compute_uv=False), (5, 3), _any),
    "triangular_solve": (_triangular(left_side=True, lower=True), (4, 4), _separate),
    "triangular_solve, right": (
        _triangular(left_side=False, transpose_a=True, conjugate_a=True), (4, 4), _separate,
    ),
    "triangular_solve, unit": (
        _triangular(left_side=True, unit_diagonal=True, conjugate_a=True), (4, 4), _any,
    ),
    "triangular_solve, fixed": (_with_fixed_matrix, (4, 4), _any),
    "tridiagonal_solve": (_tridiagonal, (4, 4), _any),
}  # fmt: skip


def _random(shape, kind, dtype=float, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1, 1, shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        a = a + 1j * rng.uniform(-1, 1, shape)
    return kind(jnp.asarray(a, dtype))


def _curve(name, dtype, order):
    """A point and its series."""
    _, shape, kind = PRIMITIVES[name]
    a = _random(shape, kind, dtype)
    [terms] = random_series([a], order, seed=1)
    if "eigh" in name or name == "cholesky":
        terms = [_hermitian(term) for term in terms]
    return a, terms


# Everything here runs once, so that it is compiling that takes the time.
_jit = ft.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@ft.partial(_jit, static_argnums=(0, 3))
def _jet(fun, a, terms, factorial_scaled=True):
    value, series = eqx_taylor.filter_jet(
        fun, (a,), (terms,), factorial_scaled=factorial_scaled
    )
    return [value, *series]


def _nested_jet(fun, a, terms):
    def along(t):
        return fun(polynomial(a, terms, t))

    return _jit(derivatives(along, len(terms)))(jnp.zeros(()))


@pytest.mark.sample(5)
@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_agrees_with_nested_jvp(name, dtype):
    fun = PRIMITIVES[name][0]
    a, terms = _curve(name, dtype, 4)
    expected = _nested_jet(fun, a, terms)
    many = jax.tree.map(lambda x: jnp.stack([2 * x, x]), (a, terms))
    both = _jet(fun, *many)
    assert_orders_close(jax.tree.map(lambda x: x[1], both), expected, 200)
    assert_orders_close(_jet(fun, a, terms), expected, 200)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_value_is_the_primitive_s_own(name):
    fun = PRIMITIVES[name][0]
    a, terms = _curve(name, complex if "eig" in name else float, 1)
    value, _ = eqx_taylor.filter_jet(fun, (a,), (terms,))
    if "values" in name or name == "eigvals":
        # Of a call that computes vectors too, as they are in JAX's JVP.
        expected, _ = jax.jvp(fun, (a,), (a,))
    else:
        expected = fun(a)
    assert_close(value, expected, 0)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_dtypes(name):
    fun = PRIMITIVES[name][0]
    for dtype in (jnp.float32, jnp.complex64):
        a, terms = _curve(name, dtype, 2)
        expected = jax.eval_shape(lambda a: jax.jvp(fun, (a,), (a,)), a)
        value, series = jax.eval_shape(
            lambda a: eqx_taylor.filter_jet(fun, (a,), (terms,)), a
        )
        for term in (value, *series):
            assert jax.tree.map(lambda x: (x.shape, x.dtype), term) == jax.tree.map(
                lambda x: (x.shape, x.dtype), expected[0]
            )


def test_single_precision():
    for name in ("cholesky", "qr", "svd", "eigh"):
        fun = PRIMITIVES[name][0]
        a, terms = _curve(name, jnp.float32, 3)
        wide, wide_terms = jax.tree.map(lambda x: x.astype(float), (a, terms))
        narrow = jax.tree.map(lambda x: x.astype(float), _jet(fun, a, terms))
        eps = float(jnp.finfo(jnp.float32).eps / jnp.finfo(float).eps)
        assert_orders_close(narrow, _jet(fun, wide, wide_terms), 100 * eps)


# -- identities at high order


def _product(*factors):
    """Coefficients of a product of series of matrices, and for each the sum of the
    sizes of what it is the sum of."""

    def times(a, b):
        return [sum(a[j] @ b[k - j] for j in range(k + 1)) for k in range(len(a))]

    factors = [[np.asarray(term) for term in factor] for factor in factors]
    sizes = [[np.abs(term) for term in factor] for factor in factors]
    return ft.reduce(times, factors), ft.reduce(times, sizes)


def _assert_identity(product, terms, ulps=20):
    for term, size, expected in zip(*product, terms, strict=True):
        assert_close(term, np.asarray(expected, term.dtype), ulps, scale=np.max(size))


def _transposed(terms):
    return [np.swapaxes(np.conj(term), -1, -2) for term in terms]


def _diagonals(terms):
    return [np.apply_along_axis(np.diag, -1, np.asarray(term)) for term in terms]


def _one(size, number, dtype):
    return [np.eye(size, dtype=dtype) * (k == 0) for k in range(number)]


_ORDER = 10


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("name", [
    "cholesky", "lu", "lu, wide", "qr, tall", "qr, all columns", "qr, wide", "eigh",
    "eig", "svd, tall", "svd, wide",
])  # fmt: skip
def test_identities(name, dtype):
    fun = PRIMITIVES[name][0]
    a, terms = _curve(name, dtype, _ORDER)
    # A radius of convergence of about 1.
    terms = [term / 4**k for k, term in enumerate(terms, 1)]
    curve = [a, *terms]
    outs = _jet(fun, a, terms, factorial_scaled=False)
    if name == "cholesky":
        lower = [np.tril(out) for out in outs]
        _assert_identity(_product(lower, _transposed(lower)), curve)
    elif name.startswith("lu"):
        m, n = a.shape
        r = min(m, n)
        packed = [np.asarray(out) for out in outs]
        lower = [np.tril(x[:, :r], -1) + np.eye(m, r) * (k == 0) for k, x in enumerate(packed)]  # fmt: skip
        permuted = [term[np.asarray(L.lu(a)[2])] for term in curve]
        _assert_identity(_product(lower, [np.triu(x[:r]) for x in packed]), permuted)
    elif name.startswith("qr"):
        q, r = zip(*outs)
        _assert_identity(_product(q, r), curve)
        ones = _one(q[0].shape[-1], len(q), dtype)
        _assert_identity(_product(_transposed(q), q), ones)
        for r_k in r:
            assert_close(r_k, jnp.triu(r_k), 0)
            assert not np.any(np.diagonal(r_k).imag)
    elif name == "eigh":
        v, w = zip(*outs)
        _assert_identity(_product(v, _diagonals(w), _transposed(v)), curve)
        _assert_identity(_product(_transposed(v), v), _one(4, len(v), dtype))
    elif name == "eig":
        w, left, right = zip(*outs)
        zero = [np.zeros((4, 4))] * len(w)
        for v, along, w in [
            (right, curve, w),
            (left, _transposed(curve), [np.conj(term) for term in w]),
        ]:
            by_a, size = _product(along, v)
            by_w, _ = _product(v, _diagonals(w))
            difference = [x - y for x, y in zip(by_a, by_w)]
            _assert_identity((difference, size), zero, 50)
            overlaps, size = _product(_transposed(v), v)
            for k, (overlap, norm) in enumerate(zip(overlaps, size)):
                expected = np.ones(4) * (k == 0)
                assert_close(np.diag(overlap).real, expected, 20, scale=np.max(norm))
    else:
        u, s, v = zip(*outs)
        _assert_identity(_product(u, _diagonals(s), v), curve)
        ones = _one(3, len(s), dtype)
        _assert_identity(_product(_transposed(u), u), ones)
        _assert_identity(_product(v, _transposed(v)), ones)


# -- points that are special


def test_only_one_triangle_is_read():
    """The other one may hold anything, and move."""
    for name, other in [("cholesky", jnp.triu), ("eigh", jnp.triu), ("eigh, upper", jnp.tril)]:  # fmt: skip
        fun = PRIMITIVES[name][0]
        a, terms = _curve(name, complex, 3)
        k = 1 if other is jnp.triu else -1
        noise = other(_random((4, 4), _any, complex, seed=5), k)
        moved = _jet(fun, a, [term + noise for term in terms])
        assert_close(moved, _jet(fun, a, terms), 0)
    fun = PRIMITIVES["triangular_solve"][0]
    a, terms = _curve("triangular_solve", float, 3)
    spoilt = jnp.triu(jnp.full((4, 4), jnp.nan), 3)
    expected = _jet(fun, a, terms)
    assert_close(_jet(fun, a + spoilt, [term + spoilt for term in terms]), expected, 0)


def test_last_pivot_may_vanish():
    """JAX's rule divides by it."""
    a = jnp.diag(jnp.array([1.0, 2.0, 3.0, 0.0]))
    b = _random((4, 4), _any)

    def fun(t):
        return jnp.linalg.det(a + t * b)

    value, terms = eqx_taylor.filter_jet(fun, (0.0,), ([1.0, *[None] * 3],))
    nodes = np.arange(-2.0, 3.0)
    values = [np.linalg.det(a + t * b) for t in nodes]
    expected = np.polynomial.polynomial.polyfit(nodes, values, 4)
    for k, (term, e) in enumerate(zip([value, *terms], expected), 0):
        assert_close(
            np.asarray(term), math.factorial(k) * np.asarray(e), 1000, scale=100.0
        )


def test_vanishing_singular_value():
    """It passes through zero, with vectors that are smooth."""
    fun = PRIMITIVES["svd"][0]
    a = jnp.diag(jnp.array([3.0, 2.0, 0.0]))
    terms = random_series([a], 4)[0]
    u, s, v = zip(*_jet(fun, a, terms, factorial_scaled=False))
    _assert_identity(_product(u, _diagonals(s), v), [a, *terms])
    _assert_identity(_product(_transposed(u), u), _one(3, 5, float))


def test_equal_eigenvalues():
    """As in JAX: vectors that are not finite, and the first slope of the values."""
    a, b = jnp.diag(jnp.array([1.0, 1.0, 2.0])), jnp.ones((3, 3))
    eigh = ft.partial(jnp.linalg.eigh, symmetrize_input=False)
    (w, v), (dw, dv) = jax.jvp(lambda a: tuple(eigh(a)), (a,), (b,))
    value, [slope, _] = eqx_taylor.filter_jet(lambda a: tuple(eigh(a)), (a,), ([b, b],))
    assert_close(value, (w, v), 0)
    np.testing.assert_array_equal(slope[0], dw)
    np.testing.assert_array_equal(slope[1], dv)


# -- what else they occur in


def _loss(name, a):
    """A smooth number that does not depend on what columns are multiplied with."""
    fun, shape, kind = PRIMITIVES[name]
    outs = jax.tree.leaves(fun(kind(a)))
    return sum(jnp.sum(jnp.abs(out) ** 2 * (1 + i) / out.size) + jnp.sum(jnp.cos(jnp.real(out))) for i, out in enumerate(outs))  # fmt: skip


_COMPOSED = [
    "cholesky", "lu", "qr, all columns", "eigh", "eig", "svd, values",
    "triangular_solve", "tridiagonal_solve",
]  # fmt: skip


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", _COMPOSED)
def test_gradient_and_vmap_of_a_jet(name):
    fun, shape, kind = PRIMITIVES[name]

    def third(a):
        return _third(ft.partial(_loss, name), a)

    a = _random((2, *shape), _any)
    gradient = _jit(jax.vmap(jax.grad(third)))(a)
    slope = _jit(jax.vmap(lambda a: jax.jvp(third, (a,), (a * a,))[1]))(a)
    by_vjp = jnp.sum(gradient * a * a, (1, 2))
    assert_close(by_vjp, slope, 2000, scale=float(jnp.sum(abs(gradient * a * a))))


def _third(fun, a):
    return eqx_taylor.filter_jet(fun, (a,), ([a * a, None, None],))[1][2]


@pytest.mark.slow
@pytest.mark.parametrize("name", _COMPOSED)
def test_in_a_vector_field(name):
    """Against a jet along the solution; and in a loop, where what was computed at lower
    orders is kept from trace to trace."""
    base = _random(PRIMITIVES[name][1], _any)
    loss = ft.partial(_loss, name)

    def field(t, y, args):
        return jnp.sin(loss(base * (1 + 0.1 * t) + 0.1 * jnp.sin(y)[:, None])) * y

    def field_with_loop(t, y, args):
        def turn(total, shift):
            moved = base * (1 + shift + 0.1 * t) + 0.1 * jnp.sin(y)[:, None]
            return total + jnp.sin(loss(moved)), None

        return lax.scan(turn, 0.0 * t, jnp.array([0.0, 0.0]))[0] / 2 * y

    order = 8
    y0 = _random(base.shape[:1], _any, seed=3)
    ys = [*_jit(lambda y: eqx_taylor.ode_jet(field, 0.3, y, order=order))(y0)]
    t, ts = jnp.array(0.3), [jnp.array(1.0), *[None] * (order - 2)]

    @_jit
    def along(y, terms):
        value, series = eqx_taylor.filter_jet(
            lambda t, y: field(t, y, None), (t, y), (ts, terms), factorial_scaled=False
        )
        return [value, *series]

    slopes = along(ys[0], ys[1:order])
    expected = [slope / (k + 1) for k, slope in enumerate(slopes)]
    assert_orders_close(ys[1:], expected, 200)
    looped = _jit(lambda y: eqx_taylor.ode_jet(field_with_loop, 0.3, y, order=3))(y0)
    assert_orders_close([*looped], ys[:4], 200)


# -- what is built on them

BUILT = {
    "inv": jnp.linalg.inv,
    "det": jnp.linalg.det,
    "slogdet": lambda a: tuple(jnp.linalg.slogdet(a)),
    "pinv": lambda a: jnp.linalg.pinv(a[:, :3]),
    "lstsq": lambda a: jnp.linalg.lstsq(a[:, :2], a[:, 2])[0],
    "eigvalsh": jnp.linalg.eigvalsh,
    "nuclear norm": lambda a: jnp.linalg.matrix_norm(a, ord="nuc"),
    "cond": jnp.linalg.cond,
    "matrix_power": lambda a: jnp.linalg.matrix_power(a, -3),
    "expm": lambda a: jsp.linalg.expm(a / 10),
    "cho_solve": lambda a: jsp.linalg.cho_solve(jsp.linalg.cho_factor(_definite(a)), a),
    "lu": jsp.linalg.lu,
    "lu_solve": lambda a: jsp.linalg.lu_solve(jsp.linalg.lu_factor(a), a[0], trans=2),
    "polar": lambda a: jsp.linalg.polar(a, method="svd"),
    "svd of a Hermitian": lambda a: tuple(
        jnp.linalg.svd(_hermitian(a), hermitian=True)
    ),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", BUILT)
def test_built_on_them(name):
    fun = BUILT[name]
    # A real one compiles several times as fast, nested.
    a = _random((4, 4), _separate, float if name in ("expm", "lstsq") else complex)
    order = 2 if name in ("expm", "lstsq", "polar") else 3
    [terms] = random_series([a], order)
    terms = [term / 2 for term in terms]
    assert_orders_close(_jet(fun, a, terms), _nested_jet(fun, a, terms), 500)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [*BUILT, *_COMPOSED, "qr", "svd", "eigvals"])
def test_cost(name):
    """One factorisation, and no more than O(K²) in all."""
    fun = BUILT[name] if name in BUILT else PRIMITIVES[name][0]
    shape = (4, 4) if name in BUILT else PRIMITIVES[name][1]
    a = jax.ShapeDtypeStruct(shape, float)

    def count(order):
        counts = count_primitives(
            lambda a: eqx_taylor.filter_jet(fun, (a,), ([a] * order,)), a
        )
        return sum(counts.values()), sum(counts.get(f, 0) for f in FACTORISATIONS)

    low, middle, high = (count(order) for order in (4, 8, 16))
    [factorisations] = {low[1], middle[1], high[1]}
    # Others: of the matrices of eigenvectors, or of what determines Q's other columns;
    # or the same one, within a function with a JVP of its own.
    others = {"eig": 2, "eigvals": 1, "qr, all columns": 1, "slogdet": 1}  # fmt: skip
    solves = "triangular_solve" in name or name == "tridiagonal_solve"
    assert factorisations == (0 if solves else 1 + others.get(name, 0))
    assert high[0] <= 4.5 * middle[0]
