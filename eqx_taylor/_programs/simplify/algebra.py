"""Polynomials over a program, and their indeterminates.

An indeterminate is a value of the program itself, or one of the following, which are
made as they occur:

- a sum that is a factor, if it is not expanded;
- a reciprocal: `x · (1/x)` is not 1, since it is not if `x` is zero;
- another indeterminate with its entries moved. Moving entries is a homomorphism: it is
  applied to a polynomial by applying it to the indeterminates. An array without axes is
  the same everywhere, and is left unchanged.
"""

from collections.abc import Hashable
from fractions import Fraction
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np

from .graph import Operation, TooLarge, Value
from .moving import broadcast, composed, keeps_order
from .ring import ONE, Polynomial, Ring, substituted


class Leaf(NamedTuple):
    """A value of the program itself."""

    value: Value


class Moved(NamedTuple):
    """Another indeterminate, with its entries moved."""

    operation: Operation
    key: Hashable
    source: int


class Sum(NamedTuple):
    """A polynomial of several terms that is a factor."""

    polynomial: Polynomial


class Inverse(NamedTuple):
    """The reciprocal of another indeterminate."""

    source: int


class Indeterminate(NamedTuple):
    what: Leaf | Moved | Sum | Inverse
    shape: tuple[Any, ...]
    dtype: Any


# The largest number of terms to which a product is expanded.
_MOST_TERMS = 40


class Algebra:
    """The polynomials in indeterminates, which are identified by numbers."""

    def __init__(self, expand: bool):
        # Whether sums are expanded. Otherwise a sum that is a factor is an
        # indeterminate.
        self.expand = expand
        self.indeterminates: list[Indeterminate] = []
        self._numbers: dict[Hashable, int] = {}
        self._rings: dict[Any, Ring] = {}

    def __getitem__(self, number: int) -> Indeterminate:
        return self.indeterminates[number]

    def ring(self, dtype: Any) -> Ring:
        if dtype not in self._rings:
            self._rings[dtype] = Ring(dtype)
        return self._rings[dtype]

    def is_number(self, number: int) -> bool:
        """Returns whether an indeterminate has no axes."""
        return self.indeterminates[number].shape == ()

    def leaf(self, value: Value) -> Polynomial:
        shape = getattr(value.aval, "shape", ())
        dtype = getattr(value.aval, "dtype", None)
        return self._make(("leaf", value), Leaf(value), shape, dtype)

    def _make(self, key: Hashable, what: Any, shape, dtype) -> Polynomial:
        if key not in self._numbers:
            self._numbers[key] = len(self.indeterminates)
            self.indeterminates.append(Indeterminate(what, shape, dtype))
        return _alone(self._numbers[key])

    # -- operations

    def factor(self, ring: Ring, p: Polynomial) -> Polynomial:
        """Returns `p` as a polynomial of one term. A sum of several terms becomes an
        indeterminate."""
        if len(p.terms) <= 1:
            return p
        factor, rest = ring.content(p)
        shapes = [self.indeterminates[n].shape for n in rest.indeterminates]
        shape = np.broadcast_shapes(*shapes)
        key = ("sum", rest.key, shape, ring.dtype)
        return ring.scale(self._make(key, Sum(rest), shape, ring.dtype), factor)

    def inverse(self, ring: Ring, p: Polynomial) -> Polynomial | None:
        p = self.factor(ring, p)
        if p.is_zero:
            return None
        [(monomial, coefficient)] = p.terms.items()
        result = Polynomial({ONE: _reciprocal(coefficient)})
        for number, exponent in monomial:
            of = self.indeterminates[number]
            key = ("inverse", number)
            one = self._make(key, Inverse(number), of.shape, of.dtype)
            result = ring.mul(result, ring.power(one, exponent))
        return result

    def product(self, ring: Ring, p: Polynomial, q: Polynomial) -> Polynomial:
        if self.expand or p.is_constant or q.is_constant:
            try:
                return ring.mul(p, q, _MOST_TERMS)
            except TooLarge:
                pass
        return ring.mul(self.factor(ring, p), self.factor(ring, q))

    def power(self, ring: Ring, p: Polynomial, exponent: int) -> Polynomial:
        if self.expand:
            try:
                return ring.power(p, exponent, _MOST_TERMS)
            except TooLarge:
                pass
        return ring.power(self.factor(ring, p), exponent)

    def moved(self, move: Operation, p: Polynomial) -> Polynomial:
        """Applies an operation that moves entries to `p`."""
        before = move.operands[0].shape
        for number in p.indeterminates:
            old = self.indeterminates[number]
            if old.shape not in ((), before):
                # Sums and products may broadcast axes of length one.
                kind = (old.shape, np.dtype(old.dtype))
                stretch = broadcast(kind, before, tuple(range(len(before))))
                [wide] = self.moved(stretch, _alone(number)).indeterminates
                p = substituted(
                    p, lambda n, old=number, new=wide: new if n == old else n
                )

        return substituted(p, lambda number: self._moved(move, number))

    def _moved(self, move: Operation, number: int) -> int:
        if self.is_number(number):
            return number
        shape, source = move.results[0].shape, number
        what = self.indeterminates[number].what
        if isinstance(what, Moved):
            back = self.indeterminates[what.source].shape == shape
            if back and keeps_order(what.operation) and keeps_order(move):
                return what.source
            both = composed(what.operation, move)
            if both is not None:
                move, source = both, what.source
        old = self.indeterminates[source]
        key = (move.key, old.shape, shape)
        new = Moved(move, key, source)
        [result] = self._make(
            ("moved", key, source), new, shape, old.dtype
        ).indeterminates
        return result

    # -- in words

    def text(self, p: Polynomial, depth: int = 2) -> str:
        """Writes `p` for a reader: inputs are `x0`, `x1` ..., results of `sin` are
        `sin5` ..."""
        if depth == 0:
            return "..."
        terms = []
        for monomial, coefficient in p.terms.items():
            factors = [
                self._name(number, depth) + (f"^{exponent}" if exponent > 1 else "")
                for number, exponent in monomial
            ]
            if coefficient == -1 and factors:
                factors[0] = f"-{factors[0]}"
            elif coefficient != 1 or not factors:
                is_exact = isinstance(coefficient, complex | int)
                number = coefficient if is_exact else float(coefficient)
                factors.insert(0, f"{number:g}")
            terms.append(" ".join(factors))
        return shorten(" + ".join(terms) or "0", 200, placeholder=" ...")

    def _name(self, number: int, depth: int) -> str:
        what = self.indeterminates[number].what
        if isinstance(what, Leaf):
            node = what.value.node
            return f"{'x' if node is None else node.name}{number}"
        if isinstance(what, Sum):
            return f"({self.text(what.polynomial, depth - 1)})"
        inner = self._name(what.source, depth)
        if isinstance(what, Inverse):
            return f"1/{inner}"
        return f"{what.operation.name}({inner})"


def _alone(number: int) -> Polynomial:
    return Polynomial({((number, 1),): 1})


def _reciprocal(coefficient):
    if isinstance(coefficient, complex):
        return 1 / coefficient
    return 1 / Fraction(coefficient)
