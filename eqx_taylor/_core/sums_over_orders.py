"""Sums of products of two arrays of coefficients, over the orders that are known: a
loop in the program, which reads only these."""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .jax import (
    as_type,
    evaluate,
    explicit_sharding,
    filled,
    joint_axes,
    trace,
    unstacked_type,
    vary,
    with_constants,
)
from .storage import policy


# A function of two arrays that is linear in each.
Product = Callable[[Any, Any], Any]
# The number of elementwise products that one pass of the loop adds up. With fewer, the
# sum is loaded and stored more often; with more, more products are wasted in the last
# pass, and the program is longer. (For 200 steps of an MLP 8-24-24-8 at order 20 in one
# program, the CPU time with 2 is 1.7 times as long.)
_AT_A_TIME = 4


def sum_over_orders(
    product: Product, a: Any, b: Any, weights: Any, first: int, last: Any
) -> Any:
    """Computes `Σ_{r=first}^{last} weights[r] product(a[r], b[last - r])`.

    `last` is known only at run time, and may be lower than `first`. Rows of `a` above
    `last` must be zero, because the derivative is a sum over all rows, which has a
    transpose. The weights are not differentiated.
    """
    if product is lax.mul:
        total = _elementwise(a, b, weights, first, last)
        shapes = lax.broadcast_shapes(a.shape[1:], b.shape[1:])
        return lax.reshape(total, shapes) if total.shape != shapes else total
    jaxpr = trace(lambda x, y: [product(x, y)], *map(_row_type, (a, b)))

    # Arrays that the product closes over may be differentiated, too.
    def applied(consts, x, y):
        return evaluate(with_constants(jaxpr, consts), [x, y])[0]

    zero = ft.partial(filled, jaxpr.out_avals[0])
    return _sum(applied, jaxpr.consts, a, b, weights, first, last, zero, 1)


def _elementwise(a, b, weights, first, last):
    kinds = [_row_type(a), _row_type(b)]
    divided = [kind for kind in kinds if explicit_sharding(kind)]
    if a.shape == b.shape and not divided:
        shape = list(a.shape)
        # A long loop over entries is faster than nested short ones.
        while len(shape) > 2 and shape[-1] < policy().long:
            length = shape.pop()
            shape[-1] *= length
        a, b = lax.reshape(a, shape), lax.reshape(b, shape)
    rank = max(a.ndim, b.ndim)
    a, b = (
        lax.reshape(x, (x.shape[0], *(1,) * (rank - x.ndim), *x.shape[1:]))
        for x in (a, b)
    )
    shape, dtype = lax.broadcast_shapes(a.shape[1:], b.shape[1:]), a.dtype

    def zero():
        array = jnp.zeros(shape, dtype)
        array = as_type(divided[0], array) if divided else array
        return vary(array, joint_axes(kinds))

    times = lambda _, x, y: x * y  # noqa: E731
    return _sum(times, [], a, b, weights, first, last, zero, _AT_A_TIME)


def _sum(product, consts, a, b, weights, first, last, zero, at_a_time):
    rows = a.shape[0]

    def by_loop(consts, a, b, weights, last):
        def term(r):
            x = row_of(a, r)
            x = x if weights is None else x * row_of(weights, r)
            return product(consts, x, row_of(b, last - r))

        def step(i, total):
            r = first + at_a_time * i
            terms = [term(r)]
            for c in range(1, at_a_time):
                terms.append(jnp.where(r + c <= last, term(r + c), 0))
            while len(terms) > 1:
                terms = [x + y for x, y in zip(terms[::2], terms[1::2])]
            return total + terms[0]

        passes = (last - first + at_a_time) // at_a_time
        return lax.fori_loop(0, passes, step, zero())

    def over_all_rows(consts, a, b, weights, last):
        before = [(rows, 0, 0)] + [(0, 0, 0)] * (b.ndim - 1)
        b = lax.pad(b, jnp.zeros((), b.dtype), before)
        b = lax.dynamic_slice_in_dim(b, last + 1, rows, allow_negative_indices=False)
        b = lax.rev(b, (0,))
        if weights is not None:
            a = a * lax.reshape(weights, (rows,) + (1,) * (a.ndim - 1))
        products = jax.vmap(lambda x, y: product(consts, x, y))(a[first:], b[first:])
        return jnp.sum(products, axis=0)

    total = jax.custom_jvp(by_loop)

    @total.defjvp
    def _(primals, tangents):
        weights, last = primals[3:]
        _, tangent = jax.jvp(
            lambda consts, a, b: over_all_rows(consts, a, b, weights, last),
            tuple(primals[:3]),
            tuple(tangents[:3]),
        )
        return total(*primals), tangent

    return total(list(consts), a, b, weights, last)


def row_of(array: Any, index: Any) -> Any:
    """Takes a row at an index that is known at run time and is not negative."""
    return lax.dynamic_index_in_dim(
        array, index, keepdims=False, allow_negative_indices=False
    )


def _row_type(array: Any) -> Any:
    return unstacked_type(jax.typeof(array))
