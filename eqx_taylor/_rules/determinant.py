"""Determinants, which are read as polynomials, also if a matrix is singular.

JAX's derivative divides by pivots, and so do all higher ones. Up to eight rows there is
a formula without divisions, which takes no more multiplications than an elimination. A
larger matrix is reduced to one of this size.
"""

import functools as ft
import itertools
from collections.abc import Sequence

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core.convolution import convolve
from .._core.jax import is_jaxpr, trace
from .._core.protocols import JaxprEqn
from .._core.recurrence import outputs
from .._core.rule import Read, register, Rule, RULES, target_key
from .._core.series import CONSTANT, Series
from .._core.terms import add, scale
from .._core.walk import Walk
from .define import derivative_rule, rewritten
from .linear_algebra import adjoint, diagonal, matmul, transpose


# The largest number of rows for the formula by minors, which takes n 2^(n-1) products.
# A series of the inverse takes n^3, which is half as many for 8 rows, and a third for
# 9.
_FEW = 8
# The smallest pivot, relative to the largest entry in its row, by which rows are
# eliminated: coefficient k loses about k times as many digits as the pivot has zeros.
# Chosen, as a compromise between this loss and the number of singular value
# decompositions; a factor of ten either way is another compromise.
_PIVOT = 1e-3


# -- few rows
#
# With A_K,J the minor of rows K and columns J (Laplace)
#
#   A_{K ∪ L, J} = Σ_{I ⊂ J} ± A_{K, I} A_{L, J - I}
#
# for rows K above rows L: first for pairs of rows, then for pairs of pairs.


def _by_minors(a):
    n = a.shape[-1]
    if n == 0:
        return jnp.ones(a.shape[:-2], a.dtype)
    # The axes are over groups of rows, and over sets of as many columns, in order.
    size, groups = 1, a
    others, rest = 0, None
    while groups.shape[-2] > 1:
        if groups.shape[-2] % 2:
            last = groups[..., -1:, :]
            rest = last if rest is None else _joined(n, size, last, others, rest)
            others += size
            groups = groups[..., :-1, :]
        groups = _joined(n, size, groups[..., ::2, :], size, groups[..., 1::2, :])
        size *= 2
    if rest is not None:
        groups = _joined(n, size, groups, others, rest)
    return groups[..., 0, 0]


def _joined(n: int, p: int, upper, q: int, lower):
    """Computes minors of `p + q` rows from those of `p` rows and of `q` rows below."""
    of_upper, of_lower, signs = _expansion(n, p, q)
    terms = _entries(upper, of_upper) * _entries(lower, of_lower)
    signs = jnp.broadcast_to(jnp.asarray(signs, terms.dtype), terms.shape)
    return jnp.sum(signs * terms, axis=-1)


def _entries(minors, places):
    return minors.at[..., places].get(
        mode="promise_in_bounds", wrap_negative_indices=False
    )


# For matrices of up to 8 rows there are 18 different arguments.
@ft.lru_cache(maxsize=32)
def _expansion(n: int, p: int, q: int):
    """Finds, for each set of `p + q` columns, the positions of the two minors of each
    product, and its sign. Each set has a row."""
    of_upper = {set_: i for i, set_ in enumerate(itertools.combinations(range(n), p))}
    of_lower = {set_: i for i, set_ in enumerate(itertools.combinations(range(n), q))}
    rows = []
    for columns in itertools.combinations(range(n), p + q):
        row = []
        for places in itertools.combinations(range(p + q), p):
            chosen = tuple(columns[i] for i in places)
            left = tuple(column for column in columns if column not in chosen)
            exchanges = sum(places) - p * (p - 1) // 2
            row.append((of_upper[chosen], of_lower[left], (-1) ** exchanges))
        rows.append(row)
    places = np.asarray(rows, np.int32)
    return places[..., 0], places[..., 1], places[..., 2]


# -- many rows
#
# With constant matrices F and G, of determinants of absolute value 1,
#
#   F A(t) G = [[B, C], [D, E]],    det A = det F⁻¹ det G⁻¹ det B det(E - D B⁻¹ C)
#
# where E has 8 rows, and B is regular: F is the permutation of the LU factorisation;
# or, if the pivots of B are too small, F and G are from the singular vectors. If even
# that B is singular, the determinant is a multiple of t^9.


def _by_blocks(a, order: int):
    m = a.shape[-1] - _FEW
    left, right, factor, is_regular = _frame(lax.stop_gradient(a), m)
    a = matmul(matmul(left, a), right)
    b, c, d, e = a[..., :m, :m], a[..., :m, m:], a[..., m:, :m], a[..., m:, m:]
    others = jnp.broadcast_to(is_regular[..., None, None], b.shape)
    eye = jnp.broadcast_to(jnp.eye(m, dtype=a.dtype), b.shape)
    b = jnp.where(others, b, eye)
    rest = e - matmul(d, jnp.linalg.solve(b, c))
    det = factor * _regular(b) * _by_minors(rest)
    singular = 0 if order <= _FEW else jnp.nan
    return jnp.where(is_regular, det, jnp.asarray(singular, det.dtype))


