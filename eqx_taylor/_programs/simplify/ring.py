"""Polynomials with exact coefficients, in indeterminates that are identified by
numbers.

Coefficients are fractions: every floating-point number is one, and sums and products of
them are rounded once, when the polynomial becomes a program again. Complex numbers with
an imaginary part are Python's. Integers are residues, since machine integers overflow.
"""

import functools as ft
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from .graph import TooLarge


# Indeterminates with their exponents, in the order of their numbers.
Monomial = tuple[tuple[int, int], ...]
Coefficient = Any

ONE: Monomial = ()
# The number of bits of a product of forty ordinary float64 numbers, or of two of the
# smallest. Longer coefficients are not worth their time.
_MOST_BITS = 2200


class Polynomial:
    """A sum of monomials with coefficients other than zero."""

    def __init__(self, terms: Mapping[Monomial, Coefficient]):
        self.terms = terms

    @ft.cached_property
    def key(self) -> Hashable:
        """A key that is equal for equal polynomials."""
        return frozenset(self.terms.items())

    @property
    def is_zero(self) -> bool:
        return len(self.terms) == 0

    @property
    def is_constant(self) -> bool:
        return all(monomial == ONE for monomial in self.terms)

    @property
    def constant(self) -> Coefficient:
        return self.terms.get(ONE, 0)

    @property
    def indeterminate(self) -> int | None:
        """The number of the indeterminate that the polynomial equals, if it is one."""
        if len(self.terms) != 1:
            return None
        [(monomial, coefficient)] = self.terms.items()
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            return monomial[0][0]
        return None

    @ft.cached_property
    def indeterminates(self) -> frozenset[int]:
        return frozenset(number for monomial in self.terms for number, _ in monomial)


class Ring:
    """The polynomials with coefficients of one dtype."""

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)
        self.is_integral = jnp.issubdtype(dtype, jnp.integer)
        self.is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        info = None if self.is_integral else jnp.finfo(dtype)
        self._smallest = 0.0 if info is None else float(info.tiny)
        self._largest = math.inf if info is None else float(info.max)

    # -- coefficients

    def coefficient(self, value: Any) -> Coefficient | None:
        """Converts a number to a coefficient; `None` if it is not finite."""
        if self.is_integral:
            return int(value)
        value = complex(value)
        if not (math.isfinite(value.real) and math.isfinite(value.imag)):
            return None
        return _exactly(value.real) if value.imag == 0 else value

    def reduced(self, coefficient: Coefficient) -> Coefficient:
        if not self.is_integral:
            if isinstance(coefficient, complex) and coefficient.imag == 0:
                return _exactly(coefficient.real)
            return coefficient
        info = jnp.iinfo(self.dtype)
        modulus = int(info.max) - int(info.min) + 1
        return (coefficient - int(info.min)) % modulus + int(info.min)

    def number(self, coefficient: Coefficient) -> Any:
        """Rounds a coefficient to the dtype. Raises if a nonzero coefficient would
        become zero or subnormal, or a finite one infinite."""
        if self.is_integral or coefficient == 0:
            return np.asarray(coefficient, self.dtype)[()]
        try:
            if not isinstance(coefficient, complex):
                coefficient = float(coefficient)
        except OverflowError as e:
            raise TooLarge from e
        # `>` would be false for NaN.
        if not self._smallest <= abs(coefficient) <= self._largest:
            raise TooLarge
        return np.asarray(coefficient, self.dtype)[()]

    # -- arithmetic

    def polynomial(
        self,
        terms: Iterable[tuple[Monomial, Coefficient]],
        at_most: int | float = math.inf,
    ) -> Polynomial:
        """Makes a polynomial of these terms. Raises if there are more than `at_most`,
        or if coefficients are so long that exact arithmetic becomes slow."""
        found: dict[Monomial, Coefficient] = {}
        for monomial, coefficient in terms:
            found[monomial] = found.get(monomial, 0) + coefficient
            if len(found) > at_most or _is_long(coefficient):
                raise TooLarge
        if self.is_integral or self.is_complex:
            found = {m: self.reduced(c) for m, c in found.items()}
        return Polynomial({m: c for m, c in found.items() if c != 0})

    def add(self, *summands: Polynomial) -> Polynomial:
        return self.polynomial(it for p in summands for it in p.terms.items())

    def scale(self, p: Polynomial, factor: Coefficient) -> Polynomial:
        if factor == 1:
            return p
        return self.polynomial((m, factor * c) for m, c in p.terms.items())

    def mul(
        self, p: Polynomial, q: Polynomial, at_most: int | float = math.inf
    ) -> Polynomial:
        return self.polynomial(
            (
                (times(m, n), c * d)
                for m, c in p.terms.items()
                for n, d in q.terms.items()
            ),
            at_most,
        )

    def power(
        self, p: Polynomial, exponent: int, at_most: int | float = math.inf
    ) -> Polynomial:
        result = Polynomial({ONE: 1})
        for _ in range(exponent if len(p.terms) > 1 else 0):
            result = self.mul(result, p, at_most)
        if len(p.terms) == 1:
            [(monomial, coefficient)] = p.terms.items()
            if exponent > _MOST_BITS and coefficient not in (1, -1):
                raise TooLarge
            powers = tuple((number, e * exponent) for number, e in monomial)
            try:
                result = self.polynomial([(powers, coefficient**exponent)])
            except OverflowError as e:  # Of a complex number.
                raise TooLarge from e
        return result

    def content(self, p: Polynomial) -> tuple[Coefficient, Polynomial]:
        """Returns `(c, q)` with `p = c q`. If all coefficients are equal up to their
        signs, `c` is this number; otherwise it is 1 or -1. `p` and `-p` have the same
        `q`."""
        if p.is_zero:
            return 1, p
        # The leading term does not depend on the order in which terms were added.
        leading = p.terms[min(p.terms, key=lambda m: (-degree(m), m))]
        if self.is_integral:
            # Integers can be divided only by units.
            factor = -1 if leading < 0 else 1
        elif all(c in (leading, -leading) for c in p.terms.values()):
            factor = leading
        elif not isinstance(leading, complex):
            factor = -1 if leading < 0 else 1
        else:
            factor = 1
        if factor == 1:
            return 1, p
        if factor == -1:
            return -1, self.scale(p, -1)
        return factor, Polynomial(
            {m: 1 if c == leading else -1 for m, c in p.terms.items()}
        )


