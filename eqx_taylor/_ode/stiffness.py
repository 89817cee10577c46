"""A warning when steps are as short as they are for stability, not for accuracy."""

import math
import warnings
from collections.abc import Sequence

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array


# Accepted steps from one look to the next: what it costs must not be felt.
_INTERVAL = 256
# A ratio of coefficients below so many times that of a stiff problem is one: those of
# stiff problems are 0.3 to 1.5; of others 3 to 40 with a tolerance of 1e-3, and
# thousands with small tolerances.
_CLOSE = 1.5


def warn_if_stiff(
    series: Sequence[Array], scale: Array, steps: Array, order: int
) -> None:
    r"""Warns, every so many steps, if the problem looks stiff.

    `series` are the stacked coefficients of each leaf, which belong to the length of a
    step where they are multiplied by `scale**k`.

    Where accuracy limits the step $h$, the terms $c_k h^k$ fall from the size of the
    solution to that of the tolerance, orders of magnitude between them. Where stability
    does, a component of the size of the tolerance is what steps are made for:
    $c_k h^k = \delta (h\lambda)^k/k!$ with $h|\lambda| = (K!)^{1/K}$, the length at
    which the last term is no longer below the first. It dominates all but the lowest
    orders, and the ratio of a term in the middle to the last is known:
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
            "TaylorSolver: this problem looks stiff. Its steps are as short as an "
            "explicit method needs to be stable, and much shorter than the accuracy "
            "asks for, so that it may take very many (and reach `max_steps`). Use an "
            "implicit solver, such as `diffrax.Kvaerno5`.",
            stacklevel=2,
        )
