"""The values of a program: what is needed of them, and what is known."""

import abc
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._core.protocols import JaxprEqn
from .stack import Stack


# What may be needed of a value: a weighted sum, by its number; or `EACH`, the value for
# all directions.
Wanted = Any
EACH = "each"
# The value itself, if it is the same for all directions.
SHARED = "shared"


class Weights:
    """The weights of the directions in a sum. A common factor is applied at the end."""

    def __init__(self, weights: Any):
        self.count = len(weights)
        if self.count == 0:  # An empty sum.
            self.factor, self.each, self.total = 1.0, None, 0
        elif isinstance(weights, Tracer | jax.Array) or np.ptp(weights) != 0:
            self.factor, self.each, self.total = 1.0, weights, jnp.sum(weights)
        else:
            self.factor, self.each, self.total = weights[0], None, self.count

    def sum(self, stack: Stack) -> Any:
        stacked = stack.array
        if self.each is not None:
            each = jnp.asarray(self.each, stacked.dtype)
            if stack.table is None:
                each = each.reshape(-1, *[1] * (stacked.ndim - 1))
            else:  # Slots without a direction have zeros.
                each = each[stack.table]
            stacked = stacked * each
        return jnp.sum(stacked, axis=0)

    def times_total(self, x: Any) -> Any:
        """Sums a value that is the same for all directions."""
        if not isinstance(x, Tracer | jax.Array) and not np.any(x):
            return x  # A zero that is known while tracing.
        return x * jnp.asarray(self.total, jnp.asarray(x).dtype)


class Sums:
    """The number of directions, the weights of all sums by their labels, and whether
    some entries of the directions are known to be zero."""

    def __init__(
        self, count: int, weights: Sequence[Weights | None], is_sparse: bool = False
    ):
        self.count, self.weights, self.is_sparse = count, weights, is_sparse

    def __getitem__(self, label: Wanted) -> Weights:
        weights = self.weights[label]
        assert weights is not None, label
        return weights


class Value:
    """A value of the program. Running the program computes what is needed of it."""

    __slots__ = ("moves", "origin", "shared", "each", "sums", "wanted")

    def __init__(self, moves: bool, origin: "Node | None" = None):
        # Whether it depends on the direction.
        self.moves = moves
        # The equation whose result it is.
        self.origin = origin
        self.wanted: set[Wanted] = set()
        self.forget()

    def forget(self) -> None:
        # The value, if it does not depend on the direction; otherwise the values for
        # all directions, and sums of them.
        self.shared: Any = None
        self.each: Any = None  # A `Stack`.
        self.sums: dict[Wanted, Any] = {}

    def sum(self, label: Wanted, sums: Sums) -> Any:
        weights = sums[label]
        if not self.moves:
            return weights.times_total(self.shared)
        if label not in self.sums:
            self.sums[label] = weights.sum(self.each)
        return self.sums[label]

    def for_each(self, sums: Sums) -> Any:
        if self.moves:
            return self.each.dense(sums.count)
        shared = jnp.asarray(self.shared)
        return jnp.broadcast_to(shared, (sums.count, *shared.shape))


def known(x: Any) -> Value:
    value = Value(moves=False)
    value.shared = x
    return value


class Node(abc.ABC):
    """An equation of a program, possibly with programs inside."""

    eqn: JaxprEqn
    # The source line and the names of the equation, for profiles.
    place: Any
    inputs: list[Value]
    outputs: list[Value]
    # The operands in which it is jointly linear, if no others depend on the direction.
    linear: Collection[int] = ()

    @abc.abstractmethod
    def demand(self) -> None:
        """Sets what is needed of the inputs, from what is needed of the outputs."""

    @abc.abstractmethod
    def run(self, sums: Sums) -> None:
        """Computes what is needed of the outputs."""
