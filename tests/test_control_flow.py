"""Loops, branches and calls: in a jet, and in the vector field of an ODE.

In a jet all orders of an equation are computed together, in a vector field one order of
all equations after another. The same programs are tried in both.
"""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    count_equations,
    count_primitives,
    jet,
    nested_jet,
    nested_ode_jet,
    random_series,
)
from jax import lax
from programs import (
    all_three,
    cond,
    PROGRAMS,
    scan,
    scan_in_cond,
    scan_of_scan,
    scan_reverse,
    switch_in_scan,
    under_checkpoint,
    while_loop,
    X,
)

import eqx_taylor


def _parametrize(programs):
    return pytest.mark.parametrize("fun", programs, ids=lambda fun: fun.__name__)


@_parametrize(PROGRAMS)
def test_jet(fun):
    points = [jnp.asarray(X)]
    series = random_series(points, 3)
    actual = jax.jit(ft.partial(jet, fun))(points, series)
    assert_orders_close(actual, nested_jet(fun, points, series), 100)


@pytest.mark.sample(5)
@_parametrize(PROGRAMS)
def test_ode_jet(fun):
    """Total derivatives: the field depends on time, on the state in two ways, and on
    arguments."""

    def field(t, y, args):
        return dict(u=fun(y["u"] + jnp.sin(t) * args), v=y["u"] * y["v"] - t)

    y0 = dict(u=jnp.asarray(X), v=jnp.ones(3))
    t0, args = jnp.asarray(0.2), jnp.asarray(0.1)
    order = 6 if fun is all_three else 4
    actual = jax.jit(lambda t, y: eqx_taylor.ode_jet(field, t, y, args, order=order))
    actual = jax.device_get(actual(t0, y0))
    by_order = [jtu.tree_map(lambda x: x[k], actual) for k in range(order + 1)]
    assert_orders_close(by_order, nested_ode_jet(field, t0, y0, args, order), 1000)


@pytest.mark.sample(2)
@_parametrize([scan_reverse, scan_of_scan, switch_in_scan, all_three])
def test_transformed_jet(fun):
    """Along a line `jvp`, `grad` and `jet` of a jet give its next derivatives."""
    v = jnp.array([0.5, 0.6, -0.7])

    def second(x):
        return jet(fun, [x], [[v, None]])[2]

    def transformed(x):
        _, by_jvp = jax.jvp(second, (x,), (v,))
        return jet(fun, [x], [[v, None, None]]), by_jvp, jet(second, [x], [[v]])

    both = jnp.stack([X, X + 0.01])
    straight, by_jvp, by_jet = jax.device_get(jax.jit(jax.vmap(transformed))(both))
    assert_orders_close([*straight[:3], by_jvp], straight, 100)
    assert_orders_close([*straight[:2], *by_jet], straight, 100)


@pytest.mark.sample(2)
@_parametrize([scan_reverse, scan_of_scan, scan_in_cond, under_checkpoint])
def test_gradient_of_a_jet(fun):
    """Reverse mode passes through loops whose length is known."""
    v = jnp.array([0.5, 0.6, -0.7])

    def second(x):
        return jnp.sum(jet(fun, [x], [[v, None]])[2])

    @jax.jit
    def both(x):
        return jax.grad(second)(x) @ v, jet(fun, [x], [[v, None, None]])

    along, straight = jax.device_get(both(jnp.asarray(X)))
    expected = [np.sum(x) for x in straight]
    assert_orders_close([*expected[:3], along], expected, 300)


@_parametrize([scan, cond, while_loop])
def test_jet_inside_loops(fun):
    """A jet in the body of a scan, of a branch and of a while_loop."""
    x = jnp.asarray(X)

    def second(x):
        return jet(fun, [x], [[x, x]])[2]

    def body(carry, _):
        return carry, second(carry)

    expected = jax.jit(second)(x)
    _, stacked = jax.jit(lambda x: lax.scan(body, x, None, length=2))(x)
    assert_orders_close([*stacked], [expected, expected], 20)
    branch = jax.jit(lambda x: lax.cond(True, second, jnp.cos, x))(x)
    assert_orders_close([branch], [expected], 20)


# -- loops of Equinox, made of custom_vjp and more


@pytest.mark.parametrize("kind", ["lax", "checkpointed"])
def test_equinox_scan(kind):
    def scanned(scan):
        def fun(x):
            def body(carry, row):
                n, y = carry
                return (n + 1, jnp.sin(y) * row + x), y * n

            rows = jnp.stack([x, x + 1, x * x, x])
            (_, y), ys = scan(body, (0, x), rows)
            return y + jnp.sum(ys, 0)

        return fun

    points = [jnp.asarray(X)]
    series = random_series(points, 3)
    checkpoints = {} if kind == "lax" else dict(checkpoints=2)
    equinox_scan = ft.partial(eqx.internal.scan, kind=kind, **checkpoints)
    actual = jax.jit(ft.partial(jet, scanned(equinox_scan)))(points, series)
    assert_orders_close(actual, nested_jet(scanned(lax.scan), points, series), 100)


