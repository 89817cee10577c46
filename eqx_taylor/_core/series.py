"""Truncated power series of arrays.

Along a curve, every array of a program is a series `x(t) = Σ_k x_k t^k`. Coefficients
are normalised, `x_k = x^(k)(0) / k!`; factorials appear only in the public functions.
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


# The orders that may be nonzero: bit k stands for coefficient k. It is an integer, so
# that sets of orders are cheap to compare, join and hash.
Support = int

CONSTANT: Support = 1


def mask(order: int) -> Support:
    """Returns the support of a series of which nothing is known: orders 0 to
    `order`."""
    return (1 << (order + 1)) - 1


def orders(support: Support) -> list[int]:
    return [k for k in range(support.bit_length()) if support >> k & 1]


def product_support(a: Support, b: Support, order: int) -> Support:
    out = 0
    for k in orders(a):
        out |= b << k
    return out & mask(order)


def analytic_support(support: Support, order: int) -> Support:
    """Returns the support of an analytic function of a series, which is closed under
    products.

    For example, `sin(x_0 + x_2 t²)` has even orders only.
    """
    support = support & mask(order) | CONSTANT
    while (grown := product_support(support, support, order)) != support:
        support = grown
    return support


class Series:
    """A power series whose coefficients are computed when they are first requested.

    Coefficients are normalised: coefficient `k` is the derivative of order `k`, divided
    by `k!`. A coefficient that is known to be zero is `None`.

    A rule constructs a series for each output of its equation, and may construct others
    for intermediate values. The interpreter stores and discards the coefficients of
    both in the same way.

    **Arguments:**

    - `aval`: the type of every coefficient: anything with a `shape` and a `dtype`. For
        an output of an equation it is `eqn.outvars[i].aval`.
    - `support`: the orders that may be nonzero, as the bits of an integer. `compute` is
        called only for these.
    - `compute`: a function from the order `k` to the coefficient, an array or `None`.
        As a recurrence, it may use coefficients up to `k` of the inputs, and up to
        `k - 1` of the series itself.
    - `is_known`, `terms`, `is_kept`: for the interpreter only.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> aval = jax.ShapeDtypeStruct((), jnp.float32)
        >>> # exp(t^2) has the coefficients 1, 0, 1, 0, 1/2, ..., by k y_k = 2 y_{k-2}.
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

    # `is_known` says that every coefficient can be computed now. It is false for the
    # solution of an ODE under construction, and for everything that depends on it.

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
        # Whether a walk keeps its coefficients, or does not need to, as the series is
        # given, or is a view of one that is kept.
        self.is_kept: bool = is_kept
        # The name of its coefficients in a history.
        self.key: str = ""
        # The recurrence that computes it together with the other outputs of its
        # equation, if there are several.
        self.recurrence: Any = None
        # The series under construction on which it depends, and by how many orders
        # ahead.
        self.tentative: dict[Tentative, int] = {}
        # Whether `tentative` is found while coefficients are computed. (For an
        # equation's outputs it is known from the inputs.)
        self.is_tracked: bool = not is_kept
        self.storage: Storage = Storage()
        # The loop over orders in which it is computed, if there is one; and whether its
        # coefficient 0 is computed like all others.
        self.loop: Any = None
        self.is_linear: bool = False
        self._compute = compute
        # The source line of its equation, under which coefficients are computed.
        self._place = current_place()
        self._terms: list[Term] = list(terms)
        self._derivative: Series | None = None
        # The value slightly ahead, in the series of a solution; and the value at the
        # point itself, if the value was decided ahead.
        self._ahead: Callable[[], Any] | None = None
        self._here: Callable[[], Any] | None = None
        if not is_kept:
            _made_by(self)

    def __getitem__(self, k: Any) -> Term:
        """Returns coefficient `k`: an array, or `None` if it is known to be zero."""
        # `k` is an integer; or an `Order`, in a loop over orders.
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
        """Sets the next coefficient."""
        self._terms.append(term)

    def retract(self, k: int) -> None:
        """Forgets coefficient `k` and those above it."""
        del self._terms[k:]
        self.storage.forget(k)
        if self.recurrence is not None:
            self.recurrence.retract(k)

    def make_known(self, k: int, term: Term) -> None:
        """Sets coefficient `k`, unless it is known."""
        if k > 0:
            self[k - 1]
        if len(self._terms) == k:
            self._terms.append(term)

    def for_products(self, k: Any, shape: tuple[Any, ...] | None = None) -> Term:
        """Returns coefficient `k`, for products with many other orders, and makes XLA
        store it. If a `shape` is given, the coefficient is broadcast to it, and axes
        are joined."""
        term = self[k]
        if term is None or isinstance(k, Table) or shape is None and self.is_known:
            return term
        if shape is None or shape == self.aval.shape:
            is_cheap = self.is_constant or known_size(self.aval) < policy().small
            term = self._terms[k] = self.storage.before_products(k, term, is_cheap)
        return term if shape is None else self.storage.in_form(k, term, shape)

    def depend_on(self, inputs: "Sequence[Series]", ahead: int = 0) -> None:
        """Declares the series from which it is computed: its coefficient `k` is
        retracted together with their coefficient `k + ahead`."""
        for series in inputs:
            for tentative, n in series.tentative.items():
                known = self.tentative.get(tentative)
                if known is None:
                    tentative.dependents.append(self)
                if known is None or known < n + ahead:
                    self.tentative[tentative] = n + ahead

    def dense(self, k: Any) -> Any:
        """Returns coefficient `k` as an array, even if it is zero."""
        term = self[k]
        return filled(self.aval) if term is None else term

    def look_ahead(self, ahead: Callable[[], Any]) -> None:
        """Sets the value slightly ahead on the solution of an ODE."""
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
        """The value that decisions use."""
        if self._ahead is None:
            return self.dense(0)
        with outside(self.loop), at_place(self._place):
            return self._ahead()

    @property
    def here(self) -> Any:
        """The value at the point, also if it was decided ahead."""
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
        # It is kept, as many rules use it.
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
            self._derivative.is_tracked = True  # `self` may get dependencies later.
            self._derivative.depend_on([self], ahead=1)
        return self._derivative


