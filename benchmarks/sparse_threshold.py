"""Where sparse stacks of directions stop paying: the thresholds of `_sums/stack.py`.

    python -m benchmarks.sparse_threshold

The Laplacian of a network for every particle, which sees its `m` neighbours of `n`,
with sparse stacks and with dense ones, in turns: the ratio of their times by the part
of all directions that an entry depends on, m / n. That of functions of pairs of a few
particles, which bring different directions together; and that of two particles with few
coordinates, by the number of directions.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import laplacian
from eqx_taylor._sums import stack

from ._particles import FUNCTIONS, weights
from ._timing import compare


WIDTH, LAYERS = 32, 3
KEY = jax.random.key(1)


@contextlib.contextmanager
def thresholds(part: float, few: int):
    before = stack._DENSE, stack._FEW
    stack._DENSE, stack._FEW = part, few
    try:
        yield
    finally:
        stack._DENSE, stack._FEW = before


def of_neighbours(n: int, m: int, dims: int):
    """A network of the coordinates of m particles, for each of n."""
    rng = np.random.default_rng(0)
    near = (np.arange(n)[:, None] + np.arange(m)) % n
    first = jnp.asarray(rng.normal(size=(m * dims, WIDTH)), jnp.float32)
    rest = jnp.asarray(rng.normal(size=(LAYERS, WIDTH, WIDTH)) / 6, jnp.float32)

    def fun(x):
        h = jnp.tanh(x[near].reshape(n, -1) @ first)
        for w in rest:
            h = jnp.tanh(h @ w)
        return jnp.sum(h)

    return fun, jnp.asarray(rng.normal(size=(n, dims)), jnp.float32)


def ratio(fun, x, seconds: float) -> tuple[float, float]:
    """Of the least times, and of the medians: sparse to dense."""

    def by(part, few):
        def run(x):
            with thresholds(part, few):
                return laplacian(fun, x)

        return run

    sparse, dense = compare(
        [("sparse", by(1.0, 0)), ("dense", by(0.0, 0))], (x,), seconds
    )
    least = np.min(sparse.runs) / np.min(dense.runs)
    return float(least), sparse.run / dense.run


def main(seconds: float = 0.5) -> None:
    print("| n | part of all directions | sparse : dense, least times | medians |")
    print("|---:|---:|---:|---:|")
    for n in (10, 20):
        for m in (1, 2, 4, 5, 6, 7, 8, 9):
            m = m * n // 10
            least, median = ratio(*of_neighbours(n, m, 3), seconds)
            print(f"| {n} | {m / n:.2f} | {least:.2f} | {median:.2f} |", flush=True)
    print("\n| function | n | part | sparse : dense, least times | medians |")
    print("|---|---:|---:|---:|---:|")
    w = weights(jnp.float32)
    for name in ("pairs", "messages"):
        for n in (3, 4, 5):
            fun = lambda x, name=name: FUNCTIONS[name](w, x)  # noqa: E731
            least, median = ratio(fun, jax.random.normal(KEY, (n, 3)), seconds)
            print(f"| {name} | {n} | {2 / n:.2f} | {least:.2f} | {median:.2f} |")
    print("\n| directions of two particles | sparse : dense, least times | medians |")
    print("|---:|---:|---:|")
    for dims in (1, 2, 3, 4, 6):
        fun, x = of_neighbours(2, 1, dims)
        least, median = ratio(fun, x, seconds)
        print(f"| {2 * dims} | {least:.2f} | {median:.2f} |", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
