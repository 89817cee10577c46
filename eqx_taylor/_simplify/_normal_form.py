"""What the values of a program are as polynomials.

The indeterminates are the inputs, and the results of operations that are no sums or
products. Two of these are one where the operation is the same and the operands are
equal polynomials: `sin(x + x)` and `sin(2 x)`. What is known of other operations:

- those that move or copy entries (`broadcast_in_dim`, `reshape`, `squeeze`,
  `transpose`) are homomorphisms: applied to a polynomial they are applied to its
  indeterminates. An array without axes is the same in all places, and is left as it is;
- linear operations (`reduce_sum`, `dot_general`, ...) let numbers pass;
- a quotient is a product with the reciprocal, which is an indeterminate of its own:
  `x · (1/x)` is not 1, since it is not where `x` is zero.
"""

from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from textwrap import shorten
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

from ._exact import number_in
from ._graph import (
    arranged,
    equation,
    Graph,
    is_mergeable,
    JaxprEqn,
    Node,
    operation,
    TooLarge,
    Value,
)
from ._ring import ONE, Polynomial, Ring, substituted


class Options(NamedTuple):
    """What is done besides collecting the terms of sums and the factors of products."""

    # Multiplies sums out; otherwise a sum that is a factor is an indeterminate.
    expand: bool
    # Looks through operations that move entries, and through linear ones.
    through: bool


# -- the indeterminates


class Leaf(NamedTuple):
    """A value of the program itself."""

    value: Value


class Moved(NamedTuple):
    """The entries of another one in other places."""

    eqn: JaxprEqn
    key: Hashable
    source: int


class Sum(NamedTuple):
    """A polynomial of several terms that is a factor."""

    polynomial: Polynomial


class Inverse(NamedTuple):
    """The reciprocal of another one."""

    source: int


class Indeterminate(NamedTuple):
    what: Leaf | Moved | Sum | Inverse
    shape: tuple[int, ...]
    dtype: Any


class Operand(NamedTuple):
    """A value that an operation needs as an array."""

    polynomial: Polynomial
    shape: tuple[int, ...]
    dtype: Any
    value: Value
    # Whether it is the value but for a number that has passed.
    passed: bool = False


# More terms are not multiplied out.
_MOST_TERMS = 40

MOVING = frozenset(["broadcast_in_dim", "reshape", "squeeze", "transpose"])
# For each the operands that it is linear in, one by one.
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

Rule = Callable[["NormalForm", Ring, JaxprEqn, Sequence[Polynomial]], Polynomial | None]
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            _RULES[name] = rule
        return rule

    return register


