"""Attention over blocks: against dense attention, written out here, in float64."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_orders_close, jet, nested_jet, random_series

from eqx_taylor import (
    dot_product_attention,
    filter_jet,
    laplacian,
    ode_jet,
)
from eqx_taylor._derivatives import attention
from eqx_taylor.programs import simplify


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks for few tokens, the last of which are not full."""
    monkeypatch.setattr(attention, "QUERIES", 4)
    monkeypatch.setattr(attention, "KEYS", 3)


def _random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def _dense(
    query,
    key,
    value,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    local_window_size=None,
    xp=jnp,
):
    """What JAX documents, of arrays of four axes; in `numpy` also of complex ones."""
    (_, queries, heads, size), (_, keys, groups, _) = query.shape, key.shape
    key, value = (xp.repeat(x, heads // groups, axis=2) for x in (key, value))
    scores = xp.einsum("btnh,bsnh->bnts", query, key)
    scores = scores * (size**-0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    row, column = np.arange(queries)[:, None], np.arange(keys)
    attends = np.ones((1, 1, queries, keys), bool) if mask is None else mask
    if is_causal:
        attends = attends & (row >= column)
    if local_window_size is not None:
        before, after = local_window_size
        attends = attends & (row - before <= column) & (column <= row + after)
    for place, lengths in ((row, query_seq_lengths), (column, key_value_seq_lengths)):
        if lengths is not None:
            attends = attends & (place < lengths[:, None, None, None])
    scores = xp.where(attends, scores, -1e38)
    if xp is jnp:
        top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    else:
        top = np.max(scores.real, axis=-1, keepdims=True)
    weights = xp.exp(scores - top)
    weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    out = xp.einsum("bnts,bsnh->btnh", weights, value)
    if query_seq_lengths is not None:
        is_used = np.arange(queries) < query_seq_lengths[:, None]
        out = out * is_used[..., None, None].astype(float)
    return out


def _orders_on_a_circle(fun, primals, series):
    """Coefficients by Cauchy's integrals, with NumPy in 80 bits."""
    count, radius = 64, np.longdouble(0.2)
    primals, series = jax.tree.map(
        lambda x: np.asarray(x, np.clongdouble), (primals, series)
    )

    def at(z):
        return fun(
            *[
                x + sum(c * z**k for k, c in enumerate(terms, 1))
                for x, terms in zip(primals, series)
            ]
        )

    turn = 8 * np.arctan(np.longdouble(1))
    roots = np.exp(1j * turn * np.arange(count) / count)
    values = np.stack([at(radius * z) for z in roots])
    order = len(series[0])
    return [
        np.tensordot(roots**-k, values, 1).real / count / radius**k
        for k in range(order + 1)
    ]


_MASK = _random(2, 1, 10, 10) > 0
_MASK[0, 0, 2] = _MASK[1, 0, 9] = False  # Queries that attend to nothing.
_LENGTHS = np.array([0, 7], np.int32), np.array([9, 4], np.int32)

# The shapes (B, T, S, N, K), and what is given besides.
_CASES = {
    "plain": ((1, 10, 10, 2, 2), {}),
    "causal": ((2, 10, 10, 2, 1), dict(is_causal=True)),
    "causal, more queries": ((1, 10, 7, 1, 1), dict(is_causal=True)),
    "mask": ((2, 10, 10, 2, 2), dict(mask=_MASK)),
    "mask and causal": ((2, 10, 10, 2, 2), dict(mask=_MASK, is_causal=True)),
    "mask of keys": ((2, 10, 10, 2, 2), dict(mask=_MASK[:, :, 1:2, :])),
    "groups": ((1, 5, 8, 4, 2), dict(scale=0.3)),
    "window": ((1, 10, 10, 2, 2), dict(local_window_size=(2, 1))),
    "window, causal": (
        (1, 10, 10, 2, 2),
        dict(local_window_size=(3, 3), is_causal=True),
    ),
    "window that ends before": ((1, 11, 4, 1, 1), dict(local_window_size=(2, 1))),
    "lengths": (
        (2, 10, 10, 2, 2),
        dict(query_seq_lengths=_LENGTHS[1], key_value_seq_lengths=_LENGTHS[0]),
    ),
}


def _arrays(batch, queries, keys, heads, groups, size=3):
    shapes = [(heads, queries), (groups, keys), (groups, keys)]
    return [
        _random(batch, tokens, count, size, seed=seed)
        for seed, (count, tokens) in enumerate(shapes)
    ]


def _cases(*kept):
    """The other ones are slow."""
    return [
        name if name in kept else pytest.param(name, marks=pytest.mark.slow)
        for name in _CASES
    ]


@pytest.mark.parametrize("name", _cases("mask and causal", "lengths"))
def test_orders_to_eight(name, small_blocks):
    shape, options = _CASES[name]
    primals = _arrays(*shape)
    series = random_series(primals, 8)
    actual = jax.jit(
        lambda primals, series: jet(
            ft.partial(dot_product_attention, **options),
            primals,
            series,
            factorial_scaled=False,
        )
    )(primals, series)
    dense = ft.partial(_dense, xp=np, **options)
    expected = _orders_on_a_circle(dense, primals, series)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12 * np.max(np.abs(e)))


@pytest.mark.parametrize("shape", [(1, 1, 10, 10), (2, 2, 1, 1), (1, 2, 10, 1)])
@pytest.mark.sample(3)
def test_bias_and_scale_are_differentiated(shape, small_blocks):
    primals = [*_arrays(2, 10, 10, 2, 2), _random(*shape), np.array(0.7)]
    series = random_series(primals, 8)

    def with_bias(attend):
        return lambda q, k, v, bias, scale: attend(
            q, k, v, bias, scale=scale, is_causal=True
        )

    actual = jax.jit(
        lambda *args: jet(
            with_bias(dot_product_attention), *args, factorial_scaled=False
        )
    )(primals, series)
    dense = with_bias(ft.partial(_dense, xp=np))
    for a, e in zip(actual, _orders_on_a_circle(dense, primals, series)):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12 * np.max(np.abs(e)))


@pytest.mark.slow
def test_blocks_of_their_own_length():
    """With numbers of tokens that are no multiples of it."""
    primals = _arrays(1, attention.QUERIES + 3, 2 * attention.KEYS - 1, 2, 1)
    series = random_series(primals, 4)
    options = dict(local_window_size=(200, 30))
    actual = jet(ft.partial(dot_product_attention, **options), primals, series)
    expected = nested_jet(ft.partial(_dense, **options), primals, series)
    assert_orders_close(actual, expected, 200)


def test_bias_of_minus_infinity(small_blocks):
    """In whole blocks of keys, which then count for nothing."""
    primals = _arrays(1, 5, 10, 1, 1)
    bias = np.zeros((1, 1, 5, 10))
    bias[..., :4] = -np.inf
    bias[:, :, 2, 3:8] = -np.inf
    series = random_series(primals, 2)
    actual = jet(lambda q, k, v: dot_product_attention(q, k, v, bias), primals, series)
    finite = np.maximum(bias, -1e30)
    expected = nested_jet(lambda q, k, v: _dense(q, k, v, finite), primals, series)
    assert_orders_close(actual, expected)


def test_large_scores(small_blocks):
    """Of which exponentials overflow, and with a maximum in the last block."""
    query, key, value = _arrays(1, 5, 10, 1, 1)
    key = key + 3000 * np.arange(10)[:, None, None]
    primals = [query, key, value]
    # Where weights move, terms that cancel are as large as the squares of scores.
    series = [[None, None], [None, None], *random_series([value], 2)]
    actual = jet(dot_product_attention, primals, series)
    assert_orders_close(actual, nested_jet(_dense, primals, series), 1e5)


# -- JAX's function


def _jax_cases():
    for name, (shape, options) in _CASES.items():
        is_slow = name not in ("mask and causal", "groups", "lengths")
        marks = [pytest.mark.slow] * is_slow
        yield pytest.param(shape, options, id=name, marks=marks)
    # What has less axes, and what has a residual.
    yield pytest.param((2, 10, 10, 4, 2), dict(bias=_random(10, 10)), id="bias")
    yield pytest.param((1, 3, 3, 2, 2), dict(return_residual=True), id="one block")
    yield pytest.param(
        (2, 10, 10, 4, 2),
        dict(return_residual=True, mask=_MASK, local_window_size=4),
        id="residual",
    )


@pytest.mark.parametrize("shape, options", list(_jax_cases()))
def test_values_are_those_of_jax(shape, options, small_blocks):
    def both(arrays, bias):
        def of(dtype):
            primals = [x.astype(dtype) for x in arrays]
            given = options if bias is None else options | {"bias": bias.astype(dtype)}
            return [
                attend(*primals, **given)
                for attend in (dot_product_attention, jax.nn.dot_product_attention)
            ]

        return [of(dtype) for dtype in (jnp.float32, jnp.bfloat16)]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        pairs = jax.jit(both)(_arrays(*shape), options.get("bias"))
    for actual, expected in pairs:
        assert_close(actual, expected, 8)


@pytest.mark.slow
def test_arguments_of_fewer_axes(small_blocks):
    query, key, value = (jnp.asarray(x[0]) for x in _arrays(1, 10, 10, 2, 1))
    actual = dot_product_attention(query, key, value, return_residual=True)
    arrays = [x.astype(jnp.float32) for x in (query, key, value)]
    expected = jax.nn.dot_product_attention(*arrays, return_residual=True)
    assert [x.shape for x in actual] == [(10, 2, 3), (10, 2)]
    assert_close([x.astype(jnp.float32) for x in actual], list(expected), 8)


@pytest.mark.parametrize(
    "arrays, options",
    [
        (_arrays(1, 4, 4, 3, 2), {}),
        (_arrays(1, 4, 4, 2, 2), dict(mask=np.ones((1, 1, 4, 5), bool))),
        (_arrays(1, 4, 4, 2, 2), dict(mask=np.ones((1, 1, 4, 4)))),
        (_arrays(1, 4, 4, 2, 2), dict(mask=np.ones((1, 1, 1, 4, 4), bool))),
        (_arrays(1, 4, 4, 2, 2), dict(bias=np.ones((1, 3, 4, 4)))),
        (_arrays(1, 4, 4, 2, 2), dict(query_seq_lengths=np.ones(2, np.int32))),
        (_arrays(1, 4, 4, 2, 2), dict(key_value_seq_lengths=np.ones(1))),
        (_arrays(1, 4, 4, 2, 2), dict(implementation="flash")),
        (_arrays(1, 4, 4, 2, 2)[:2] + [_random(1, 5, 2, 3)], {}),
    ],
)
def test_arguments_that_do_not_fit(arrays, options):
    errors = []
    for attend in (dot_product_attention, jax.nn.dot_product_attention):
        with pytest.raises(Exception) as info:  # noqa: PT011
            with jax.numpy_dtype_promotion("standard"):
                with jax.numpy_rank_promotion("allow"):
                    attend(*arrays, **options)
        errors.append((info.type, str(info.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("dtype, ulps", [(jnp.float32, 20), (jnp.bfloat16, 8)])
@pytest.mark.slow
def test_series_in_less_precision(dtype, ulps, small_blocks):
    shape, options = _CASES["mask and causal"]
    primals = [jnp.asarray(x, dtype) for x in _arrays(*shape)]
    series = random_series(primals, 3)
    attend = ft.partial(dot_product_attention, **options)
    actual = jet(attend, primals, series)
    assert {x.dtype for x in actual} == {jnp.dtype(dtype)}
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), (primals, series))
    expected = nested_jet(ft.partial(_dense, **options), *wide)
    for a, e in zip(actual, expected):
        assert_close(a, e.astype(dtype), ulps)


def test_series_that_cancel(small_blocks):
    """Of exponentials, in the quotient: all scores grow, and weights change little."""
    arrays = _arrays(1, 10, 10, 1, 1, size=16)
    query, _, value = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    primals, series = (query, query, value), [[4 * query, None]] * 2 + [None]

    def second(attend, primals, series):
        return jet(attend, primals, series)[2]

    actual = jax.jit(ft.partial(second, dot_product_attention))(primals, series)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), (primals, series))
    wide[1][2] = [None, None]
    expected = nested_jet(_dense, *wide)[2].astype(jnp.bfloat16)
    assert_close(actual, expected, 2)


