"""The jet of order 12 of a tanh MLP, against `jax.experimental.jet`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet as jax_jet

import eqx_taylor

from ._timing import compare, print_machine, print_table


ORDER = 12


def main():
    print_machine()
    key, x_key, v_key = jax.random.split(jax.random.key(0), 3)
    mlp = jax.vmap(eqx.nn.MLP(64, 64, 256, 3, activation=jnp.tanh, key=key))
    x = jax.random.normal(x_key, (128, 64), jnp.float32)
    v = jax.random.normal(v_key, (128, 64), jnp.float32)

    def ours(x, v):
        zeros = [jnp.zeros_like(x)] * (ORDER - 1)
        return eqx_taylor.jet(mlp, (x,), ([v, *zeros],))

    def ours_filter(x, v):
        y, terms = eqx_taylor.filter_jet(mlp, (x,), ([v] + [None] * (ORDER - 1),))
        return y, terms

    def theirs(x, v):
        zeros = [jnp.zeros_like(x)] * (ORDER - 1)
        return jax_jet(mlp, (x,), ([v, *zeros],))

    timings = compare(
        [
            ("eqx_taylor.filter_jet", ours_filter),
            ("eqx_taylor.jet, zeros given as arrays", ours),
            ("the MLP itself", lambda x, v: mlp(x)),
            ("jax.experimental.jet", theirs),
        ],
        (x, v),
        seconds=6,
    )
    print_table(
        f"Jet of order {ORDER}: MLP 64-256-256-256-64, tanh, batch 128, float32",
        timings,
    )
    a, b, _, c = [jax.tree.leaves(timing.result) for timing in timings]
    for other in (a, b):
        error = max(
            float(np.max(np.abs(p - q)) / np.max(np.abs(q))) for p, q in zip(other, c)
        )
        print(f"\nLargest relative difference of a coefficient: {error:.1e}")


if __name__ == "__main__":
    main()
