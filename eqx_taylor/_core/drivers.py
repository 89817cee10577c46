"""Drivers: functions that compute the coefficients of a program that has been read.

A walk computes all orders of an equation at once if its inputs are known
(`Walk.apply`). This file has the other ways: order by order, and on trial. Drivers do
not depend on rules, and rules do not depend on the driver.
"""

from collections.abc import Callable, Sequence

from .jax import vary, varying_axes
from .series import Series, Tentative
from .storage import policy
from .terms import Term
from .walk import Walk


def order_by_order(
    walk: Walk,
    unknowns: Sequence[Series],
    images: Sequence[Series],
    lifts: Sequence[Callable[[int, Term], Term]],
) -> None:
    """Computes the series `y` that satisfy `y_{k+1} = lift(k, f_k)`, where `f` is the
    image of `y` under a program, so that `f_k` depends on `y_0` to `y_k`. Each of the
    `unknowns` has its own `lift`. Their first coefficients are known, and `walk` has
    read their `images`."""
    for image in images:
        image.storage.uses += 1
    for k in range(walk.order):
        walk.advance(k)
        for y, image, lift in zip(unknowns, images, lifts):
            term = lift(k, image[k])
            if term is not None:
                term = policy().store(vary(term, varying_axes(y.aval)))
            y.append(term)


def on_trial(
    walk: Walk,
    tentative: Tentative,
    unknowns: Sequence[Series],
    images: Sequence[Series],
    k: int,
) -> list[Term]:
    """Computes coefficient `k` of the images for unknowns whose coefficient `k` is
    zero, and retracts everything that was computed from this assumption."""
    # This coefficient may have been computed before.
    walk.retract(tentative, k)
    for series in unknowns:
        series.make_known(k, None)
    walk.advance(k)
    terms = [image[k] for image in images]
    walk.retract(tentative, k)
    return terms
