"""Random functions of particles, and their Laplacians against the traces of Hessians:

    python tests/fuzz_laplacians.py --programs 2000

Gathers, terms of pairs, sums over particles, products with matrices, concatenations,
loops and branches: what decides which directions an entry depends on. What a seed gives
depends on nothing else: the n-th program of a run is `--first n --programs 1`.
"""

import argparse
import collections
import random
import sys
import time
import traceback
import warnings

import conftest as conftest  # the settings of the tests, before JAX is imported
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eqx_taylor import value_gradient_laplacian


_UNARY = [
    jnp.tanh,
    jnp.sin,
    lambda x: jnp.exp(-x * x),
    lambda x: jnp.sqrt(1 + x**2),
    lambda x: x**3 / (1 + x * x),
    jax.nn.softplus,
    jax.nn.silu,
    jax.nn.relu,
    jnp.abs,
    lambda x: -2.5 * x + 1,
    jax.jit(lambda x: x * jnp.cos(x)),
]


class _Program:
    """A function that a generator of random numbers describes, drawn anew, and the same,
    whenever it is called. `used` are the operations."""

    def __init__(self, seed: str):
        rng = random.Random(seed)
        self.seed = seed
        # Six directions at least: fewer are never sparse.
        self.particles, self.dims = rng.choice(
            [(2, 3), (3, 2), (3, 3), (4, 2), (4, 3), (5, 3), (7, 1), (9, 1)]
        )
        self.is_flat = rng.random() < 0.3
        self.steps = rng.randint(3, 8)
        self.used: list[str] = []

    def point(self):
        rng = np.random.default_rng(list(self.seed.encode()))
        x = rng.normal(size=(self.particles, self.dims))
        return jnp.asarray(x.reshape(-1) if self.is_flat else x)

    def __call__(self, x):
        rng = random.Random(self.seed + " steps")
        numbers = np.random.default_rng(rng.randrange(2**32))
        self.used = []
        pool = [x.reshape(self.particles, self.dims)]
        for _ in range(self.steps):
            name = rng.choice(list(_STEPS))
            y = _STEPS[name](pool, rng, numbers)
            if y is None or y.size == 0 or y.size > 600:
                continue
            self.used.append(name)
            # Bounded, so that roundings stay small.
            pool.append(jnp.tanh(y) if rng.random() < 0.5 else y / (1 + len(pool)))
        chosen = rng.sample(pool[1:] or pool, min(3, max(1, len(pool) - 1)))
        if rng.random() < 0.2:
            return chosen[-1]
        total = sum(jnp.sum(y * numbers.normal(size=y.shape)) for y in chosen)
        return jnp.sin(total) if rng.random() < 0.3 else total


_STEPS = {}


def _step(fun):
    _STEPS[fun.__name__.strip("_")] = fun
    return fun


def _pick(pool, rng, ndim=0):
    found = [y for y in pool if y.ndim >= ndim]
    # The last ones more often.
    return rng.choice(found[-4:]) if found else None


def _needs(ndim):
    def decorator(fun):
        def step(pool, rng, numbers):
            y = _pick(pool, rng, ndim)
            return None if y is None else fun(y, rng, numbers)

        _STEPS[fun.__name__.strip("_")] = step
        return step

    return decorator


@_needs(0)
def _unary(y, rng, numbers):
    return rng.choice(_UNARY)(y)


@_step
def _binary(pool, rng, numbers):
    a, b = _pick(pool, rng), _pick(pool, rng)
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return None
    a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    combine = rng.choice(
        [
            jnp.add,
            jnp.subtract,
            jnp.multiply,
            lambda a, b: a / (2 + b * b),
            jnp.arctan2 if rng.random() < 0.3 else jnp.add,
            jnp.maximum,
            lambda a, b: jnp.where(a > b, a * b, jnp.sin(a)),
        ]
    )
    return combine(a, b)


@_needs(1)
def _matrix(y, rng, numbers):
    return y @ numbers.normal(size=(y.shape[-1], rng.randint(1, 5)))


@_needs(2)
def _matrix_over_particles(y, rng, numbers):
    w = numbers.normal(size=(rng.randint(1, 4), y.shape[0]))
    return jnp.tensordot(w, y, axes=1)


@_needs(1)
def _pairs(y, rng, numbers):
    if rng.random() < 0.5:
        i, j = np.triu_indices(y.shape[0], rng.randint(0, 1))
        return y[i] - y[j] if rng.random() < 0.5 else y[i] * y[j]
    d = y[:, None] - y[None]
    return d if rng.random() < 0.5 else y[:, None] * y[None] + d**2


@_needs(2)
def _distances(y, rng, numbers):
    d = y[:, None] - y[None]
    square = jnp.sum(d * d, -1) + jnp.eye(len(y)).reshape(
        len(y), len(y), *[1] * (y.ndim - 2)
    )
    return jnp.sqrt(square)