# -- transformations


def _second(attend):
    """A number that depends on a second derivative."""

    def fun(primals, weights):
        _, (_, second) = filter_jet(
            attend, tuple(primals), tuple([x, None] for x in reversed(primals))
        )
        return jnp.sum(second * weights)

    return fun


def _nested_second(attend):
    def fun(primals, weights):
        series = [[x, None] for x in reversed(primals)]
        return jnp.sum(nested_jet(attend, primals, series)[2] * weights)

    return fun


@pytest.mark.parametrize(
    "name",
    [
        "mask",
        pytest.param("causal", marks=pytest.mark.slow),
        pytest.param("lengths", marks=pytest.mark.slow),
    ],
)
def test_gradients(name, small_blocks):
    shape, options = _CASES[name]
    primals = _arrays(shape[0], 10, 10, 2, 2)
    primals = [jnp.asarray(x) for x in primals]
    weights = jnp.asarray(_random(*primals[0].shape, seed=9))
    attend, dense = (ft.partial(f, **options) for f in (dot_product_attention, _dense))
    actual = jax.jit(jax.grad(_second(attend)))(primals, weights)
    expected = jax.jit(jax.grad(_nested_second(dense)))(primals, weights)
    assert_close(actual, expected, 400)
    # Reverse and forward mode of the function itself.
    first = [
        jax.jit(
            lambda primals, f=f: (
                jax.vjp(f, *primals)[1](weights),
                jax.jvp(f, primals, primals[::-1])[1],
            )
        )(primals)
        for f in (attend, dense)
    ]
    assert_close(*first, 100)


