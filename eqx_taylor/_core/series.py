"""Truncated power series of arrays, and the few operations that every rule is made of.

Along a curve every array of a program is a series `x(t) = Σ_k x_k t^k`. Coefficients
are normalised, `x_k = x^(k)(0) / k!`; factorials appear only at the public border.
"""

import contextlib
import functools as ft
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .jax import at_place, current_place, filled, known_size
from .order import outside, Table
from .protocols import Aval
from .rule import Cost
from .storage import policy, Storage
from .terms import scale, Term


# The orders that may be nonzero: bit k stands for coefficient k. An integer, so that
# sets of orders are compared, joined and hashed at no cost.
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

    Coefficients are normalised: coefficient `k` is the derivative of order `k` over
    `k!`. One that is known to be zero is `None`.

    A rule constructs one for each output of its equation, and others for whatever it
    computes on the way: these are kept, and taken back, as its outputs are.

    **Arguments:**

    - `aval`: the type of every coefficient; anything with a `shape` and a `dtype`. For
        an output of an equation it is `eqn.outvars[i].aval`.
    - `support`: the orders that may be nonzero, as the bits of an integer. `compute` is
        not asked for others.
    - `compute`: a function from the order `k` to the coefficient, an array or `None`.
        It may ask for coefficients up to `k` of the inputs and up to `k - 1` of the
        series itself: this is what a recurrence is.
    - `is_known`, `terms`, `is_kept`: for the interpreter.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> aval = jax.ShapeDtypeStruct((), jnp.float32)
        >>> # exp(t^2): coefficients 1, 0, 1, 0, 1/2, ... by 2 y_k = k y_{k+2}.
        >>> def compute(k):
        ...     return jnp.array(1.0) if k == 0 else 2 * y[k - 2] / k
        >>> y = rules.Series(aval, 0b10101, compute)
        >>> print(*[y[k] for k in range(5)])
        1.0 None 1.0 None 0.5
        >>> print(y.dense(1), y.is_constant)
        0.0 False
        >>> print(*[y.derivative[k] for k in range(4)])
        None 2.0 None 2.0
        ```
    """

    # `is_known` says that every coefficient can be had now; it is false for the
    # solution of an ODE under construction, and for all that depends on it.

    __slots__ = (
        "aval",
        "support",
        "is_known",
        "is_kept",
        "key",
        "recurrence",
        "tentative",
        "is_tracked",
        "storage",
        "loop",
        "is_linear",
        "_compute",
        "_place",
        "_terms",
        "_derivative",
        "_ahead",
        "_here",
    )

    def __init__(
        self,
        aval: Aval,
        support: Support,
        compute: Callable[[int], Term],
        *,
        is_known: bool = True,
        terms: Sequence[Term] = (),
        is_kept: bool = False,
    ):
        self.aval: Aval = aval
        self.support: Support = support
        self.is_known: bool = is_known
        # Whether a walk keeps its coefficients, or need not: the series is given, or is
        # a view of one that is kept.
        self.is_kept: bool = is_kept
        # The name of its coefficients in a history.
        self.key: str = ""
        # The recurrence of the equation that it is an output of, if several are.
        self.recurrence: Any = None
        # The series under construction that it depends on, and how many orders ahead.
        self.tentative: dict[Tentative, int] = {}
        # Whether `tentative` is found as coefficients are computed. (That of an
        # equation's outputs is known from its inputs.)
        self.is_tracked: bool = not is_kept
        self.storage: Storage = Storage()
        # The loop over orders that it is computed in, if there is one; and whether its
        # coefficient 0 is computed as all others are.
        self.loop: Any = None
        self.is_linear: bool = False
        self._compute = compute
        # The place in the source of its equation, for whenever a coefficient is
        # computed.
        self._place = current_place()
        self._terms: list[Term] = list(terms)
        self._derivative: Series | None = None
        # The value a little ahead, in the series of a solution; and the value at the
        # point itself, if the value was decided ahead.
        self._ahead: Callable[[], Any] | None = None
        self._here: Callable[[], Any] | None = None
        if not is_kept:
            _made_by(self)

    def __getitem__(self, k: Any) -> Term:
        """Returns coefficient `k`: an array, or `None` where it is known to be zero."""
        # An integer; or an `Order`, in a loop over orders.
        if isinstance(k, Table):
            return k.loop.coefficient(self, k)
        terms = self._terms
        if len(terms) <= k:
            if self.loop is None:
                self._extend(k)
            else:
                with self.loop.outside():
                    self._extend(k)
        if self.tentative:
            reader = _now.by
            if isinstance(reader, Series) and reader.is_tracked:
                reader.depend_on([self], ahead=k - len(reader._terms))
        return terms[k]

    def _extend(self, k: int) -> None:
        """Computes all coefficients up to `k`."""
        terms = self._terms
        caller, _now.by = _now.by, self
        try:
            with at_place(self._place):
                while len(terms) <= k:
                    n = len(terms)
                    moves = self.support >> n & 1
                    terms.append(self._compute(n) if moves else None)
        finally:
            _now.by = caller

    def in_loop(self, k: Any) -> Term:
        """Computes coefficient `k` in each pass of a loop over orders."""
        caller, _now.by = _now.by, self
        try:
            with at_place(self._place):
                return self._compute(k)
        finally:
            _now.by = caller

    def wrap(self, wrapper: Callable[[Callable[[int], Term]], Callable]) -> None:
        """Wraps the function that computes coefficients, before any is computed."""
        self._compute = wrapper(self._compute)

    def append(self, term: Term) -> None:
        """Makes the next coefficient known."""
        self._terms.append(term)

    def retract(self, k: int) -> None:
        """Forgets coefficient `k` and those above it."""
        del self._terms[k:]
        self.storage.forget(k)
        if self.recurrence is not None:
            self.recurrence.retract(k)

    def make_known(self, k: int, term: Term) -> None:
        """Makes coefficient `k` known, unless it is."""
        if k > 0:
            self[k - 1]
        if len(self._terms) == k:
            self._terms.append(term)

    def for_products(self, k: Any, shape: tuple[Any, ...] | None = None) -> Term:
        """Returns coefficient `k`, for products with many other orders. From now on it
        is one that XLA has stored. With a `shape` it is broadcast to that, and axes are
        joined."""
        term = self[k]
        if term is None or isinstance(k, Table) or shape is None and self.is_known:
            return term
        if shape is None or shape == self.aval.shape:
            is_cheap = self.is_constant or known_size(self.aval) < policy().small
            term = self._terms[k] = self.storage.before_products(k, term, is_cheap)
        return term if shape is None else self.storage.in_form(k, term, shape)

    def depend_on(self, inputs: "Sequence[Series]", ahead: int = 0) -> None:
        """Declares the series that it is computed from: its coefficient `k` is taken
        back together with their coefficient `k + ahead`."""
        for series in inputs:
            for tentative, n in series.tentative.items():
                known = self.tentative.get(tentative)
                if known is None:
                    tentative.dependents.append(self)
                if known is None or known < n + ahead:
                    self.tentative[tentative] = n + ahead

    def dense(self, k: Any) -> Any:
        """Returns coefficient `k` as an array, also where it is zero."""
        term = self[k]
        return filled(self.aval) if term is None else term

    def look_ahead(self, ahead: Callable[[], Any]) -> None:
        """Sets the value a little ahead on the solution of an ODE."""
        self._ahead = ft.cache(ahead)

    def look_here(self, here: Callable[[], Any]) -> None:
        """Sets the value at the point of a series that was decided ahead."""
        self._here = ft.cache(here)

    @property
    def moves_ahead(self) -> bool:
        """Whether decisions that depend on it are made ahead of the point."""
        return self._ahead is not None

    @property
    def is_decided(self) -> bool:
        """Whether its value was decided ahead of the point."""
        return self._here is not None

    @property
    def ahead(self) -> Any:
        """The value by which decisions are made."""
        if self._ahead is None:
            return self.dense(0)
        with outside(self.loop), at_place(self._place):
            return self._ahead()

    @property
    def here(self) -> Any:
        """The value at the point, whatever was decided."""
        if self._here is None:
            return self.dense(0)
        with outside(self.loop), at_place(self._place):
            return self._here()

    @property
    def is_constant(self) -> bool:
        """Whether all coefficients but the first are known to be zero."""
        return self.support <= CONSTANT

    @property
    def derivative(self) -> "Series":
        """The series of `x'(t)`, whose coefficient `k` is `(k + 1) x_{k+1}`."""
        # It is kept, as many rules ask for it.
        if self._derivative is None:

            def compute(k):
                return scale(self[k + 1], k + 1)

            self._derivative = Series(
                self.aval,
                self.support >> 1,
                compute,
                is_known=self.is_known,
                is_kept=True,
            )
            self._derivative.storage.cost = Cost.VIEW
            self._derivative.loop, self._derivative.is_linear = self.loop, True
            self._derivative.is_tracked = True  # What `self` depends on may come later.
            self._derivative.depend_on([self], ahead=1)
        return self._derivative