@_needs(1)
def _gather(y, rng, numbers):
    axis = rng.randrange(y.ndim)
    shape = rng.choice([(3,), (2, 2), (y.shape[axis],)])
    indices = numbers.integers(-y.shape[axis], y.shape[axis], size=shape)
    if rng.random() < 0.3:
        return jnp.take(y, jnp.asarray(indices), axis=axis, mode="wrap")
    if rng.random() < 0.3:
        return jnp.take(y, indices + 1, axis=axis, mode="fill", fill_value=0.5)
    return jnp.moveaxis(jnp.moveaxis(y, axis, 0)[indices], 0, axis)


@_needs(1)
def _indices_of_jax(y, rng, numbers):
    i, j = jnp.triu_indices(y.shape[0], 1)
    return y[i] * jnp.cos(y[j])


@_needs(1)
def _slice(y, rng, numbers):
    axis = rng.randrange(y.ndim)
    y = jnp.moveaxis(y, axis, 0)
    which = rng.randrange(5)
    if which == 0:
        y = y[:: rng.choice([-1, 2])]
    elif which == 1:
        y = y[rng.randrange(len(y)) :]
    elif which == 2:
        y = jnp.roll(y, rng.randint(-2, 2), axis=0)
    elif which == 3:
        y = lax.dynamic_slice_in_dim(y, rng.randrange(len(y)), max(1, len(y) - 1))
    else:
        return y[rng.randrange(len(y))]
    return jnp.moveaxis(y, 0, axis)


@_needs(1)
def _pad(y, rng, numbers):
    width = [(rng.randint(0, 2), rng.randint(0, 1)) for _ in y.shape]
    value = rng.choice([0.0, 1.0])
    if rng.random() < 0.5:
        return jnp.pad(y, width, constant_values=value)
    return lax.pad(y, value, [(1, -1 if n > 1 else 0, 1) for n in y.shape])


@_needs(1)
def _reshape(y, rng, numbers):
    which = rng.randrange(4)
    if which == 0:
        return y.reshape(-1)
    if which == 1 and y.ndim > 1:
        return y.reshape(-1, y.shape[-1])
    if which == 2 and y.size % 2 == 0:
        return y.reshape(2, -1)
    return jnp.transpose(y, rng.sample(range(y.ndim), y.ndim))


@_step
def _concatenate(pool, rng, numbers):
    a, b = _pick(pool, rng, 1), _pick(pool, rng, 1)
    if a is None or b is None:
        return None
    if a.ndim == b.ndim:
        for axis in rng.sample(range(a.ndim), a.ndim):
            if a.shape[:axis] + a.shape[axis + 1 :] == (
                b.shape[:axis] + b.shape[axis + 1 :]
            ):
                return jnp.concatenate([a, b], axis=axis)
    mean = jnp.mean(b) * jnp.ones((*a.shape[:-1], 2))
    known = jnp.asarray(numbers.normal(size=(*a.shape[:-1], 1)))
    return jnp.concatenate([a, mean, known], axis=-1)


@_needs(1)
def _reduce(y, rng, numbers):
    axis = rng.choice([None, *range(y.ndim)])
    reduce = rng.choice(
        [jnp.sum, jnp.mean, jnp.max, jax.nn.logsumexp, jnp.var, jnp.prod]
    )
    return reduce(y, axis=axis)


@_needs(1)
def _along(y, rng, numbers):
    axis = rng.randrange(y.ndim)
    along = rng.choice([jnp.cumsum, jax.nn.softmax, jnp.sort, jnp.cumprod])
    return along(y, axis=axis)


@_step
def _attention(pool, rng, numbers):
    y = _pick(pool, rng, 2)
    if y is None:
        return None
    y = y.reshape(len(y), -1)
    weights = jax.nn.softmax(jnp.tanh(y @ y.T), axis=-1)
    return jnp.einsum("ij,jk->ik", weights, jnp.sin(y))


@_needs(2)
def _batched_product(y, rng, numbers):
    y = y.reshape(len(y), -1)
    w = numbers.normal(size=(len(y), y.shape[1], 2))
    return jnp.einsum("ij,ijk->ik", y, w)


@_needs(1)
def _scatter(y, rng, numbers):
    indices = numbers.integers(0, 3, size=len(y))
    if rng.random() < 0.5:
        return jax.ops.segment_sum(y, jnp.asarray(indices), 3)
    return y.at[rng.randrange(len(y))].set(0.3)


@_needs(1)
def _layers(y, rng, numbers):
    n = y.shape[-1]
    weights = jnp.asarray(numbers.normal(size=(2, n, n)) / n)

    def layer(h, w):
        return h + jnp.tanh(h @ w), h[..., 0]

    if rng.random() < 0.5:
        layer = jax.checkpoint(layer)
    h, ys = lax.scan(layer, y, weights)
    return h if rng.random() < 0.7 else ys


