"""The jet of order 12 of a tanh MLP, against `jax.experimental.jet`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.jet import jet as jax_jet

import eqx_taylor

from ._report import Figure, main, Report
from ._timing import check_equal, compare, timing_table


ORDER = 12


def problem():
    """The MLP, a batch of inputs, and of directions."""
    key, x_key, v_key = jax.random.split(jax.random.key(0), 3)
    mlp = eqx.nn.MLP(64, 64, 256, 3, activation=jnp.tanh, key=key, dtype=jnp.float32)
    x = jax.random.normal(x_key, (128, 64), jnp.float32)
    v = jax.random.normal(v_key, (128, 64), jnp.float32)
    return jax.vmap(mlp), x, v


def matrix_products(mlp, x, v, order=ORDER):
    """All that a jet has to multiply by the weights, and nothing else: of the straight
    line two coefficients, of every hidden layer all. Less cannot be done."""
    products = []
    for i, layer in enumerate(mlp.layers):
        width = layer.weight.shape[1]
        for k in range(2 if i == 0 else order + 1):
            # Of the right shape, and of each coefficient another.
            coefficient = jnp.resize(x + k * v, (len(x), width))
            products.append(coefficient @ layer.weight.T)
    return products


def by_filter_jet(fun, x, v, order=ORDER):
    return eqx_taylor.filter_jet(fun, (x,), ([v] + [None] * (order - 1),))


def by_jet(fun, x, v, order=ORDER):
    return eqx_taylor.jet(fun, (x,), ([v, *[jnp.zeros_like(x)] * (order - 1)],))


def by_jax_jet(fun, x, v, order=ORDER):
    return jax_jet(fun, (x,), ([v, *[jnp.zeros_like(x)] * (order - 1)],))


def run(seconds: float) -> Report:
    mlp, x, v = problem()
    net = mlp.__wrapped__  # pyright: ignore
    timings = compare(
        [
            ("`eqx_taylor.filter_jet`", lambda x, v: by_filter_jet(mlp, x, v)),
            (
                "`eqx_taylor.jet`, zeros given as arrays",
                lambda x, v: by_jet(mlp, x, v),
            ),
            ("the MLP itself", lambda x, v: mlp(x)),
            (
                "the jet's products with the weights, alone",
                lambda x, v: matrix_products(net, x, v),
            ),
            ("`jax.experimental.jet`", lambda x, v: by_jax_jet(mlp, x, v)),
        ],
        (x, v),
        seconds,
        compiles=3,
    )
    ours, zeros, _, products, theirs = timings
    # Of the roundings of float32, in products of a thousand numbers, twelve times.
    bound = 1e-3
    error = max(
        check_equal(t.result, theirs.result, bound, t.name) for t in (ours, zeros)
    )
    text = f"""
The derivatives of orders 1 to {ORDER} of a tanh MLP 64-256-256-256-64 along a line, at
128 points at once, in float32. The inputs are the point and the direction. The line has
no higher derivatives: `filter_jet` gets `None` for them, and `jax.experimental.jet`,
which has no other way to say so, gets zeros.

{timing_table(timings)}

The products with the weights alone, which every jet needs, take
{products.run / theirs.run:.2f} of the time of `jax.experimental.jet`; this is
a lower bound. The largest relative difference between the results is {error:.1e}.
Compile times are medians of {len(ours.compiles)} compilations, each with the caches of
JAX emptied.
"""
    work = f"jet of order {ORDER}, MLP 64-256-256-256-64, batch 128, float32"
    peer = "`jax.experimental.jet`"
    figures = [
        Figure(
            work,
            "run",
            peer,
            ours.run,
            theirs.run,
            ours_spread=ours.spread,
            theirs_spread=theirs.spread,
            at_most=0.18,
        ),
        Figure(
            work,
            "trace + compile",
            peer,
            ours.compile,
            theirs.compile,
            ours_spread=ours.compile_spread,
            theirs_spread=theirs.compile_spread,
            at_most=0.25,
        ),
    ]
    data = {t.name: dict(run=t.run, compile=t.compile) for t in timings}
    return Report(f"A jet of order {ORDER} of an MLP", text, figures, data)


if __name__ == "__main__":
    main(run, seconds=6)
