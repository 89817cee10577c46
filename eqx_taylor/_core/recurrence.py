"""One equation, read: its outputs, whose coefficients are computed together."""

import functools as ft
from collections.abc import Callable, Sequence

from .series import Aval, Series, Support
from .terms import Term


class Recurrence:
    """A function from `k` to coefficient `k` of several series, and what it returned.

    **Arguments:**

    - `types`: of each series the type and the support.
    - `step`: from the order `k` to the coefficients of all of them. It may ask for
        coefficients up to `k - 1` of the series themselves.
    """

    __slots__ = ("outs", "_step", "_terms")

    def __init__(
        self,
        types: Sequence[tuple[Aval, Support]],
        step: Callable[[int], Sequence[Term]],
    ):
        self._step = step
        self._terms: dict[int, Sequence[Term]] = {}
        self.outs = [
            Series(aval, support, ft.partial(self._term, i))
            for i, (aval, support) in enumerate(types)
        ]
        for series in self.outs:
            series.recurrence = self

    def _term(self, i: int, k: int) -> Term:
        if k not in self._terms:
            self._terms[k] = self._step(k)
        return self._terms[k][i]

    def retract(self, k: int) -> None:
        """Forgets what was computed of order `k` and above, of all outputs."""
        for order in [order for order in self._terms if order >= k]:
            del self._terms[order]


def recurrence(
    types: Sequence[tuple[Aval, Support]], step: Callable[[int], Sequence[Term]]
) -> list[Series]:
    """The series of a `Recurrence`."""
    return Recurrence(types, step).outs
