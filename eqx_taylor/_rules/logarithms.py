"""Functions that combine logarithms with sums, differences and products: `logaddexp`,
`log1mexp`, `xlogy`."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.scipy.special as jss
from jax import lax

from .._core.protocols import JaxprEqn
from .._core.series import primal_values, Series
from .._core.walk import Walk
from .define import derivative_rule, rewritten
from .within import register_within


# -- y = log(e^a + e^b)  =>  y' = σ(a - b) a' + σ(b - a) b'


def _define_logaddexp(fun, base: float):
    def bounded(a):
        # Infinities of one sign are equal, and must not be subtracted.
        largest = lax.sign(a.real) * (float(jnp.finfo(a.dtype).max) / 4)
        return lax.select(lax.is_finite(a.real), a, largest.astype(a.dtype))

    def weight(a, b):
        return lax.logistic(math.log(base) * (bounded(a) - bounded(b)))

    def both(y, a, b, da, db):
        return weight(a, b) * da + weight(b, a) * db

    rule = derivative_rule(both)
    of_a = derivative_rule(lambda y, a, b, da, db: weight(a, b) * da)
    of_b = derivative_rule(lambda y, a, b, da, db: weight(b, a) * db)

    @register_within(fun, operands=2)
    def logaddexp(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        a, b = inputs
        chosen = of_a if b.is_constant else of_b if a.is_constant else rule
        [y] = chosen(walk, eqn, inputs)

        # Coefficient 0 is computed in a call, so that `jax_debug_infs` does not report
        # its infinities.
        def called(compute):
            return lambda k: compute(k) if k else fun(*primal_values(inputs))

        y.wrap(called)
        return [y]


_define_logaddexp(jnp.logaddexp, math.e)
_define_logaddexp(jnp.logaddexp2, 2.0)


# -- y = log(1 - e^(-x))  =>  y' = q x', q = 1 / (e^x - 1), q' = -q (1 + q) x'


@jax.custom_jvp
def _log1mexp_slope(x):
    return 1 / lax.expm1(x)


@_log1mexp_slope.defjvp
def _log1mexp_slope_jvp(primals, tangents):
    [x], [dx] = primals, tangents
    q = _log1mexp_slope(x)
    step = dx * q
    return q, -(step + step * q)


register_within(jax.nn.log1mexp)(
    derivative_rule(lambda y, x, dx: dx * _log1mexp_slope(x))
)


# -- x log(y), x log(1 + y)


@register_within(jss.xlogy, operands=2)
def _xlogy(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    return [rewritten(walk, eqn, inputs, lambda x, y, **_: x * lax.log(y))]


@register_within(jss.xlog1py, operands=2)
def _xlog1py(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    return [rewritten(walk, eqn, inputs, lambda x, y, **_: x * lax.log1p(y))]
