"""The recurrences of all kinds of atoms, for whoever emits them.

A `Step` is one order of one group. Its operands are given by their place, `Y` is the
series itself, and `LAGGED` the first of those that are known below order `k` only.
`docs/mathematics.md` has these recurrences with their sources; here they are about
numbers, and what is special at a point (a root at zero) has no series.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any


# Names of series, for a `Step`.
Y = "y"
LAGGED = "lagged"
Name = Any


class Step(abc.ABC):
    """What a recurrence is written in. Values are those of some atoms at once."""

    attribute: Any

    @abc.abstractmethod
    def at(self, a: Name) -> Any:
        """Coefficient `k`."""

    @abc.abstractmethod
    def first(self, a: Name) -> Any:
        """Coefficient 0."""

    @abc.abstractmethod
    def sum(
        self,
        a: Name,
        b: Name,
        first: int,
        without: int,
        weight: Callable[[int, int], float] | None = None,
    ) -> Any:
        """`Σ_{j=first}^{k-without} weight(j, k) a_j b_{k-j}`."""

    @abc.abstractmethod
    def square_sum(self, a: Name, first: int) -> Any:
        """`Σ_{j=first}^{k-first} a_j a_{k-j}`."""

    @abc.abstractmethod
    def order(self, fun: Callable[[int], float]) -> Any:
        """`fun(k)`, as a value."""

    @abc.abstractmethod
    def number(self, x: float) -> Any: ...

    @abc.abstractmethod
    def add(self, x: Any, y: Any) -> Any: ...

    @abc.abstractmethod
    def sub(self, x: Any, y: Any) -> Any: ...

    @abc.abstractmethod
    def mul(self, x: Any, y: Any) -> Any: ...

    @abc.abstractmethod
    def div(self, x: Any, y: Any) -> Any: ...

    @abc.abstractmethod
    def neg(self, x: Any) -> Any: ...

    @abc.abstractmethod
    def fma(self, x: Any, y: Any, z: Any) -> Any: ...

    @abc.abstractmethod
    def call(self, name: Any, x: Any) -> Any: ...

    def level(self, a: Name) -> int:
        """Operands of higher levels are known later."""
        del a
        return 0

    def over(self, rest: Any, late: Sequence[tuple[Any, Name]], by: Any) -> Any:
        """`(rest + Σ c a_k) / by`, for all `(c, a)` in `late`. The factors of the
        coefficients are quotients of order 0, which are known long before: what waits
        for a coefficient is one addition, and no division."""
        inverse = self.div(self.number(1.0), by)
        total = self.mul(rest, inverse)
        for factor, a in sorted(late, key=lambda term: self.level(term[1])):
            total = self.fma(self.mul(factor, inverse), self.at(a), total)
        return total


Rule = Callable[[Step], Any]

# Coefficient 0 of each kind, and coefficient `k >= 1`.
FIRST: dict[str, Rule] = {}
NEXT: dict[str, Rule] = {}


def _kind(name: str, first: Rule):
    def register(fun: Rule) -> Rule:
        FIRST[name], NEXT[name] = first, fun
        return fun

    return register


@_kind("product", lambda s: s.mul(s.first(0), s.first(1)))
def _product(s: Step) -> Any:
    return s.sum(0, 1, 0, 0)


@_kind("square", lambda s: s.mul(s.first(0), s.first(0)))
def _square(s: Step) -> Any:
    return s.square_sum(0, 0)


# y b = 1  =>  y_k = -Σ_{j<k} y_j b_{k-j} / b_0
@_kind("reciprocal", lambda s: s.div(s.number(1.0), s.first(0)))
def _reciprocal(s: Step) -> Any:
    rest = s.neg(s.sum(Y, 0, 1, 1))
    return s.over(rest, [(s.neg(s.first(Y)), 0)], s.first(0))


# y b = a  =>  y_k = (a_k - Σ_{j<k} y_j b_{k-j}) / b_0
@_kind("quotient", lambda s: s.div(s.first(0), s.first(1)))
def _quotient(s: Step) -> Any:
    rest = s.neg(s.sum(Y, 1, 1, 1))
    late = [(s.number(1.0), 0), (s.neg(s.first(Y)), 1)]
    return s.over(rest, late, s.first(1))


# y² = x  =>  y_k = (x_k - Σ_{j=1..k-1} y_j y_{k-j}) / (2 y_0)
@_kind("sqrt", lambda s: s.call("sqrt", s.first(0)))
def _sqrt(s: Step) -> Any:
    rest = s.neg(s.square_sum(Y, 1))
    return s.over(rest, [(s.number(1.0), 0)], s.mul(s.number(2.0), s.first(Y)))


# x y' = r x' y  =>  y_k = Σ_{j=1..k} (r j - (k - j)) x_j y_{k-j} / (k x_0)
@_kind("power", lambda s: power(s, s.first(0), s.attribute))
def _power(s: Step) -> Any:
    r = s.attribute
    rest = s.sum(0, Y, 1, 1, lambda j, k: (r * j - (k - j)) / k)
    return s.over(rest, [(s.mul(s.number(r), s.first(Y)), 0)], s.first(0))


@_kind("times_order", lambda s: s.number(0.0))
def _times_order(s: Step) -> Any:
    return s.mul(s.order(float), s.at(0))


# y' = c g x'  =>  y_k = c g_0 x_k + c/k Σ_{j=1..k-1} j x_j g_{k-j}
@_kind("integral", lambda s: s.call(s.attribute[0], s.first(0)))
def _integral(s: Step) -> Any:
    _, factor = s.attribute
    rest = s.mul(s.order(lambda k: factor / k), s.sum(1, LAGGED, 1, 1))
    return s.fma(s.mul(s.number(factor), s.first(LAGGED)), s.at(0), rest)


# r y' = c x'  =>  y_k = (c x_k - 1/k Σ_{j=1..k-1} j y_j r_{k-j}) / r_0
@_kind("inverse", lambda s: s.call(s.attribute[0], s.first(0)))
def _inverse(s: Step) -> Any:
    _, factor = s.attribute
    rest = s.neg(s.mul(s.order(lambda k: 1 / k), s.sum(LAGGED, 1, 1, 1)))
    return s.over(rest, [(s.number(factor), 0)], s.first(1))


# tanh: e = 1 - y²; logistic: e = y - y². Coefficient 0 does not cancel.
@_kind("sigmoid_slope", lambda s: s.call(f"{s.attribute}_slope", s.first(0)))
def _sigmoid_slope(s: Step) -> Any:
    square = s.square_sum(1, 0)
    return s.neg(square) if s.attribute == "tanh" else s.sub(s.at(1), square)


def power(s: Any, x: Any, exponent: float) -> Any:
    """`x` to the power of a number. Halves of small integers are products and a root,
    as a vector, to some roundings."""
    twice = 2 * exponent
    if not twice.is_integer() or abs(twice) > 16:
        if exponent == 1 / 3:
            return s.call("cbrt", x)
        return s.call(("pow", exponent), x)
    whole, half = divmod(int(abs(twice)), 2)
    result = s.call("sqrt", x) if half else None
    factor = x
    while whole:
        if whole % 2:
            result = factor if result is None else s.mul(result, factor)
        whole //= 2
        factor = s.mul(factor, factor) if whole else factor
    if result is None:
        return s.number(1.0)
    return result if exponent > 0 else s.div(s.number(1.0), result)