class NormalForm:
    """The polynomials of all the values of a graph."""

    def __init__(self, graph: Graph, options: Options):
        self.options = options
        self.indeterminates: list[Indeterminate] = []
        self.polynomials: dict[Value, Polynomial] = {}
        # The nodes that are sums, products and the like.
        self.inside: set[Node] = set()
        # For each other node what it is applied to. Those that repeat one are left out.
        self.operands: dict[Node, list[Operand]] = {}
        self._numbers: dict[Hashable, int] = {}
        self._interned: dict[Hashable, int] = {}
        self._rings: dict[Any, Ring] = {}
        self._found: dict[Hashable, list[Polynomial]] = {}
        for value in graph.inputs:
            self.polynomials[value] = self._leaf(value)
        for node in graph.live():
            self._read(node)
        self.outputs = [self.operand(value) for value in graph.outputs]

    def ring(self, dtype: Any) -> Ring:
        if dtype not in self._rings:
            self._rings[dtype] = Ring(dtype)
        return self._rings[dtype]

    def of(self, value: Value) -> Polynomial:
        if value not in self.polynomials:
            # A constant: the others are those of nodes that were read.
            self.polynomials[value] = self._number(value) or self._leaf(value)
        return self.polynomials[value]

    def is_number(self, number: int) -> bool:
        """Whether an indeterminate has no axes."""
        return self.indeterminates[number].shape == ()

    # -- reading

    def _read(self, node: Node) -> None:
        polynomial = self._inside(node)
        if polynomial is not None:
            self.inside.add(node)
            self.polynomials[node.outputs[0]] = polynomial
            return
        operands = [self.operand(value) for value in node.inputs]
        factor, operands = self._numbers_passed(node, operands)
        if factor == 0:
            self.inside.add(node)
            self.polynomials[node.outputs[0]] = Polynomial({})
            return
        key = None
        if is_mergeable(node.eqn):
            interned = [self._intern(operand) for operand in operands]
            key = (operation(node.eqn), arranged(node.eqn, interned))
        results = self._found.get(key) if key is not None else None
        if results is None:
            results = [self._leaf(value) for value in node.outputs]
            self.operands[node] = operands
            if key is not None:
                self._found[key] = results
        for value, result in zip(node.outputs, results):
            if factor != 1:
                result = self.ring(value.dtype).scale(result, factor)
            self.polynomials[value] = result

    def _inside(self, node: Node) -> Polynomial | None:
        """The polynomial that a sum or product is; `None` for other operations."""
        if len(node.outputs) != 1 or not is_in_ring(node.outputs[0]):
            return None
        [out] = node.outputs
        number = self._number(out)
        if number is not None:
            return number
        if not all(is_in_ring(x) and x.dtype == out.dtype for x in node.inputs):
            return None
        polynomials = [self.of(value) for value in node.inputs]
        if node.name in MOVING:
            is_plain = len(node.inputs) == 1 and node.eqn.params.get("sharding") is None
            if is_plain and (self.options.through or node.inputs[0].shape == ()):
                return self._moved(node.eqn, polynomials[0])
            return None
        rule = _RULES.get(node.name)
        if rule is None:
            return None
        return rule(self, self.ring(out.dtype), node.eqn, polynomials)

    def _numbers_passed(self, node, operands) -> tuple[Any, list[Operand]]:
        """Numbers in front of operands are taken out of linear operations."""
        linear = _LINEAR.get(node.name, ()) if self.options.through else ()
        [out] = node.outputs if len(node.outputs) == 1 else [None]
        total: Any = 1
        operands = list(operands)
        if out is None or not is_in_ring(out):
            return total, operands
        for i in linear:
            operand = operands[i]
            # An output of another dtype may be of another precision.
            if operand.dtype != out.dtype or not is_in_ring(node.inputs[i]):
                continue
            ring = self.ring(out.dtype)
            if operand.polynomial.is_zero:
                return 0, operands
            factor, rest = ring.content(operand.polynomial)
            if factor != 1 and not rest.is_constant:
                operands[i] = operand._replace(polynomial=rest, passed=True)
                total *= factor
        return total, operands

    def operand(self, value: Value) -> Operand:
        shape = getattr(value.aval, "shape", ())
        dtype = getattr(value.aval, "dtype", None)
        return Operand(self.of(value), shape, dtype, value)

    def _intern(self, operand: Operand) -> int:
        key = (operand.polynomial.key, operand.shape, operand.dtype)
        return self._interned.setdefault(key, len(self._interned))

    # -- indeterminates

    def _number(self, value: Value) -> Polynomial | None:
        if not is_in_ring(value):
            return None
        number = number_in(value)
        if number is None:
            return None
        coefficient = self.ring(value.dtype).coefficient(number)
        if coefficient is None:
            return None
        return Polynomial({ONE: coefficient} if coefficient != 0 else {})

    def _leaf(self, value: Value) -> Polynomial:
        shape = getattr(value.aval, "shape", ())
        dtype = getattr(value.aval, "dtype", None)
        return self._make(("leaf", value), Leaf(value), shape, dtype)

    def _make(self, key: Hashable, what: Any, shape, dtype) -> Polynomial:
        if key not in self._numbers:
            self._numbers[key] = len(self.indeterminates)
            self.indeterminates.append(Indeterminate(what, shape, dtype))
        return self._alone(self._numbers[key])

    def _alone(self, number: int) -> Polynomial:
        return Polynomial({((number, 1),): 1})

    def _moved(self, eqn: JaxprEqn, p: Polynomial) -> Polynomial:
        before, shape = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        for number in p.indeterminates:
            old = self.indeterminates[number]
            if old.shape not in ((), before):
                # Sums and products may broadcast axes of length one.
                kind = (old.shape, np.dtype(old.dtype))
                axes = tuple(range(len(before)))
                stretch = equation(
                    lax.broadcast_in_dim,
                    (kind,),
                    shape=before,
                    broadcast_dimensions=axes,
                )
                [wide] = self._moved(stretch, self._alone(number)).indeterminates
                p = substituted(
                    p, lambda n, old=number, new=wide: new if n == old else n
                )

        def moved(number: int) -> int:
            if self.is_number(number):
                return number
            move, source = eqn, number
            what = self.indeterminates[number].what
            if isinstance(what, Moved):
                back = self.indeterminates[what.source].shape == shape
                if back and _keeps_order(what.eqn) and _keeps_order(eqn):
                    return what.source
                both = composed(what.eqn, eqn)
                if both is not None:
                    move, source = both, what.source
            old = self.indeterminates[source]
            key = (operation(move), old.shape, shape)
            new = self._make(
                ("moved", key, source), Moved(move, key, source), shape, old.dtype
            )
            [result] = new.indeterminates
            return result

        return substituted(p, moved)

    def factor(self, ring: Ring, p: Polynomial) -> Polynomial:
        """`p`, so that it has one term."""
        if len(p.terms) <= 1:
            return p
        factor, rest = ring.content(p)
        shapes = [self.indeterminates[n].shape for n in rest.indeterminates]
        shape = np.broadcast_shapes(*shapes)
        key = ("sum", rest.key, shape, ring.dtype)
        return ring.scale(self._make(key, Sum(rest), shape, ring.dtype), factor)

    def inverse(self, ring: Ring, p: Polynomial) -> Polynomial | None:
        p = self.factor(ring, p)
        if p.is_zero:
            return None
        [(monomial, coefficient)] = p.terms.items()
        result = Polynomial({ONE: _reciprocal(coefficient)})
        for number, exponent in monomial:
            of = self.indeterminates[number]
            key = ("inverse", number)
            one = self._make(key, Inverse(number), of.shape, of.dtype)
            result = ring.mul(result, ring.power(one, exponent))
        return result

    def product(self, ring: Ring, p: Polynomial, q: Polynomial) -> Polynomial:
        if self.options.expand or p.is_constant or q.is_constant:
            try:
                return ring.mul(p, q, _MOST_TERMS)
            except TooLarge:
                pass
        return ring.mul(self.factor(ring, p), self.factor(ring, q))

    # -- in words

    def text(self, p: Polynomial, depth: int = 2) -> str:
        """For a reader: inputs are `x0`, `x1` ..., results of `sin` are `sin5` ..."""
        if depth == 0:
            return "..."
        terms = []
        for monomial, coefficient in p.terms.items():
            factors = [
                self._name(number, depth) + (f"^{exponent}" if exponent > 1 else "")
                for number, exponent in monomial
            ]
            if coefficient == -1 and factors:
                factors[0] = f"-{factors[0]}"
            elif coefficient != 1 or not factors:
                is_exact = isinstance(coefficient, complex | int)
                number = coefficient if is_exact else float(coefficient)
                factors.insert(0, f"{number:g}")
            terms.append(" ".join(factors))
        return shorten(" + ".join(terms) or "0", 200, placeholder=" ...")

    def _name(self, number: int, depth: int) -> str:
        what = self.indeterminates[number].what
        if isinstance(what, Leaf):
            node = what.value.node
            return f"{'x' if node is None else node.name}{number}"
        if isinstance(what, Sum):
            return f"({self.text(what.polynomial, depth - 1)})"
        inner = self._name(what.source, depth)
        if isinstance(what, Inverse):
            return f"1/{inner}"
        return f"{what.eqn.primitive.name}({inner})"


