r"""Collapsed Taylor mode: sums over directions, propagated as one vector.

The highest coefficient of a jet enters every recurrence linearly: `y_K = f'(x_0) x_K +
(lower orders)`. If only the sum `Σ_r w_r y_K` over many directions at one point is
needed, the sum itself can be propagated: one vector instead of one for each direction
(Dangel et al. 2025). The Laplacian of a function of D inputs then takes 2 + D vectors,
and not 1 + 2 D: the value, D first derivatives, and the sum of the second ones.

This is implemented as a way of reading a program. A jet is traced for one direction,
and read once for all of them. Values that depend only on the point are computed once.
Going backwards from the results, the interpreter finds the values of which only the sum
is needed: if that is so for the result of an equation, and the equation is linear in
all operands that depend on the direction, it is so for these operands. All other values
are computed for each direction, along a leading axis. The Taylor rules declare which
primitives are linear, and in which operands; equations of which nothing is known are
computed for each direction. (`_sums/calls.py` reads the programs within loops and
branches.)
"""

import abc
import functools as ft
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .. import _rules as _rules
from .._core.check import escaped, trace_on_devices
from .._core.jax import (
    at_place,
    bind,
    close,
    closed_over,
    current_place,
    explicit_sharding,
    inside_call,
    is_differentiable,
    is_literal,
    joint_axes,
    known_size,
    live_equations,
    located,
    unstacked_type,
    vary,
)
from .._core.primitives import callee, CALLS
from .._core.protocols import Jaxpr, JaxprEqn
from .._core.rule import RULES, target_key
from . import contractions as contractions, moves as moves
from .elementwise import product_of
from .operands import on_sparse, Operands
from .stack import Stack


# What may be needed of a value: a weighted sum, by its number; or `EACH`, the value for
# all directions.
Wanted = Any
EACH = "each"
# The value itself, if it is the same for all directions.
SHARED = "shared"


def sums_over_directions(
    fun: Callable[[list[Any], list[Any]], Sequence[Sequence[Any]]],
    point: Sequence[Any],
    directions: Sequence[Any],
    weights: Sequence[Any],
    known_directions: Sequence[np.ndarray | None] | None = None,
) -> list[list[Any]]:
    """Computes `Σ_r weights[i][r] fun(point, directions[r])[i]`, array by array, for
    each i.

    `fun` is a function of two lists of arrays, and returns as many lists of arrays as
    there are weights. The directions are stacked along the first axis of each array.
    """
    # Inside a `shard_map`, sums differ between devices if their weights do.
    axes = joint_axes(jax.typeof(w) for w in weights if isinstance(w, jax.Array))
    own = _types(point, directions)
    point = [vary(jnp.asarray(x), axes) for x in point]
    directions = [vary(jnp.asarray(v), axes) for v in directions]
    lengths = []

    def flat_fun(*arrays):
        results = fun(list(arrays[: len(point)]), list(arrays[len(point) :]))
        lengths.append([len(result) for result in results])
        return [x for result in results for x in result]

    types = _types(point, directions)
    jaxpr = trace_on_devices("the function", flat_fun, own, types)
    inputs = [known(x) for x in point]
    if any(explicit_sharding(jax.typeof(x)) is not None for x in point):
        # Stacks of only some directions would lose the sharding.
        known_directions = None
    for v, entries in zip(directions, known_directions or [None] * len(directions)):
        inputs.append(Value(moves=True))
        inputs[-1].each = Stack.of(entries, v)
    program: list[Node] = []
    outputs = read(jaxpr, inputs, program)

    count = directions[0].shape[0] if directions else len(weights[0])
    is_sparse = not all(x.each.is_plain for x in inputs if x.moves)
    of_labels = [None if _is_mark(w) else Weights(w) for w in weights]
    sums = Sums(count, of_labels, is_sparse)
    labels = [i for i, n in enumerate(lengths[-1]) for _ in range(n)]
    for output, label in zip(outputs, labels):
        output.wanted.add(label if sums.weights[label] is not None else EACH)
    demand(program)
    try:
        run(program, sums)
    except jax.errors.UnexpectedTracerError as e:  # From the trace of the function.
        raise escaped("a function") from e

    def result(output, label):
        of_all = sums.weights[label]
        if of_all is not None:
            return _scaled(of_all.factor, output.sum(label, sums))
        if weights[label] != SHARED:
            return output.for_each(sums)
        if not output.moves:
            return jnp.asarray(output.shared)
        # All results of an equation that cannot be read count as different for each
        # direction, even if they are the same.
        return output.each.dense(count)[0]

    results = map(result, outputs, labels)
    return [[next(results) for _ in range(n)] for n in lengths[-1]]


def _is_mark(weights: Any) -> bool:
    return isinstance(weights, str)


def _types(point: Sequence[Any], directions: Sequence[Any]) -> list[Any]:
    """Returns the types of a point and of one direction."""
    of_one = [unstacked_type(jax.typeof(v)) for v in directions]
    return [*map(jax.typeof, point), *of_one]


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


def _scaled(factor: float, x: Any) -> Any:
    return x if factor == 1 else x * jnp.asarray(factor, x.dtype)