def _frame(a, m: int):
    """Computes F and G, the product of the inverses of their determinants, and whether
    the first `m` rows and columns of `F a G` are regular."""
    n = a.shape[-1]
    packed, pivots, order = lax.linalg.lu(a)
    eye = jnp.broadcast_to(jnp.eye(n, dtype=a.dtype), a.shape)
    columns = jnp.max(jnp.abs(a), axis=-2, keepdims=True)
    sizes = jnp.abs(jnp.triu(packed)) / jnp.where(columns == 0, 1, columns)
    is_small = diagonal(sizes)[..., :m] <= _PIVOT * jnp.max(sizes, axis=-1)[..., :m]

    def of_rows():
        left = jnp.take_along_axis(eye, order[..., None], -2)
        places = jnp.arange(n, dtype=pivots.dtype)
        exchanged = pivots != jnp.broadcast_to(places, pivots.shape)
        sign = jnp.where(jnp.sum(exchanged, axis=-1) % 2 == 0, 1, -1)
        return left, eye, sign.astype(a.dtype), jnp.ones(a.shape[:-2], bool)

    def of_vectors():
        u, s, v_adjoint = jnp.linalg.svd(a)
        factor = jnp.linalg.det(u) * jnp.linalg.det(v_adjoint)
        smallest = n * float(jnp.finfo(a.dtype).eps) * s[..., 0]
        return adjoint(u), adjoint(v_adjoint), factor, s[..., m - 1] > smallest

    # Only one of them is computed, also under `vmap`.
    return lax.cond(eqxi.unvmap_any(jnp.any(is_small)), of_vectors, of_rows)


# y = det B  =>  y' = y tr(B⁻¹ B')


@jax.custom_jvp
def _regular(b):
    return jnp.linalg.det(b)


def _slope(y, b, db):
    inner = jnp.linalg.solve(b, db)
    return y * jnp.trace(inner, axis1=-2, axis2=-1)


@_regular.defjvp
def _regular_jvp(primals, tangents):
    [b], [db] = primals, tangents
    y = _regular(b)
    return y, _slope(y, b, db)


register(_regular, kind="differential equation")(derivative_rule(_slope))


# -- JAX's function


def _determinant(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    n = inputs[0].aval.shape[-1]
    fun = _by_minors if n <= _FEW else ft.partial(_by_blocks, order=walk.order)
    return [rewritten(walk, eqn, inputs, fun)]


def _register_within(jaxpr, read: Read) -> None:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "custom_jvp_call":
            RULES[target_key(eqn)] = Rule(read)
            continue
        for value in eqn.params.values():
            if is_jaxpr(value):
                _register_within(getattr(value, "jaxpr", value), read)


# All forms of `det` have one derivative; JAX 0.10 has none for two and three rows.
_MATRIX = jax.ShapeDtypeStruct((4, 4), jnp.float32)
_register_within(trace(lambda a: [jnp.linalg.det(a)], _MATRIX), _determinant)


# -- log det A, by one inverse for all orders
#
# With B(t) = A(t) A_0⁻¹ and its inverse W, whose coefficient 0 is the identity,
#
#   l' = tr(B' W)   =>  k l_k = Σ_{j=1..k} j tr(B_j W_{k-j})
#   B W = 1         =>  W_k = -B_k - Σ_{j=1..k-1} B_j W_{k-j}
#
# At orders 1 and 2 the only product of matrices is B_1, whose rows depend on the same
# inputs as those of A_1: a Laplacian keeps its sparsity by rows. JAX's own derivative
# solves a system for each coefficient, with all columns of all directions.


# X = A⁻¹  =>  X' = -X A' X takes products, while JAX's derivative solves systems again.


@jax.custom_jvp
def _inverse(a):
    return jnp.linalg.inv(a)


def _inverse_slope(x, a, da):
    return -matmul(matmul(x, da), x)


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    [a], [da] = primals, tangents
    x = _inverse(a)
    return x, _inverse_slope(x, a, da)


register(_inverse, kind="differential equation")(derivative_rule(_inverse_slope))


def _log_determinant(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]
) -> list[Series]:
    [a] = inputs
    support = walk.analytic_support(inputs)
    inverse = ft.cache(lambda: _inverse(a[0]))
    is_complex = jnp.issubdtype(a.aval.dtype, jnp.complexfloating)

    def ratio(k):
        return None if a[k] is None or k == 0 else matmul(a[k], inverse())

    def inverse_ratio(k):
        if k == 0:
            return None
        rest = add(ratios[k], convolve(matmul, ratios, inverses, k, first=1))
        return None if rest is None else -rest

    def log(k):
        total = None
        if a[k] is not None:
            total = lax.mul(a[k], transpose(inverse()))
        for j in range(1, k):
            if ratios[j] is not None and inverses[k - j] is not None:
                product = lax.mul(ratios[j], transpose(inverses[k - j]))
                total = add(total, scale(product, j / k))
        return None if total is None else jnp.sum(total, axis=(-2, -1))

    def step(k):
        l_k = logs[k]
        if l_k is None or not is_complex:
            return [None, l_k]
        angle = lax.complex(jnp.zeros_like(l_k.imag), l_k.imag)
        turn = lax.mul(angle, sign[0])
        for j in range(1, k):
            if logs[j] is not None and sign[k - j] is not None:
                angle = lax.complex(jnp.zeros_like(logs[j].imag), logs[j].imag)
                turn = add(turn, scale(lax.mul(angle, sign[k - j]), j / k))
        return [turn, l_k.real]

    ratios = Series(a.aval, support & ~CONSTANT, ratio)
    inverses = Series(a.aval, support & ~CONSTANT, inverse_ratio)
    sign_aval, log_aval = (var.aval for var in eqn.outvars)
    logs = Series(sign_aval, support, lambda k: log(k) if k else None)
    for series in (ratios, inverses, logs):
        series.depend_on(inputs)
    supports = [support if is_complex else CONSTANT, support]
    sign, log_size = outputs(eqn, inputs, supports, step)
    return [sign, log_size]


# LU decompositions are the default, and QR decompositions an option. One or two rows
# have formulas, which are read as such.
for _method in ("lu", "qr"):
    _register_within(
        trace(lambda a: [*jnp.linalg.slogdet(a, method=_method)], _MATRIX),  # noqa: B023
        _log_determinant,
    )