class Reading:
    """One call of a rule, and the series that the rule has constructed itself: those of
    its outputs, and others that it computes them with."""

    def __init__(self, is_known: bool):
        self.is_known = is_known
        self.made: list[Series] = []


class _Now(threading.local):
    # The rule that is called, or the series of which a coefficient is computed.
    by: Reading | Series | None = None


_now = _Now()


@contextlib.contextmanager
def reading(is_known: bool) -> Iterator[list[Series]]:
    """Collects the series that are constructed within, except by other rules, and by
    functions that compute a coefficient: when these are called is not the same in each
    reading of a program, so that such a series can have no name in a history."""
    caller, _now.by = _now.by, Reading(is_known)
    try:
        yield _now.by.made
    finally:
        _now.by = caller


def _made_by(series: Series) -> None:
    """Tells a new series whether all that it may be computed from is known."""
    by = _now.by
    if by is not None:
        series.is_known = series.is_known and by.is_known
        if isinstance(by, Reading):
            by.made.append(series)


class Tentative:
    """Series under construction, and all that depends on them. Their next coefficient
    can be supposed, to see what follows from it, and be taken back."""

    def __init__(self, series: Sequence[Series]):
        self.dependents: list[Series] = list(series)
        for one in series:
            one.tentative[self] = 0

    def lowest(self, series: Series, k: int) -> int:
        """The first coefficient of a dependent that coefficient `k` enters."""
        return max(k - series.tentative[self], 0)


