"""Coefficients of inner values that outlive a trace: those of the body of a loop."""

from collections.abc import Callable
from typing import Any

from .terms import Term


class History:
    """A cache of coefficients, by the place of their series in the program.

    The body of a loop is traced anew for each order. What it computed at lower orders
    comes in as `stored`, what it computes now goes out as `fresh`; both are flat
    dictionaries of arrays, stacked by the loop over its iterations. It is a cache: what
    is not found is computed again.
    """

    def __init__(self, stored: dict[str, Any], prefix: str = "", fresh=None):
        self.stored = stored
        self.fresh: dict[str, Any] = {} if fresh is None else fresh
        self.prefix = prefix

    def cached(self, key: str, compute: Callable[[int], Term]):
        def cached_compute(k):
            name = f"{self.prefix}{key}:{k}"
            if name in self.stored:
                return self.stored[name]
            term = compute(k)
            if term is not None:
                self.fresh[name] = term
            return term

        return cached_compute

    def forget(self, key: str, k: int) -> None:
        self.fresh.pop(f"{self.prefix}{key}:{k}", None)

    def inner(self, key: str) -> dict[str, Any]:
        """What was filed below `key`, by a loop inside this loop's body."""
        start = f"{self.prefix}{key}/"
        found = {**self.stored, **self.fresh}
        return {k[len(start) :]: v for k, v in found.items() if k.startswith(start)}

    def file(self, key: str, entries: dict[str, Any]) -> None:
        for name, value in entries.items():
            self.fresh[f"{self.prefix}{key}/{name}"] = value


def order_of_entry(name: str) -> int:
    """The order of the coefficient that a history holds under this name."""
    return int(name.rpartition(":")[2])
