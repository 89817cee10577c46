"""Jets under what surrounds a program: devices, JAX's switches, effects, and length."""

import functools as ft
import gc
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_orders_close,
    jet,
    nested_jet,
    random_series,
)
from jax import lax
from programs import all_three, scan, switch, while_loop, X

import eqx_taylor


# -- across devices, here across the axis of a vmap


@pytest.mark.parametrize(
    "collective",
    [
        lambda x: lax.psum(x, "i"),
        lambda x: lax.pmean(x * x, "i"),
        lambda x: lax.ppermute(x, "i", [(0, 1), (1, 0)]) * x,
        lambda x: lax.all_gather(x, "i")[0] * x,
        lambda x: lax.axis_index("i").astype(x.dtype) * x,
        lambda x: lax.pmax(lax.stop_gradient(x), "i") * x,
    ],
    ids=["psum", "pmean", "ppermute", "all_gather", "axis_index", "pmax"],
)
def test_collectives(collective):
    def fun(x):
        return collective(jnp.sin(x))

    def taylor(x):
        return jet(fun, [x], [[x, x * x, None]])

    def nested(x):
        zero = jnp.zeros_like(x)
        return nested_jet(fun, [x], [[x, x * x, zero]])

    x = jnp.asarray(X[:2])
    actual, expected = (
        jax.device_get(jax.vmap(f, axis_name="i")(x)) for f in (taylor, nested)
    )
    assert_orders_close(actual, expected)


def test_shard_map():
    """On a mesh of one device."""
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("i",), axis_types=axis_types)
    spec = jax.sharding.PartitionSpec("i")

    def total(x):
        return jnp.sin(x) * lax.psum(x, "i")

    fun = jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=spec)
    points = [jnp.asarray(X)]
    series = random_series(points, 3)
    expected = nested_jet(lambda x: jnp.sin(x) * x, points, series)
    assert_orders_close(jet(fun, points, series), expected)


# -- JAX's switches


def test_without_jit():
    """For debugging: loops are Python's, and every operation runs at once."""
    points = [jnp.asarray(X)]
    series = random_series(points, 2)
    for fun in (scan, while_loop, switch):
        with jax.disable_jit():
            actual = jet(fun, points, series)
        assert_orders_close(actual, jet(fun, points, series))


def test_nothing_leaks():
    def run(x):
        solution = eqx_taylor.ode_jet(lambda t, y, args: all_three(y), 0.0, x, order=2)
        return jet(all_three, [x], [[x, x]]), solution

    # Every trace is looked for in all objects that there are; those of earlier tests are
    # many, and hold none of these.
    gc.collect()
    gc.freeze()
    with jax.checking_leaks():
        jax.jit(run).lower(jnp.asarray(X))


def test_no_spurious_nans():
    """What is not taken by a `where` or is at a kink does not show in `debug_nans`."""

    def fun(x):
        root = jnp.sqrt(jnp.where(x > 0, x, 1.0))
        return jnp.where(x > 0, root, 0.0) + x**2 + x**3.0 + jnp.abs(x)

    with jax.debug_nans(True):
        _, terms = eqx_taylor.jet(fun, (0.0,), ([1.0, 0.0, 0.0],))
    # The slope of `abs` at 0 differs between versions of JAX.
    slope = float(jax.grad(jnp.abs)(0.0))
    assert [float(term) for term in terms] == [slope, 2, 6]


def test_32_bits():
    with jax.enable_x64(False):
        _, terms = eqx_taylor.jet(lambda x: x**12, (0.0,), ([1.0] + [0.0] * 11,))
        solution = eqx_taylor.ode_jet(lambda t, y, args: y, 0, 1.0, order=12)
    assert all(term.dtype == jnp.float32 for term in terms)
    assert terms[-1] == np.float32(math.factorial(12))
    assert solution.dtype == jnp.float32
    np.testing.assert_allclose(1 / solution[-1], math.factorial(12), rtol=1e-6)


# -- long programs and high orders: requests do not recurse through all of them


def test_long_programs():
    def fun(x):
        for n in range(250):
            x = x * x + 1.0 if n % 10 else jnp.sin(x)
        return x

    x = jnp.asarray(X)
    jax.eval_shape(lambda x: jet(fun, [x], [[x, x]]), x)
    jax.eval_shape(
        lambda x: eqx_taylor.ode_jet(lambda t, y, args: fun(y), 0.0, x, order=2), x
    )


def test_high_orders():
    x = jnp.asarray(X)
    jax.eval_shape(lambda x: jet(jax.nn.softplus, [x], [[x] + [None] * 79]), x)
    jax.eval_shape(
        lambda x: eqx_taylor.ode_jet(
            lambda t, y, _: jax.nn.softplus(y), 0.0, x, order=80
        ),
        x,
    )


# -- effects


def _seen(numbers):
    """A function that calls back to Python, which takes notes."""

    def fun(x):
        jax.debug.callback(lambda x: numbers.append(float(x)), x[0])
        return jnp.sin(x)

    return fun


def _in_scan(fun, x):
    return lax.scan(lambda carry, _: (fun(carry), None), x, None, length=2)[0]


def _in_while(fun, x):
    return lax.while_loop(
        lambda carry: carry[0] < 2, lambda c: (c[0] + 1, fun(c[1])), (0, x)
    )[1]


_EFFECTS = {
    "straight": (lambda fun, x: fun(x), 1),
    "jit": (lambda fun, x: jax.jit(fun)(x), 1),
    "checkpoint": (lambda fun, x: jax.checkpoint(fun)(x), 1),
    "scan": (_in_scan, 2),
    "while": (_in_while, 2),
    "cond": (lambda fun, x: lax.cond(x[0] > 0, fun, jnp.cos, x), 1),
    "scan of cond": (
        lambda fun, x: _in_scan(lambda x: lax.cond(x[0] > 0, fun, jnp.cos, x), x),
        2,
    ),
    "unused result": (lambda fun, x: (fun(x), x)[1] * 2, 1),
}


@pytest.mark.parametrize("name", _EFFECTS)
@pytest.mark.parametrize("walk", ["jet", "ode_jet"])
def test_effects_happen_once(name, walk):
    wrap, times = _EFFECTS[name]
    numbers = []
    fun = ft.partial(wrap, _seen(numbers))
    x = jnp.asarray(X)
    if walk == "jet":
        out = jax.jit(lambda x: jet(fun, [x], [[x, x, x]]))(x)
    else:
        out = jax.jit(
            lambda x: eqx_taylor.ode_jet(lambda t, y, args: fun(y), 0.0, x, order=4)
        )(x)
    jax.block_until_ready(out)
    jax.effects_barrier()
    # Of two turns of a loop the second sees what the first returned.
    assert sorted(numbers) == sorted([X[0], np.sin(X[0])][:times])


def test_callback_whose_result_is_used():
    """It does not move, and is called once."""
    calls = []

    def host(x):
        calls.append(float(x))
        return np.asarray(2.0)

    def fun(x):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return x * jax.pure_callback(host, shape, lax.stop_gradient(x))

    actual = jax.jit(lambda x: jet(fun, [x], [[jnp.array(1.0), None]]))(0.3)
    jax.block_until_ready(actual)
    np.testing.assert_array_equal(actual, [0.6, 2.0, 0.0])
    assert len(calls) == 1