def test_vmap_jit_and_nested_jets(small_blocks):
    shape, options = _CASES["window, causal"]
    primals = [jnp.asarray(x) for x in _arrays(*shape)]
    many = [jnp.stack([x, 2 * x]) for x in primals]
    attend, dense = (ft.partial(f, **options) for f in (dot_product_attention, _dense))

    def of(f):
        def one(*primals):
            def first(*primals):
                return filter_jet(f, primals, ([primals[2]], [primals[0]], None))[1][0]

            _, terms = filter_jet(first, primals, (None, [primals[2], None], None))
            return terms[1]

        return one

    def nested(f):
        def one(q, k, v):
            def first(t):
                return jax.jvp(lambda q, k: f(q, k, v), (q, k + t * v), (v, q))[1]

            return jax.jacfwd(jax.jacfwd(first))(0.0)

        return one

    actual = jax.jit(jax.vmap(of(attend)))(*many)
    expected = jax.jit(jax.vmap(nested(dense)))(*many)
    assert_close(actual, expected, 200)


def test_laplacian(small_blocks):
    """Of a function of tokens, with a sum over the directions of all of them."""
    x = jnp.asarray(_random(5, 2))
    shape = (1, 5, 1, 2)

    def energy(attend):
        def fun(x):
            tokens = jnp.tanh(x).reshape(shape)
            return jnp.sum(jnp.sin(attend(tokens, 2 * tokens, tokens)))

        return fun

    actual = jax.jit(ft.partial(laplacian, energy(dot_product_attention)))(x)
    hessian = jax.jit(jax.hessian(energy(_dense)))(x).reshape(10, 10)
    assert_close(actual, jnp.trace(hessian), 200)


