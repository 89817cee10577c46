"""Functions whose `custom_jvp` in JAX does not serve at higher orders: where the
function saturates, its derivatives cancel."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as jss
from jax import lax

from .._core.jax import close, trace
from .._core.primitives import callee, CALLS
from .._core.protocols import JaxprEqn
from .._core.rule import Read, Rule, RULES, target_key
from .._core.series import primal_values, Series
from .._core.units import power_of_two
from .._core.walk import Walk
from .bessel import FROM_THE_RIGHT
from .compose import composed
from .define import derivative_rule, rewritten
from .rows import at_least_single
from .special import gaussian


def register_within(fun: Callable[..., Any], operands: int = 1) -> Callable:
    """Registers a rule for the function with a `custom_jvp` that `fun` calls, in itself
    or under `jax.jit`. Where this JAX has none there, it registers nothing."""

    def decorator(read: Read) -> Read:
        number = jax.ShapeDtypeStruct((), jnp.float32)
        closed = trace(lambda *args: [fun(*args)], *[number] * operands)
        equations = list(closed.jaxpr.eqns)
        for eqn in equations:
            if eqn.primitive.name == "custom_jvp_call":
                RULES[target_key(eqn)] = Rule(read)
            elif eqn.primitive.name in CALLS:
                equations.extend(close(callee(eqn)).jaxpr.eqns)
        return read

    return decorator


# -- y = log(e^a + e^b)  =>  y' = σ(a - b) a' + σ(b - a) b'


def _define_logaddexp(fun, base: float):
    def bounded(a):
        # Infinities of one sign are equal, and their difference is not formed.
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

        # Coefficient 0 is a call, in which `jax_debug_infs` takes infinities for no
        # errors.
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


# -- the logarithm of the normal distribution function

# With X = -x, and Mills' ratio (DLMF 7.8.1)
#
#   Φ(x) = e^(-x²/2) / √2π M_0,       M_n = ∫_0^∞ s^n e^(-X s - s²/2) ds
#   M_0(X - h) = Σ_n h^n M_n / n!
#
# where for X > 0 the M_n are the solution of M_{n+1} = n M_{n-1} - X M_n that grows
# least: M_n / M_{n-1} = n / (X + M_{n+1} / M_n), downwards. For other X the series is
# that of Φ itself. The logarithm of either is a recurrence.


@register_within(jss.log_ndtr)
def _log_ndtr(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def outer(x, u, n):
        x, u, n = at_least_single(x, u, n)
        far = x < -1.5
        mills = jnp.cumprod(
            _mills_ratios(jnp.where(far, -x, 1.5)[0], len(n)) * u / n, 0
        )
        phi = _normal_terms(jnp.where(far, 0, x)[0], u[0], len(n))
        logarithm = _logarithm(jnp.where(far, mills, phi))
        square = jnp.where(n == 1, -x * u, jnp.where(n == 2, -u * u / 2, 0))
        return logarithm + jnp.where(far, square, 0)

    def unit(x):
        return power_of_two(lax.max(lax.abs(x), jnp.ones_like(x)))

    [x] = inputs
    return composed(walk, eqn, inputs, x, unit, outer)


def _mills_ratios(x, number: int):
    """Computes the ratios `M_n / M_{n-1}` for n = 1, ..., `number`."""
    first = number + 200
    start = lax.stop_gradient(2 * first / (x + lax.sqrt(x * x + 4 * first)))

    def step(ratio, n):
        ratio = n / (x + ratio)
        return ratio, ratio

    numbers = 1 + jnp.arange(first, dtype=x.dtype)
    return lax.scan(step, start, numbers, reverse=True)[1][:number]


def _normal_terms(x, u, number: int):
    """Computes coefficients 1 to `number` of `Φ(x + u h) / Φ(x)`: (n + 1) n c_{n+1} =
    -u n x c_n - u² (n - 1) c_{n-1}."""
    value = 0.5 * lax.erfc(-x * math.sqrt(0.5))
    density = gaussian(x * math.sqrt(0.5)) / math.sqrt(2 * math.pi)
    terms = [jnp.zeros_like(x), u * density / value]
    for n in range(1, number):
        rest = x * (n * terms[n]) + u * ((n - 1) * terms[n - 1])
        terms.append(-u * rest / (n * (n + 1)))
    return jnp.stack(terms[1:])


def _logarithm(terms):
    """Computes coefficients of the logarithm of a series that begins with 1."""
    logs = []
    for n, term in enumerate(terms, 1):
        rest = [(j / n) * log * terms[n - j - 1] for j, log in enumerate(logs, 1)]
        logs.append(term - sum(rest))
    return jnp.stack(logs)


# -- I_0 and I_1, which have a `custom_jvp`: those of `jax.scipy` on newer JAX only
#
# At zero |x| has the same slope in both factors: what is left is the function.


def _define_bessel(fun, scaled):
    @register_within(fun)
    def bessel(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        def product(x, **_):
            size = lax.abs(x) if FROM_THE_RIGHT else x * lax.sign(x)
            return lax.exp(size) * scaled(x)

        return [rewritten(walk, eqn, inputs, product)]


_define_bessel(jss.i0, lax.bessel_i0e)
_define_bessel(jnp.i0, lax.bessel_i0e)
_define_bessel(jss.i1, lax.bessel_i1e)
