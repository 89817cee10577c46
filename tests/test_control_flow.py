"""Loops, branches and calls: in a jet, and in the vector field of an ODE.

In a jet all orders of an equation are computed together, in a vector field one order of
all equations after another. The same programs are tried in both.
"""

import functools as ft
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import (
    assert_orders_close,
    count_equations,
    count_primitives,
    nested_jet,
    nested_ode_jet,
    random_series,
)
from jax import lax

import eqx_taylor


# -- programs: from an array of shape (3,) to one like it, and smooth


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
    scan_in_cond, while_in_scan, all_three, under_jit, under_checkpoint,
    checkpoint_in_scan,
]  # fmt: skip

X = np.array([0.3, -0.7, 0.9])


def _parametrize(programs):
    return pytest.mark.parametrize("fun", programs, ids=lambda fun: fun.__name__)


def _jet(fun, points, series, **kwargs):
    value, terms = eqx_taylor.filter_jet(fun, tuple(points), tuple(series), **kwargs)
    return [value, *terms]


@_parametrize(PROGRAMS)
def test_jet(fun):
    points = [jnp.asarray(X)]
    series = random_series(points, 3)
    actual = jax.jit(ft.partial(_jet, fun))(points, series)
    assert_orders_close(actual, nested_jet(fun, points, series), 100)


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


@_parametrize([scan_reverse, scan_of_scan, switch_in_scan, all_three])
def test_transformed_jet(fun):
    """Along a line `jvp`, `grad` and `jet` of a jet give its next derivatives."""
    v = jnp.array([0.5, 0.6, -0.7])

    def second(x):
        return _jet(fun, [x], [[v, None]])[2]

    def transformed(x):
        _, by_jvp = jax.jvp(second, (x,), (v,))
        return _jet(fun, [x], [[v, None, None]]), by_jvp, _jet(second, [x], [[v]])

    both = jnp.stack([X, X + 0.01])
    straight, by_jvp, by_jet = jax.device_get(jax.jit(jax.vmap(transformed))(both))
    assert_orders_close([*straight[:3], by_jvp], straight, 100)
    assert_orders_close([*straight[:2], *by_jet], straight, 100)


@_parametrize([scan_reverse, scan_of_scan, scan_in_cond, under_checkpoint])
def test_gradient_of_a_jet(fun):
    """Reverse mode passes through loops whose length is known."""
    v = jnp.array([0.5, 0.6, -0.7])

    def second(x):
        return jnp.sum(_jet(fun, [x], [[v, None]])[2])

    @jax.jit
    def both(x):
        return jax.grad(second)(x) @ v, _jet(fun, [x], [[v, None, None]])

    along, straight = jax.device_get(both(jnp.asarray(X)))
    expected = [np.sum(x) for x in straight]
    assert_orders_close([*expected[:3], along], expected, 300)


@_parametrize([scan, cond, while_loop])
def test_jet_inside_loops(fun):
    """A jet in the body of a scan, of a branch and of a while_loop."""
    x = jnp.asarray(X)

    def jet(x):
        return _jet(fun, [x], [[x, x]])[2]

    def body(carry, _):
        return carry, jet(carry)

    expected = jax.jit(jet)(x)
    _, stacked = jax.jit(lambda x: lax.scan(body, x, None, length=2))(x)
    assert_orders_close([*stacked], [expected, expected], 20)
    branch = jax.jit(lambda x: lax.cond(True, jet, jnp.cos, x))(x)
    assert_orders_close([branch], [expected], 20)


# -- loops of Equinox, made of custom_vjp and more


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
    actual = jax.jit(ft.partial(_jet, fun))(points, series)
    assert_orders_close(actual, nested_jet(unrolled, points, series), 100)


# -- functions with derivatives of their own


def test_custom_jvp_is_honoured_at_every_order():
    """The rule says `f' = 1 + f²`, which the function itself is far from."""

    @jax.custom_jvp
    def f(x):
        return 2 * x

    @f.defjvp
    def _(primals, tangents):
        y = f(*primals)
        return y, (1 + y * y) * tangents[0]

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    expected = nested_jet(f, points, series)
    assert_orders_close(_jet(f, points, series), expected)
    # The derivatives of tan, and not those of a line.
    y = 2 * X[0]
    _, derivatives = eqx_taylor.jet(f, (X[0],), ([1.0, 0.0, 0.0],))
    slope = 1 + y * y
    by_hand = [slope, 2 * y * slope, 2 * slope * (slope + 2 * y * y)]
    assert_orders_close(jax.device_get(derivatives), by_hand)


def _family(n):
    """`f_n' = f_{n-1}` and `f_0' = cos`; each of them is called sine."""

    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def _(primals, tangents):
        [x], [dx] = primals, tangents
        slope = _family(n - 1)(x) if n > 0 else jnp.cos(x)
        return f(x), slope * dx

    return f


def test_custom_jvp_of_a_family():
    """One source and one value, but other rules: only the closures differ."""
    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    for n in range(3):
        expected = nested_jet(_family(n), points, series)
        assert_orders_close(_jet(_family(n), points, series), expected)


def test_custom_jvp_with_static_arguments():
    @ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def power(n, x):
        return x**n

    @power.defjvp
    def _(n, primals, tangents):
        [x], [dx] = primals, tangents
        return power(n, x), (7 * power(n - 1, x) if n > 0 else jnp.zeros_like(x)) * dx

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    fun = ft.partial(power, 3)
    assert_orders_close(_jet(fun, points, series), nested_jet(fun, points, series))


