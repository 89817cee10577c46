"""The length of the first step, from a short series of its own."""

import math
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .._core.custom_types import Args, PyTree, RealScalarLike
from .last_terms import last_terms
from .ode_jet import solution_series, unit_near, unit_of, usable
from .small_loop import in_small_loop


# The order of the jet from which the first step is chosen. This jet is compiled in
# addition to that of the solver: at higher orders it would take longer to compile than
# it saves.
_ORDER = 4
# The part of the length from this jet that is used: the coefficients of higher orders
# may decay more slowly.
_PART = 0.5


def first_step(
    judge: Callable[..., tuple[Array, Array]],
    terms: diffrax.AbstractTerm,
    t0: RealScalarLike,
    t1: RealScalarLike,
    y0: PyTree[Array],
    args: Args,
    error_order: int,
) -> Array:
    """Returns the length of the first step of a solve from `t0` to `t1`. `judge`
    computes a length from the last two coefficients of a series, as
    [`eqx_taylor.TaylorController`][] does for every step."""
    order = min(error_order - 1, _ORDER)
    # The lengths of steps are not differentiated.
    stop = jax.lax.stop_gradient
    t0, t1 = stop(jnp.asarray(t0)), stop(jnp.asarray(t1))
    y0 = jtu.tree_map(stop, y0)

    def by_series():
        unit = jnp.minimum(unit_near(t1 - t0), _longest_unit(t0, y0, order))
        series = solution_series(terms, t0, unit, y0, args, order)
        leaves, treedef = jtu.tree_flatten(usable(series.stacked()))
        last, values = [c[-2:] for c in leaves], [c[0] for c in leaves]
        last, unit = last_terms(last, values, unit, order)
        last = jtu.tree_unflatten(treedef, last)
        no_error = jtu.tree_map(lambda y: jnp.zeros_like(jnp.abs(y)), y0)
        _, dt = judge(y0, y0, no_error, last, unit, order, error_order)
        return [dt]

    [dt] = in_small_loop(by_series)
    # If the solution is constant, one step is enough, of any length if the end is
    # infinite. Diffrax ends it at `t1`. It must not end there by itself: the derivative
    # of the minimum of two equal times is half of that of each.
    span = jnp.where(jnp.isfinite(t1 - t0), 2 * (t1 - t0), 1)
    return jnp.where(jnp.isfinite(dt) & (dt > 0), _PART * dt, span)


def _longest_unit(t0: Array, y0: PyTree[Array], order: int) -> float:
    """Returns a unit of time whose powers leave room for the rest of a coefficient: 256
    in float32 at order 4. (The whole solve, whose length is the other bound, may have
    any length.)"""
    largest = float(jnp.finfo(unit_of(t0, y0).dtype).max)
    return 2.0 ** (math.log2(largest) // (4 * order))
