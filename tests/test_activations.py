"""All of `jax.nn`."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_orders_close, jet, nested_jet, random_series


X = np.array([[0.3, -0.7, 0.9, 2.1], [-3.2, 0.2, 5.5, -0.1]])
Q = np.cos(np.arange(24.0, dtype="float32")).reshape(1, 3, 2, 4)


def _attention(x):
    """In single precision, as it computes its weights in any case."""
    first, second = x[None, None, :1], x[None, None, 1:]
    return jax.nn.dot_product_attention(Q * first, Q + second, jnp.sin(Q) * first)


# What is more than a function of one array; None is what has no derivative.
CALLS = {
    "dot_product_attention": lambda x: _attention(x.astype("float32")),
    "get_scaled_dot_general_config": None,
    "initializers": None,
    "log1mexp": lambda x: jax.nn.log1mexp(jnp.abs(x)),
    "one_hot": None,
    "scaled_dot_general": None,  # For block-scaled numbers, on NVIDIA's latest only.
    "scaled_matmul": None,
}


def functions():
    for name in dir(jax.nn):
        fun = CALLS.get(name, getattr(jax.nn, name))
        if not name.startswith("_") and fun is not None:
            yield pytest.param(fun, id=name)
    yield pytest.param(ft.partial(jax.nn.gelu, approximate=False), id="exact gelu")
    yield pytest.param(
        lambda x: jax.nn.logsumexp(x, 0, b=X**2), id="weighted logsumexp"
    )
    yield pytest.param(
        lambda x: jax.nn.softmax(x, where=X > 0, axis=0), id="masked softmax"
    )


@pytest.mark.parametrize("fun", list(functions()))
def test_order_4(fun):
    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    # A program takes less time to compile than its operations one by one.
    actual = jax.jit(ft.partial(jet, fun))(points, series)
    assert_orders_close(actual, nested_jet(fun, points, series), 500)


KINKS = {
    "relu": [0.0],
    "relu6": [0.0, 6.0],
    "leaky_relu": [0.0],
    "elu": [0.0],
    "celu": [0.0],
    "selu": [0.0],
    "hard_tanh": [-1.0, 1.0],
    "hard_sigmoid": [-3.0, 3.0],
    "hard_silu": [-3.0, 3.0],
    "sparse_plus": [-1.0, 1.0],
    "sparse_sigmoid": [-1.0, 1.0],
    "soft_sign": [0.0],
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks(name):
    """The slope there is what JAX takes for it."""
    fun = getattr(jax.nn, name)
    points = [jnp.asarray(KINKS[name])]
    series = random_series(points, 3)
    actual = jax.jit(ft.partial(jet, fun))(points, series)
    assert_orders_close(actual, nested_jet(fun, points, series))


@pytest.mark.parametrize("size", [30.0, 300.0])
def test_no_nan_where_they_saturate(size):
    points = [jnp.asarray(X * size)]
    series = random_series(points, 4)
    for case in functions():
        found = jax.jit(ft.partial(jet, *case.values))(points, series)
        assert all(np.all(np.isfinite(term)) for term in found), case.id
