"""Calls of functions, which are read as part of the program around them."""

from collections.abc import Sequence
from typing import Any

import jax

from .._core.jax import bind, close, inside_call, shard_map_like, trace
from .._core.primitives import callee, CALLS
from .._core.protocols import JaxprEqn
from .._core.recurrence import Recurrence
from .._core.rule import register
from .._core.series import mask, orders, Series
from .._core.walk import Walk
from .pack import looking_ahead, pack, unpack


# The interpreter reads these in place if any operand is not constant.
@register(*[name for name in CALLS if CALLS[name].is_read_in_place], kind="call")
def _inline(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    with inside_call(eqn):
        return walk.interpret(close(callee(eqn)), inputs)


@register("remat2", kind="call")
def _checkpoint(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    jaxpr = close(eqn.params["jaxpr"])
    if not walk.takes_all_orders(inputs) or len(eqn.outvars) == 0:
        return walk.interpret(jaxpr, inputs)
    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]

    def checkpoint(fun, supports, out_supports):
        return jax.checkpoint(fun, policy=policy, prevent_cse=prevent_cse)

    ahead = looking_ahead(walk, inputs, [jaxpr])
    return _emitted(walk, eqn, jaxpr, inputs, walk.stop, checkpoint, ahead)


@register("shard_map", kind="call")
def _shard_map(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    params, jaxpr = eqn.params, close(eqn.params["jaxpr"])
    mapped = shard_map_like(eqn)

    def up_to(stop):
        def shard_map(fun, supports, out_supports):
            return mapped(
                fun,
                in_specs=(_terms_of(params["in_specs"], supports, stop),),
                out_specs=_terms_of(params["out_specs"], out_supports, stop),
            )

        return _emitted(walk, eqn, jaxpr, inputs, stop, shard_map)

    def find_supports():
        walk.output_supports(jaxpr, [series.support for series in inputs])
        return ()

    # Finding supports takes tracing of derivatives, which needs the axes of the mesh.
    # The supports are cached for later requests.
    jax.eval_shape(mapped(find_supports, in_specs=(), out_specs=()))
    if walk.takes_all_orders(inputs):
        return up_to(walk.stop)
    supports = walk.output_supports(jaxpr, [series.support for series in inputs])
    types = [(var.aval, support) for var, support in zip(eqn.outvars, supports)]
    # Each order starts again from coefficient 0, as for a `while_loop`.

    def one_order(k):
        return [series[k] for series in up_to(k)]

    return Recurrence(types, lambda: one_order(0), one_order).outs


# These calls have a parameter for the placement of each result.
@register("compute_on", "fused_call", kind="call")
def _placed(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    jaxpr = close(eqn.params["jaxpr"])
    if not walk.takes_all_orders(inputs) or len(eqn.outvars) == 0:
        return walk.interpret(jaxpr, inputs)
    name = "out_spaces" if "out_spaces" in eqn.params else "out_memory_spaces"

    def placed(fun, supports, out_supports):
        def call(arrays):
            spaces = _terms_of(eqn.params[name], out_supports, walk.stop)
            inner = trace(fun, [jax.typeof(x) for x in arrays])
            params = {**eqn.params, "jaxpr": inner, name: tuple(spaces)}
            return bind(eqn.replace(params=params), arrays)

        return call

    return _emitted(walk, eqn, jaxpr, inputs, walk.stop, placed)


def _terms_of(entries, supports, stop) -> list[Any]:
    """Repeats the entry of each series for each of its coefficients."""
    return [
        entry
        for entry, support in zip(entries, supports)
        for _ in orders(support & mask(stop))
    ]


def _emitted(walk: Walk, eqn, jaxpr, inputs, stop, transform, ahead=()) -> list[Series]:
    """Emits the call again, on all coefficients, under the same transformation."""
    supports = [series.support for series in inputs]
    out_supports = walk.output_supports(jaxpr, supports)
    avals = [var.aval for var in jaxpr.jaxpr.invars]

    def fun(arrays):
        series = unpack(avals, supports, stop, arrays, ahead)
        outs = walk.body_walk(stop).interpret(jaxpr, series)
        return pack(outs, out_supports, stop)

    packed = pack(inputs, supports, stop, ahead)
    arrays = transform(fun, supports, out_supports)(packed)
    return unpack([var.aval for var in eqn.outvars], out_supports, stop, arrays)
