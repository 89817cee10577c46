"""Programs with loops, branches and calls: from an array of shape (3,) to one like it,
and smooth."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def scan(x):
    def body(carry, _):
        carry = jnp.sin(carry) + carry * x
        return carry, carry**2

    carry, ys = lax.scan(body, x, None, length=3)
    return carry + jnp.sum(ys, 0)


def scan_reverse(x):
    """With constants, inputs, a PyTree of a carry, and integers in it."""
    scale = jnp.array([0.3, 0.5, 0.7])

    def body(carry, inputs):
        count, parts = carry
        step, (rows, number) = inputs
        parts = dict(a=parts["b"] * scale, b=jnp.tanh(parts["a"] + rows * step))
        return (count + number, parts), (parts["b"] * step, count)

    xs = (jnp.linspace(0.0, 1.0, 4), (jnp.stack([x, x * x, -x, x]), jnp.arange(4)))
    init = (jnp.array(1), dict(a=x, b=jnp.ones(3)))
    (count, parts), (ys, counts) = lax.scan(body, init, xs, reverse=True)
    weights = counts.astype(x.dtype)[:, None]
    return parts["a"] + parts["b"] * count.astype(x.dtype) + jnp.sum(ys * weights, 0)


def scan_unrolled(x):
    def body(carry, row):
        return carry * row + 1, None

    return lax.scan(body, x, jnp.stack([x, 2 * x, x + 1]), unroll=2)[0]


def scan_swapping(x):
    """What is carried starts to move in the second turn, then in the third."""

    def body(carry, _):
        a, b, c = carry
        return (jnp.cos(b), c, a * x), None

    return sum(lax.scan(body, (jnp.ones(3),) * 3, None, length=4)[0])


def scan_of_scan(x):
    def inner(carry, row):
        return jnp.sin(carry) * row, carry

    def outer(carry, number):
        carry, ys = lax.scan(inner, carry, jnp.stack([x, x + number]))
        return carry + jnp.sum(ys, 0), None

    return lax.scan(outer, x, jnp.arange(2.0))[0]


def while_loop(x):
    """The number of turns depends on the values."""

    def cond(carry):
        return jnp.sum(carry[1] ** 2) < 20

    def body(carry):
        n, y = carry
        return n + 1, jnp.sin(y) + 1.5 * y + x

    n, y = lax.while_loop(cond, body, (0, x + 0.5))
    return y * n


def while_of_while(x):
    def body(carry):
        n, y = carry
        y = lax.while_loop(lambda z: jnp.max(z) < n, lambda z: z + jnp.exp(x), y)
        return n + 1, y

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0.0, x))[1]


def fori_loop(x):
    return lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y) * x + i.astype(x.dtype), x)


def fori_loop_of_unknown_length(x):
    stop = jnp.sum(x > 0)
    return lax.fori_loop(0, stop, lambda i, y: jnp.tanh(y) * x + i.astype(x.dtype), x)


def cond(x):
    # Other branches than the one taken divide by zero.
    return lax.cond(jnp.sum(x) > 0, jnp.sin, lambda x: x / jnp.zeros(3), x)


def switch(x):
    y = jnp.ones(3)
    branches = [
        lambda x, y: (y, y),
        lambda x, y: (x * x, y),
        lambda x, y: (x, jnp.exp(x)),
    ]
    index = jnp.sum(x > 0)
    a, b = lax.switch(index, branches, x, y)
    return a * b + x


def switch_in_scan(x):
    def body(carry, i):
        branches = [jnp.sin, lambda y: y * x, lambda y: y]
        return lax.switch(i, branches, carry) + x, i

    return lax.scan(body, x, jnp.arange(3))[0]


def scan_in_cond(x):
    return lax.cond(x[0] > 0, scan, jnp.cos, x) * x


def while_in_scan(x):
    def body(carry, row):
        return while_loop(carry) / 10 + row, None

    return lax.scan(body, x, jnp.stack([x, x]))[0]


def all_three(x):
    """A scan, a while_loop with a data-dependent count, and a cond in it, in one."""

    def body(carry):
        n, y = carry
        y = lax.cond(jnp.sum(y) > 2, lambda y: jnp.sin(y) + 2 * y, lambda y: 1.5 * y, y)
        return n + 1, y + x / 3

    _, y = lax.while_loop(lambda c: jnp.sum(c[1] ** 2) < 30, body, (0, x))
    return scan(y / 4) + cond(x)


def while_of_each(x):
    """Under `vmap` the predicate has an axis, and each goes on for as long as it must."""

    def one(x, stop):
        return lax.while_loop(
            lambda carry: carry[0] < stop,
            lambda carry: (carry[0] + 1, jnp.sin(carry[1]) + 1.5 * carry[1] + x),
            (0, x),
        )[1]

    return jax.vmap(one)(x, jnp.array([2, 0, 3])) + jax.vmap(
        lambda x: lax.while_loop(lambda y: y < 2, lambda y: 1.5 * y + jnp.exp(-x), x)
    )(x)


def while_of_each_of_each(x):
    def one(x, y):
        return lax.while_loop(lambda z: z * z < 9, lambda z: 1.7 * z + x * y, x + 1.1)

    return jnp.sum(jax.vmap(jax.vmap(one, (None, 0)), (0, None))(x, x**2), 0)


def scan_of_each(x):
    return jax.vmap(lambda y: scan(jnp.stack([y, y * x[0]]))[0])(x)


def associative_scan(x):
    def combine(a, b):
        return a[0] * b[0], a[1] * b[0] + b[1]

    return lax.associative_scan(combine, (jnp.cos(x), x), reverse=True)[1]


def interp(x):
    nodes = jnp.array([-2.0, -0.5, 0.1, 0.6, 2.0]) + 0.1 * jnp.sin(x[0])
    return jnp.interp(x, nodes, nodes**2 * x[1])


def lax_map(x):
    return lax.map(lambda y: jnp.sin(y) * x[0] + y, x, batch_size=2)


def platform_dependent(x):
    return lax.platform_dependent(x, cpu=jnp.sin, cuda=jnp.sin, default=jnp.cos) * x


def under_jit(x):
    return jax.jit(lambda x, y: jnp.sin(x) * y)(x, jax.jit(jnp.cos)(x))


def under_checkpoint(x):
    return jax.checkpoint(lambda x: jnp.sin(jnp.cos(x) * x))(x) + x


def checkpoint_in_scan(x):
    body = jax.checkpoint(lambda carry, row: (jnp.sin(carry) * row, carry))
    carry, ys = lax.scan(body, x, jnp.stack([x, x + 1]))
    return carry + ys[1]


@jax.custom_vjp
def _with_vjp(x, n):
    return jnp.sin(x) * n


_with_vjp.defvjp(lambda x, n: (_with_vjp(x, n), x), lambda x, g: (jnp.cos(x) * g, None))


PROGRAMS = [
    scan, scan_reverse, scan_unrolled, scan_swapping, scan_of_scan, while_loop,
    while_of_while, fori_loop, fori_loop_of_unknown_length, cond, switch, switch_in_scan,
    scan_in_cond, while_in_scan, all_three, while_of_each, while_of_each_of_each,
    scan_of_each, associative_scan, interp, lax_map, platform_dependent, under_jit, under_checkpoint,
    checkpoint_in_scan,
]  # fmt: skip


# A point to try them at.
X = np.array([0.3, -0.7, 0.9])
