"""A driver that computes orders by a loop in the program, whose size does not depend on
the highest order.

It uses the recurrences unchanged. Their order is an `Order`, which is known only at run
time, and each recurrence computes one coefficient, that of the pass. Coefficients of
earlier passes, which recurrences use mostly in sums of products, are in arrays with a
leading axis over passes, which the loop carries. Which arrays are needed is found while
the body of the loop is traced.

Pass `k` computes coefficient `k` of the solution's series, and of nearly everything
that depends on it. Derivatives lag by one: for the series `x'`, and for series computed
from it, the pass computes coefficient `k - 1`. Row `r` of an array has the coefficient
from pass `r + 1`. Coefficients 0 are not in the array if they are known before the
loop. The rows of later passes are zero. Then

    Σ_j a_j b_{m-j}  =  Σ_r A[r] B[s-r],  s = m + lags - 2,

to which products with coefficients 0, or with those of this pass, are added.
"""

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .check import UNTRACEABLE
from .jax import (
    as_type,
    current_trace,
    evaluate_with,
    filled,
    placeholder,
    recorded_by,
    stacked_type,
    trace,
    vary,
    varying_axes,
)
from .order import Order, Table, TooEarly, Unrollable
from .series import Series, Tentative
from .sums_over_orders import row_of, sum_over_orders
from .terms import add, scale, Term
from .walk import Walk


