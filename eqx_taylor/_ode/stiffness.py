"""A warning if stability, and not accuracy, determines the length of steps."""

import math
import warnings
from collections.abc import Sequence

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array


# The number of steps from one check to the next, so that checks cost next to nothing.
_INTERVAL = 256
# A problem counts as stiff if the ratio of coefficients is below this many times the
# expected one. For stiff problems this is 0.3 to 1.5; for others 3 to 40 at a tolerance
# of 1e-3, and thousands at small tolerances.
_CLOSE = 1.5


def warn_if_stiff(
    series: Sequence[Array], scale: Array, steps: Array, order: int
) -> None:
    r"""Warns, every `_INTERVAL` steps, if the problem looks stiff.

    `series` has the stacked coefficients of each leaf. Multiplied by `scale**k`, they
    have the length of a step as the unit of time.

    If accuracy limits the step $h$, the terms $c_k h^k$ decay from the size of the
    solution to that of the tolerance, over orders of magnitude. If stability does, a
    component of the size of the tolerance determines the steps:
    $c_k h^k = \delta (h\lambda)^k/k!$ with $h|\lambda| = (K!)^{1/K}$, the length at
    which the last term is no longer below the first. This component dominates all but
    the lowest orders, so the ratio of a term in the middle to the last is known:
    $c_m h^m / c_K h^K = K!/m! / (h|\lambda|)^{K - m}$.
    """
    if order < 2 or len(series) == 0:
        return
    middle = order // 2
    reach = math.factorial(order) ** (1 / order)
    expected = math.factorial(order) / math.factorial(middle)
    expected = expected / reach ** (order - middle)

    def look():
        def largest(k):
            return jnp.max(
                jnp.stack([jnp.max(jnp.abs(leaf[k]), initial=0) for leaf in series])
            )

        last = largest(order) * jnp.abs(scale) ** (order - middle)
        stiff = (last > 0) & (largest(middle) < _CLOSE * expected * last)
        jax.debug.callback(_warn, stiff)

    due = steps % _INTERVAL == 0
    jax.lax.cond(eqxi.unvmap_any(due), look, lambda: None)


def _warn(stiff):
    if stiff:
        warnings.warn(
            "TaylorSolver: this problem looks stiff. The steps are as short as an "
            "explicit method needs for stability, and much shorter than the accuracy "
            "requires, so that the solve may take very many (and reach `max_steps`). "
            "Use an implicit solver, such as `diffrax.Kvaerno5`.",
            stacklevel=2,
        )
