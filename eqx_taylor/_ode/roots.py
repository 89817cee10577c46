"""The first sign change of a polynomial after a point.

Polynomials on `[0, 1]` are given by their coefficients. On a part of this interval, the
coefficients in Bernstein's basis bound the polynomial. The number of sign changes among
them is at least the number of roots (Descartes' rule): if it is zero, there is no root,
and if it is one, there is exactly one. The part is halved until one of these is the
case, or until it is as short as the accuracy of a root.
"""

import functools as ft
import math
from typing import NamedTuple

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core.polynomial import evaluate, evaluate_derivative
from .._core.units import power_of_two


# The rounding error of a polynomial, in units of the last place of the sum of its
# terms. Chosen: the error of Horner's rule is at most twice the order, and hardly ever
# above the square root of that; the rounding of the coefficients adds to it.
NOISE = 16
# Bounds on the number of passes, against loops that never end. For a million
# polynomials of degree 20 with clusters of roots (`tests/test_roots.py` has some of
# them), the longest search took 230 passes.
_MOST_PARTS = 2000
_MOST_STEPS = 100


class Crossing(NamedTuple):
    """The first change of sign of each of several polynomials.

    **Fields:**

    - `root`: the root; infinity if there is none.
    - `behind`: the first point after the root where the sign has certainly changed, by
        more than rounding errors; infinity if there is none.
    """

    root: Float[Array, " rows"]
    behind: Float[Array, " rows"]


def normalised(
    polynomials: Float[Array, "rows terms"],
) -> tuple[Float[Array, "rows terms"], Float[Array, " rows"]]:
    """Multiplies each polynomial by a power of two, so that its largest coefficient is
    near 1, and sums neither overflow nor underflow. Also returns these factors."""
    size = jnp.max(jnp.abs(polynomials), axis=1)
    is_size = (size > 0) & jnp.isfinite(size)
    factors = 1 / power_of_two(jnp.where(is_size, size, 1))
    return polynomials * factors[:, None], factors


def noise_of(polynomials: Float[Array, "rows terms"]) -> Float[Array, " rows"]:
    """Bounds the rounding errors of values of `normalised` polynomials on `[0, 1]`."""
    finfo = jnp.finfo(polynomials.dtype)
    size = jnp.sum(jnp.abs(polynomials), axis=1)
    return NOISE * float(finfo.eps) * size + float(finfo.tiny)


def is_far_from_zero(terms: list[Array], margin: Array | float = 0.0) -> Array:
    """Returns whether a polynomial certainly stays away from zero on `[0, 1]`, by more
    than the `margin` and rounding errors. This takes a few operations, and is true for
    most polynomials without a root."""
    start, *rest = terms
    rest = list(map(jnp.abs, rest))
    size = jnp.abs(start)
    least = size - ft.reduce(jnp.add, rest[1:], jnp.zeros_like(size))
    if rest:
        # The sum of the first two terms is smallest at one of the ends.
        least = least + jnp.minimum(jnp.sign(start) * terms[1], 0)
    noise = NOISE * float(jnp.finfo(size.dtype).eps)
    return least - margin > noise * ft.reduce(jnp.add, rest, size)


def departure(
    polynomials: Float[Array, "rows terms"], noise: Float[Array, " rows"]
) -> Float[Array, " rows"]:
    """Returns the sign of each polynomial at 0; or just after 0, if its value there is
    below rounding errors; or 0, if all its terms are."""
    sign = jnp.zeros_like(noise)
    for term in reversed(list(polynomials.T)):
        sign = jnp.where(jnp.abs(term) > noise, jnp.sign(term), sign)
    return sign


