"""Functions inside functions: read in place, as part of the program around them."""

import jax

from .._interpreter import INLINED, output_supports, register, Walk
from .._jax import close
from .._series import Series
from ._pack import pack, unpack


_CALLS = ("jit", "pjit", "closed_call", "core_call", "eval_jaxpr")
INLINED.update([*_CALLS, "custom_vjp_call"])


@register(*_CALLS)
def _inline(walk: Walk, eqn, inputs) -> list[Series]:
    jaxpr = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
    return walk.interpret(close(jaxpr), inputs)


# It has no forward rule in JAX: the function itself is what is differentiated.
@register("custom_vjp_call")
def _custom_vjp(walk: Walk, eqn, inputs) -> list[Series]:
    return walk.interpret(close(eqn.params["call_jaxpr"]), inputs)


@register("checkpoint", "remat", "remat2")
def _checkpoint(walk: Walk, eqn, inputs) -> list[Series]:
    jaxpr = close(eqn.params["jaxpr"])
    if len(eqn.outvars) == 0:
        return []  # Run for its effects: done by the walk, on primal values.
    if not walk.is_known(inputs):
        return walk.interpret(jaxpr, inputs)
    order = walk.order
    supports = [series.support for series in inputs]
    out_supports = output_supports(jaxpr, supports, order)
    avals = [series.aval for series in inputs]

    def fun(arrays):
        here = Walk(order, effects=walk.effects)
        outs = here.interpret(jaxpr, unpack(avals, supports, order, arrays))
        return pack(outs, out_supports, order)

    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]
    fun = jax.checkpoint(fun, policy=policy, prevent_cse=prevent_cse)
    out_avals = [var.aval for var in eqn.outvars]
    return unpack(out_avals, out_supports, order, fun(pack(inputs, supports, order)))
