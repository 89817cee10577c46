"""Factorisations by eigenvectors and singular vectors.

The columns are determined up to factors. Along a curve these are the same as in JAX,
and stated above each rule. If eigenvalues coincide, the vectors are not differentiable,
and their coefficients are not finite.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .._core.convolution import convolve
from .._core.jax import bind
from .._core.protocols import JaxprEqn
from .._core.recurrence import outputs, Recurrence
from .._core.rule import otherwise, register
from .._core.series import CONSTANT, primal_values, Series
from .._core.terms import add, scale, sub, Term
from .._core.walk import Walk
from .linear_algebra import (
    add_adjoint,
    adjoint,
    diagonal,
    half_diagonal,
    identity,
    image,
    matmul,
    moving,
)


def _times_diagonal(v, w):
    """Computes `V diag(w)`."""
    return v * w[..., None, :].astype(v.dtype)


def _overlaps(v: Series, k: int) -> Term:
    """Computes `Σ_{j=1..k-1} (j/k) v_{k-j}ᴴ v_j` for each column `v`.

    With `v_0ᴴ v_k` added, it is coefficient `k - 1` of `vᴴ v'`, divided by `k`, and its
    real part is half of coefficient `k` of `vᴴ v`.
    """
    total = None
    for j in range(1, k // 2 + 1):
        a, b = v[j], v[k - j]
        if a is None or b is None:
            continue
        # Each product is combined with the one in which `j` and `k - j` are exchanged.
        b = lax.conj(b) if jnp.iscomplexobj(b) else b
        both = jnp.sum(b * a, axis=-2)
        if jnp.iscomplexobj(both):
            both = lax.complex(both.real, both.imag * (2 * j / k - 1))
        total = add(total, both if 2 * j < k else scale(both, 0.5))
    return total


def _minus(term: Term, like):
    return jnp.zeros_like(like) if term is None else -term


def _set_diagonal(x, entries):
    return jnp.where(identity(x), entries[..., None, :].astype(x.dtype), x)


def _differences(w):
    """Makes the matrix of `w_q - w_p` in row p, column q, with 1 on the diagonal."""
    differences = w[..., None, :] - w[..., :, None]
    return jnp.where(identity(differences), 1, differences)


# -- A V = V Λ
#
# With M the known part of order k,
#
#   A_0 V_k + M = V_k Λ_0 + V_0 Λ_k
#   M = Σ_{j=1..k} A_j V_{k-j} - Σ_{j=1..k-1} V_j Λ_{k-j}
#
# and V_k = V_0 C, T = V_0⁻¹ M:
#
#   Λ_k = diag(T),      C_pq = T_pq / (λ_q - λ_p)
def _remainder(a: Series, v: Series, u: Series, w: Series, k: int) -> Term:
    """Computes `M`. The moving parts are `a`, `w`, and `u`, the moving part of the
    vectors on the right-hand side."""
    return sub(
        convolve(matmul, a, v, k, first=1),
        convolve(_times_diagonal, u, w, k, first=1),
    )


# Vᴴ V = 1 and diag(Vᴴ V') = 0, which is the diagonal of C:
#
#   C_qq = -Σ_{j=1..k-1} (j/k) v_{k-j}ᴴ v_j    of column q
#
# A is read from one of its triangles.
@register("eigh", kind="matrix equation")
def _eigh(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [a] = inputs
    if eqn.outvars[0].aval.shape != a.aval.shape:
        return otherwise(walk, eqn, inputs)  # Only some of the vectors are computed.

    def compute(k):
        m = _remainder(a_moving, v, v_moving, w_moving, k)
        if m is None:
            return [None, None]
        t = matmul(adjoint(v[0]), m)
        w_k = diagonal(t)
        c = t / _differences(w[0]).astype(t.dtype)
        c = _set_diagonal(c, _minus(_overlaps(v, k), w_k))
        return [matmul(v[0], c), w_k.real]

    def as_read(a):
        return add_adjoint(half_diagonal(a, eqn.params["lower"]))

    support = walk.analytic_support(inputs)
    v, w = outputs(eqn, inputs, support, compute)
    a_moving = moving(a, inputs, as_read)
    v_moving, w_moving = moving(v, inputs), moving(w, inputs)
    return [v, w]


# Each column of V has norm 1, and its largest entry, v_i, is real. With u that of V_0 C
# for a C without diagonal, v_k is u + c v_0:
#
#   Re c = -Re(v_0ᴴ u) - ½ Σ_{j=1..k-1} v_{k-j}ᴴ v_j,    Im c = -Im(u_i) / v_i
#
# Left eigenvectors are those of Aᴴ, with the conjugate eigenvalues.
@register("eig", kind="matrix equation")
def _eig(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [a] = inputs
    sides = [s for s in ("left", "right") if eqn.params[f"compute_{s}_eigenvectors"]]
    if sides and not eqn.params.get("enable_eigvec_derivs"):
        return otherwise(walk, eqn, inputs)  # JAX raises an error with the reason.
    if not sides:
        # The series of eigenvalues needs vectors from the same call, in the same order.
        # The derivative of the vectors is needed for a gradient of the jet.
        sides = ["right"]
        vectors = dict.fromkeys(("compute_right_eigenvectors", "enable_eigvec_derivs"))
        eqn = eqn.replace(
            params={k: k in vectors or value for k, value in eqn.params.items()}
        )

    def compute(k):
        pairs = [step(k) for step in steps]
        return [pairs[0][0], *[v_k for _, v_k in pairs]]

    w_aval = eqn.outvars[0].aval
    v_aval = jax.ShapeDtypeStruct(a.aval.shape, w_aval.dtype)
    support = walk.analytic_support(inputs)
    types = [(w_aval, support), *[(v_aval, support)] * len(sides)]
    outs = Recurrence(types, lambda: bind(eqn, primal_values(inputs)), compute).outs
    steps = [
        _eigenpairs(walk, a, outs[0], v, is_left=side == "left")
        for side, v in zip(sides, outs[1:])
    ]
    return outs[: len(eqn.outvars)]


def _eigenpairs(walk: Walk, a: Series, w: Series, v: Series, is_left: bool):
    """Returns a function that computes coefficient `k` of the eigenvalues and of the
    left or right vectors."""

    def of_this_side(x):
        return lax.conj(x) if is_left else x

    def as_complex(a):
        a = lax.convert_element_type(a, v.aval.dtype)
        return adjoint(a) if is_left else a

    def step(k):
        m = _remainder(a_moving, v, v_moving, w_moving, k)
        if m is None:
            return None, None
        t = matmul(inverse[0], m)
        c = t / _differences(of_this_side(w[0]))
        u = matmul(v[0], _set_diagonal(c, jnp.zeros_like(w[0])))
        overlaps = _overlaps(v, k)
        real = -jnp.sum(lax.conj(v[0]) * u, axis=-2).real
        if overlaps is not None:
            real = real - overlaps.real
        largest = jnp.argmax(abs(v[0]), axis=-2, keepdims=True)
        u_i, v_i = (jnp.take_along_axis(x, largest, -2)[..., 0, :] for x in (u, v[0]))
        factor = lax.complex(real, -u_i.imag / v_i.real)
        return of_this_side(diagonal(t)), u + _times_diagonal(v[0], factor)

    inverse = Series(v.aval, CONSTANT, lambda k: jnp.linalg.inv(v[0]))
    a_moving = moving(a, [a], as_complex)
    v_moving, w_moving = moving(v, [a]), moving(w, [a], of_this_side)
    return step


# -- A V = U S, Aᴴ U = V S, Uᴴ U = Vᴴ V = 1, and diag(Vᴴ V') = 0
#
# With the known parts of order k,
#
#   A_0 V_k + M = U_k S_0 + U_0 S_k
#   A_0ᴴ U_k + N = V_k S_0 + V_0 S_k
#   M = Σ_{j=1..k} A_j V_{k-j} - Σ_{j=1..k-1} U_j S_{k-j},    N likewise
#
# and P = U_0ᴴ M, Q = V_0ᴴ N, X = U_0ᴴ U_k, Z = V_0ᴴ V_k:
#
#   P = X S_0 - S_0 Z + S_k,            S_k = Re diag(P + Q) / 2
#   Q = Z S_0 - S_0 X + S_k,            X_pq = (P_pq s_q + s_p Q_pq) / (s_q² - s_p²)
#
# and Z_pq likewise. On the diagonal X - Z is (P - Q) / (2 s). Its real part also
# follows from the norms, even if s = 0. The parts outside of the columns of U_0 and V_0
# are those of M / s and N / s.
@register("svd", kind="matrix equation")
def _svd(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    [a] = inputs
    m, n = a.aval.shape[-2:]
    r = min(m, n)
    params = eqn.params
    if params["subset_by_index"] not in (None, (0, r)) or (
        params["full_matrices"] and params["compute_uv"] and m != n
    ):
        return otherwise(walk, eqn, inputs)
    # The series of singular values needs vectors. One call computes both.
    thin = {**params, "compute_uv": True, "full_matrices": False}
    eqn = eqn.replace(params=thin)

    def compute(k):
        m_k = _remainder(a_moving, v, u_moving, s_moving, k)
        n_k = _remainder(a_adjoint, u, v_moving, s_moving, k)
        if m_k is None or n_k is None:
            return [None, None, None]
        u_0, v_0, s_0 = u[0], v[0], s[0]
        p, q = matmul(adjoint(u_0), m_k), matmul(adjoint(v_0), n_k)
        s_k = (diagonal(p) + diagonal(q)).real / 2
        x, z = _couplings(p, q, s_0)
        z_diagonal = _minus(_overlaps(v, k), diagonal(z))
        x_diagonal = _minus(_overlaps(u, k), diagonal(x)).real
        if jnp.iscomplexobj(x):
            turn = (diagonal(p) - diagonal(q)).imag / jnp.where(s_0 == 0, 1, 2 * s_0)
            turn = z_diagonal.imag + jnp.where(s_0 == 0, 0, turn)
            x_diagonal = lax.complex(x_diagonal, turn)
        u_k = matmul(u_0, _set_diagonal(x, x_diagonal))
        v_k = matmul(v_0, _set_diagonal(z, z_diagonal))
        if m > r:
            u_k = u_k + _times_diagonal(m_k - matmul(u_0, p), 1 / s_0)
        if n > r:
            v_k = v_k + _times_diagonal(n_k - matmul(v_0, q), 1 / s_0)
        return [s_k, u_k, adjoint(v_k)]

    support = walk.analytic_support(inputs)
    batch = a.aval.shape[:-2]
    types = [
        (eqn.outvars[0].aval, support),
        (jax.ShapeDtypeStruct((*batch, m, r), a.aval.dtype), support),
        (jax.ShapeDtypeStruct((*batch, r, n), a.aval.dtype), support),
    ]
    together = Recurrence(types, lambda: bind(eqn, primal_values(inputs)), compute)
    s, u, v_adjoint = together.outs
    v = image(v_adjoint, adjoint, inputs)
    a_moving, a_adjoint = moving(a, inputs), moving(a, inputs, adjoint)
    s_moving, u_moving, v_moving = (moving(x, inputs) for x in (s, u, v))
    if not params["compute_uv"]:
        return [s]
    return [s, u, v_adjoint]


def _couplings(p, q, s):
    """Computes `X` and `Z` without their diagonals."""
    row, column = s[..., None, :], s[..., :, None]
    scale = (row + column) * (row - column)
    scale = jnp.where(identity(scale), 1, scale).astype(p.dtype)
    row, column = row.astype(p.dtype), column.astype(p.dtype)
    return (p * row + column * q) / scale, (q * row + column * p) / scale
