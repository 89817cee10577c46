"""The normal form of a program: its values as polynomials.

The indeterminates are the inputs, and the results of operations that are not sums or
products. Two of these are the same if the operation is the same and the operands are
equal polynomials, as for `sin(x + x)` and `sin(2 x)`. Constant factors are taken out of
linear operations (`reduce_sum`, `dot_general`, ...), and operations that move entries
are applied to the indeterminates.
"""

import functools as ft
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from ..._core.jax import varying_axes
from ..._core.primitives import REARRANGING
from .algebra import Algebra
from .constants import number_in
from .graph import Graph, Node, TooLarge, Value
from .ring import ONE, Polynomial, Ring


class Options(NamedTuple):
    """The options, besides collecting the terms of sums and the factors of products."""

    # Whether sums are expanded. Otherwise a sum that is a factor is an indeterminate.
    expand: bool
    # Whether sums and products that are used more than once are indeterminates.
    local: bool


class Operand(NamedTuple):
    """A value that an operation needs as an array."""

    polynomial: Polynomial
    shape: tuple[Any, ...]
    dtype: Any
    value: Value
    # Whether it is the value except for a factor that was taken out.
    passed: bool = False


# The operands in each of which a primitive is linear.
_LINEAR = {
    "conv_general_dilated": (0, 1),
    "cumsum": (0,),
    "dot_general": (0, 1),
    "dynamic_slice": (0,),
    "reduce_sum": (0,),
    "reduce_window_sum": (0,),
    "rev": (0,),
    "slice": (0,),
    "triangular_solve": (1,),
}

# A function that returns the polynomial of a result, or `None` if there is none.
Rule = Callable[[Algebra, Ring, dict[str, Any], Sequence[Polynomial]], Any]
_RULES: dict[str, Rule] = {}


class NormalForm:
    """The polynomials of all the values of a graph."""

    def __init__(self, graph: Graph, options: Options):
        self.algebra = Algebra(options.expand)
        self.polynomials: dict[Value, Polynomial] = {}
        # The nodes that are sums, products and the like.
        self.inside: set[Node] = set()
        # Nodes inside a region that were made indeterminates, with their polynomials.
        self.parts: dict[Node, Operand] = {}
        # The operands of each other node. Nodes that repeat an earlier one are left
        # out.
        self.operands: dict[Node, list[Operand]] = {}
        # Whether there are nodes that repeat an earlier one.
        self.repeats = False
        self._interned: dict[Hashable, int] = {}
        self._found: dict[Hashable, list[Polynomial]] = {}
        for value in graph.inputs:
            self.polynomials[value] = self.algebra.leaf(value)
        self.nodes = graph.live()
        self._shared = _used_twice(self.nodes) if options.local else set()
        for node in self.nodes:
            self._read(node)
        self.outputs = [self.operand(value) for value in graph.outputs]

    def of(self, value: Value) -> Polynomial:
        if value not in self.polynomials:
            # Only constants are new: other values belong to nodes that have been read.
            number = self._number(value)
            leaf = self.algebra.leaf
            self.polynomials[value] = leaf(value) if number is None else number
        return self.polynomials[value]

    def operand(self, value: Value) -> Operand:
        shape = getattr(value.aval, "shape", ())
        dtype = getattr(value.aval, "dtype", None)
        return Operand(self.of(value), shape, dtype, value)

    def _read(self, node: Node) -> None:
        polynomial = self._inside(node)
        if polynomial is not None:
            [value] = node.outputs
            self.inside.add(node)
            self.polynomials[value] = polynomial
            if value in self._shared and not _is_simple(polynomial):
                self.parts[node] = self.operand(value)
                self.polynomials[value] = self.algebra.leaf(value)
            return
        operands = [self.operand(value) for value in node.inputs]
        factor, operands = self._numbers_passed(node, operands)
        if factor == 0:
            self.inside.add(node)
            self.polynomials[node.outputs[0]] = Polynomial({})
            return
        key = None
        if node.operation.is_mergeable:
            numbers = node.operation.arranged([self._intern(x) for x in operands])
            key = (node.operation.key, numbers)
        results = self._found.get(key) if key is not None else None
        self.repeats |= results is not None
        if results is None:
            results = [self.algebra.leaf(value) for value in node.outputs]
            self.operands[node] = operands
            if key is not None:
                self._found[key] = results
        for value, result in zip(node.outputs, results):
            if factor != 1:
                result = self.algebra.ring(value.dtype).scale(result, factor)
            self.polynomials[value] = result

    def _inside(self, node: Node) -> Polynomial | None:
        """Returns the polynomial of a sum or product, and `None` for other nodes."""
        rule = _RULES.get(node.name)
        if rule is None and node.name not in REARRANGING:
            return None
        [out] = node.outputs
        if not is_in_ring(out):
            return None
        number = self._number(out)
        if number is not None:
            return number
        if not all(is_in_ring(x) and x.dtype == out.dtype for x in node.inputs):
            return None
        polynomials = [self.of(value) for value in node.inputs]
        params = node.operation.params
        if rule is None:
            is_plain = len(polynomials) == 1 and params.get("sharding") is None
            if not is_plain:
                return None
            return self.algebra.moved(node.operation, polynomials[0])
        try:
            return rule(self.algebra, self.algebra.ring(out.dtype), params, polynomials)
        except TooLarge:
            return None

    def _numbers_passed(
        self, node: Node, operands: list[Operand]
    ) -> tuple[Any, list[Operand]]:
        """Takes constant factors of operands out of linear operations."""
        linear = _LINEAR.get(node.name, ())
        [out] = node.outputs if len(node.outputs) == 1 else [None]
        total: Any = 1
        if not linear or out is None or not is_in_ring(out):
            return total, operands
        operands = list(operands)
        ring = self.algebra.ring(out.dtype)
        for i in linear:
            operand = operands[i]
            # An output of another dtype may have another precision.
            if operand.dtype != out.dtype or not is_in_ring(node.inputs[i]):
                continue
            if operand.polynomial.is_zero:
                return 0, operands
            factor, rest = ring.content(operand.polynomial)
            if factor != 1 and not rest.is_constant:
                operands[i] = operand._replace(polynomial=rest, passed=True)
                total *= factor
        return total, operands

    def _intern(self, operand: Operand) -> int:
        key = (operand.polynomial.key, operand.shape, operand.dtype)
        return self._interned.setdefault(key, len(self._interned))

    def _number(self, value: Value) -> Polynomial | None:
        if not is_in_ring(value):
            return None
        number = number_in(value)
        if number is None:
            return None
        coefficient = self.algebra.ring(value.dtype).coefficient(number)
        if coefficient is None:
            return None
        return Polynomial({ONE: coefficient} if coefficient != 0 else {})


