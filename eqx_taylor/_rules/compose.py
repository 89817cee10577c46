"""Compositions: functions of a series, from their Taylor coefficients at its value."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._core.jax import filled, stacked_type
from .._core.protocols import JaxprEqn
from .._core.recurrence import output
from .._core.series import CONSTANT, orders, Series
from .._core.terms import add, Term
from .._core.walk import Walk
from .define import read


# With h = (x - x_0) / u and y = f(x), where e_n are the coefficients of f(x_0 + u h):
#
#   y_k = Σ_{n=1..k} e_n [h^n]_k       [h^n]_k = Σ_{j=1..k-n+1} h_j [h^(n-1)]_{k-j}
#
# All powers are one array, with n along the first axis: `powers[k]` is the sum of
# `h_j powers[k - j]`, shifted by one, with h_k in front. This takes K²/2 products of
# such arrays. If x is a straight line, there is a single power at each order.
def composed(
    walk: Walk,
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    x: Series,
    unit: Callable[[Any], Any],
    outer: Callable,
) -> list[Series]:
    """Makes the output of `eqn`, an elementwise function in which only `x` is not
    constant.

    `unit(x_0)` is the u above: a power of two, chosen such that the e_n neither
    overflow nor vanish. `outer(x_0, u, n)` returns the e_n, for an array `n` of the
    numbers 1, 2, ... along its first axis; the others have an axis of length 1 there.
    """
    order = walk.order
    aval = eqn.outvars[0].aval
    if x.aval.shape != aval.shape:  # Axes of size 1 are broadcast by the primitives.
        [x] = read(walk, lambda x: jnp.broadcast_to(x, aval.shape), [x])
    several = stacked_type(aval, order)
    # If a single order is nonzero, there is a single power at every order.
    moving = orders(x.support & ~CONSTANT)
    [step] = moving if len(moving) == 1 else [None]

    def compute_unit(_):
        return lax.stop_gradient(unit(lax.stop_gradient(x[0])))

    def compute_terms(_):
        n = lax.convert_element_type(1 + lax.iota(int, order), aval.dtype)
        n = lax.reshape(n, (order,) + (1,) * len(aval.shape))
        first, u = jnp.asarray(x[0])[None], jnp.asarray(units[0])[None]
        return lax.convert_element_type(outer(first, u, n), aval.dtype)

    def compute_scaled(k):
        return None if x[k] is None else lax.div(x[k], units[0])

    def compute_powers(k):
        if k == 0:
            return None
        if step is not None:
            return h[k] if k == step else _times(powers[k - step], h[step])
        total = None
        for j in moving:
            if j < k and h[j] is not None:
                total = add(total, _times(powers[k - j], h[j][None]))
        first = h.dense(k)
        if total is None:
            total = filled(several)
        return jnp.concatenate([first[None], total[:-1]])

    def compute(k):
        if step is not None:
            return _times(powers[k], terms[0][k // step - 1])
        # Powers above k are zero, and are left out, as their terms may be infinite.
        return jnp.sum(terms[0][:k] * powers[k][:k], axis=0)

    support = walk.analytic_support([x])
    y = output(eqn, inputs, support, compute)
    units = Series(aval, CONSTANT, compute_unit)
    terms = Series(several, CONSTANT, compute_terms)
    h = Series(aval, x.support & ~CONSTANT, compute_scaled)
    kept = aval if step is not None else several
    powers = Series(kept, support & ~CONSTANT, compute_powers)
    return [y]


def _times(term: Term, x: Any) -> Term:
    return None if term is None or x is None else term * x