class OrderLoop:
    """A loop over orders, whose body is being traced.

    - `order`: the highest order.
    - `start`: the first pass of the loop. Earlier passes are computed before the loop.
    """

    def __init__(self, order: int, start: int):
        self.order = order
        self.start = start
        self.passes = range(start, order)
        # The number of rows: one for each pass, including those before the loop.
        self.rows = max(order - 1, 1)
        self._solution: Tentative | None = None
        # The traces around and in the body, while it is traced.
        self._around: Any = None
        self._within: Any = None
        self._placeholders = 0
        self._index: Any = None
        self._current: dict[Series, Term] = {}
        self._computing: set[Series] = set()
        self._given: dict[Series, Sequence[Term]] = {}
        self._scalars: dict[Any, Any] = {}
        # The arrays of coefficients.
        self.arrays: dict[Series, Any] = {}
        # The primitives whose rules have made the series.
        self.names: dict[Series, str] = {}

    def contain(self, unknowns: Sequence[Series], given: Sequence[Series]) -> None:
        """Makes series part of the loop: the unknowns, and polynomials that are
        given."""
        self._solution = Tentative(unknowns)
        for series in [*unknowns, *given]:
            series.loop = self
        for series in unknowns:
            series.wrap(lambda _: self._unknown)
        for series in given:
            self._given[series] = list(series._terms)

    def _unknown(self, k: int) -> Term:
        raise TooEarly(k, f"coefficient {k} is needed by itself")

    @contextlib.contextmanager
    def naming(self, primitive: str | None):
        """Returns a context that adds the name of the primitive to `Unrollable`."""
        try:
            yield
        except Unrollable as e:
            e.primitive = e.primitive or primitive
            raise
        except (TypeError, *UNTRACEABLE) as e:
            # If this is an error of the rule itself, it is raised again without the
            # loop.
            raise Unrollable("it cannot use an order that is traced", primitive) from e

    # -- before the loop

    @contextlib.contextmanager
    def outside(self):
        """Returns a context for computations before the loop."""
        if self._around is None:
            yield
        else:
            with recorded_by(self._around):
                yield

    def lag(self, series: Series) -> int:
        """Returns the number of passes after which coefficient 0 is known."""
        return series.tentative.get(self._solution, 0)  # type: ignore

    def knows_first(self, series: Series) -> bool:
        """Returns whether coefficient 0 is known before the loop."""
        return self.lag(series) < self.start

    # -- in the body

    def trace_body(
        self, unknowns: Sequence[Series], body: Callable[[Order], list[Any]]
    ) -> Any:
        """Traces a pass of the loop, a program with placeholders for the order, for the
        current coefficients of the unknowns, and for the arrays. The program returns
        the results of `body`, and then new coefficients for the arrays."""

        def one_pass():
            self._within = current_trace()
            self._index = self._placeholder(jax.typeof(np.int32(0)))
            for series in unknowns:
                self._current[series] = self._placeholder(jax.typeof(series.dense(0)))
            outs = [jnp.asarray(x) for x in body(Order(self, 0))]
            for series in _growing(self.arrays):
                term = self.current(series)
                outs.append(filled(series.aval) if term is None else term)
            return outs

        self._around = current_trace()
        try:
            return trace(one_pass)
        finally:
            self._around = self._within = None

    def _placeholder(self, aval: Any) -> Any:
        self._placeholders += 1
        with recorded_by(self._within):
            return placeholder(aval, self._placeholders - 1)

    def scalar(self, values: Sequence[Any], dtype: Any) -> Any:
        """Returns the number for this pass, from numbers for all passes."""
        key = tuple(values), str(dtype)
        if key not in self._scalars:
            with recorded_by(self._within):
                table = jnp.asarray(np.asarray(values).astype(dtype))
                self._scalars[key] = row_of(table, self._index - self.start)
        return self._scalars[key]

    def advance(self, tape: Sequence[Series], k: Order) -> None:
        """Computes coefficient `k` of all series for which it belongs to this pass."""
        for series in tape:
            if self.lag(series) == -k.offset:
                series[k]

    def coefficient(self, series: Series, k: Table) -> Term:
        """Returns coefficient `k`, which is from this pass or an earlier one."""
        if series.is_constant:
            return self._of_constant(series, k)
        lag = self.lag(series)
        if isinstance(k, Order) and k.offset == -lag:
            return self.current(series)
        if any(value >= now - lag for value, now in zip(k.values, self.passes)):
            raise Unrollable("it needs a coefficient of a later pass")
        if min(k.values) < 0:
            raise TooEarly(self.start + 1, "it needs a coefficient of order -1")
        past = self._past(series, k)
        is_before = lag == 0 and min(k.values) == 0
        return self._if_first(k, series[0], past) if is_before else past

    def _of_constant(self, series: Series, k: Table) -> Term:
        if series.support == 0 or min(k.values) > 0:
            return None
        return self._if_first(k, series[0], None)

    def _if_first(self, k: Table, first: Term, other: Term) -> Term:
        """Selects `first` if order `k` is 0 in this pass."""
        if first is None:
            return other
        other = jnp.zeros_like(first) if other is None else other
        is_first = self.scalar([value == 0 for value in k.values], bool)
        return lax.select(is_first, jnp.asarray(first), other)

    def current(self, series: Series) -> Term:
        """Returns the coefficient of this pass."""
        if series not in self._current:
            if series in self._computing:
                raise Unrollable("a coefficient depends on itself")
            lag = self.lag(series)
            if self.knows_first(series):
                series[0]
            elif not series.is_linear:
                raise TooEarly(lag + 1, "coefficient 0 differs from the others")
            k = Order(self, -lag, skips_zero=not self.knows_first(series))
            self._computing.add(series)
            with recorded_by(self._within), self.naming(self.names.get(series)):
                if series in self._given:
                    term = self._of_polynomial(series, k)
                else:
                    term = series.in_loop(k)
            self._computing.discard(series)
            self._current[series] = term
        return self._current[series]

    def _of_polynomial(self, series: Series, k: Order) -> Term:
        total = None
        for j, term in enumerate(self._given[series]):
            if j in k.values and term is not None:
                here = self.scalar([value == j for value in k.values], bool)
                term = jnp.asarray(term, series.aval.dtype)
                total = jnp.zeros_like(term) if total is None else total
                total = lax.select(here, term, total)
        return total

    # -- arrays of coefficients

    def _array(self, series: Series) -> Any:
        """Returns the array of the coefficients of a series from earlier passes."""
        if series not in self.arrays:
            self.arrays[series] = self._placeholder(self._array_type(series))
        return self.arrays[series]

    def _array_type(self, series: Series) -> Any:
        return stacked_type(series.aval, self.rows)

    def _past(self, series: Series, k: Table) -> Term:
        """Returns coefficient `k` from an earlier pass. The result is arbitrary if it
        is from before the first pass."""
        shift = self.lag(series) - 1
        if isinstance(k, Order):
            row = self._index + (k.offset + shift)
        else:
            row = self.scalar([value + shift for value in k.values], np.int32)
        return row_of(self._array(series), row)

    def first_rows(self, series: Series) -> Any:
        """Returns the array of a series at the beginning of the loop."""
        array = filled(self._array_type(series))
        lag = self.lag(series)
        for k in range(1, self.start):
            term = series[k - lag]
            if term is not None:
                array = self.with_row(array, series, k, term)
        return array

    def with_row(self, array: Any, series: Series, k: Any, term: Any) -> Any:
        """Writes the coefficient from pass `k` into the array of a series."""
        term = as_type(series.aval, jnp.asarray(term, array.dtype))
        return lax.dynamic_update_index_in_dim(
            array, term, k - 1, 0, allow_negative_indices=False
        )

    def _rows(self, series: Series, updated: bool) -> Any:
        """Returns the array of a series, with the row of this pass if it is `updated`
        and already known."""
        array = self._array(series)
        if not updated or series in self._computing:
            return array
        term = self.current(series)
        return (
            array if term is None else self.with_row(array, series, self._index, term)
        )

    # -- products

    def convolve(
        self,
        product: Callable[[Any, Any], Any],
        a: Series,
        b: Series,
        k: Order,
        first: int,
        weight: Callable[[Any, Any], Any] | None = None,
    ) -> Term:
        """Computes `Σ_{j=first}^{k} weight(j, k) product(a_j, b_{k-j})`."""
        if a.support >> first == 0 or b.support == 0:
            return None
        multiply = operator.mul if product is lax.mul else product

        def times(x, y, j):
            if x is None or y is None:
                return None
            term = multiply(x, y)
            return term if weight is None else scale(term, weight(j, k))

        if a.is_constant:
            return times(a[0], b[k], 0)
        if b.is_constant:
            self._check(k, first)
            return times(a[k], b[0], k)
        lag_a, lag_b = self.lag(a), self.lag(b)
        total = None
        knows_a, knows_b = (lag == 0 for lag in (lag_a, lag_b))
        if first == 0 and knows_a and a.support & 1:
            total = times(a[0], b[k], 0)
        if knows_b and b.support & 1:
            if k.offset < -lag_a:
                a_k = self._past(a, k)  # a_0 b_0 is in the sum already, or must not be.
                if first > (1 if knows_a else 0):
                    self._check(k, first)
            else:
                self._check(k, first)
                a_k = a[k]
            total = add(total, times(a_k, b[0], k))
        rows = self._rows_of(a, b, k, first, weight, product)
        return add(total, rows)

    def convolve_square(self, a: Series, k: Order, first: int) -> Term:
        if first == 0:
            return self.convolve(lax.mul, a, a, k, 0)
        if first > 1 or self.lag(a) > 0:
            raise Unrollable("a square without its first coefficients")
        if a.is_constant:
            return None
        return self._rows_of(a, a, k, 1, None, lax.mul)

    def _check(self, k: Order, first: int) -> None:
        if not all(value >= first or k.skips_zero for value in k.values):
            raise TooEarly(self.start + 1, "a sum that is empty at first")

    def _rows_of(self, a, b, k, first, weight, product) -> Term:
        """Computes the part of a sum of products in which both factors are in the
        arrays."""
        lag_a, lag_b = self.lag(a), self.lag(b)
        n = self.rows
        lowest = max(first + lag_a - 1, 0)
        if lowest >= n:
            return None
        offset = k.offset + lag_a + lag_b - 2
        # The rows of this pass have partners in the arrays, except coefficients 0.
        updated = offset + 1 >= 0
        weights = None if weight is None else self._weights(weight, k, lag_a, a)
        A, B = (self._rows(series, updated) for series in (a, b))
        return sum_over_orders(product, A, B, weights, lowest, self._index + offset)

    def _weights(self, weight: Callable, k: Order, lag: int, a: Series) -> Any:
        """Returns the weights of the rows of `a` in this pass."""
        orders = [r + 1 - lag for r in range(self.rows)]
        table = [
            [weight(j, value) if j <= value else 0 for j in orders]
            for value in k.values
        ]
        array = jnp.asarray(np.asarray(table).astype(a.aval.dtype))
        return row_of(array, self._index - self.start)