@_needs(1)
def _over_particles(y, rng, numbers):
    def body(carry, z):
        return jnp.tanh(carry + z), carry * jnp.sin(z)

    last, ys = lax.scan(body, jnp.zeros_like(y[0]), y, reverse=rng.random() < 0.5)
    return ys if rng.random() < 0.5 else last


@_needs(0)
def _loop(y, rng, numbers):
    return lax.fori_loop(0, 2, lambda i, h: jnp.sin(h) + 0.1 * i, y)


@_needs(0)
def _branch(y, rng, numbers):
    which = rng.choice([jnp.sum(y) > 0, jnp.asarray(numbers.normal()) > 0])
    return lax.cond(which, lambda y: jnp.sin(y) * y, lambda y: jnp.flip(y) * 2.0, y)


@_needs(0)
def _remat(y, rng, numbers):
    return jax.checkpoint(lambda y: jnp.sin(y) * jnp.exp(-y * y))(y)


@_needs(1)
def _mapped(y, rng, numbers):
    w = jnp.asarray(numbers.normal(size=y.shape[1:]))
    return jax.vmap(lambda z: jnp.tanh(z) * jnp.sum(jnp.sin(z) * w))(y)


@_needs(2)
def _determinant(y, rng, numbers):
    n = min(y.shape[0], rng.randint(2, 5))
    w = jnp.asarray(numbers.normal(size=(int(np.prod(y.shape[1:])), n)))
    return jnp.linalg.slogdet(y.reshape(len(y), -1)[:n] @ w + 2 * jnp.eye(n))[1]


@_needs(1)
def _split(y, rng, numbers):
    axis = rng.randrange(y.ndim)
    parts = jnp.split(y, [rng.randint(0, y.shape[axis])], axis)
    return parts[rng.randrange(2)]


@_step
def _stack(pool, rng, numbers):
    a = _pick(pool, rng)
    same = [y for y in pool if y.shape == a.shape]
    parts = [rng.choice(same), a, *[jnp.zeros_like(a)] * rng.randint(0, 1)]
    return jnp.stack(parts, rng.randint(0, a.ndim))


@_needs(1)
def _rows(y, rng, numbers):
    """Of a loop in Python, over slices of an array."""
    rows = jnp.unstack(y, axis=rng.randrange(y.ndim))
    return sum(np.cos(i) * jnp.sin(row) for i, row in enumerate(rows))


@_needs(1)
def _tile(y, rng, numbers):
    tiled = jnp.tile(y, (*[1] * (y.ndim - 1), 2))
    return tiled * numbers.normal(size=tiled.shape)


@_needs(1)
def _mask(y, rng, numbers):
    return jnp.where(numbers.random(size=y.shape) < 0.5, y, y * 0.1)


class Mismatch(Exception):
    pass


def check_laplacian(seed: str) -> list[str]:
    """Compares value, gradient and Laplacian. Returns the operations."""
    program = _Program(seed)
    x = program.point()

    def nested(x):
        def with_slopes(x):
            y = program(x)
            return y, y

        slopes = lambda x: jax.jacfwd(with_slopes, has_aux=True)(x)  # noqa: E731
        second, (first, y) = jax.jacfwd(
            lambda x: (lambda s, y: (s, (s, y)))(*slopes(x)), has_aux=True
        )(x)
        second = second.reshape(*y.shape, x.size, x.size)
        return y, first, jnp.trace(second, axis1=-2, axis2=-1)

    expected = jax.jit(nested)(x)
    if not all(np.all(np.isfinite(part)) for part in expected):
        return []
    actual = jax.jit(lambda x: value_gradient_laplacian(program, x))(x)
    # Terms of either sign cancel, whose size is that of the slopes and their squares.
    slope = np.max(np.abs(expected[1]))
    scale = 1 + slope + slope**2
    for what, a, e in zip(("value", "gradient", "Laplacian"), actual, expected):
        error = np.max(np.abs(a - e)) / (scale + np.max(np.abs(e)))
        if not error < 1e-12:
            raise Mismatch(f"{what} is off by {error:.1e}: {program.used}")
    return program.used


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    args = parser.parse_args(argv)
    warnings.simplefilter("error")
    jax.config.update("jax_disable_most_optimizations", True)
    counts: collections.Counter[str] = collections.Counter()
    compared = wrong = 0
    start = time.monotonic()
    for n in range(args.first, args.first + args.programs):
        try:
            used = check_laplacian(f"{args.seed} {n}")
            compared += bool(used)
            counts.update(used)
        except Exception:
            wrong += 1
            print(f"program {n} of seed {args.seed}:")
            traceback.print_exc(limit=-4, file=sys.stdout)
        if n % 200 == 199:
            jax.clear_caches()
            print(f"{n + 1} programs, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{compared} programs compared, {wrong} wrong; operations: {dict(counts)}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
