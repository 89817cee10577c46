"""Reading and writing parts of arrays, which is linear in the values."""

from jax import lax

from .._core.protocols import JaxprEqn
from .._core.rule import register
from .kinks import piecewise_linear_rule
from .linear import define_affine, define_linear


define_linear("dynamic_slice", operands=slice(0, 1))
define_linear("dynamic_update_slice", operands=slice(0, 2))
define_linear("scatter-add", "scatter-sub", operands=slice(0, 3, 2), fused=False)
define_linear("maybe_set", operands=slice(1, 3), fused=False)


# A gather with `mode="fill"` is affine: the fill value (by default NaN) is a constant,
# and belongs to coefficient 0.
def _filled_with_zeros(eqn: JaxprEqn):
    is_filled = eqn.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP
    if not is_filled or eqn.params["fill_value"] == 0:
        return eqn
    return eqn.replace(params={**eqn.params, "fill_value": 0})


define_affine("gather", _filled_with_zeros, operands=slice(0, 1))

# Integers determine which entries a scatter replaces, so it has no kink.
register("scatter", kind="piecewise linear")(piecewise_linear_rule)
