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

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _rules as _rules
from .._core.check import escaped, trace_on_devices
from .._core.jax import explicit_sharding, joint_axes, unstacked_type, vary
from . import contractions as contractions, moves as moves
from .program import demand, read, run
from .stack import Stack
from .values import EACH, known, Node, SHARED, Sums, Value, Weights


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


def _scaled(factor: float, x: Any) -> Any:
    return x if factor == 1 else x * jnp.asarray(factor, x.dtype)