# -- a program and its values


class Value:
    """A value of the program. Running the program computes what is needed of it."""

    __slots__ = ("moves", "origin", "shared", "each", "sums", "wanted")

    def __init__(self, moves: bool, origin: "Equation | None" = None):
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

    @abc.abstractmethod
    def demand(self) -> None:
        """Sets what is needed of the inputs, from what is needed of the outputs."""

    @abc.abstractmethod
    def run(self, sums: Sums) -> None:
        """Computes what is needed of the outputs."""


# Readers for primitives with programs inside, if their inputs depend on the direction.
# They return `None` for equations that they cannot read.
READERS: dict[str, Callable[[JaxprEqn, list[Value]], Node | None]] = {}


def read(jaxpr: Jaxpr, inputs: Sequence[Value], program: list[Node]) -> list[Value]:
    """Appends the equations of a jaxpr to a program, and returns the values of its
    outputs."""
    inner = jaxpr.jaxpr
    env = dict(zip(inner.constvars, map(known, jaxpr.consts)))
    env.update(zip(inner.invars, inputs))

    def value_of(atom) -> Value:
        return known(atom.val) if is_literal(atom) else env[atom]

    for eqn in live_equations(jaxpr):
        operands = [value_of(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        moves = any(value.moves for value in operands)
        with located(eqn):
            if moves and name in CALLS and CALLS[name].is_transparent:
                inlined = close(callee(eqn))
                with inside_call(eqn):
                    results = read(inlined, operands, program)
            else:
                reader = READERS.get(name) if moves else None
                node = None if reader is None else reader(eqn, operands)
                program.append(Equation(eqn, operands) if node is None else node)
                program[-1].place = current_place()
                results = program[-1].outputs
        env.update(zip(eqn.outvars, results))
    return [value_of(atom) for atom in inner.outvars]


def demand(program: Sequence[Node]) -> None:
    """Sets what is needed of each value, from what is needed of the results."""
    for node in reversed(program):
        if _is_wanted(node):
            node.demand()


def run(program: Sequence[Node], sums: Sums) -> None:
    for node in program:
        if _is_wanted(node):
            with at_place(node.place):
                node.run(sums)


def _is_wanted(node: Node) -> bool:
    return bool(node.eqn.effects) or any(output.wanted for output in node.outputs)


# -- equations


class Equation(Node):
    def __init__(self, eqn: JaxprEqn, inputs: list[Value]):
        self.eqn, self.inputs = eqn, inputs
        moving = [i for i, value in enumerate(inputs) if value.moves]
        self.outputs = [Value(bool(moving), origin=self) for _ in eqn.outvars]
        # The operands in which it is jointly linear, if no others depend on the
        # direction.
        self.linear = _linear_operands(eqn, moving) if moving else ()

    def demand(self) -> None:
        wanted = set().union(*(output.wanted for output in self.outputs))
        # The sums that are computed without the results for each direction.
        self.labels: set[Wanted] = set()
        # For a product whose sums are needed: the factors that depend on the direction,
        # and the others.
        self.factors: tuple[list[Value], list[Value]] | None = None
        inputs = self.inputs
        if EACH not in wanted and any(value.moves for value in inputs):
            if self.linear:
                self.labels = wanted
            elif _is_product(self.eqn):
                self.labels, self.factors = wanted, _factors(self)
                inputs = [*self.factors[0], *self.factors[1]]
        for value in inputs:
            value.wanted |= wanted if self.labels and self.linear else {EACH}

    def run(self, sums: Sums) -> None:
        eqn, inputs, outputs = self.eqn, self.inputs, self.outputs
        if not any(value.moves for value in inputs):
            for output, result in zip(outputs, bind(eqn, [v.shared for v in inputs])):
                output.shared = result
        elif self.factors is not None:
            moving, shared = self.factors
            a, b = [value.each for value in moving]
            product = product_of(a, b, sums.count)
            for label in self.labels:
                total = sums[label].sum(product)
                for value in shared:  # Some of them are scalars.
                    total = lax.mul(total, jnp.broadcast_to(value.shared, total.shape))
                outputs[0].sums[label] = total
        elif self.labels:
            for label in self.labels:
                operands = [
                    value.sum(label, sums) if i in self.linear else value.shared
                    for i, value in enumerate(inputs)
                ]
                for output, result in zip(outputs, bind(eqn, operands)):
                    output.sums[label] = result
        else:
            for output, result in zip(outputs, _for_each(eqn, inputs, sums)):
                output.each = result


def _is_product(eqn: JaxprEqn) -> bool:
    """Returns whether an equation is an elementwise product of arrays of the same
    shape, or of a scalar and an array."""
    shapes = {var.aval.shape for var in [*eqn.invars, *eqn.outvars]}
    return eqn.primitive.name in ("mul", "square") and len(shapes) == 1


def _factors(product: Equation) -> tuple[list[Value], list[Value]]:
    """Returns the two factors of a product that depend on the direction, and the
    others, which can be taken out of its sum."""
    moving, shared = [], []
    operands = product.inputs
    for value in operands if len(operands) == 2 else 2 * operands:
        while (inner := value.origin) is not None and len(inner.linear) == 1:
            [i] = inner.linear
            eqn = inner.eqn
            if eqn.primitive.name != "mul":
                break
            if eqn.invars[i].aval.shape != eqn.outvars[0].aval.shape:
                break  # A scalar that is broadcast to an array.
            shared.append(inner.inputs[1 - i])
            value = inner.inputs[i]
        moving.append(value)
    return moving, shared


def _for_each(eqn: JaxprEqn, inputs: Sequence[Value], sums: Sums) -> list[Stack]:
    """Computes the results of an equation for all directions."""

    stacks = [value.each if value.moves else None for value in inputs]
    shared = [None if value.moves else value.shared for value in inputs]
    apply = ft.partial(_on_stacked, eqn)
    known = lambda i: _known_while_tracing(inputs[i])  # noqa: E731
    operands = Operands(eqn, stacks, shared, apply, known, sums.count)
    if sums.is_sparse:
        found = on_sparse(operands)
        if found is not None:
            return found
    dense = [None if stack is None else stack.dense(sums.count) for stack in stacks]
    return [Stack(array) for array in operands.apply(dense)]


# The largest number of indices of a gather that are computed while tracing. Chosen:
# those of all pairs of 700 particles.
_LARGEST = 500_000


def _known_while_tracing(value: Value) -> np.ndarray | None:
    """Returns a value that is computed only from constants, such as indices."""
    if value.shared is not None and not isinstance(value.shared, Tracer):
        return np.asarray(value.shared)
    equation = value.origin
    if value.moves or equation is None or equation.eqn.effects:
        return None
    if any(known_size(var.aval) > _LARGEST for var in equation.eqn.outvars):
        return None
    operands = [_known_while_tracing(x) for x in equation.inputs]
    if any(x is None for x in operands):
        return None
    if equation.eqn.primitive.name == "pvary":
        # It has a meaning only inside a `shard_map`, and changes no entry.
        return operands[0]
    with jax.ensure_compile_time_eval():
        results = bind(equation.eqn, list(map(jnp.asarray, operands)))
        results = list(map(np.asarray, results))
    return results[equation.outputs.index(value)]


def is_zero(value: Value) -> bool:
    """Returns whether a value is known to be zero while tracing."""
    found = _known_while_tracing(value)
    return found is not None and not np.any(found)


def _on_stacked(
    eqn: JaxprEqn, operands: Sequence[Any], axes: Sequence[int | None]
) -> list[Any]:
    """Applies an equation to arrays, some of which are stacked along the first axis."""
    if eqn.primitive.name == "dot_general" and list(axes) == [None, 0]:
        (contract, batch) = eqn.params["dimension_numbers"]
        if batch == ((), ()):
            return [_product_with_each(eqn, *operands, *contract)]
    try:
        return jax.vmap(ft.partial(_bind, eqn), in_axes=axes)(*operands)
    except NotImplementedError:  # The primitive has no batching rule.
        pass

    def one(moving):
        moving = iter(moving)
        return bind(
            eqn, [x if i is None else next(moving) for x, i in zip(operands, axes)]
        )

    return lax.map(one, [x for x, i in zip(operands, axes) if i is not None])


def _bind(eqn: JaxprEqn, *operands: Any) -> list[Any]:
    return bind(eqn, operands)


def _product_with_each(
    eqn: JaxprEqn, a: Any, stacked: Any, of_a: Any, of_b: Any
) -> Any:
    """Computes `a @ b` for all b as one product `b @ a`. The first axis of the result
    is over directions, so that no transposition is needed if b is a vector."""
    precision = eqn.params["precision"]
    params = eqn.params | dict(
        dimension_numbers=((tuple(i + 1 for i in of_b), of_a), ((), ())),
        precision=precision[::-1] if isinstance(precision, tuple) else precision,
    )
    [product] = bind(eqn.replace(params=params), [stacked, a])
    # The remaining axes of b come before those of a.
    left = stacked.ndim - len(of_b)
    return jnp.moveaxis(
        product, range(1, left), range(product.ndim - left + 1, product.ndim)
    )


def _linear_operands(eqn: JaxprEqn, moving: Sequence[int]) -> Collection[int]:
    """Returns the operands in which an equation is jointly linear, if these include all
    that depend on the direction; otherwise none."""
    if not all(is_differentiable(var.aval) for var in eqn.outvars):
        return ()
    if eqn.primitive.name == "optimization_barrier":
        # It is linear in all of them, but a sum would multiply those that do not depend
        # on the direction.
        return moving if len(moving) == len(eqn.invars) else ()
    rule = RULES.get(target_key(eqn))
    # What a function closes over comes before its arguments.
    operands = range(len(eqn.invars))[closed_over(eqn) :]
    linear: Collection[int] = ()
    if rule is not None and rule.linear is not None:
        chosen = rule.linear
        linear = operands[chosen(eqn) if callable(chosen) else chosen]
    elif rule is not None and rule.factors is not None:
        linear = [operands[i] for i in rule.factors if operands[i] in moving]
        if len(linear) != 1:
            return ()
    return linear if set(moving) <= set(linear) else ()
