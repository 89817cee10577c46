"""Truncated power series of arrays, and the few operations that every rule is made of.

Along a curve every array of a program is a series `x(t) = Σ_k x_k t^k`. Coefficients
are normalised, `x_k = x^(k)(0) / k!`; factorials appear only at the public border.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax


Aval = Any
# A coefficient; `None` is one that is known to be zero.
Term = Any
# The orders that may be nonzero: bit k stands for coefficient k. An integer, so that
# sets of orders are compared, joined and hashed for nothing.
Support = int

CONSTANT: Support = 1


def mask(order: int) -> Support:
    """The support of a series of which nothing is known: orders 0 to `order`."""
    return (1 << (order + 1)) - 1


def orders(support: Support) -> list[int]:
    return [k for k in range(support.bit_length()) if support >> k & 1]


def product_support(a: Support, b: Support, order: int) -> Support:
    out = 0
    for k in orders(a):
        out |= b << k
    return out & mask(order)


def analytic_support(support: Support, order: int) -> Support:
    """The support of an analytic function of series: closed under products.

    `sin(x_0 + x_2 t²)` has even orders only.
    """
    support = support & mask(order) | CONSTANT
    while (grown := product_support(support, support, order)) != support:
        support = grown
    return support


class Series:
    """A power series whose coefficients are computed when they are first asked for.

    `series[k]` is coefficient `k`, or `None` where it is known to be zero. `compute(k)`
    may ask for coefficients up to `k` of the inputs and up to `k - 1` of the series
    itself: this is what a recurrence is. `closed` says that every coefficient can be
    had now; it is false for the solution of an ODE under construction, and for all that
    depends on it.
    """

    __slots__ = (
        "aval",
        "support",
        "closed",
        "filed",
        "key",
        "tentative",
        "_compute",
        "_terms",
        "_derivative",
    )

    def __init__(
        self,
        aval: Aval,
        support: Support,
        compute: Callable[[int], Term],
        *,
        closed: bool = True,
        terms: Sequence[Term] = (),
        filed: bool = False,
    ):
        self.aval = aval
        self.support = support
        self.closed = closed
        # The name under which a walk keeps the coefficients, once it has filed them.
        # What comes from outside the walk is not filed.
        self.filed = filed
        self.key = ""
        # The series under construction that it depends on, and how many orders ahead.
        self.tentative: dict[Tentative, int] = {}
        self._compute = compute
        self._terms: list[Term] = list(terms)
        self._derivative: Series | None = None

    def __getitem__(self, k: int) -> Term:
        terms = self._terms
        while len(terms) <= k:
            n = len(terms)
            terms.append(self._compute(n) if self.support >> n & 1 else None)
        return terms[k]

    def wrap(self, wrapper: Callable[[Callable[[int], Term]], Callable]) -> None:
        """Replaces how coefficients are computed, before any is."""
        self._compute = wrapper(self._compute)

    def append(self, term: Term) -> None:
        """Makes the next coefficient known."""
        self._terms.append(term)

    def retract(self, k: int) -> None:
        """Forgets coefficient `k` and those above it."""
        del self._terms[k:]

    def settle(self, k: int, term: Term) -> None:
        """Makes coefficient `k` known, unless it is."""
        if k > 0:
            self[k - 1]
        if len(self._terms) == k:
            self._terms.append(term)

    def depend_on(self, inputs: "Sequence[Series]", ahead: int = 0) -> None:
        """Has it be taken back together with those it is computed from: coefficient
        `k` of it with coefficient `k + ahead` of them."""
        for series in inputs:
            for tentative, n in series.tentative.items():
                known = self.tentative.get(tentative, -1)
                self.tentative[tentative] = max(known, n + ahead)
                if known < 0:
                    tentative.dependents.append(self)

    def dense(self, k: int) -> Any:
        """Coefficient `k` as an array, zero or not."""
        term = self[k]
        return zeros(self.aval) if term is None else term

    @property
    def is_constant(self) -> bool:
        return self.support <= CONSTANT

    @property
    def derivative(self) -> "Series":
        """`x'(t)`, whose coefficient k is `(k + 1) x_{k+1}`. Kept: many rules ask."""
        if self._derivative is None:

            def compute(k):
                return scale(self[k + 1], k + 1)

            self._derivative = Series(
                self.aval, self.support >> 1, compute, closed=self.closed, filed=True
            )
            self._derivative.depend_on([self], ahead=1)
        return self._derivative


class Tentative:
    """Series under construction, and all that depends on them. Their next coefficient
    can be supposed, to see what follows from it, and be taken back."""

    def __init__(self, series: Sequence[Series]):
        self.dependents = list(series)
        for one in series:
            one.tentative[self] = 0

    def lowest(self, series: Series, k: int) -> int:
        """The first coefficient of a dependent that coefficient `k` enters."""
        return max(k - series.tentative[self], 0)


def constant(aval: Aval, value: Any) -> Series:
    return Series(aval, CONSTANT, _nothing_more, terms=[value], filed=True)


def given(aval: Aval, terms: Sequence[Term], support: Support | None = None) -> Series:
    """A series with these coefficients. Those above them are zero; or, where `support`
    is given and says otherwise, not needed now."""
    if support is None:
        support = sum(1 << k for k, term in enumerate(terms) if term is not None)
    return Series(aval, support, _nothing_more, terms=terms, filed=True)


def unknown(aval: Aval, support: Support, terms: Sequence[Term] = ()) -> Series:
    """A series of which only the type, the support and these first terms are known."""
    return Series(aval, support, _nothing_more, terms=terms, closed=False, filed=True)


def _nothing_more(k):
    raise AssertionError(f"coefficient {k} is not known yet")


# -- operations on coefficients, zeros staying symbolic


def zeros(aval: Aval) -> Any:
    return lax.full(aval.shape, 0, aval.dtype)


def scale(term: Term, factor: float | int) -> Term:
    """`factor * term`; zero (`None`) where the term is."""
    if term is None or factor == 1:
        return term
    if factor == -1:
        return lax.neg(term)
    return term * float(factor)


def add(a: Term, b: Term) -> Term:
    """`a + b`, where either may be zero (`None`)."""
    if a is None:
        return b
    if b is None:
        return a
    return lax.add(a, b)


def sub(a: Term, b: Term) -> Term:
    """`a - b`, where either may be zero (`None`)."""
    if b is None:
        return a
    if a is None:
        return lax.neg(b)
    return lax.sub(a, b)


def convolve(
    product: Callable[[Any, Any], Any], a: Series, b: Series, k: int, first: int = 0
) -> Term:
    """`Σ_{j=first}^{k} product(a_j, b_{k-j})`."""
    total = None
    for j in range(first, k + 1):
        # The support is looked at first: a coefficient that is multiplied by a zero
        # need not exist yet.
        if a.support >> j & 1 and b.support >> (k - j) & 1:
            a_j, b_kj = a[j], b[k - j]
            if a_j is not None and b_kj is not None:
                total = add(total, product(a_j, b_kj))
    return total


def convolve_square(a: Series, k: int, first: int = 0) -> Term:
    """`Σ_{j=first}^{k-first} a_j a_{k-j}`, each product formed once."""
    total = None
    for j in range(first, (k + 1) // 2):
        if a.support >> j & 1 and a.support >> (k - j) & 1:
            a_j, a_kj = a[j], a[k - j]
            if a_j is not None and a_kj is not None:
                total = add(total, lax.mul(a_j, a_kj))
    total = scale(total, 2)
    if k % 2 == 0 and first <= k // 2 and a[k // 2] is not None:
        total = add(total, lax.square(a[k // 2]))
    return total


def evaluate(terms: Sequence[Any], s: Any) -> Any:
    """`Σ_k terms[k] s^k` by Horner's rule; `terms[0]` is added last."""
    s = jnp.asarray(s, terms[0].dtype)
    total = terms[-1] * s
    for term in terms[-2:0:-1]:
        total = (total + term) * s
    return terms[0] + total


def evaluate_derivative(terms: Sequence[Any], s: Any) -> Any:
    """`s p'(s) = Σ_k k terms[k] s^k`, by Horner's rule."""
    return evaluate([k * term for k, term in enumerate(terms)], s)


def evaluate_compensated(terms: Sequence[Any], s: Any, rest: Any) -> tuple[Any, Any]:
    """`rest + Σ_k terms[k] s^k` as an array and what is left beyond its last digit.

    The rounding error of each addition is found, and all of them are added in the end:
    the compensated summation of Kahan and Babuska in the form of Neumaier (1974).
    """
    s = jnp.asarray(s, terms[0].dtype)
    total, power = terms[0], s
    for term in terms[1:]:
        total, error = _two_sum(total, term * power)
        rest = rest + error
        power = power * s
    return _two_sum(total, rest)


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """`a + b` rounded, and the rounding error: exactly, whichever is larger (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)