def _growing(series: dict[Series, Any]):
    """Iterates over a dictionary that grows during the iteration."""
    done = 0
    while done < len(series):
        yield list(series)[done]
        done += 1


def rolled(
    walk: Walk,
    loop: OrderLoop,
    unknowns: Sequence[Series],
    images: Sequence[Series],
    lift: Callable[[Any, Term], Term],
) -> list[Any]:
    """Finds the same series as `order_by_order`, by a loop. Returns their coefficients,
    stacked along a first axis."""

    def lifted(k):
        terms = [lift(k, image[k]) for image in images]
        return [
            filled(y.aval) if term is None else vary(term, varying_axes(y.aval))
            for y, term in zip(unknowns, terms)
        ]

    for k in range(loop.start):
        walk.advance(k)
        for y, term in zip(unknowns, lifted(k)):
            y.append(term)
    before = [[y[k] for k in range(loop.start + 1)] for y in unknowns]
    if len(loop.passes) == 0:
        return [jnp.stack(terms) for terms in before]

    def body(k):
        walk.advance(k)
        return lifted(k)

    program = loop.trace_body(unknowns, body)
    count, kept = len(unknowns), list(loop.arrays)
    # The placeholders, in the order in which they were made.

    def one_pass(carry, index):
        current, arrays = carry
        outs = evaluate_with(program, [index, *current, *arrays])
        # The arrays are read before they are written, so that XLA need not copy them.
        arrays, outs = lax.optimization_barrier((arrays, outs))
        arrays = [
            loop.with_row(array, series, index, term)
            for array, series, term in zip(arrays, kept, outs[count:])
        ]
        return (outs[:count], arrays), outs[:count]

    start = [terms[-1] for terms in before], [loop.first_rows(x) for x in kept]
    index = jnp.arange(loop.start, walk.order, dtype=jnp.int32)
    _, after = lax.scan(one_pass, start, index)
    return [
        jnp.concatenate([jnp.stack(terms), rest]) for terms, rest in zip(before, after)
    ]
