"""Determinants along curves and lines, of regular and of singular matrices."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from helpers import assert_close, count_equations, jet, largest

import eqx_taylor
from eqx_taylor import derivatives


# -- exact coefficients


def _determinant(rows):
    """Of a matrix of polynomials (lists of numbers), by columns that are left."""
    minors = {0: [mpmath.mpf(1)]}
    n = len(rows)
    for i, row in enumerate(rows):
        longer = {}
        for columns, minor in minors.items():
            for j in range(n):
                if columns >> j & 1:
                    continue
                sign = (-1) ** bin(columns >> j).count("1")
                term = _product(row[j], minor)
                into = longer.setdefault(columns | 1 << j, [])
                into.extend([0] * (len(term) - len(into)))
                for k, x in enumerate(term):
                    into[k] += sign * x
        minors = longer
    return minors[2**n - 1]


def _product(a, b):
    out = [mpmath.mpf(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] += x * y
    return out


def _exact(terms, order):
    """Of `sum(terms[k] t^k)`: real, or complex."""
    n = len(terms[0])
    rows = [
        [[mpmath.mpmathify(complex(x[i, j])) for x in terms] for j in range(n)]
        for i in range(n)
    ]
    found = [*_determinant(rows), *[0] * (order + 1)][: order + 1]
    found = np.array([complex(x) for x in found])
    return found if np.iscomplexobj(terms[0]) else found.real


def _matrix(rng, n, rank, dtype=float):
    def entries(*shape):
        x = rng.integers(-8, 9, shape) / 8.0
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.integers(-8, 9, shape) / 8.0
        return x.astype(dtype)

    return entries(n, n) if rank == n else entries(n, rank) @ entries(rank, n)


# -- values of public reports


def test_singular_matrices():
    a, v = jnp.array([[1.0, 0.3], [0.2, 2.0]]), jnp.array([[0.0, 0.0], [1.0, 0.0]])
    found = derivatives(lambda t: jnp.linalg.det(t * a), 0.0, 2)
    assert_close(found, np.array([0, 0, 3.88]), 4)
    nilpotent = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    found = derivatives(lambda t: jnp.linalg.det(nilpotent + t * v), 0.0, 2)
    assert_close(found, np.array([0.0, -1.0, 0.0]), 0)
    # t^n det A, where all pivots vanish.
    for n in (3, 4, 6):
        a = np.eye(n) + 0.25 * np.diag(np.ones(n - 1), 1)
        found = derivatives(lambda t, a=a: jnp.linalg.det(t * a), 0.0, n + 1)
        expected = np.zeros(n + 2)
        expected[n] = np.prod(np.arange(1.0, n + 1))
        assert_close(found, expected, 10)


# -- all sizes, ranks and types

_FEW = [(2, 1), (4, 2), (5, 5), (10, 9)]
_MANY = [(1, 0), (3, 1), (4, 4), (4, 3), (7, 6), (8, 5), (10, 10), (11, 8), *_FEW]
_ORDER = 4


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
def test_coefficients(dtype):
    rng = np.random.default_rng(0)
    shapes = _MANY if dtype is np.float64 else _FEW
    curves = []
    for n, rank in shapes:
        first = _matrix(rng, n, rank, dtype)
        number = 2 if len(curves) % 2 else 1  # Parabolas, and lines.
        curves.append([first, *[_matrix(rng, n, n, dtype) for _ in range(number)]])

    @jax.jit
    def jets(curves):
        found = []
        for first, *terms in curves:
            terms = [*terms, *[None] * (_ORDER - len(terms))]
            found.append(
                jnp.stack(
                    jet(jnp.linalg.det, (first,), (terms,), factorial_scaled=False)
                )
            )
        return found

    for (n, rank), terms, found in zip(shapes, curves, jets(curves), strict=True):
        expected = _exact(terms, _ORDER).astype(dtype)
        # Coefficient 0 is JAX's own value.
        assert_close(found[1:], expected[1:], 200, scale=largest(expected))
        ones = found[1 : n - rank]
        assert largest(ones) <= 200 * np.finfo(dtype).eps * largest(expected)


@pytest.mark.slow
def test_transformations_at_a_singular_matrix():
    """Batches of regular and singular matrices; gradients of coefficients."""
    rng = np.random.default_rng(1)
    for n in (4, 10):
        matrices = np.stack([_matrix(rng, n, rank) for rank in (n, n - 1, n - 2)])
        v, w = _matrix(rng, n, n), _matrix(rng, n, n)

        def second(a, v=v):
            return jet(jnp.linalg.det, (a,), ([v, None],), factorial_scaled=False)[2]

        value, slope = jax.jit(
            jax.vmap(lambda a: (second(a), jnp.sum(jax.grad(second)(a) * w)))
        )(matrices)
        for a, found, along in zip(matrices, value, slope):
            assert_close(found, _exact([a, v], 2)[2], 500)
            # Of t² s in det(a + t v + s w), by a difference: a polynomial in s.
            points = np.arange(n - 1) - (n - 1) // 2
            values = [_exact([a + s * w, v], 2)[2] for s in points]
            expected = np.polynomial.Polynomial.fit(points, values, n - 2).convert()
            assert_close(along, expected.coef[1], 1e5, scale=largest(expected.coef))


def test_laplacian_and_product_with_the_hessian():
    # Of det A, all second derivatives with respect to one entry are zero; the Hessian
    # of ad - bc is known.
    a = jnp.zeros((2, 2))
    assert_close(eqx_taylor.laplacian(jnp.linalg.det, a), jnp.zeros(()), 0)
    v = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    found = eqx_taylor.weighted_laplacian(jnp.linalg.det, a, v[..., None])
    assert_close(found, 2 * jnp.linalg.det(v), 4)


def test_in_a_vector_field():
    # y' = det(I y) + 1 = y^4 + 1 for y = 0: y = t + t^5/5 + ...
    def field(t, y, args):
        return jnp.linalg.det(y * jnp.eye(4)) + 1

    found = eqx_taylor.ode_jet(field, 0.0, jnp.zeros(()), order=6)
    assert_close(found, np.array([0, 1, 0, 0, 0, 0.2, 0]), 4)


def test_cost():
    """Fewer equations than JAX's derivative, as a recurrence, has: 1891 for n = 4."""

    def counted(n):
        a = np.eye(n)
        return count_equations(
            lambda a: jet(jnp.linalg.det, (a,), ([a, *[None] * 7],)), a
        )

    assert counted(4) < 200
    assert counted(8) < 300
    assert counted(40) == counted(12) < 2000


