"""Coefficients of inner values that are kept between traces of the body of a loop."""

from collections.abc import Callable
from typing import Any

from .terms import Term


# Coefficients, by the position of a series in the program, and the order.
Entries = dict[tuple[str, int], Any]


class History:
    """A cache of coefficients, by the position of their series in the program.

    The body of a loop is traced anew for each order. Coefficients of lower orders come
    in as `stored`, and new ones go out as `fresh`. Both are flat dictionaries of
    arrays, which the loop stacks over its iterations. As in any cache, a coefficient
    that is not found is computed again.
    """

    def __init__(self, stored: Entries, prefix: str = ""):
        self.stored = stored
        self.fresh: Entries = {}
        self.prefix = prefix

    def cached(
        self, place: str, compute: Callable[[int], Term]
    ) -> Callable[[int], Term]:
        def cached_compute(k):
            key = self.prefix + place, k
            if key in self.stored:
                return self.stored[key]
            term = compute(k)
            if term is not None:
                self.fresh[key] = term
            return term

        return cached_compute

    def forget(self, place: str, k: int) -> None:
        self.fresh.pop((self.prefix + place, k), None)

    def inner(self, place: str) -> Entries:
        """Returns the entries of an inner loop at this position in the body."""
        start = f"{self.prefix}{place}/"
        return {
            (inner[len(start) :], k): value
            for (inner, k), value in {**self.stored, **self.fresh}.items()
            if inner.startswith(start)
        }

    def file(self, place: str, entries: Entries) -> None:
        for (inner, k), value in entries.items():
            self.fresh[f"{self.prefix}{place}/{inner}", k] = value