def _reciprocal(coefficient):
    return (
        1 / coefficient
        if isinstance(coefficient, complex)
        else 1 / Fraction(coefficient)
    )


# -- moving twice


def _keeps_order(eqn: JaxprEqn) -> bool:
    """Whether an array has the same entries in the same order, in other axes."""
    old, new = eqn.invars[0].aval, eqn.outvars[0].aval
    if eqn.primitive.name == "transpose":
        axes = [i for i in eqn.params["permutation"] if old.shape[i] != 1]
        return axes == sorted(axes)
    return old.size == new.size and eqn.params.get("dimensions") is None


def composed(first: JaxprEqn, second: JaxprEqn) -> JaxprEqn | None:
    """One operation in the place of two, where there is one."""
    old, new = first.invars[0].aval, second.outvars[0].aval
    kind = (old.shape, np.dtype(old.dtype))
    if _keeps_order(first) and _keeps_order(second):
        return equation(lax.reshape, (kind,), new_sizes=new.shape)
    if second.primitive.name != "broadcast_in_dim":
        return None
    if first.primitive.name == "broadcast_in_dim":
        axes = first.params["broadcast_dimensions"]
    elif _keeps_order(first):
        axes = _places(old.shape, first.outvars[0].aval.shape)
    else:
        return None
    if axes is None:
        return None
    onto = second.params["broadcast_dimensions"]
    axes = tuple(onto[i] for i in axes)
    return equation(
        lax.broadcast_in_dim, (kind,), shape=new.shape, broadcast_dimensions=axes
    )