def first_crossing(
    polynomials: Float[Array, "rows terms"],
    side: Float[Array, " rows"],
    start: Float[Array, " rows"],
    noise: Float[Array, " rows"],
) -> Crossing:
    """Finds, for each polynomial, the first point after its `start` at which it leaves
    its `side` of zero. The side is -1 or 1, or 0 for polynomials that are ignored. Only
    the first crossing of all rows is certain to be found: later ones may be left out.

    A polynomial leaves its side when it is on the other one by more than the `noise`,
    so that rounding errors cause no crossings. A polynomial that comes closer to zero
    than that, and turns back, does not leave its side.
    """
    # This has no derivative.
    polynomials, side, start, noise = jax.lax.stop_gradient(
        (polynomials, side, start, noise)
    )
    # `above` is positive up to the crossing.
    is_looked_at = side != 0
    above = polynomials * side[:, None]
    above = jnp.concatenate([above[:, :1] + noise[:, None], above[:, 1:]], axis=1)
    above = jnp.where(is_looked_at[:, None], above, _one_like(above))
    # A polynomial that is not finite has no roots that can be found.
    finite = jnp.all(jnp.isfinite(above), axis=1, keepdims=True)
    above = jnp.where(finite, above, _one_like(above))
    # Most polynomials have no root: their coefficients in Bernstein's basis are all
    # positive.
    clear = jnp.all(_bernstein(above) > 0, axis=1)
    nothing = jnp.full_like(noise, jnp.inf)
    return jax.lax.cond(
        eqxi.unvmap_any(~jnp.all(clear)),
        lambda: _search(above, start, noise, clear),
        lambda: Crossing(nothing, nothing),
    )


def _search(above: Array, start: Array, noise: Array, clear: Array) -> Crossing:
    left, right = _isolate(above, jnp.where(clear, 1, start.astype(above.dtype)))
    # Refines the roots of the polynomial itself, and of it plus the noise.
    itself = jnp.concatenate([above[:, :1] - noise[:, None], above[:, 1:]], axis=1)
    right = jnp.where(evaluate(list(above.T), left) <= 0, left, right)
    left, right = jnp.tile(left, 2), jnp.tile(right, 2)
    roots = _refine(jnp.concatenate([itself, above]), left, right)
    root, behind = jnp.split(roots, 2)
    return Crossing(jnp.minimum(root, behind), behind)


def _one_like(polynomials: Array) -> Array:
    """Returns the polynomial 1."""
    return jnp.zeros_like(polynomials).at[:, 0].set(1)


class _Search(NamedTuple):
    """The part `[left, left + width]` in which each polynomial is searched. `right` is
    the end of a part in which one root has been isolated, or infinity."""

    left: Array
    width: Array
    right: Array
    passes: Array


def _isolate(above: Array, start: Array) -> tuple[Array, Array]:
    """Finds, for each polynomial that has roots in `[start, 1]`, or may have some, a
    part that contains the first root and no other. `right` is infinite if there is
    none."""
    dtype = above.dtype
    least = math.sqrt(float(jnp.finfo(dtype).eps)) / 8

    def is_open(search):
        # Nothing needs to be found after the first root of all polynomials.
        bound = jnp.min(search.right, initial=jnp.inf)
        return jnp.isinf(search.right) & (search.left < jnp.minimum(bound, 1))

    def cond(search):
        return jnp.any(is_open(search)) & (search.passes < _MOST_PARTS)

    def body(search):
        left, width, right, passes = search
        end = jnp.minimum(left + width, 1)
        b = _bernstein(restricted(above, left, end - left))
        positive = b > 0
        clear = jnp.all(positive, axis=1)
        changes = jnp.sum(positive[:, 1:] != positive[:, :-1], axis=1)
        # If the polynomial begins below zero, the crossing is there.
        single = (changes == 1) | ~positive[:, 0]
        # If such a short part does not isolate a root, there is a cluster of roots that
        # rounding errors hide, or none.
        short = end - left <= least
        found = (single | short) & ~positive[:, -1] | ~positive[:, 0]
        passed = clear | (short & ~found)
        active = is_open(search)
        right = jnp.where(active & found, end, right)
        left = jnp.where(active & passed, end, left)
        width = jnp.where(passed, 2 * width, width / 2)
        return _Search(left, jnp.where(active, width, search.width), right, passes + 1)

    nothing = jnp.full(above.shape[:1], jnp.inf, dtype)
    first = _Search(start, 1 - start, nothing, jnp.array(0))
    search = jax.lax.while_loop(cond, body, first)
    return search.left, search.right


