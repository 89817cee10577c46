"""Drivers: they compute the coefficients of a program that was read, in some order.

A walk takes all orders of an equation at once where they can be had (`Walk.apply`).
Here are the other ways: order by order, and on trial. None of them knows a rule, and no
rule knows which of them drives it.
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
    """Finds series `y` that an equation defines by what a program makes of them:
    `y_{k+1} = lift(k, f_k)`, where `f_k` depends on `y_0` to `y_k`, and each of the
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
    zero, and takes back what was computed from this."""
    # This coefficient may have been asked for before.
    walk.retract(tentative, k)
    for series in unknowns:
        series.make_known(k, None)
    walk.advance(k)
    terms = [image[k] for image in images]
    walk.retract(tentative, k)
    return terms
