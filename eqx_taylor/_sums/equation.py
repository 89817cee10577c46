"""One equation of a program, for all directions or for sums over them."""

import functools as ft
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .._core.jax import bind, closed_over, is_differentiable, known_size
from .._core.protocols import JaxprEqn
from .._core.rule import RULES, target_key
from .elementwise import product_of
from .operands import on_sparse, Operands
from .stack import Stack
from .values import EACH, Node, Sums, Value, Wanted


class Equation(Node):
    def __init__(self, eqn: JaxprEqn, inputs: list[Value]):
        self.eqn, self.inputs = eqn, inputs
        moving = [i for i, value in enumerate(inputs) if value.moves]
        self.outputs = [Value(bool(moving), origin=self) for _ in eqn.outvars]
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