def test_custom_jvp_of_several_values():
    """Pairs that refer to each other, integers, and an argument that does not move."""

    @jax.custom_jvp
    def pair(x, n, scale):
        return jnp.sin(scale * x), {"c": jnp.cos(scale * x), "n": n}

    @pair.defjvp
    def _(primals, tangents):
        x, n, scale = primals
        s, other = pair(*primals)
        slope = scale * tangents[0]
        n_slope = np.zeros((), jax.dtypes.float0)
        return (s, other), (3 * other["c"] * slope, {"c": -s * slope, "n": n_slope})

    def fun(x):
        s, other = pair(x, jnp.array(2), jnp.array(0.7))
        return s * other["c"] + other["n"]

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    assert_orders_close(_jet(fun, points, series), nested_jet(fun, points, series))


def test_custom_jvp_in_a_vector_field():
    @jax.custom_jvp
    def f(y):
        return 2 * y

    @f.defjvp
    def _(primals, tangents):
        y = f(*primals)
        return y, (1 + y * y) * tangents[0]

    def field(t, y, args):
        return f(y) * t + lax.scan(lambda c, _: (f(c) / 3, c), y, None, length=2)[0]

    t0, y0 = jnp.asarray(0.3), jnp.asarray(X)
    actual = jax.device_get(eqx_taylor.ode_jet(field, t0, y0, order=5))
    assert_orders_close([*actual], nested_ode_jet(field, t0, y0, None, 5), 200)


def test_custom_vjp_is_differentiated_through():
    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    actual = _jet(lambda x: _with_vjp(x, 3), points, series)
    expected = nested_jet(lambda x: jnp.sin(x) * 3, points, series)
    assert_orders_close(actual, expected)


def test_custom_root():
    """By its implicit derivative, and not through the iteration that finds it."""

    def root(a):
        def equation(x):
            return x**3 + x - a

        def solve(f, x0):
            # Not differentiable: the step depends on a value that was looked at.
            return lax.fori_loop(
                0, 60, lambda _, x: x - lax.stop_gradient(f(x) / (3 * x**2 + 1)), x0
            )

        return lax.custom_root(
            equation, jnp.zeros_like(a), solve, lambda g, b: b / g(jnp.ones_like(b))
        )

    points = [jnp.asarray(X)]
    series = random_series(points, 4)
    assert_orders_close(
        _jet(root, points, series), nested_jet(root, points, series), 100
    )


def test_equal_looking_equations_are_not_confused():
    """Parameters that are equal as numbers, but of other types or of other signs."""

    def fun(x):
        zero = x * 0.0, x * -0.0
        return x**2 + x**2.0, x.astype(int), jnp.copysign(1.0, zero[0] + zero[1]) * x

    points = [jnp.asarray(0.7)]
    series = random_series(points, 3)
    assert_orders_close(_jet(lambda x: fun(x)[::2], points, series),
                        nested_jet(lambda x: fun(x)[::2], points, series))  # fmt: skip


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

    def jet(x):
        return _jet(fun, [x], [[x, x * x, None]])

    def nested(x):
        zero = jnp.zeros_like(x)
        return nested_jet(fun, [x], [[x, x * x, zero]])

    x = jnp.asarray(X[:2])
    actual, expected = (
        jax.device_get(jax.vmap(f, axis_name="i")(x)) for f in (jet, nested)
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
    assert_orders_close(_jet(fun, points, series), expected)


# -- JAX's switches


def test_without_jit():
    """For debugging: loops are Python's, and every operation runs at once."""
    points = [jnp.asarray(X)]
    series = random_series(points, 2)
    for fun in (scan, while_loop, switch):
        with jax.disable_jit():
            actual = _jet(fun, points, series)
        assert_orders_close(actual, _jet(fun, points, series))


def test_nothing_leaks():
    def run(x):
        solution = eqx_taylor.ode_jet(lambda t, y, args: all_three(y), 0.0, x, order=2)
        return _jet(all_three, [x], [[x, x]]), solution

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
    jax.eval_shape(lambda x: _jet(fun, [x], [[x, x]]), x)
    jax.eval_shape(
        lambda x: eqx_taylor.ode_jet(lambda t, y, args: fun(y), 0.0, x, order=2), x
    )


def test_high_orders():
    x = jnp.asarray(X)
    jax.eval_shape(lambda x: _jet(jax.nn.softplus, [x], [[x] + [None] * 79]), x)
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
        out = jax.jit(lambda x: _jet(fun, [x], [[x, x, x]]))(x)
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

    actual = jax.jit(lambda x: _jet(fun, [x], [[jnp.array(1.0), None]]))(0.3)
    jax.block_until_ready(actual)
    np.testing.assert_array_equal(actual, [0.6, 2.0, 0.0])
    assert len(calls) == 1


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

    def jet(order):
        return lambda x: _jet(fun, [x, one], [[one, *[None] * (order - 1)], None])

    counts = [count_primitives(jet(order), one) for order in (1, 3, 6)]
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
        return count_equations(lambda x: _jet(fun, [x], [series]), x)

    # Half as many coefficients: a quarter of the products.
    assert count([None, x] + [None] * 10) < count([x] * 12) / 3


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
        return count_equations(lambda x: _jet(fun, [x], [[x] * order]), x)

    counts = np.array([count(order) for order in (5, 10, 20)])
    ratios = counts[1:] / counts[:-1]
    assert np.all(ratios < 4), (counts, ratios)
