"""Simplifications that change no bit of the results: constants are folded, and what
does nothing is left out.

    x · 1 = x / 1 = x - 0 = x^1 = -(-x) = x,     x · (-1) = -x,     x + (-y) = x - y

and copies, conversions and changes of shape to what the operand already is. Not here,
as they are wrong where `x` is infinite, NaN or -0.0: `x · 0`, `x - x` and `x + 0`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .._jax import bind, number_like
from ._graph import Graph, Jaxpr, JaxprEqn, Path, read, Value, write


def exact_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    return write(read(jaxpr, apply_exact, body=exact_jaxpr), jaxpr)


# Returns a value that the equation's output is equal to, or `None`.
Identity = Callable[[Graph, JaxprEqn, Sequence[Value]], Value | None]
_IDENTITIES: dict[str, Identity] = {}


def _identity(*names: str) -> Callable[[Identity], Identity]:
    def register(identity: Identity) -> Identity:
        for name in names:
            _IDENTITIES[name] = identity
        return identity

    return register


def apply_exact(
    graph: Graph, eqn: JaxprEqn, inputs: Sequence[Value], path: Path
) -> Sequence[Value]:
    folded = _folded(graph, eqn, inputs)
    if folded is not None:
        return folded
    identity = _IDENTITIES.get(eqn.primitive.name)
    if identity is not None:
        value = identity(graph, eqn, inputs)
        if value is not None and _same_type(value.aval, eqn.outvars[0].aval):
            return [value]
    return graph.apply(eqn, inputs, path)


def _same_type(a: Any, b: Any) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype)


# -- constants

# What is computed while tracing: cheap functions of few numbers.
_FOLDED = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh broadcast_in_dim cbrt
    ceil clamp concatenate conj convert_element_type copy cos cosh digamma div eq erf
    erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log
    log1p logistic lt max min mul ne neg nextafter not or pow real reduce_precision rem
    reshape round rsqrt select_n sign sin sinh slice sqrt square squeeze sub tan tanh
    transpose xor
    """.split()
)


def _folded(graph, eqn, inputs) -> list[Value] | None:
    if eqn.primitive.name not in _FOLDED or not inputs:
        return None
    out = eqn.outvars[0].aval
    # Arrays would be constants of the program instead of literals.
    if out.shape != () or not all(value.constant for value in inputs):
        return None
    arrays = [value.constant[0] for value in inputs if value.constant]
    if not all(_is_known(value.aval, x) for value, x in zip(inputs, arrays)):
        return None
    with jax.ensure_compile_time_eval():
        [result] = bind(eqn, arrays)
    if isinstance(result, Tracer):
        return None
    return [graph.constant(out, number_like(out, result))]


def _is_known(aval: Any, value: Any) -> bool:
    if isinstance(value, Tracer) or not isinstance(aval.dtype, np.dtype):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def number_in(value: Value) -> Any:
    """The one number that all entries of an array are, if that is known."""
    while value.node is not None and value.node.name == "broadcast_in_dim":
        value = value.node.inputs[0]
    if not value.constant or not _is_known(value.aval, value.constant[0]):
        return None
    if not 1 <= value.aval.size <= 16:
        return None
    numbers = np.asarray(value.constant[0]).ravel()
    same = all(x.tobytes() == numbers[0].tobytes() for x in numbers)
    return numbers[0] if same else None


def _is_number(value: Value, number: int | float) -> bool:
    """With the sign that a zero has."""
    found = number_in(value)
    if found is None or value.dtype == np.bool_ or found != number:
        return False
    if jnp.issubdtype(value.dtype, jnp.floating) and number == 0:
        return bool(np.signbit(found) == np.signbit(number))
    return True


def _is_integral(value: Value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.integer)


# -- sums and products


@_identity("mul")
def _mul(graph, eqn, inputs):
    # Complex products with numbers that have infinite parts have NaNs in them.
    for x, y in (inputs, inputs[::-1]):
        if _is_number(y, 1) and not jnp.issubdtype(x.dtype, jnp.complexfloating):
            return x
        if _is_number(y, -1) and jnp.issubdtype(x.dtype, jnp.floating):
            if x.shape == eqn.outvars[0].aval.shape:
                return graph.call(lax.neg, x)
        if _is_integral(x) and _is_number(y, 0):
            return y
    a, b = (_negated(x) for x in inputs)
    if a is not None and b is not None:
        return graph.call(lax.mul, a, b)


@_identity("div")
def _div(graph, eqn, inputs):
    if jnp.issubdtype(inputs[0].dtype, jnp.complexfloating):
        return None
    return inputs[0] if _is_number(inputs[1], 1) else None


@_identity("add", "add_any")
def _add(graph, eqn, inputs):
    for x, y in (inputs, inputs[::-1]):
        zero = 0 if _is_integral(y) else -0.0
        if not jnp.issubdtype(x.dtype, jnp.complexfloating) and _is_number(y, zero):
            return x
        negated = _negated(y)
        if negated is not None:
            return graph.call(lax.sub, x, negated)


@_identity("sub")
def _sub(graph, eqn, inputs):
    x, y = inputs
    if not jnp.issubdtype(x.dtype, jnp.complexfloating) and _is_number(y, 0.0):
        return x
    negated = _negated(y)
    if negated is not None:
        return graph.call(lax.add, x, negated)


@_identity("neg")
def _neg(graph, eqn, inputs):
    return _negated(inputs[0])


def _negated(value: Value) -> Value | None:
    """`x`, of `-x`."""
    node = value.node
    return node.inputs[0] if node is not None and node.name == "neg" else None


@_identity("integer_pow")
def _integer_pow(graph, eqn, inputs):
    return inputs[0] if eqn.params["y"] == 1 else None


# -- what does nothing


@_identity("copy", "copy_p", "convert_element_type", "broadcast_in_dim", "squeeze")
def _unchanged(graph, eqn, inputs):
    # `apply_exact` asks whether the type is the same.
    return inputs[0] if eqn.params.get("sharding") is None else None


@_identity("reshape")
def _reshape(graph, eqn, inputs):
    unchanged = eqn.params["dimensions"] is None and len(inputs) == 1
    return _unchanged(graph, eqn, inputs) if unchanged else None


@_identity("transpose")
def _transpose(graph, eqn, inputs):
    unchanged = list(eqn.params["permutation"]) == sorted(eqn.params["permutation"])
    return inputs[0] if unchanged else None


@_identity("rev")
def _rev(graph, eqn, inputs):
    shape = inputs[0].shape
    return inputs[0] if all(shape[i] == 1 for i in eqn.params["dimensions"]) else None


@_identity("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
def _reduce(graph, eqn, inputs):
    return inputs[0] if len(eqn.params["axes"]) == 0 else None


@_identity("and", "or")
def _idempotent(graph, eqn, inputs):
    return inputs[0] if inputs[0] is inputs[1] else None


@_identity("select_n")
def _select(graph, eqn, inputs):
    which, *cases = inputs
    if all(case is cases[0] for case in cases):
        return cases[0]
    if which.constant and _is_known(which.aval, which.constant[0]):
        chosen = np.unique(np.asarray(which.constant[0]))
        return cases[int(chosen[0])] if len(chosen) == 1 else None
