"""A program as a graph of values, which contains no computation twice.

Equations of JAX are kept unchanged: `bind` applies one to other values, whatever its
parameters are called in this version. A new equation is traced from a call of
`jax.lax`.
"""

import functools as ft
import itertools as it
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer

from ..._core.jax import number_like, trace
from ..._core.memo import constant_key, params_key
from ..._core.protocols import Aval, JaxprEqn
from ..counts import count_equations, inner_jaxprs


# The calls that contain an equation, the outermost first.
Path = tuple[JaxprEqn, ...]


class TooLarge(Exception):
    """A program or polynomial is too long to be useful, or a coefficient is out of the
    range of its dtype."""


class Operation:
    """An equation of JAX, independent of its operands, with cached facts about it."""

    def __init__(self, eqn: JaxprEqn):
        self.eqn = eqn
        name: str = eqn.primitive.name
        self.name = _SAME.get(name, name)
        self.params: dict[str, Any] = eqn.params

    @property
    def operands(self) -> list[Aval]:
        """The types of the operands."""
        return [atom.aval for atom in self.eqn.invars]

    @property
    def results(self) -> list[Aval]:
        return [var.aval for var in self.eqn.outvars]

    @ft.cached_property
    def key(self) -> Hashable:
        """A key that is equal for operations that do the same."""
        name = _MIRRORED.get(self.name, self.name)
        return (name, params_key(self.eqn), self.eqn.ctx)

    @ft.cached_property
    def is_mergeable(self) -> bool:
        """Whether equal inputs give equal outputs, without any effects."""
        return (
            not self.eqn.effects
            and self.name not in _DISTINCT
            and all(isinstance(aval, ShapedArray) for aval in self.results)
        )

    @ft.cached_property
    def equations(self) -> int:
        """The number of equations, including those of inner programs."""
        return 1 + sum(count_equations(inner) for inner in inner_jaxprs(self.eqn))

    def arranged(self, inputs: Sequence[int]) -> tuple[int, ...]:
        """Sorts the numbers of inputs, so that equivalent operations have the same
        order."""
        if self.name in _MIRRORED:
            return tuple(inputs[::-1])
        return tuple(sorted(inputs)) if self._commutes else tuple(inputs)

    @ft.cached_property
    def _commutes(self) -> bool:
        if self.name not in _COMMUTATIVE:
            return False
        dtype = self.operands[0].dtype
        if self.name in ("max", "min"):
            return not jnp.issubdtype(dtype, jnp.inexact)
        return self.name != "mul" or not jnp.issubdtype(dtype, jnp.complexfloating)


_SAME = {"add_any": "add"}
# Sums and products of two floating-point numbers are commutative. A product of complex
# numbers is not, if a compiler contracts `ad + bc` to a fused operation. `max` may
# return either of two zeros, so it is not for floating-point numbers.
_COMMUTATIVE = frozenset("add and eq max min mul ne or xor".split())
_MIRRORED = {"gt": "lt", "ge": "le"}
# Primitives that must not be merged: the first keeps computations separate, and the
# second returns different numbers at every call.
_DISTINCT = frozenset(["optimization_barrier", "rng_uniform"])


def operation(
    fun: Callable, avals: Iterable[tuple[Any, Any]], **params: Any
) -> Operation:
    """Returns the operation of a function of `jax.lax`, for operands of these shapes
    and dtypes."""
    return _known_operation(fun, tuple(avals), tuple(params.items()), _mesh())


# Equations keep the mesh with which they were traced.
_mesh = jax.sharding.get_abstract_mesh


@ft.lru_cache(maxsize=4096)
def _known_operation(fun, avals, params, mesh) -> Operation:
    types = [jax.ShapeDtypeStruct(*aval) for aval in avals]
    [eqn] = trace(lambda *args: [fun(*args, **dict(params))], *types).jaxpr.eqns
    return Operation(eqn)