def constant(aval: Aval, value: Any) -> Series:
    return _from_outside(aval, CONSTANT, [value])


def given(aval: Aval, terms: Sequence[Term], support: Support | None = None) -> Series:
    """Makes a series with these coefficients. Those above them are zero; or, where
    `support` is given and says otherwise, not needed now."""
    if support is None:
        support = sum(1 << k for k, term in enumerate(terms) if term is not None)
    return _from_outside(aval, support, terms)


def unknown(aval: Aval, support: Support, terms: Sequence[Term] = ()) -> Series:
    """Makes a series of known type and support, of which only these terms are known."""
    return _from_outside(aval, support, terms, is_known=False)


def _from_outside(aval: Aval, support: Support, terms, is_known: bool = True) -> Series:
    series = Series(
        aval, support, _nothing_more, is_known=is_known, terms=terms, is_kept=True
    )
    series.storage.cost = Cost.VIEW
    return series


def primal_values(inputs: Sequence[Series]) -> list[Any]:
    """The operands of an equation, at the point."""
    return [series.dense(0) for series in inputs]


def ahead_values(inputs: Sequence[Series]) -> list[Any]:
    """The operands of a decision."""
    return [series.ahead for series in inputs]


def _nothing_more(k):
    raise AssertionError(f"coefficient {k} is not known yet")
