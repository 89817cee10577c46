"""Constants that are known while a program is simplified."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._core.jax import bind, known_size, number_like
from ..._core.primitives import ELEMENTWISE, REARRANGING
from .graph import Graph, is_known, Operation, Value


# Primitives that are evaluated for constants. These exclude primitives that determine
# how or where something is computed, or how it is differentiated.
_FOLDED = ELEMENTWISE - frozenset(["name", "optimization_barrier", "pvary"])
_FOLDED |= REARRANGING | frozenset(["concatenate", "slice"])
# Primitives whose result IEEE 754 defines to the last bit, so that NumPy can compute it
# without compilation.
_BY_NUMPY = {
    "add": np.add,
    "convert_element_type": lambda x: x,
    "div": np.divide,
    "eq": operator.eq,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "mul": np.multiply,
    "ne": operator.ne,
    "neg": np.negative,
    "square": np.square,
    "sub": np.subtract,
}


def folded(
    graph: Graph, operation: Operation, inputs: Sequence[Value]
) -> list[Value] | None:
    """Computes the results of an operation whose operands are all known."""
    if operation.name not in _FOLDED or not inputs:
        return None
    [out] = operation.results
    # Not arrays, which would be constants of the program instead of literals.
    if out.shape != () or not all(value.constant for value in inputs):
        return None
    arrays = [value.constant[0] for value in inputs if value.constant]
    if not all(is_known(value.aval, x) for value, x in zip(inputs, arrays)):
        return None
    result = by_numpy(operation.name, out, [np.asarray(x) for x in arrays])
    if result is None:
        with jax.ensure_compile_time_eval():
            [result] = bind(operation.eqn, arrays)
    if isinstance(result, Tracer):
        return None
    return [graph.constant(out, number_like(out, result))]


def by_numpy(name: str, out: Any, numbers: Sequence[np.ndarray]) -> Any:
    """Computes a result by NumPy. Returns `None` if XLA's result may differ."""
    if name not in _BY_NUMPY or not all(map(_is_ordinary, numbers)):
        return None
    # NumPy rounds integer division and conversions from floating point to integers
    # differently from XLA.
    if out.dtype.kind in "iu" and (name == "div" or numbers[0].dtype.kind == "f"):
        return None
    with np.errstate(all="ignore"):
        result = np.asarray(_BY_NUMPY[name](*numbers)).astype(out.dtype)
    return result if _is_ordinary(result) else None


def _is_ordinary(number: np.ndarray) -> bool:
    """Returns whether all machines treat a number alike: some flush subnormal numbers
    to zero."""
    if number.shape != ():
        return False
    if number.dtype in (np.float32, np.float64):
        return bool(number == 0 or np.finfo(number.dtype).tiny < abs(number) < np.inf)
    return number.dtype.kind in "biu"


def number_in(value: Value) -> Any:
    """Returns the number to which all entries of an array are known to be equal."""
    while value.node is not None and value.node.name in _COPYING:
        value = value.node.inputs[0]
    if not value.constant or not is_known(value.aval, value.constant[0]):
        return None
    if not 1 <= known_size(value.aval) <= 16:
        return None
    numbers = np.asarray(value.constant[0]).ravel()
    same = all(x.tobytes() == numbers[0].tobytes() for x in numbers)
    return numbers[0] if same else None


_COPYING = frozenset(["broadcast_in_dim", "pcast", "pvary"])


def is_number(value: Value, number: int | float) -> bool:
    """Returns whether every entry is known to equal `number`; -0.0 differs from 0.0."""
    found = number_in(value)
    if found is None or value.dtype == np.bool_ or found != number:
        return False
    if jnp.issubdtype(value.dtype, jnp.floating) and number == 0:
        return bool(np.signbit(found) == np.signbit(number))
    return True