class Value:
    """A value of a graph. Its number is its position in the order in which values were
    added to the graph."""

    __slots__ = ("aval", "number", "node", "constant")

    def __init__(self, aval: Aval, number: int, node: "Node | None" = None):
        self.aval = aval
        self.number = number
        self.node = node
        # The value in a tuple, if it is known; otherwise an empty tuple.
        self.constant: tuple[()] | tuple[Any] = ()

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype


class Node:
    """An operation on values."""

    __slots__ = ("operation", "inputs", "outputs", "path")

    def __init__(self, operation: Operation, inputs: Sequence[Value], path: Path):
        self.operation = operation
        self.inputs = tuple(inputs)
        self.outputs: tuple[Value, ...] = ()
        self.path = path

    @property
    def name(self) -> str:
        return self.operation.name


class Graph:
    """A program under construction. If an operation is added twice, it is there
    once."""

    def __init__(self, avals: Iterable[Aval], at_most: int | float = math.inf):
        # The largest number of nodes, for programs that are useful only if short.
        self.at_most = at_most
        self._numbers = it.count()
        self._memo: dict[Hashable, tuple[Value, ...]] = {}
        # Keys contain ids of these objects.
        self._held: list[Any] = []
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        for aval in avals:
            self.input(aval)

    def input(self, aval: Aval) -> Value:
        self.inputs.append(Value(aval, next(self._numbers)))
        return self.inputs[-1]

    def constant(self, aval: Aval, value: Any) -> Value:
        if is_known(aval, value) and aval.shape == ():
            return self._number(np.asarray(value), aval, value)
        self._held.append(value)
        key = (constant_key(aval, value), getattr(aval, "weak_type", False))
        return self._constant(key, aval, value)

    def number(self, value: Any, dtype: Any, weak: bool = True) -> Value:
        """Adds a constant without axes. If it is weak, the dtype of the other operand
        takes precedence."""
        number = np.asarray(value, dtype)
        return self._number(number, ShapedArray((), number.dtype, weak_type=weak))

    def _number(self, number: np.ndarray, aval: Aval, value: Any = None) -> Value:
        # By their bytes, -0.0 differs from 0.0, and a NaN equals itself.
        key = (number.dtype, number.tobytes(), aval.weak_type)
        if key in self._memo:
            return self._memo[key][0]
        value = number_like(aval, number) if value is None else value
        return self._constant(key, aval, value)

    def _constant(self, key: Hashable, aval: Aval, value: Any) -> Value:
        if key not in self._memo:
            found = Value(aval, next(self._numbers))
            found.constant = (value,)
            self._memo[key] = (found,)
        return self._memo[key][0]

    def apply(
        self, operation: Operation, inputs: Sequence[Value], path: Path = ()
    ) -> tuple[Value, ...]:
        """Adds an operation on these inputs, and returns its outputs."""
        key = None
        if operation.is_mergeable:
            numbers = operation.arranged([value.number for value in inputs])
            key = (operation.key, numbers)
            if key in self._memo:
                return self._memo[key]
        if len(self.nodes) >= self.at_most:
            raise TooLarge
        node = Node(operation, inputs, path)
        node.outputs = tuple(
            Value(aval, next(self._numbers), node) for aval in operation.results
        )
        self.nodes.append(node)
        if key is not None:
            self._memo[key] = node.outputs
        return node.outputs

    def call(self, fun: Callable, *inputs: Value, **params: Any) -> Value:
        """Adds a function of `jax.lax` that is one equation, and returns its value."""
        avals = [(value.aval.shape, value.aval.dtype) for value in inputs]
        return self.apply(operation(fun, avals, **params), inputs)[0]

    def live(self) -> list[Node]:
        """Lists the nodes on which the outputs or an effect depend, in order."""
        wanted = set(self.outputs)
        found = []
        for node in reversed(self.nodes):
            if node.operation.eqn.effects or not wanted.isdisjoint(node.outputs):
                wanted.update(node.inputs)
                found.append(node)
        return found[::-1]


def is_known(aval: Aval, value: Any) -> bool:
    """Returns whether the entries of a constant can be read."""
    if isinstance(value, Tracer) or not isinstance(aval, ShapedArray):
        return False
    if not isinstance(aval.dtype, np.dtype):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable
