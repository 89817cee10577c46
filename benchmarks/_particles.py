"""Functions of particles, whose Laplacians need few of all directions: for
`laplacian.py`, and for tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


WIDTH = 32


def weights(dtype):
    rng = np.random.default_rng(0)

    def matrix(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), dtype)

    return dict(
        one=matrix(3, WIDTH),
        pair=matrix(4, WIDTH),
        two=matrix(WIDTH, WIDTH),
        three=matrix(WIDTH, WIDTH),
        joint=matrix(2 * WIDTH, WIDTH),
        last=matrix(WIDTH),
    )


def one_body(w, x):
    h = jnp.tanh(jnp.tanh(x @ w["one"]) @ w["two"])
    return jnp.sum(jnp.tanh(h @ w["three"]) @ w["last"])


def mean_field(w, x):
    h = jnp.tanh(jnp.tanh(x @ w["one"]) @ w["two"])
    mean = jnp.broadcast_to(jnp.mean(h, axis=0), h.shape)
    h = jnp.tanh(jnp.concatenate([h, mean], axis=-1) @ w["joint"])
    return jnp.sum(h @ w["last"])


def _of_pairs(w, d, square):
    h = jnp.concatenate([d, jnp.sqrt(square)[..., None]], axis=-1)
    return jnp.tanh(jnp.tanh(h @ w["pair"]) @ w["two"])


def pairs(w, x):
    i, j = np.triu_indices(len(x), 1)
    d = x[i] - x[j]
    return jnp.sum(_of_pairs(w, d, jnp.sum(d * d, axis=-1)) @ w["last"])


def messages(w, x):
    """All pairs, summed over one of the particles, as in a graph network."""
    d = x[:, None] - x[None]
    h = _of_pairs(w, d, jnp.sum(d * d, axis=-1) + jnp.eye(len(x), dtype=x.dtype))
    return jnp.sum(jnp.tanh(jnp.sum(h, axis=1) @ w["three"]) @ w["last"])


FUNCTIONS = dict(
    one_body=one_body, mean_field=mean_field, pairs=pairs, messages=messages
)


def cost(fun, *args):
    """Operations and bytes, by XLA's own count."""
    found: Any = jax.jit(fun).lower(*args).compile().cost_analysis()
    found = found[0] if isinstance(found, list) else found
    operations = found["flops"] + found.get("transcendentals", 0.0)
    return operations, found["bytes accessed"]