def _places(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Where the axes are after others of length one were put between them."""
    places, start = [], 0
    for length in old:
        while start < len(new) and new[start] != length:
            if new[start] != 1:
                return None
            start += 1
        if start == len(new):
            return None
        places.append(start)
        start += 1
    return tuple(places) if all(n == 1 for n in new[start:]) else None


def is_in_ring(value: Value) -> bool:
    """An array of numbers, on one device as far as its type says."""
    aval = value.aval
    if not isinstance(aval, ShapedArray) or aval.dtype == np.bool_:
        return False
    if not jnp.issubdtype(aval.dtype, jnp.number):
        return False
    return all(part is None for part in getattr(aval.sharding, "spec", ()))


# -- sums and products


@_rule("add", "add_any")
def _add(form, ring, eqn, polynomials):
    return ring.add(*polynomials)


@_rule("sub")
def _sub(form, ring, eqn, polynomials):
    p, q = polynomials
    return ring.add(p, ring.scale(q, -1))


@_rule("neg")
def _neg(form, ring, eqn, polynomials):
    return ring.scale(polynomials[0], -1)


@_rule("mul")
def _mul(form, ring, eqn, polynomials):
    return form.product(ring, *polynomials)


@_rule("square")
def _square(form, ring, eqn, polynomials):
    [p] = polynomials
    return form.product(ring, p, p)


@_rule("one_minus_square")
def _one_minus_square(form, ring, eqn, polynomials):
    [p] = polynomials
    square = form.product(ring, p, p)
    return ring.add(Polynomial({ONE: 1}), ring.scale(square, -1))


@_rule("integer_pow")
def _integer_pow(form, ring, eqn, polynomials):
    [p], exponent = polynomials, eqn.params["y"]
    if exponent < 0:
        if ring.is_integral:
            return None
        p = form.inverse(ring, p)
        if p is None:
            return None
    if form.options.expand:
        try:
            return ring.power(p, abs(exponent), _MOST_TERMS)
        except TooLarge:
            pass
    return ring.power(form.factor(ring, p), abs(exponent))


@_rule("div")
def _div(form, ring, eqn, polynomials):
    p, q = polynomials
    if ring.is_integral:
        return None
    inverse = form.inverse(ring, q)
    return None if inverse is None else form.product(ring, p, inverse)
