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


# The order of the jet that the first step is chosen by. It is compiled besides that of
# the solver, and higher orders take longer to compile than they are worth.
_ORDER = 4
# The part of the step it asks for that is made: higher orders may fall more slowly.
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
    """Returns the length of the first step of a solve from `t0` to `t1`. `judge` tells
    the length by the last two coefficients of a series, as
    [`eqx_taylor.TaylorController`][] judges every step."""
    order = min(error_order - 1, _ORDER)
    # The step is a detail of how the solution is computed: nothing is differentiated.
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
    # One step will do where nothing moves: of some length, if there is no end. Diffrax
    # ends it at `t1`. If it ended there by itself, the derivative of the smaller of two
    # equal times would be half of that of either.
    span = jnp.where(jnp.isfinite(t1 - t0), 2 * (t1 - t0), 1)
    return jnp.where(jnp.isfinite(dt) & (dt > 0), _PART * dt, span)


def _longest_unit(t0: Array, y0: PyTree[Array], order: int) -> float:
    """Returns a unit of time whose powers leave room for the rest of a coefficient: at
    order 4, 256 in float32. The length of the whole solve may be any."""
    largest = float(jnp.finfo(unit_of(t0, y0).dtype).max)
    return 2.0 ** (math.log2(largest) // (4 * order))
