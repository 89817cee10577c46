"""`jax.experimental.sparse`: the entries of a matrix are differentiated, its pattern is
constant."""

from collections.abc import Sequence

import jax.numpy as jnp

from .._core.protocols import JaxprEqn
from .._core.rule import register
from .._core.series import Series
from .._core.walk import Walk
from .kinks import define_piecewise_linear, piecewise_linear_rule
from .linear import define_bilinear, define_linear


define_linear(
    "bcoo_sort_indices", "bcoo_sum_duplicates", "bcoo_todense", "bcoo_transpose",
    "bcsr_todense", "coo_todense", "csr_todense", "todense",
    operands=slice(0, 1), fused=False,
)  # fmt: skip
define_linear("bcoo_extract", "bcsr_extract", operands=slice(-1, None), fused=False)

define_bilinear("bcoo_dot_general_sampled")
define_bilinear("bcoo_dot_general", "bcoo_spdot_general", operands=(0, 2))
define_bilinear(
    "bcsr_dot_general", "coo_matmat", "coo_matvec", "csr_matmat", "csr_matvec",
    operands=(0, 3),
)  # fmt: skip

# Coefficient 0 determines which entries are not zero.
define_piecewise_linear("bcoo_fromdense", "bcsr_fromdense")


# In JAX's derivatives of these, unused positions contain entries of the matrix.
@register("coo_fromdense", "csr_fromdense", kind="piecewise linear")
def _from_dense(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    data, *pattern = piecewise_linear_rule(walk, eqn, inputs)

    def compute(k):
        if k == 0 or data[k] is None:
            return data[k]
        return jnp.where(data[0] == 0, 0, data[k])

    return [Series(data.aval, data.support, compute), *pattern]