# -- logarithms: l' = d' / d, from exact coefficients of the determinant


def _exact_log(terms, order):
    """Coefficients of the sign and of `log |det|`, from order 1 on."""
    d = [mpmath.mpmathify(complex(x)) for x in _exact(terms, order)]
    logs = [mpmath.mpf(0)]
    turns = [d[0] / abs(d[0])]
    for k in range(1, order + 1):
        rest = sum((j * logs[j] * d[k - j] for j in range(1, k)), mpmath.mpf(0))
        logs.append((d[k] - rest / k) / d[0])
        # s' = i Im(l') s
        angles = [1j * mpmath.im(x) for x in logs]
        turn = sum(j * angles[j] * turns[k - j] for j in range(1, k + 1))
        turns.append(turn / k)
    found = np.array([[complex(x) for x in both] for both in (turns, logs)])
    signs, logs = found[0, 1:], found[1, 1:].real
    return signs if np.iscomplexobj(terms[0]) else np.zeros_like(logs), logs


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
def test_logarithms(dtype):
    """Of matrices of all kinds of sizes, along parabolas; by both decompositions."""
    rng = np.random.default_rng(2)
    methods = ["lu"] if dtype is np.complex128 else ["lu", "qr"]
    curves = []
    for n in (1, 2, 3, 4, 9) if dtype is np.float64 else (3, 5):
        first = (_matrix(rng, n, n, dtype) + 3 * np.eye(n)).astype(dtype)
        curves.append([first, *[_matrix(rng, n, n, dtype) / 4 for _ in range(2)]])
    if dtype is np.float64:
        # Rows of far electrons are small; a matrix of which only a row moves.
        rows = np.array([[1.0], [1e-6], [1e-12]])
        curves.append([rows * x for x in curves[2]])
        curves.append([curves[2][0], curves[2][1] * [[0.0], [1.0], [0.0]]])
    curves = [[np.asarray(x, dtype) for x in terms] for terms in curves]

    def jets(curves, method):
        fun = lambda a: tuple(jnp.linalg.slogdet(a, method=method))  # noqa: E731
        found = []
        for first, *terms in curves:
            terms = [*terms, *[None] * (_ORDER - len(terms))]
            orders = jet(fun, (first,), (terms,), factorial_scaled=False)[1:]
            found.append([jnp.stack(parts) for parts in zip(*orders)])
        return found

    jets = jax.jit(jets, static_argnums=1)
    for method in methods:
        for terms, found in zip(curves, jets(curves, method), strict=True):
            signs, logs = _exact_log(terms, _ORDER)
            condition = np.linalg.cond(
                terms[0] / np.max(np.abs(terms[0]), axis=1, keepdims=True)
            )
            scale = condition * largest(logs)
            assert_close(found[1], logs.astype(found[1].dtype), 20, scale=scale)
            scale = condition * max(1.0, largest(signs))
            assert_close(found[0], signs.astype(found[0].dtype), 20, scale=scale)
