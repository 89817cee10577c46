"""Conversion of polynomials to equations.

There are several ways to write a polynomial. Which is the shortest depends on what it
has in common with others. A `Style` is one of these ways; `regions.py` tries them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax import lax

from .algebra import Algebra, Inverse, Leaf, Moved, Sum
from .exact import apply_exact
from .graph import Graph, Value
from .normal_form import Operand
from .ring import common, Monomial, ONE, over, Polynomial, Ring, substituted


class Style(NamedTuple):
    """A way of writing polynomials."""

    # Which indeterminate is factored out of the terms that contain it: "most" for the
    # most frequent one, or "flat" for the most frequent one of those that have the same
    # exponent in all terms.
    factor: str
    # Whether there are quotients, instead of products with reciprocals.
    divide: bool
    # Whether all powers are products of powers. Otherwise those from the fifth on are
    # `integer_pow`.
    chain: bool


class Writer:
    """Adds polynomials to a graph, each of them once."""

    def __init__(
        self,
        graph: Graph,
        algebra: Algebra,
        leaves: Mapping[int, Value],
        style: Style,
        expected: Iterable[Polynomial] = (),
    ):
        self.graph = graph
        self.algebra = algebra
        # The values of those indeterminates that are values of the program.
        self.leaves = leaves
        self.style = style
        self._written: dict[Any, Value] = {}
        self._powers: dict[int, dict[int, Value]] = {}
        self._prepared: set[int] = set()
        # Powers that `expected` polynomials need. Other powers are computed from these.
        self._expected: dict[int, set[int]] = {}
        for p in expected:
            for number, exponent in common(p.terms) if p.terms else ():
                self._expected.setdefault(number, set()).add(exponent)

    def _prepare(self, p: Polynomial) -> None:
        """Writes the sums that are factors in `p`, the innermost first. (They may be
        nested as deeply as the program is long, too deeply for recursion.)"""
        sums, left = [], list(p.indeterminates)
        while left:
            number = left.pop()
            if number in self._prepared:
                continue
            self._prepared.add(number)
            what = self.algebra[number].what
            if isinstance(what, Sum):
                sums.append(number)
                left += what.polynomial.indeterminates
            elif not isinstance(what, Leaf):
                left.append(what.source)
        for number in sorted(sums):
            self.indeterminate(number)

    def exact(self, operand: Operand) -> Value:
        """Writes an operand, as an array of its shape."""
        p, shape = operand.polynomial, operand.shape
        self._prepare(p)
        if p.indeterminate is not None:
            value = self.indeterminate(p.indeterminate)
        elif p.is_constant:
            number = self.algebra.ring(operand.dtype).number(p.constant)
            weak = operand.value.aval.weak_type
            value = self.graph.number(number, operand.dtype, weak)
        else:
            value = self.write(self.algebra.ring(operand.dtype), p)
        if getattr(value.aval, "shape", shape) == shape:
            return value
        axes = tuple(range(len(shape) - len(value.shape), len(shape)))
        return self.graph.call(
            lax.broadcast_in_dim, value, shape=shape, broadcast_dimensions=axes
        )

    def write(self, ring: Ring, p: Polynomial) -> Value:
        """Writes `p`. The result is a scalar if all of its indeterminates are."""
        if p.is_constant:
            return self.graph.number(ring.number(p.constant), ring.dtype)
        if p.indeterminate is not None:
            return self.indeterminate(p.indeterminate)
        key = (p.key, ring.dtype)
        if key not in self._written:
            self._written[key] = self._write(ring, p)
        return self._written[key]

    def indeterminate(self, number: int) -> Value:
        what = self.algebra[number].what
        if isinstance(what, Leaf):
            return self.leaves[number]
        return self._power(number, 1)

    def _make(self, number: int) -> Value:
        found = self.algebra[number]
        what = found.what
        if isinstance(what, Sum):
            return self.write(self.algebra.ring(found.dtype), what.polynomial)
        if isinstance(what, Moved):
            source = self.indeterminate(what.source)
            return apply_exact(self.graph, what.operation, [source])[0]
        assert isinstance(what, Inverse)
        ring = self.algebra.ring(found.dtype)
        one = self.graph.number(ring.number(1), ring.dtype)
        return self.graph.call(lax.div, one, self.indeterminate(what.source))

    # -- choosing

    def _move_of(self, monomials: Sequence[Monomial]) -> Moved | None:
        """Returns the operation that has moved all indeterminates with axes, if there
        is one."""
        found = None
        for monomial in monomials:
            for number, _ in monomial:
                if self.algebra.is_number(number):
                    continue
                what = self.algebra[number].what
                if not isinstance(what, Moved):
                    return None
                if found is not None and found.key != what.key:
                    return None
                found = what
        return found

    def _write(self, ring: Ring, p: Polynomial) -> Value:
        move = self._move_of(list(p.terms))
        if move is not None:
            # Computing before moving takes one move, on a smaller array.
            inner = self.write(ring, substituted(p, self._source))
            return apply_exact(self.graph, move.operation, [inner])[0]
        if len(p.terms) == 1:
            [(monomial, coefficient)] = p.terms.items()
            return self._product(ring, coefficient, monomial)
        return self._sum(ring, p)

    def _source(self, number: int) -> int:
        if self.algebra.is_number(number):
            return number
        what = self.algebra[number].what
        assert isinstance(what, Moved)
        return what.source

    # -- products

    def _product(self, ring: Ring, coefficient: Any, monomial: Monomial) -> Value:
        below: Monomial = ()
        if self.style.divide:
            inverses = [
                (what.source, exponent)
                for number, exponent in monomial
                if isinstance(what := self.algebra[number].what, Inverse)
            ]
            below = tuple(sorted(inverses))
            monomial = tuple(
                (number, exponent)
                for number, exponent in monomial
                if not isinstance(self.algebra[number].what, Inverse)
            )
        numbers = tuple(part for part in monomial if self.algebra.is_number(part[0]))
        arrays = tuple(part for part in monomial if not self.algebra.is_number(part[0]))
        # Scalars first, so that there is one product of arrays less.
        scalar = self._factors(ring, numbers)
        array = self._factors(ring, arrays)
        if array is None:
            array, scalar = scalar, None
        if below:
            (number, exponent), *others = below
            if array is None and exponent > 1 and not others:
                array = self.graph.call(
                    lax.integer_pow, self.indeterminate(number), y=-exponent
                )
            else:
                if array is None:
                    array = self.graph.number(ring.number(coefficient), ring.dtype)
                    coefficient = 1
                divisor = self._factors(ring, below)
                assert divisor is not None
                array = self.graph.call(lax.div, array, divisor)
        assert array is not None
        if scalar is not None:
            return self.graph.call(
                lax.mul, self._scaled(ring, coefficient, scalar), array
            )
        return self._scaled(ring, coefficient, array)

    def _scaled(self, ring: Ring, coefficient: Any, value: Value) -> Value:
        # A fraction may become 1 when it is rounded.
        number = ring.number(coefficient)
        if number == 1:
            return value
        if number == -1:
            return self.graph.call(lax.neg, value)
        number = self.graph.number(number, ring.dtype)
        return self.graph.call(lax.mul, number, value)

    def _factors(self, ring: Ring, monomial: Monomial) -> Value | None:
        """Writes a product without a coefficient. Returns `None` if there are no
        factors."""
        groups: dict[Any, list[tuple[int, int]]] = {}
        for number, exponent in monomial:
            what = self.algebra[number].what
            key = number
            if isinstance(what, Moved) and not self.algebra.is_number(number):
                key = what.key
            groups.setdefault(key, []).append((number, exponent))
        result = None
        for group in groups.values():
            if len(group) > 1:
                value = self.write(ring, Polynomial({tuple(group): 1}))
            else:
                value = self._power(*group[0])
            result = value if result is None else self._times(result, value)
        return result

    def _times(self, a: Value, b: Value) -> Value:
        return self.graph.call(lax.mul, a, b)

    def _power(self, number: int, exponent: int) -> Value:
        if number not in self._powers:
            what = self.algebra[number].what
            is_leaf = isinstance(what, Leaf)
            value = self.leaves[number] if is_leaf else self._make(number)
            self._powers[number] = {1: value}
        known = self._powers[number]
        if exponent not in known:
            known[exponent] = self._new_power(number, exponent)
        return known[exponent]

    def _new_power(self, number: int, exponent: int) -> Value:
        known = self._powers[number]
        near = {*known, *self._expected.get(number, ())}
        for lower in sorted(near, reverse=True):
            if lower < exponent and exponent - lower in near:
                return self._times(
                    self._power(number, lower), self._power(number, exponent - lower)
                )
        if self.style.chain or exponent <= 4:
            half = exponent // 2
            return self._times(
                self._power(number, exponent - half), self._power(number, half)
            )
        return self.graph.call(lax.integer_pow, known[1], y=exponent)

    # -- sums

    def _sum(self, ring: Ring, p: Polynomial) -> Value:
        divisor = common(p.terms)
        if divisor != ONE:
            rest = Polynomial({over(m, divisor): c for m, c in p.terms.items()})
            factor = Polynomial({divisor: 1})
            return self._times(self.write(ring, factor), self.write(ring, rest))
        coefficient, rest = ring.content(p)
        if coefficient not in (1, -1) or all(map(_is_negative, p.terms.values())):
            return self._scaled(ring, coefficient, self.write(ring, rest))
        parts = self._parts(p)
        # Positive terms come first, and of these the arrays without axes.
        pieces = []
        for part in parts:
            negative = all(map(_is_negative, part.terms.values()))
            value = self.write(ring, ring.scale(part, -1) if negative else part)
            pieces.append((negative, value.shape != (), value))
        pieces.sort(key=lambda piece: piece[:2])
        (_, _, total), *others = pieces
        for negative, _, value in others:
            total = self.graph.call(lax.sub if negative else lax.add, total, value)
        return total

    def _parts(self, p: Polynomial) -> list[Polynomial]:
        """Splits `p` into polynomials that add up to it, each of which is written by
        itself."""
        moves: dict[Any, list[Monomial]] = {}
        for monomial in p.terms:
            move = self._move_of([monomial])
            moves.setdefault(None if move is None else move.key, []).append(monomial)
        parts, left = [], dict(p.terms)
        for key, monomials in moves.items():
            if key is not None and len(monomials) > 1 and len(monomials) < len(p.terms):
                parts.append(Polynomial({m: left.pop(m) for m in monomials}))
        while True:
            number = self._to_take_out(left)
            if number is None:
                break
            having = [m for m in left if any(n == number for n, _ in m)]
            parts.append(Polynomial({m: left.pop(m) for m in having}))
        return parts + [Polynomial({m: c}) for m, c in left.items()]

    def _to_take_out(self, terms: Mapping[Monomial, Any]) -> int | None:
        exponents: dict[int, list[int]] = {}
        for monomial in terms:
            for number, exponent in monomial:
                exponents.setdefault(number, []).append(exponent)
        candidates = [
            (len(found), -number)
            for number, found in exponents.items()
            if len(found) > 1 and (self.style.factor == "most" or len(set(found)) == 1)
        ]
        return -max(candidates)[1] if candidates else None


def _is_negative(coefficient: Any) -> bool:
    return not isinstance(coefficient, complex) and coefficient < 0