def is_in_ring(value: Value) -> bool:
    """Returns whether a value is an array of numbers that is the same on all devices
    and that, according to its type, is not sharded."""
    aval = value.aval
    if not isinstance(aval, ShapedArray) or not _has_numbers(aval.dtype):
        return False
    if varying_axes(aval):
        return False
    return all(part is None for part in getattr(aval.sharding, "spec", ()))


@ft.lru_cache
def _has_numbers(dtype: Any) -> bool:
    return dtype != np.bool_ and jnp.issubdtype(dtype, jnp.number)


def _used_twice(nodes: Sequence[Node]) -> set[Value]:
    users = Counter(value for node in nodes for value in set(node.inputs))
    return {value for value, count in users.items() if count > 1}


def _is_simple(p: Polynomial) -> bool:
    return p.is_constant or p.indeterminate is not None


# -- sums and products


def _rule(name: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES[name] = rule
        return rule

    return register


@_rule("add")
def _add(algebra, ring, params, polynomials):
    return ring.add(*polynomials)


@_rule("sub")
def _sub(algebra, ring, params, polynomials):
    p, q = polynomials
    return ring.add(p, ring.scale(q, -1))


@_rule("neg")
def _neg(algebra, ring, params, polynomials):
    return ring.scale(polynomials[0], -1)


@_rule("mul")
def _mul(algebra, ring, params, polynomials):
    return algebra.product(ring, *polynomials)


@_rule("square")
def _square(algebra, ring, params, polynomials):
    [p] = polynomials
    return algebra.product(ring, p, p)


@_rule("one_minus_square")
def _one_minus_square(algebra, ring, params, polynomials):
    [p] = polynomials
    square = algebra.product(ring, p, p)
    return ring.add(Polynomial({ONE: 1}), ring.scale(square, -1))


@_rule("integer_pow")
def _integer_pow(algebra, ring, params, polynomials):
    [p], exponent = polynomials, params["y"]
    if exponent < 0:
        if ring.is_integral:
            return None
        p = algebra.inverse(ring, p)
        if p is None:
            return None
    return algebra.power(ring, p, abs(exponent))


@_rule("div")
def _div(algebra, ring, params, polynomials):
    p, q = polynomials
    if ring.is_integral:
        return None
    inverse = algebra.inverse(ring, q)
    return None if inverse is None else algebra.product(ring, p, inverse)