def _refine(above: Array, left: Array, right: Array) -> Array:
    """Finds the root in each part, by Newton's method within a bracket. The value at
    the result is not positive. The result is infinite if `right` is."""
    eps = float(jnp.finfo(above.dtype).eps)
    terms = list(above.T)
    exists = jnp.isfinite(right)

    def is_open(low, high):
        return exists & (high - low > eps * high)

    def cond(carry):
        low, high, _, steps = carry
        return jnp.any(is_open(low, high)) & (steps < _MOST_STEPS)

    def body(carry):
        low, high, x, steps = carry
        active = is_open(low, high)
        value, slope = evaluate(terms, x), evaluate_derivative(terms, x)
        is_above = value > 0
        new_low = jnp.where(is_above, x, low)
        new_high = jnp.where(is_above, high, x)
        # The point is slightly beyond that of Newton's method, so that the next one is
        # on the other side of the root, and both ends of the bracket approach it.
        step = -value * x / jnp.where(slope == 0, 1, slope)
        over = jnp.where(is_above, eps, -eps) * x
        near = x + step + jnp.where(jnp.abs(step) < 1e-3 * (high - low), over, 0)
        inside = (near > new_low) & (near < new_high) & (slope < 0)
        # Every third step halves the bracket in any case.
        halve = ~inside | (steps % 3 == 2)
        x_new = jnp.where(halve, (new_low + new_high) / 2, near)
        # If there is no floating-point number between the ends, the search is over.
        stuck = (x_new <= new_low) | (x_new >= new_high)
        new_low = jnp.where(stuck, new_high, new_low)
        return (
            jnp.where(active, new_low, low),
            jnp.where(active, new_high, high),
            jnp.where(active, x_new, x),
            steps + 1,
        )

    high = jnp.where(exists, right, 1)
    first = left, high, (left + high) / 2, jnp.array(0)
    _, high, _, _ = jax.lax.while_loop(cond, body, first)
    return jnp.where(exists, high, jnp.inf)


# -- Bernstein's basis

# Both transformations are loops over additions. Products with their matrices take as
# long, and need arrays with three axes, which are too large for XLA to compile the loop
# of a small solve to one function.


def _bernstein(terms: Array) -> Array:
    """Returns the coefficients of polynomials in Bernstein's basis on `[0, 1]`."""
    order = terms.shape[1] - 1
    weights = np.array([1 / math.comb(order, j) for j in range(order + 1)])
    index = np.arange(order + 1)[None, :]

    # Pascal's triangle, `Σ_j binomial(i, j) terms[j]`, is a product of sums of
    # neighbours.
    def add_neighbours(m, b):
        return b + jnp.where(jnp.asarray(index) > m, _next(b), 0)

    scaled = terms * jnp.asarray(weights[None], terms.dtype)
    return jax.lax.fori_loop(0, order, add_neighbours, scaled)


def restricted(terms: Array, left: Array, width: Array) -> Array:
    """Substitutes `left + width u` for the variable of polynomials, and returns the
    polynomials in `u`. Coefficients are along the last axis. `left` and `width` have
    the other axes, or the first few of them."""
    order = terms.shape[-1] - 1
    axes = [1] * (terms.ndim - left.ndim)
    left, width = (x.reshape(*x.shape, *axes) for x in (left, width))
    first = jnp.asarray(np.arange(order + 1) == 0, terms.dtype)
    first = first.reshape(*[1] * (terms.ndim - 1), order + 1)

    # Horner's rule, with polynomials in `u`.
    def add_term(i, p):
        term = jax.lax.dynamic_slice_in_dim(terms, order - i, 1, -1)
        return left * p + width * _next(p) + first * term

    return jax.lax.fori_loop(0, order + 1, add_term, jnp.zeros_like(terms))


def _next(terms: Array) -> Array:
    """Shifts the coefficients by one place: multiplies by the variable."""
    return jnp.concatenate([jnp.zeros_like(terms[..., :1]), terms[..., :-1]], axis=-1)
