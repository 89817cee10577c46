"""What depends on the arguments of a field alone: JAX computes it before the solve, by
all of its primitives, for integers and booleans as well.

The entries of it that meet the time or the state are the arguments of the program.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.jax import bind
from .moving import MOVING


@dataclasses.dataclass(eq=False)
class Given:
    """An array that is computed before the solve.

    - `node`: its place among all of these.
    - `entries`: where its entries come from: numbers of all entries of all nodes. What
        only moves entries has those of its operand, so that a number is one argument
        wherever it has been moved to.
    """

    node: int
    entries: np.ndarray
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries.shape

    @property
    def ndim(self) -> int:
        return self.entries.ndim


@dataclasses.dataclass
class _Step:
    """One application of a function to operands that are given, or known now."""

    fun: Callable[..., Sequence[Any]]
    operands: Sequence[Any]
    first: int
    has_effects: bool


class Givens:
    """Records what is computed of the arguments, and which entries are wanted."""

    def __init__(self) -> None:
        # The first entry of each node.
        self._starts: list[int] = []
        self._size = 0
        self._steps: list[_Step] = []
        self._places: dict[int, int] = {}

    def _node(self, shape: tuple[int, ...], dtype: Any) -> Given:
        size = int(np.prod(shape))
        entries = np.arange(self._size, self._size + size).reshape(shape)
        self._starts.append(self._size)
        self._size += size
        return Given(len(self._starts) - 1, entries, dtype)

    def input(self, aval: Any) -> Given:
        """The next argument of the field. All of them come before what is recorded."""
        return self._node(aval.shape, aval.dtype)

    def record(self, eqn: Any, operands: Sequence[Any]) -> list[Given]:
        """Records an equation, whose operands are given or known."""
        avals = [var.aval for var in eqn.outvars]
        outs = self._record(
            lambda *xs: bind(eqn, xs), operands, avals, bool(eqn.effects)
        )
        if eqn.primitive.name in MOVING and all(isinstance(x, Given) for x in operands):
            moved = MOVING[eqn.primitive.name](eqn, [x.entries for x in operands])
            for out, entries in zip(outs, moved):
                out.entries = entries
        return outs

    def compute(self, fun: Callable[..., Any], *operands: Any, like: Any) -> Given:
        """Records a function of JAX, of one result of the shape and the dtype of
        `like`."""
        return self._record(lambda *xs: [fun(*xs)], operands, [like], False)[0]

    def _record(self, fun, operands, avals, has_effects) -> list[Given]:
        first = len(self._starts)
        self._steps.append(_Step(fun, list(operands), first, has_effects))
        return [self._node(aval.shape, aval.dtype) for aval in avals]

    def argument(self, entry: int) -> int:
        """The index of an entry among the arguments of the program."""
        return self._places.setdefault(entry, len(self._places))

    def keep(self, arguments: Sequence[int]) -> None:
        """Numbers these arguments anew, and forgets the others."""
        entries = list(self._places)
        self._places = {entries[old]: new for new, old in enumerate(arguments)}

    @property
    def count(self) -> int:
        return len(self._places)

    def arguments(self, arrays: Sequence[Any], dtype: Any) -> Any:
        """Computes the arguments of the program of those of the field."""
        entries = np.array(list(self._places), int)
        nodes = np.searchsorted(self._starts, entries, side="right") - 1
        # Nodes without entries begin where the next one does.
        values = self._values(arrays, set(nodes.tolist()))
        wanted = sorted(set(nodes.tolist()))
        ends = np.cumsum([0, *(np.size(values[i]) for i in wanted)])
        offsets = dict(zip(wanted, ends[:-1]))
        parts = [jnp.ravel(values[i]).astype(dtype) for i in wanted]
        flat = jnp.concatenate([jnp.zeros(0, dtype), *parts])
        starts = np.array(self._starts, int)[nodes] if len(nodes) else entries
        places = entries - starts + np.array([offsets[i] for i in nodes.tolist()], int)
        if np.array_equal(places, np.arange(len(flat))):
            return flat
        return flat[places]

    def _values(self, arrays: Sequence[Any], wanted: set[int]) -> dict[int, Any]:
        values: dict[int, Any] = dict(enumerate(arrays))
        needed, steps = set(wanted), []
        ends = [step.first for step in self._steps[1:]] + [len(self._starts)]
        for step, end in zip(reversed(self._steps), reversed(ends)):
            if step.has_effects or not needed.isdisjoint(range(step.first, end)):
                steps.append(step)
                given = [x for x in step.operands if isinstance(x, Given)]
                needed.update(x.node for x in given)
        for step in reversed(steps):
            operands = [
                values[x.node] if isinstance(x, Given) else x for x in step.operands
            ]
            values.update(enumerate(step.fun(*operands), step.first))
        return values