def test_vector_field(small_blocks):
    """Coefficients come one by one."""
    y = jnp.asarray(_random(1, 5, 1, 2))

    def terms(attend):
        def field(t, y, args):
            return attend(y, y, jnp.tanh(y), is_causal=True)

        return jax.jit(lambda y: ode_jet(field, jnp.array(0.0), y, None, order=4))(y)

    assert_orders_close(
        jax.tree.leaves(terms(dot_product_attention)),
        jax.tree.leaves(terms(_dense)),
        100,
    )


@pytest.mark.slow
def test_simplify(small_blocks):
    primals = [jnp.asarray(x) for x in _arrays(1, 10, 10, 1, 1)]
    actual = simplify(dot_product_attention)(*primals)
    assert_close(actual, dot_product_attention(*primals))


# -- memory


def _memory(order, tokens, wrap=lambda f: f, options=None):
    kind = jax.ShapeDtypeStruct((1, tokens, 2, 16), jnp.float32)

    def fun(primals, directions):
        attend = ft.partial(dot_product_attention, **(options or {}))
        series = [[x, *[None] * (order - 1)] for x in directions]
        return jet(attend, primals, series)

    compiled = jax.jit(wrap(fun)).lower([kind] * 3, [kind] * 3).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "order",
    [
        4,
        pytest.param(1, marks=pytest.mark.slow),
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_memory_is_linear(order):
    sizes = [_memory(order, tokens) for tokens in (256, 512, 1024, 2048)]
    for size, double in zip(sizes, sizes[1:]):
        assert double <= 2.2 * size
    # The scores of one order: two heads, float32.
    assert sizes[-1] < 2 * 2048**2 * 4


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, dict(is_causal=True)])
def test_memory_of_gradients_is_linear(options):
    def gradient(fun):
        return jax.grad(lambda *args: jnp.sum(fun(*args)[-1]))

    sizes = [_memory(2, tokens, gradient, options) for tokens in (512, 1024, 2048)]
    for size, double in zip(sizes, sizes[1:]):
        assert double <= 2.2 * size
