"""Recurrences: the outputs of an equation, whose coefficients are computed together."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

from .jax import bind, is_differentiable
from .protocols import Aval, JaxprEqn
from .series import CONSTANT, primal_values, Series, Support
from .terms import Term


# A function from the order `k >= 1` to coefficient `k` of all series of a recurrence.
# It may use coefficients up to `k` of their inputs, and up to `k - 1` of the series
# themselves.
Step = Callable[[int], Sequence[Term]]


class Recurrence:
    """Series whose coefficients are computed together, and retracted together.

    **Arguments:**

    - `types`: the type and the support of each series.
    - `first`: a function that returns coefficient 0 of each series.
    - `step`: a function from an order to the coefficients of all series.
    """

    __slots__ = ("outs", "_first", "_step", "_terms")

    def __init__(
        self,
        types: Sequence[tuple[Aval, Support]],
        first: Callable[[], Sequence[Term]],
        step: Step,
    ):
        self._first, self._step = first, step
        self._terms: dict[int, Sequence[Term]] = {}
        self.outs = [
            Series(aval, support, ft.partial(self._term, i))
            for i, (aval, support) in enumerate(types)
        ]
        for series in self.outs:
            series.recurrence = self

    def _term(self, i: int, k: Any) -> Term:
        if k not in self._terms:
            self._terms[k] = self._step(k) if k else self._first()
        return self._terms[k][i]

    def retract(self, k: int) -> None:
        """Forgets the coefficients of order `k` and above, of all series."""
        for order in [order for order in self._terms if order >= k]:
            del self._terms[order]


def outputs(
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    supports: Support | Sequence[Support],
    step: Step,
) -> list[Series]:
    """Makes the series of the outputs of an equation. Coefficient 0 is the primitive's
    own value, and `step` returns the others. A single support is that of all
    differentiable outputs."""
    if isinstance(supports, Support):
        can_move = [is_differentiable(var.aval) for var in eqn.outvars]
        supports = [supports if moves else CONSTANT for moves in can_move]
    types = [(var.aval, support) for var, support in zip(eqn.outvars, supports)]
    return Recurrence(types, lambda: bind(eqn, primal_values(inputs)), step).outs


def output(
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    support: Support,
    step: Callable[[int], Term],
) -> Series:
    """Makes the series of the only differentiable output of an equation. Coefficient 0
    is the primitive's own value, and `step` returns the others."""

    def compute(k):
        return step(k) if k else bind(eqn, primal_values(inputs))[0]

    return Series(eqn.outvars[0].aval, support, compute)
