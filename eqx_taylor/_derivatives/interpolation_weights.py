r"""Mixed partial derivatives as sums of derivatives along straight lines, exactly.

The derivative of order K along v is `(v·∂)^K`. A homogeneous polynomial of degree K in
the partial derivatives is a sum `Σ_r w_r (v_r·∂)^K`. The directions `v_r` have small
integer entries, and the weights are exact rational numbers. They are weights of Taylor
coefficients, which are `(v·∂)^K / K!`.
"""

import functools as ft
import itertools
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np


# The non-zero entries of a direction or a multi-index, as pairs of a position and a
# value. They are sparse because there may be thousands of variables.
Sparse = tuple[tuple[int, int], ...]
Weights = dict[Sparse, Fraction]


def sparse(entries: Iterable[Any]) -> Sparse:
    return tuple((place, int(n)) for place, n in enumerate(entries) if n)


def order_of(index: Sparse) -> int:
    return sum(n for _, n in index)


def polarised(index: Sparse) -> Weights:
    r"""Returns the weights of one monomial by the polarisation identity

        Π_l ξ_l^{i_l} = 1/(2^K K!) Σ_{k≤i} (-1)^{|k|} Π_l C(i_l, k_l) ((i - 2k)·ξ)^K.

    Directions that are multiples of each other count as one, which leaves about half of
    Π (i_l + 1) directions.
    """
    order = order_of(index)
    weights: Weights = {}
    for k in itertools.product(*[range(n + 1) for _, n in index]):
        entries = [n - 2 * k_l for (_, n), k_l in zip(index, k)]
        multiple = math.gcd(*entries)
        if multiple == 0:
            continue
        if next(filter(None, entries)) < 0:
            multiple = -multiple
        v = tuple((i, n // multiple) for (i, _), n in zip(index, entries) if n)
        weight = math.prod(math.comb(n, k_l) for (_, n), k_l in zip(index, k))
        weight *= (-1) ** sum(k) * multiple**order
        weights[v] = weights.get(v, Fraction(0)) + Fraction(weight, 2**order)
    return {v: w for v, w in weights.items() if w}


def interpolated(index: Sparse, total: int) -> Weights:
    """Returns the weights of one monomial in the directions j with |j| = `total`, which
    is at least the order of the monomial. All monomials share these directions, and
    there are as many of them as monomials of order `total` ([Griewank, Utke and Walther
    (2000)][griewank2000evaluating])."""
    places = [place for place, _ in index]
    weights: Weights = {}
    for v in _compositions(total, len(index)):
        weight = _griewank(tuple(sorted((n, j) for (_, n), j in zip(index, v))))
        if weight:
            weights[tuple((i, j) for i, j in zip(places, v) if j)] = weight
    return weights


def _compositions(total: int, parts: int):
    """Lists all tuples of `parts` non-negative integers whose sum is `total`."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


@ft.lru_cache(maxsize=4096)
def _griewank(pairs: tuple[tuple[int, int], ...]) -> Fraction:
    """Returns the weight of direction j in derivative i, where `pairs` are (i_l, j_l):

    γ_ij = Σ_{0<k≤i} (-1)^{|i-k|} C(i, k) C(d k/|k|, j) (|k|/d)^{|i|},   d = |j|.
    """
    total = sum(j for _, j in pairs)
    weight = Fraction(0)
    for k in itertools.product(*[range(i + 1) for i, _ in pairs]):
        size = sum(k)
        # C(0, j) = 0.
        if size == 0 or any(k_l == 0 and j for k_l, (_, j) in zip(k, pairs)):
            continue
        term = Fraction(size, total) ** sum(i for i, _ in pairs)
        for k_l, (i, j) in zip(k, pairs):
            term *= (-1) ** (i - k_l) * math.comb(i, k_l)
            term *= _binomial(Fraction(total * k_l, size), j)
        weight += term
    return weight


def _binomial(z: Fraction, n: int) -> Fraction:
    return math.prod((z - m for m in range(n)), start=Fraction(1)) / math.factorial(n)


# Two digits. The fewer directions lose no more than that up to order 8. For the
# multi-index (8, 7) they lose 4 digits, with 16 directions instead of 31, and for
# (10, 10) 5 digits, with 21 instead of 40.
_LOST = 100


def amplification(weights: Weights, order: int) -> float:
    """Returns the factor by which rounding errors grow: the sum of the sizes of the
    terms over the size of their sum, for one monomial in the derivatives of
    `exp(x_1 + x_2 + ...)`."""
    sizes = [abs(w) * abs(order_of(v)) ** order for v, w in weights.items()]
    return float(sum(sizes)) / math.factorial(order)


def of_operator(terms: Mapping[Sparse, Any]) -> dict[Sparse, Any]:
    """Returns the weights of `Σ_i c_i ∂^i`, whose terms have the same order. Of the two
    formulas it uses the one with fewer directions, unless this loses digits. Rational
    coefficients are added exactly."""
    every = [polarised(index) for index in terms]
    directions = dict.fromkeys(v for weights in every for v in weights)
    places = {place for index in terms for place, _ in index}
    [order] = {order_of(index) for index in terms}
    if math.comb(len(places) + order - 1, order) < len(directions):
        fewer = [interpolated(index, order) for index in terms]
        lost = max(amplification(weights, order) for weights in fewer)
        least = max(amplification(weights, order) for weights in every)
        if lost <= _LOST * least:
            every = fewer
            directions = dict.fromkeys(v for weights in every for v in weights)
    totals = {}
    for v in directions:
        exact, rest = Fraction(0), []
        for c, weights in zip(terms.values(), every):
            if isinstance(c, Fraction):
                exact += c * weights.get(v, 0)
            elif v in weights:
                rest.append(c * float(weights[v]))
        total = exact
        if rest:
            total = ft.reduce(jnp.add, rest, jnp.asarray(float(exact), rest[0].dtype))
        if rest or exact:
            totals[v] = total
    return totals


def as_rows(directions: Iterable[Sparse], size: int) -> np.ndarray:
    directions = list(directions)
    rows = np.zeros((len(directions), size))
    for row, v in zip(rows, directions):
        for place, n in v:
            row[place] = n
    return rows


def as_array(weights: Iterable[Any]) -> Any:
    """Converts rational numbers, rounded once, to an array. If there are arrays among
    them, the result has their dtype."""
    weights = list(weights)
    dtypes = {w.dtype for w in weights if not isinstance(w, Fraction)}
    if not dtypes:
        return np.array([float(w) for w in weights])
    [dtype] = dtypes
    return jnp.stack(
        [
            jnp.asarray(float(w), dtype) if isinstance(w, Fraction) else w
            for w in weights
        ]
    )
