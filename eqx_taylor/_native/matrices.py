"""Small matrices, entry by entry: triangular factors, and solutions of systems."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._core.jax import linear_solve_params
from .atoms import Linear
from .choices import of_larger
from .values import as_objects


class Unread:
    """A factor of a matrix that a solution is computed without."""

    def __init__(self, error: Exception):
        self.error = error


def _lu(reader: Any, eqn: Any, a: np.ndarray) -> list[Unread]:
    """Its pivots depend on the state. `custom_linear_solve` needs none of its results,
    and no other primitive may use them."""
    error = reader.refused(eqn, "its pivots depend on the time or the state")
    return [Unread(error) for _ in eqn.outvars]


def _batched(fun: Callable[..., np.ndarray], *operands: np.ndarray) -> np.ndarray:
    """Applies a function of matrices over leading axes, which are the same of all."""
    shape = operands[0].shape[:-2]
    outs = [fun(*(x[i] for x in operands)) for i in np.ndindex(*shape)]
    out = np.empty((len(outs), *operands[-1].shape[-2:]), object)
    for i, x in enumerate(outs):
        out[i] = x
    return out.reshape(operands[-1].shape)


# a = L Lᵀ:  L_jj = √(a_jj - Σ_{k<j} L_jk²),  L_ij = (a_ij - Σ_{k<j} L_ik L_jk) / L_jj
def _cholesky(reader: Any, eqn: Any, a: np.ndarray) -> np.ndarray:
    builder = reader.builder

    def of_one(a):
        out = np.full(a.shape, builder.constant(0), object)
        for j in range(len(a)):
            squares = (builder.square(out[j, k]) for k in range(j))
            rest = builder.sum([(1.0, a[j, j]), *((-1.0, x) for x in squares)])
            out[j, j] = reader.function("sqrt", rest)
            for i in range(j + 1, len(a)):
                rest = _less(builder, a[i, j], out[i, :j], out[j, :j])
                out[i, j] = builder.div(rest, out[j, j])
        return out

    return _batched(of_one, as_objects(a, a.shape))


def _less(builder: Any, x: Linear, a: Any, b: Any) -> Linear:
    """`x - Σ a b`"""
    products = (builder.mul(one, other) for one, other in zip(a, b))
    return builder.sum([(1.0, x), *((-1.0, y) for y in products)])


def _triangular_solve(reader: Any, eqn: Any, a: np.ndarray, b: np.ndarray):
    params = eqn.params
    on_left, lower = params["left_side"], params["lower"]
    # x A = b is Aᵀ xᵀ = bᵀ.
    is_transposed = params["transpose_a"] == on_left
    builder = reader.builder

    def of_one(a, b):
        a, is_lower = (a.T, not lower) if is_transposed else (a, lower)
        out = b.copy() if on_left else b.T.copy()
        order = range(len(a)) if is_lower else range(len(a) - 1, -1, -1)
        done: list[int] = []
        for i in order:
            for column in range(out.shape[1]):
                known = out[done, column]
                x = _less(builder, out[i, column], a[i, done], known)
                if not params["unit_diagonal"]:
                    x = builder.div(x, a[i, i])
                out[i, column] = x
            done.append(i)
        return out if on_left else out.T

    return _batched(of_one, as_objects(a, a.shape), as_objects(b, b.shape))


def custom_linear_solve(reader: Any, eqn: Any, *operands: Any) -> list[np.ndarray]:
    """By the matrix of the operator, and Gaussian elimination. The rows are swapped as
    they are at the beginning of a step: the solution does not depend on how."""
    params = linear_solve_params(eqn)
    consts = operands[: params.num_matvec_consts]
    right = [reader.materialised(eqn, b) for b in operands[params.num_consts :]]
    if any(isinstance(x, Unread) for x in consts):
        raise reader.refused(eqn)
    sizes = [x.size for x in right]
    flat = np.concatenate([np.ravel(as_objects(x, x.shape)) for x in right])

    def parts(flat):
        ends = np.cumsum(sizes)[:-1]
        return [x.reshape(b.shape) for x, b in zip(np.split(flat, ends), right)]

    def column(j):
        one = parts(np.eye(len(flat), dtype=reader.dtype)[j])
        outs = reader.read(params.matvec, [*consts, *one])
        outs = [reader.materialised(eqn, x) for x in outs]
        return np.concatenate([np.ravel(as_objects(x, x.shape)) for x in outs])

    matrix = np.stack([column(j) for j in range(len(flat))], axis=1)
    return parts(_solution(reader.builder, matrix, flat))


def _solution(builder: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows = np.concatenate([a, b[:, None]], axis=1)
    n = len(rows)
    for j in range(n):
        # The rows that have this entry come first.
        order = sorted(range(j, n), key=lambda i: _is_zero(rows[i, j]))
        rows[j:] = rows[order]
        for i in range(j + 1, n):
            if _is_zero(rows[i, j]):
                break
            rows[[j, i], j:] = _larger_first(builder, rows[j, j:], rows[i, j:])
        for i in range(j + 1, n):
            if _is_zero(rows[i, j]):
                break
            factor = builder.div(rows[i, j], rows[j, j])
            for k in range(j + 1, n + 1):
                product = builder.mul(factor, rows[j, k])
                rows[i, k] = builder.sub(rows[i, k], product)
    out = np.empty(n, object)
    for i in reversed(range(n)):
        rest = _less(builder, rows[i, n], rows[i, i + 1 : n], out[i + 1 :])
        out[i] = builder.div(rest, rows[i, i])
    return out


def _is_zero(x: Linear) -> bool:
    return x.is_constant and isinstance(x.constant, float) and x.constant == 0


def _larger_first(builder: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two rows, that with the larger first entry first."""
    x, y = a[0], b[0]
    if x.is_constant and y.is_constant:
        sizes = x.constant, y.constant
        if all(isinstance(size, float) for size in sizes):
            return np.stack([b, a] if abs(sizes[1]) > abs(sizes[0]) else [a, b])
    out = np.empty((2, len(a)), object)
    for k in range(len(a)):
        out[0, k] = of_larger(builder, x, y, a[k], b[k])
        out[1, k] = of_larger(builder, x, y, b[k], a[k])
    return out


# Determinants are expanded by the first rows, into those of all choices of columns: for
# 8 rows these are 1024 products, and for 12 they are 24 576.
LARGEST = 8


def determinant(builder: Any, a: np.ndarray) -> Linear:
    n = len(a)
    minors = {0: builder.constant(1)}
    for row in range(n):
        found: dict[int, list[tuple[float, Linear]]] = {}
        for columns, minor in minors.items():
            for j in range(n):
                if not columns >> j & 1:
                    # The columns that it is moved over.
                    sign = -1.0 if (columns >> j).bit_count() % 2 else 1.0
                    term = sign, builder.mul(a[row, j], minor)
                    found.setdefault(columns | 1 << j, []).append(term)
        minors = {columns: builder.sum(terms) for columns, terms in found.items()}
    return minors[2**n - 1]


HANDLERS: dict[str, Callable[..., Any]] = {
    "cholesky": _cholesky,
    "triangular_solve": _triangular_solve,
    "lu": _lu,
}
