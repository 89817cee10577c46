"""Triangular and tridiagonal systems, and factorisations without iteration: Cholesky,
LU and QR. Factorisations by eigenvectors are in `spectral.py`.

Each of them is an equation between products of series. In its coefficient `k`, the
unknowns of order `k` are multiplied only by factors of order 0, so one factorisation
serves all orders. The rest is a sum over orders 1 to k-1, of products of the moving
parts `x(t) - x_0`.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._core.convolution import convolve
from .._core.jax import as_type, bind
from .._core.protocols import JaxprEqn
from .._core.recurrence import output, outputs, Recurrence
from .._core.rule import Cost, register
from .._core.series import CONSTANT, primal_values, Series
from .._core.terms import add, scale, sub, Term
from .._core.walk import Walk
from .define import read
from .linear import joined_support


# -- matrices, with any number of batch axes in front


# The precision is that of JAX's own derivatives of the primitives below.
matmul = ft.partial(lax.batch_matmul, precision=lax.Precision.HIGHEST)
_triangular_solve = lax.linalg.triangular_solve


def transpose(x):
    return lax.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def adjoint(x):
    x = transpose(x)
    return lax.conj(x) if jnp.iscomplexobj(x) else x


def add_adjoint(x):
    return lax.add(x, adjoint(x))


def half_diagonal(x, lower: bool = True):
    """Takes a triangle of `x`, with half of its diagonal. If `x` is Hermitian, it
    equals `half + adjoint(half)`."""
    triangle = jnp.tril(x) if lower else jnp.triu(x)
    return jnp.where(identity(x), triangle / 2, triangle)


def identity(x):
    """Makes the mask of the diagonal of matrices like `x`."""
    eye = jnp.eye(*x.shape[-2:], dtype=bool)
    return as_type(jax.typeof(x), lax.broadcast(eye, x.shape[:-2]))


def diagonal(x):
    return jnp.diagonal(x, axis1=-2, axis2=-1)


# -- series


def image(
    x: Series, fun: Callable[[Any], Any], inputs: Sequence[Series], first: int = 0
) -> Series:
    """Makes the series `fun(x)` from coefficient `first` on. `fun` is linear and costs
    little. `inputs` are the series from which `x` is computed."""

    def compute(k):
        return None if x[k] is None else fun(x[k])

    support = x.support >> first << first
    aval = jax.eval_shape(fun, x.aval)
    series = Series(aval, support, compute, is_known=x.is_known, is_kept=True)
    # Outputs of the rule itself, which are not kept yet, will be stored.
    if x.storage.cost is Cost.VIEW or not x.is_kept:
        series.storage.cost = Cost.VIEW
    series.depend_on(inputs)
    return series


def moving(
    x: Series, inputs: Sequence[Series], fun: Callable[[Any], Any] = lambda x: x
) -> Series:
    """Makes the series `fun(x(t) - x_0)`."""
    return image(x, fun, inputs, first=1)


def half_gram(a: Series, b: Series, k: int) -> Term:
    """Computes the `half` of `Σ_{j=1..k-1} a_j b_{k-j} = half + adjoint(half)`, where
    `b` is the adjoint of `a`. Each product is computed once."""
    total = None
    for j in range(1, k // 2 + 1):
        if a[j] is not None and b[k - j] is not None:
            product = matmul(a[j], b[k - j])
            total = add(total, product if 2 * j < k else scale(product, 0.5))
    return total


# -- linear systems: A x = b  =>  A_0 x_k = b_k - Σ_{j=1..k} A_j x_{k-j}


def _solved(
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    walk: Walk,
    parts: Sequence[tuple[Series, Callable[[Any, Any], Any]]],
) -> list[Series]:
    """Solves `A x = b`. `parts` add up to `A x`: each is a series, and a function that
    multiplies one of its coefficients by one of `x`."""
    *matrix, b = inputs

    def compute(k):
        rest = b[k]
        for part, product in parts:
            rest = sub(rest, convolve(product, part, x, k, first=1))
        return None if rest is None else bind(eqn, [*primal_values(matrix), rest])[0]

    if all(series.is_constant for series in matrix):
        support = joined_support([b]) | CONSTANT
    else:
        support = walk.analytic_support(inputs)
    x = output(eqn, inputs, support, compute)
    return [x]


# The operand in which a system is linear.
_RIGHT_HAND_SIDE = slice(-1, None)


@register("triangular_solve", kind="matrix equation", linear=_RIGHT_HAND_SIDE)
def _triangular(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    params = eqn.params
    k = 1 if params["unit_diagonal"] else 0

    def as_read(a):
        a = jnp.tril(a, -k) if params["lower"] else jnp.triu(a, k)
        a = transpose(a) if params["transpose_a"] else a
        return lax.conj(a) if params["conjugate_a"] and jnp.iscomplexobj(a) else a

    def product(a, x):
        return matmul(a, x) if params["left_side"] else matmul(x, a)

    a = moving(inputs[0], inputs, as_read)
    return _solved(eqn, inputs, walk, [(a, product)])


@register("tridiagonal_solve", kind="matrix equation", linear=_RIGHT_HAND_SIDE)
def _tridiagonal(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def off_diagonal(d, x, of_d, of_x, pad):
        # The entry outside of the matrix is not used.
        inside = d[..., of_d, None] * x[..., of_x, :]
        return jnp.pad(inside, [(0, 0)] * (x.ndim - 2) + [pad, (0, 0)])

    rest, front = slice(1, None), slice(None, -1)
    products = [
        ft.partial(off_diagonal, of_d=rest, of_x=front, pad=(1, 0)),
        lambda d, x: d[..., None] * x,
        ft.partial(off_diagonal, of_d=front, of_x=rest, pad=(0, 1)),
    ]
    return _solved(eqn, inputs, walk, list(zip(inputs, products)))


# -- L Lᴴ = A, where A is read from its lower triangle
#
#   L_0 L_kᴴ + L_k L_0ᴴ = H,    H = A_k - Σ_{j=1..k-1} L_j L_{k-j}ᴴ
#   L_k = L_0 Φ(L_0⁻¹ H L_0⁻ᴴ)
#
# with Φ the lower triangle with half the diagonal (Murray, arXiv:1602.07527).
@register("cholesky", kind="matrix equation")
def _cholesky(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [a] = inputs

    def compute(k):
        half = None if a[k] is None else half_diagonal(a[k])
        half = sub(half, half_gram(factor, factor_adjoint, k))
        if half is None:
            return None
        lower = factor[0]
        solve = ft.partial(_triangular_solve, lower, lower=True)
        right = solve(add_adjoint(half), transpose_a=True, conjugate_a=True)
        # The upper triangle of the primitive's output is arbitrary.
        return matmul(jnp.tril(lower), half_diagonal(solve(right, left_side=True)))

    support = walk.analytic_support(inputs)
    factor = output(eqn, inputs, support, compute)
    factor_adjoint = moving(factor, inputs, adjoint)
    return [factor]


# -- L U = P A, packed into one matrix, with a constant permutation P
#
#   L_0 U_k + L_k U_0 = N,      N = P A_k - Σ_{j=1..k-1} L_j U_{k-j}
#   L_k = L_0 Λ,                Λ = tril(L_0⁻¹ N U_0⁻¹, -1)
#   U_k = L_0⁻¹ N - Λ U_0
#
# Nothing is divided by the last pivot, which may be zero.
@register("lu", kind="matrix equation")
def _lu(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [a] = inputs
    m, n = a.aval.shape[-2:]
    r = min(m, n)

    def pack(lower, upper):
        """Packs an m times r and an r times n matrix into an m times n matrix."""
        batch = [(0, 0)] * (lower.ndim - 2)
        lower = jnp.pad(lower, [*batch, (0, 0), (0, n - r)])
        return lower + jnp.pad(upper, [*batch, (0, m - r), (0, 0)])

    @ft.cache
    def factors():
        """Returns `L_0`, its first rows, which are square, and `U_0`."""
        packed = outs[0][0]
        lower = jnp.tril(packed[..., :, :r], -1)
        lower = jnp.where(identity(lower), 1, lower).astype(packed.dtype)
        return lower, lower[..., :r, :], jnp.triu(packed[..., :r, :])

    def compute(k):
        order = outs[2][0][..., None]
        rows = None if a[k] is None else jnp.take_along_axis(a[k], order, -2)
        rest = sub(rows, convolve(matmul, lowers, uppers, k, first=1))
        if rest is None:
            return [None, None, None]
        lower, square, upper = factors()
        upper_rest = _triangular_solve(
            square, rest[..., :r, :], left_side=True, lower=True, unit_diagonal=True
        )
        # Below the first r rows, N = L_k U_0 + L_0 U_k is solved for L_k.
        inner = _triangular_solve(upper[..., :, :r], upper_rest[..., :, :r])
        inner = jnp.tril(inner, -1)
        new_upper = jnp.triu(upper_rest - matmul(inner, upper))
        new_lower = matmul(square, inner)
        if m > r:
            below = rest[..., r:, :] - matmul(lower[..., r:, :], new_upper)
            below = _triangular_solve(upper, below)
            new_lower = jnp.concatenate([new_lower, below], -2)
        return [pack(new_lower, new_upper), None, None]

    outs = outputs(eqn, inputs, walk.analytic_support(inputs), compute)
    lowers = moving(outs[0], inputs, lambda x: jnp.tril(x[..., :, :r], -1))
    uppers = moving(outs[0], inputs, lambda x: jnp.triu(x[..., :r, :]))
    return outs


# -- Q R = A, Qᴴ Q = 1, with R upper triangular, and a diagonal of constant phase
#
#   Q_0 R_k + Q_k R_0 = N,      N = A_k - Σ_{j=1..k-1} Q_j R_{k-j}
#   Q_0ᴴ Q_k + Q_kᴴ Q_0 = S,    S = -Σ_{j=1..k-1} Q_jᴴ Q_{k-j}
#
# With E = N R_0⁻¹, Q_0ᴴ Q_k = S/2 + Ω and ρ = R_k R_0⁻¹ this is ρ + Ω = M for M =
# Q_0ᴴ E - S/2. Ω is skew, and ρ triangular with a real diagonal, so that
#
#   ρ = triu(M + tril(M, -1)ᴴ),  R_k = ρ R_0,  Q_k = E - Q_0 ρ
#
# Columns to the right of the square part follow: their R_k = Q_0ᴴ (N - Q_k R_0).
@register("qr", kind="matrix equation")
def _qr(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [a] = inputs
    m, n = a.aval.shape[-2:]
    r = min(m, n)

    # Q has two parts: the columns that belong to the square part of R, and the others.
    def parts():
        q, upper, *pivots = bind(eqn, primal_values(inputs))
        return [q[..., :, :r], upper[..., :r, :], q[..., :, r:], *pivots]

    def compute(k):
        terms: list[Term] = [None] * len(outs)
        columns = a[k]
        if columns is not None and eqn.params.get("pivoting"):
            permutation = outs[3][0][..., None, :]
            columns = jnp.take_along_axis(columns, permutation, -1)
        rest = sub(columns, convolve(matmul, moving_q, moving_upper, k, first=1))
        if rest is not None:
            terms[:2] = step(rest, half_gram(moving_adjoint, moving_q, k))
        return terms

    def step(rest, half):
        q, upper = outs[0][0], outs[1][0]
        square = upper[..., :, :r]
        e = _triangular_solve(square, rest[..., :, :r])
        middle = matmul(adjoint(q), e)
        if half is not None:
            middle = middle + add_adjoint(half) / 2
        rho = jnp.triu(middle) + adjoint(jnp.tril(middle, -1))
        if jnp.iscomplexobj(rho):
            rho = jnp.where(identity(rho), rho.real.astype(rho.dtype), rho)
        new_q, new_upper = e - matmul(q, rho), matmul(rho, square)
        if n > r:
            right = rest[..., :, r:] - matmul(new_q, upper[..., :, r:])
            new_upper = jnp.concatenate([new_upper, matmul(adjoint(q), right)], -1)
        return new_q, new_upper

    q_aval, upper_aval, *pivots = (var.aval for var in eqn.outvars)
    support = walk.analytic_support(inputs)
    types = [
        (jax.eval_shape(lambda x: x[..., :, :r], q_aval), support),
        (jax.eval_shape(lambda x: x[..., :r, :], upper_aval), support),
        (jax.eval_shape(lambda x: x[..., :, r:], q_aval), CONSTANT),
        *[(aval, CONSTANT) for aval in pivots],
    ]
    outs = Recurrence(types, parts, compute).outs
    moving_q, moving_upper = moving(outs[0], inputs), moving(outs[1], inputs)
    moving_adjoint = moving(outs[0], inputs, adjoint)
    if q_aval.shape[-1] == r:
        return [outs[0], outs[1], *outs[3:]]
    # The outputs are kept at once, as they are read here.
    for series in outs:
        walk.auxiliary(series, inputs)
    [others] = read(walk, _other_columns, [outs[0]])

    def compute_q(k):
        new = others[k] if k > 0 else outs[2][0]
        return None if new is None else jnp.concatenate([outs[0][k], new], -1)

    def with_zeros(upper):
        return jnp.pad(upper, [(0, 0)] * (upper.ndim - 2) + [(0, m - n), (0, 0)])

    q = Series(q_aval, support, compute_q)
    return [q, image(outs[1], with_zeros, inputs), *outs[3:]]


# Q is a product of n reflections, 1 - Y T Yᴴ with m times n matrices. So its first n
# columns determine the others (arXiv:2409.13374): with Z = Q_pn (Q_nn - 1)⁻¹,
#
#   Q_mp = 1_mp + (Q_mn - 1_mn) Zᴴ
def _other_columns(q):
    m, n = q.shape[-2:]
    eye = lax.broadcast(jnp.eye(m, dtype=q.dtype), q.shape[:-2])
    difference = q - eye[..., :, :n]
    z_adjoint = jnp.linalg.solve(
        adjoint(difference[..., :n, :]), adjoint(difference[..., n:, :])
    )
    return eye[..., :, n:] + matmul(difference, z_adjoint)