@pytest.mark.parametrize("kind", ["lax", "checkpointed", "bounded"])
def test_equinox_loops(kind):
    def fun(x):
        return eqx.internal.while_loop(
            lambda carry: carry[0] < 3,
            lambda carry: (carry[0] + 1, jnp.sin(carry[1]) + x),
            (0, x),
            max_steps=4,
            kind=kind,
        )[1]

    def unrolled(x):
        return jnp.sin(jnp.sin(jnp.sin(x) + x) + x) + x

    points = [jnp.asarray(X)]
    series = random_series(points, 3)
    actual = jax.jit(ft.partial(jet, fun))(points, series)
    assert_orders_close(actual, nested_jet(unrolled, points, series), 100)


# -- zeros and costs


def test_symbolic_zeros_through_loops():
    """What does not move in a loop costs nothing at any order."""

    def body(carry, x):
        moving, fixed = carry
        fixed = jnp.sin(fixed) * 0.5
        return (moving * fixed, fixed), jnp.cos(fixed) * x

    def fun(x, y):
        return lax.scan(body, (x, y), jnp.arange(3.0))

    one = jnp.array(1.0)

    def straight(order):
        return lambda x: jet(fun, [x, one], [[one, *[None] * (order - 1)], None])

    counts = [count_primitives(straight(order), one) for order in (1, 3, 6)]
    # `fixed` and its cosine once; `moving` is linear, of orders 0 and 1.
    assert [count["sin"] for count in counts] == [1, 1, 1]
    assert [count["cos"] for count in counts] == [1, 1, 1]
    muls = [count["mul"] for count in counts]
    assert muls[0] == muls[1] == muls[2]


def test_even_series_stay_even_through_loops():
    """`x = x_0 + x_2 t²` has no odd order anywhere, and nothing is spent on it."""

    def fun(x):
        return lax.scan(lambda c, _: (jnp.sin(c) * x, None), x, None, length=3)[0]

    x = jnp.array(0.3)
    _, terms = eqx_taylor.filter_jet(fun, (x,), ([None, x, None, None, None, None],))
    assert [bool(term != 0) for term in terms] == [False, True] * 3

    def count(series):
        return count_equations(lambda x: jet(fun, [x], [series]), x)

    # Half as many coefficients: a quarter of the products.
    assert count([None, x] + [None] * 10) < count([x] * 12) / 3


@pytest.mark.sample(3)
@pytest.mark.parametrize("fun", [scan, scan_of_scan, switch_in_scan])
def test_cost_in_a_vector_field_is_quadratic(fun):
    """The loop is run once per order, each time for one more coefficient only."""

    def field(t, y, args):
        return fun(y) * t

    def count(order):
        x = jnp.asarray(X)
        return count_equations(
            lambda y: eqx_taylor.ode_jet(field, 0.0, y, order=order), x
        )

    counts = np.array([count(order) for order in (4, 8, 16)])
    # Of a quadratic the ratio comes near 4 from below; it would be 8 for a cubic.
    ratios = counts[1:] / counts[:-1]
    assert np.all(ratios < 4), (counts, ratios)


@pytest.mark.parametrize("fun", [scan, cond, while_loop])
def test_cost_of_loops_in_a_jet_is_quadratic(fun):
    def count(order):
        x = jnp.asarray(X)
        return count_equations(lambda x: jet(fun, [x], [[x] * order]), x)

    counts = np.array([count(order) for order in (5, 10, 20)])
    ratios = counts[1:] / counts[:-1]
    assert np.all(ratios < 4), (counts, ratios)


def test_symbolic_length():
    """`jax.export` of a jet and of a vector field, with a scan."""

    def fun(x):
        return lax.scan(lambda c, a: (c * a + jnp.sin(c), c), x[0], x)[0]

    def exported(x):
        def field(t, y, args):
            return y * fun(x)

        return (
            jet(fun, (x,), ([x, None, None],)),
            eqx_taylor.ode_jet(field, 0.0, jnp.array(1.0), order=3),
        )

    (n,) = jax.export.symbolic_shape("n")
    program = jax.export.export(jax.jit(exported))(jax.ShapeDtypeStruct((n,), float))
    x = jnp.array([0.3, 1.1, -0.4])
    assert_close(list(program.call(x)), list(jax.jit(exported)(x)), 20)
