"""Linear primitives, which rearrange, copy, add or transform entries."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from .._core.jax import bind
from .._core.protocols import JaxprEqn
from .._core.recurrence import output, outputs
from .._core.rule import Cost, register, with_cost
from .._core.series import CONSTANT, Series
from .._core.terms import add, sub
from .._core.walk import Walk
from .linear import define_linear, joined_support


define_linear(
    # values
    "neg", "convert_element_type", "reduce_precision", "real", "imag", "complex",
    "conj", "copy", "eqx_taylor_reverse_only", "name",
    "nondifferentiable_backward",
    # placement
    "device_put", "global_array_to_host_local_array",
    "host_local_array_to_global_array", "layout_constraint",
    "preduced", "pvary", "reduced_vary_cast", "reduced_vary_cast_p", "relayout",
    "reshard", "shard_alike", "sharding_constraint", "stage", "vary_unreduced_cast",
    "vary_unreduced_cast_p", "with_memory_space_constraint", "xla_metadata_value",
    # shapes
    "broadcast_in_dim", "concatenate", "pad", "reshape", "rev", "slice",
    "split", "squeeze", "stack", "tile", "transpose", "unstack",
)  # fmt: skip

with_cost(Cost.VIEW, "copy", "reshape", "slice", "squeeze", "unstack")

define_linear(
    # transforms
    "fft",
    # between devices
    "all_gather", "all_gather_invariant", "all_gather_reduced", "all_to_all",
    "pbroadcast", "ppermute", "psum", "psum_invariant", "reduce_scatter",
    "unreduced_psum", "unreduced_reduce_scatter",
    fused=False,
)  # fmt: skip

# The other operands are predicates and indices: booleans and integers, which are
# constant.
define_linear("select_n", "select_if_vmap", operands=slice(1, None))
define_linear("pbroadcast_dynamic", operands=slice(0, 1), fused=False)
define_linear("ragged_all_to_all", operands=slice(0, 2), fused=False)
define_linear("tie", operands=slice(1, 2))


@register("add", "add_any", "sub", kind="linear", linear=slice(None), cost=Cost.FUSED)
def _add(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    a, b = inputs
    aval = eqn.outvars[0].aval
    combine = sub if eqn.primitive.name == "sub" else add

    def compute(k):
        if a[k] is not None and b[k] is not None:
            return bind(eqn, [a[k], b[k]])[0]
        term = combine(a[k], b[k])
        # Only a scalar that is added to an array of any shape may be nonconstant.
        return term if term is None else jnp.broadcast_to(term, aval.shape)

    return [Series(aval, joined_support(inputs), compute)]


# Each order has a barrier for the operands that are nonzero at this order. (Not all
# operands are arrays of numbers.)
@register("optimization_barrier", kind="linear", cost=Cost.FUSED)
def _optimization_barrier(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]
) -> list[Series]:
    def compute(k):
        terms = [series[k] for series in inputs]
        kept = iter(lax.optimization_barrier([x for x in terms if x is not None]))
        return [None if x is None else next(kept) for x in terms]

    return outputs(eqn, inputs, [s.support | CONSTANT for s in inputs], compute)


# The next number, in the direction of the second operand, has the slope of the first.
@register("nextafter", kind="linear")
def _nextafter(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    x = inputs[0]
    aval = eqn.outvars[0].aval

    def compute(k):
        return None if x[k] is None else jnp.broadcast_to(x[k], aval.shape)

    return [output(eqn, inputs, x.support | CONSTANT, compute)]