class Reading:
    """One call of a rule, and the series that the rule has constructed: those of its
    outputs, and intermediate ones."""

    def __init__(self, is_known: bool):
        self.is_known = is_known
        self.made: list[Series] = []


class _Now(threading.local):
    # The rule that is being called, or the series whose coefficient is being computed.
    by: Reading | Series | None = None


_now = _Now()


@contextlib.contextmanager
def reading(is_known: bool) -> Iterator[list[Series]]:
    """Collects the series that are constructed in this context, except those of other
    rules and of functions that compute a coefficient. When the latter are called
    differs between readings of a program, so their series can have no name in a
    history."""
    caller, _now.by = _now.by, Reading(is_known)
    try:
        yield _now.by.made
    finally:
        _now.by = caller


def _made_by(series: Series) -> None:
    """Sets `is_known` of a new series: whether everything from which it may be computed
    is known."""
    by = _now.by
    if by is not None:
        series.is_known = series.is_known and by.is_known
        if isinstance(by, Reading):
            by.made.append(series)


class Tentative:
    """Series under construction, and everything that depends on them. Their next
    coefficient can be assumed, to compute what follows from it, and be retracted."""

    def __init__(self, series: Sequence[Series]):
        self.dependents: list[Series] = list(series)
        for one in series:
            one.tentative[self] = 0

    def lowest(self, series: Series, k: int) -> int:
        """Returns the first order of a dependent that depends on coefficient `k`."""
        return max(k - series.tentative[self], 0)


def constant(aval: Aval, value: Any) -> Series:
    return _from_outside(aval, CONSTANT, [value])


def given(aval: Aval, terms: Sequence[Term], support: Support | None = None) -> Series:
    """Makes a series with these coefficients. Higher ones are zero; or, if `support` is
    given and includes them, not needed now."""
    if support is None:
        support = sum(1 << k for k, term in enumerate(terms) if term is not None)
    return _from_outside(aval, support, terms)


def unknown(aval: Aval, support: Support, terms: Sequence[Term] = ()) -> Series:
    """Makes a series of known type and support, whose terms are known only as far as
    `terms` goes."""
    return _from_outside(aval, support, terms, is_known=False)


def _from_outside(aval: Aval, support: Support, terms, is_known: bool = True) -> Series:
    series = Series(
        aval, support, _nothing_more, is_known=is_known, terms=terms, is_kept=True
    )
    series.storage.cost = Cost.VIEW
    return series


def primal_values(inputs: Sequence[Series]) -> list[Any]:
    """Returns the operands of an equation at the point."""
    return [series.dense(0) for series in inputs]


def ahead_values(inputs: Sequence[Series]) -> list[Any]:
    """Returns the operands of a decision."""
    return [series.ahead for series in inputs]


def _nothing_more(k):
    raise AssertionError(f"coefficient {k} is not known yet")
