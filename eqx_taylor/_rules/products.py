"""Products and quotients."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from .._core.convolution import convolve
from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.rule import Cost, register
from .._core.series import Series
from .._core.terms import over, sub
from .._core.walk import Walk
from .define import define_rewrite
from .linear import define_bilinear


define_bilinear("mul", symmetric=True)
# The third operand of `ragged_dot_general` is the sizes of the groups.
define_bilinear("dot_general", "conv_general_dilated", "ragged_dot_general")
define_rewrite("square", lambda x: x * x)
define_rewrite("one_minus_square", lambda x: 1 - x * x)


def _cost_of_quotient(inputs: Sequence[Series]) -> Cost:
    """Finds the cost of a quotient. A quotient by a constant is fused."""
    return Cost.FUSED if inputs[1].is_constant else Cost.WORK


# q b = a  =>  q_k = (a_k - Σ_{j=1..k} b_j q_{k-j}) / b_0
@register("div", linear=slice(0, 1), cost=_cost_of_quotient)
def _div(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    a, b = inputs

    def compute(k):
        return over(sub(a[k], convolve(lax.mul, b, q, k, first=1)), b[0])

    if b.is_constant:
        support = a.support
    else:
        support = walk.analytic_support(inputs)
    q = output(eqn, inputs, support, compute)
    return [q]


def repeated_product(x, n: int):
    """Computes `x**n` by products only, which is correct at zero and for negative
    `x`."""
    power = None
    while n:
        if n & 1:
            power = x if power is None else power * x
        n >>= 1
        if n:
            x = x * x
    return jnp.ones_like(x) if power is None else power
