"""What was tried for the engine and did not help, so that nobody has to try again."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from eqx_taylor import ode_jet

from ._report import Figure, main, Report
from ._timing import compare, Timing
from .jet_mlp import ORDER


TITLE = "What did not help"
TEXT = f"""
- **One product for all orders**: the products of the {ORDER + 1} coefficients of
  a layer's input, of shape (128, 256) in float32, with its weights, stacked in one
  product or computed one by one.
- **Tiles**: the recurrence of `tanh` for these coefficients, over whole arrays, or over
  8 parts one after another, which stay in the cache.
- **Tracing**: the part of the time until `ode_jet` of order 20 of an MLP 64-256-256-64
  is compiled that goes to reading the field and emitting all orders. (A cache of traces
  could save no more than that.)

"Ours" is what was tried, "peer" is what is used.
"""


def products_stacked(terms: Sequence[Any], weights: Any) -> Any:
    return jnp.concatenate(terms) @ weights


def products_apart(terms: Sequence[Any], weights: Any) -> Any:
    return [term @ weights for term in terms]


def tanh_series(terms: Sequence[Any], weights: Any) -> list[Any]:
    del weights
    y: list[Any] = [jnp.tanh(terms[0])]
    slope: list[Any] = [1 - y[0] ** 2]
    for k in range(1, len(terms)):
        y.append(sum(j / k * terms[j] * slope[k - j] for j in range(1, k + 1)))
        slope.append(-sum(y[j] * y[k - j] for j in range(k + 1)))
    return y


def tanh_in_tiles(terms: Sequence[Any], weights: Any) -> Any:
    tiles = jnp.stack(terms).reshape(len(terms), 8, -1).swapaxes(0, 1)
    return jax.lax.map(lambda tile: jnp.stack(tanh_series(list(tile), weights)), tiles)


def _tracing() -> tuple[float, float]:
    """Seconds of tracing, and of everything until there is an executable."""
    net = eqx.nn.MLP(64, 64, 256, 2, activation=jnp.tanh, key=jax.random.key(0))
    y = jnp.linspace(-1, 1, 64)

    def timed() -> tuple[float, float]:
        jax.clear_caches()
        fun = jax.jit(lambda y: ode_jet(lambda t, y, _: net(y), 0.0, y, order=20))
        start = time.perf_counter()
        traced = fun.trace(y)
        middle = time.perf_counter()
        traced.lower().compile()
        return middle - start, time.perf_counter() - start

    timed()  # The first time, Python's and JAX's own caches are filled.
    return timed()


def _figure(work: str, tried: Timing, done: Timing) -> Figure:
    return Figure(
        work, "run", done.name, tried.run, done.run, "s", tried.spread, done.spread
    )


def run(seconds: float) -> Report:
    keys = jax.random.split(jax.random.key(0), ORDER + 2)
    *terms, weights = [jax.random.normal(key, (128, 256)) for key in keys[:-1]] + [
        jax.random.normal(keys[-1], (256, 256))
    ]

    def pair(tried: tuple[str, Callable], done: tuple[str, Callable]) -> list[Timing]:
        return compare([tried, done], (terms, weights), seconds)

    stacked = pair(("stacked", products_stacked), ("one each", products_apart))
    tiles = pair(("tiles", tanh_in_tiles), ("whole arrays", tanh_series))
    tracing, everything = _tracing()
    figures = [
        _figure("products with weights in one", *stacked),
        _figure("recurrence of tanh in tiles", *tiles),
        Figure("`ode_jet` of order 20", "trace", "and compile", tracing, everything),
    ]
    return Report(TITLE, TEXT, figures)


if __name__ == "__main__":
    main(run)