def _exactly(number: float) -> Coefficient:
    """Converts a number to an integer if it is one, since Python's arithmetic is
    fastest for integers."""
    return int(number) if number.is_integer() else Fraction(number)


def _is_long(coefficient: Coefficient) -> bool:
    if type(coefficient) is int:
        return coefficient.bit_length() > _MOST_BITS
    if isinstance(coefficient, complex):
        return False
    bits = coefficient.numerator.bit_length(), coefficient.denominator.bit_length()
    return max(bits) > _MOST_BITS


def degree(monomial: Monomial) -> int:
    return sum(exponent for _, exponent in monomial)


def times(m: Monomial, n: Monomial) -> Monomial:
    if m == ONE or n == ONE:
        return m or n
    exponents = dict(m)
    for number, exponent in n:
        exponents[number] = exponents.get(number, 0) + exponent
    return tuple(sorted(exponents.items()))


def over(m: Monomial, n: Monomial) -> Monomial:
    """Divides a monomial `m` by `n`, which divides it."""
    exponents = dict(m)
    for number, exponent in n:
        exponents[number] -= exponent
    return tuple((number, e) for number, e in sorted(exponents.items()) if e > 0)


def common(monomials: Iterable[Monomial]) -> Monomial:
    """Returns the greatest common divisor of monomials."""
    first, *others = [dict(m) for m in monomials]
    least = {
        number: min([exponent, *[m.get(number, 0) for m in others]])
        for number, exponent in first.items()
    }
    return tuple((number, e) for number, e in sorted(least.items()) if e > 0)


def substituted(p: Polynomial, number: Callable[[int], int]) -> Polynomial:
    """Renames the indeterminates. `number` must be injective."""
    return Polynomial(
        {
            tuple(sorted((number(n), e) for n, e in monomial)): coefficient
            for monomial, coefficient in p.terms.items()
        }
    )
