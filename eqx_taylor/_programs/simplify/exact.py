"""Simplifications that change no bit of the results: constants are folded, and
operations that do nothing are removed.

    x · 1 = x / 1 = x - 0 = x^1 = -(-x) = x,     x · (-1) = -x,     x + (-y) = x - y

and copies, conversions and changes of shape that leave the operand unchanged. `x · 0`,
`x - x` and `x + 0` are not simplified, as this is wrong if `x` is infinite, NaN or
-0.0. A subnormal `x` is kept, although some machines flush it to zero in every
operation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._core.protocols import Jaxpr
from .constants import folded, is_number
from .graph import Graph, is_known, Operation, Path, Value
from .program import read, write


def exact_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    return write(read(jaxpr, apply_exact, body=exact_jaxpr), jaxpr)


# A function that returns a value which equals the equation's output, or `None`.
Identity = Callable[[Graph, Operation, Sequence[Value]], Value | None]
_IDENTITIES: dict[str, Identity] = {}


def _identity(*names: str) -> Callable[[Identity], Identity]:
    def register(identity: Identity) -> Identity:
        for name in names:
            _IDENTITIES[name] = identity
        return identity

    return register


def apply_exact(
    graph: Graph, operation: Operation, inputs: Sequence[Value], path: Path = ()
) -> Sequence[Value]:
    constants = folded(graph, operation, inputs)
    if constants is not None:
        return constants
    identity = _IDENTITIES.get(operation.name)
    if identity is not None:
        value = identity(graph, operation, inputs)
        if value is not None and _same_type(value.aval, operation.results[0]):
            return [value]
    return graph.apply(operation, inputs, path)


def _same_type(a: Any, b: Any) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype)


def _is_integral(value: Value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.integer)


# -- sums and products


@_identity("mul")
def _mul(graph, operation, inputs):
    # A complex product with an infinite number may be NaN, so it is not simplified.
    for x, y in (inputs, inputs[::-1]):
        if is_number(y, 1) and not jnp.issubdtype(x.dtype, jnp.complexfloating):
            return x
        if is_number(y, -1) and jnp.issubdtype(x.dtype, jnp.floating):
            if x.shape == operation.results[0].shape:
                return graph.call(lax.neg, x)
        if _is_integral(x) and is_number(y, 0):
            return y
    a, b = (_negated(x) for x in inputs)
    if a is not None and b is not None:
        return graph.call(lax.mul, a, b)


@_identity("div")
def _div(graph, operation, inputs):
    if jnp.issubdtype(inputs[0].dtype, jnp.complexfloating):
        return None
    return inputs[0] if is_number(inputs[1], 1) else None


@_identity("add")
def _add(graph, operation, inputs):
    for x, y in (inputs, inputs[::-1]):
        zero = 0 if _is_integral(y) else -0.0
        if not jnp.issubdtype(x.dtype, jnp.complexfloating) and is_number(y, zero):
            return x
        negated = _negated(y)
        if negated is not None:
            return graph.call(lax.sub, x, negated)


@_identity("sub")
def _sub(graph, operation, inputs):
    x, y = inputs
    if not jnp.issubdtype(x.dtype, jnp.complexfloating) and is_number(y, 0.0):
        return x
    negated = _negated(y)
    if negated is not None:
        return graph.call(lax.add, x, negated)


@_identity("neg")
def _neg(graph, operation, inputs):
    return _negated(inputs[0])


def _negated(value: Value) -> Value | None:
    """Returns the operand `x` of a value that is `-x`."""
    node = value.node
    return node.inputs[0] if node is not None and node.name == "neg" else None


@_identity("integer_pow")
def _integer_pow(graph, operation, inputs):
    return inputs[0] if operation.params["y"] == 1 else None


# -- operations that do nothing


@_identity("copy", "copy_p", "convert_element_type", "broadcast_in_dim", "squeeze")
def _unchanged(graph, operation, inputs):
    # `apply_exact` checks whether the type is the same.
    return inputs[0] if operation.params.get("sharding") is None else None


@_identity("reshape")
def _reshape(graph, operation, inputs):
    unchanged = operation.params["dimensions"] is None and len(inputs) == 1
    return _unchanged(graph, operation, inputs) if unchanged else None


@_identity("transpose")
def _transpose(graph, operation, inputs):
    axes = list(operation.params["permutation"])
    return inputs[0] if axes == sorted(axes) else None


@_identity("rev")
def _rev(graph, operation, inputs):
    lengths = [inputs[0].shape[axis] for axis in operation.params["dimensions"]]
    return inputs[0] if set(lengths) <= {1} else None


@_identity("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
def _reduce(graph, operation, inputs):
    return inputs[0] if len(operation.params["axes"]) == 0 else None


@_identity("and", "or")
def _idempotent(graph, operation, inputs):
    return inputs[0] if inputs[0] is inputs[1] else None


@_identity("select_n")
def _select(graph, operation, inputs):
    which, *cases = inputs
    if all(case is cases[0] for case in cases):
        return cases[0]
    if which.constant and is_known(which.aval, which.constant[0]):
        chosen = np.unique(np.asarray(which.constant[0]))
        return cases[int(chosen[0])] if len(chosen) == 1 else None
