"""Laplacians and other operators: right, at the cost that is promised, and made of
ordinary JAX."""

import functools as ft
import os
import subprocess
import sys

import completeness_cases
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_raises, count_primitives, random_series
from jax import lax
from programs import scan_reverse, switch_in_scan, under_checkpoint, while_loop

from eqx_taylor import (
    biharmonic,
    derivative_tensor,
    directional_derivatives,
    directional_gradients,
    filter_jet,
    hvp,
    laplacian,
    linear_operator,
    partial_derivative,
    stochastic_biharmonic,
    stochastic_laplacian,
    taylor_polynomial,
    value_gradient_laplacian,
    value_jacobian_hessian,
    weighted_laplacian,
)
from eqx_taylor._derivatives.argument import Argument


def _mlp(size, width=8, depth=2, seed=0, **kwargs):
    key = jax.random.key(seed)
    kwargs = dict(activation=jnp.tanh, key=key) | kwargs
    return eqx.nn.MLP(size, "scalar", width, depth, **kwargs)


def _trace(fun):
    """The Laplacian by nesting, of each array that is returned."""

    def of_leaf(hessian):
        return jnp.trace(hessian, axis1=-2, axis2=-1)

    return lambda x: jax.tree.map(of_leaf, jax.jacfwd(jax.jacfwd(fun))(x))


def _assert_same(actual, expected, tol=1e-12):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        assert np.max(np.abs(a - e), initial=0) <= tol * np.max(np.abs(e), initial=0)


# -- values


@pytest.mark.sample(6)
@pytest.mark.parametrize("size", range(1, 7))
def test_of_networks(size):
    """And of a random quadratic form, whose Laplacian is twice the trace."""
    mlp = _mlp(size, seed=size)
    a = jax.random.normal(jax.random.key(1), (size, size))
    x = jax.random.normal(jax.random.key(2), (size,))

    def fun(x):
        return {"mlp": mlp(x), "form": x @ a @ x, "both": jnp.sin(a @ x) * mlp(x)}

    second = jax.jit(lambda x: laplacian(fun, x))(x)
    _assert_same(second, jax.jit(_trace(fun))(x))
    assert_close(second["form"], 2 * jnp.trace(a))
    if size % 2 == 0:
        fourth = jax.jit(lambda x: biharmonic(fun, x))(x)
        expected = jax.jit(_trace(_trace(fun)))(x)
        assert abs(fourth.pop("form") - expected.pop("form")) < 1e-12
        _assert_same(fourth, expected)


def test_of_trees():
    """Integers and text are not differentiated, nor do they come out."""

    def fun(x):
        wave = jnp.sin(x["a"]) * jnp.exp(x["b"][0, 1])
        return {"wave": wave, "count": jnp.arange(3), "name": x["name"], "one": 1.0}

    x = {"a": jnp.array([0.1, 0.2]), "b": jnp.array([[0.3, 0.4]]), "name": "x"}
    out = laplacian(fun, x)
    assert out["count"] is None and out["name"] is None and out["one"] == 0
    wave = fun(x)["wave"]
    assert jnp.max(jnp.abs(out["wave"])) < 1e-15  # -wave + wave
    # Over some of them: one array, and one number in another.
    mask = {"a": np.array([True, False]), "b": False, "name": None}
    out = laplacian(fun, x, mask=mask)
    assert_close(out["wave"], wave * jnp.array([-1.0, 0.0]))
    mask = {"a": np.False_, "b": True, "name": None}
    assert_close(laplacian(fun, x, mask=mask)["wave"], wave)
    assert_close(biharmonic(fun, x, mask=mask)["wave"], wave)


def test_value_gradient_laplacian():
    """Of one pass, and with a mask the Laplacian in space and the slope in time."""
    mlp, x = _mlp(4), jnp.array([0.3, -0.2, 0.5, 0.1])

    def both(x):
        return {"y": mlp(x), "z": jnp.sin(x[:2]) * x[2], "count": jnp.arange(2)}

    value, gradient, second = jax.jit(lambda x: value_gradient_laplacian(both, x))(x)
    expected = both(x) | {"count": None}
    _assert_same(value, expected)
    del expected["count"]
    floating = lambda x: {k: v for k, v in both(x).items() if k != "count"}  # noqa: E731
    _assert_same(gradient, jax.jacrev(floating)(x))
    _assert_same(second, _trace(floating)(x))
    assert value["count"] is gradient["count"] is second["count"] is None
    mask = {"t": False, "x": np.array([True, False, True])}
    joined = lambda p: mlp(jnp.concatenate([p["t"][None], p["x"]]))  # noqa: E731
    point = {"t": x[0], "x": x[1:]}
    found = jax.jit(lambda p: value_gradient_laplacian(joined, p, mask=mask))(point)
    _assert_same(found[0], mlp(x))
    _assert_same(found[1], jax.grad(joined)(point))
    diagonal = jnp.diag(jax.hessian(mlp)(x))
    _assert_same(found[2], diagonal[1] + diagonal[3])


def test_further_arguments():
    """In every operator: they do not move, and an auxiliary output is returned as it is
    at the point."""

    def fun(x, n, *, scale):
        aux = {"n": n, "x": x, "name": "aux", "largest": jnp.argmax(x)}
        return jnp.sum(scale * jnp.sin(x)) * x[n] ** 3, aux

    x, scale, v = jnp.array([0.3, -0.2]), jnp.array([1.0, 2.0]), jnp.array([1.0, 0.5])
    alone = lambda x: fun(x, 1, scale=scale)[0]  # noqa: E731
    key = jax.random.key(0)
    operators = dict(
        laplacian=lambda f, *a, **k: laplacian(f, x, *a, **k),
        both=lambda f, *a, **k: value_gradient_laplacian(f, x, *a, **k),
        biharmonic=lambda f, *a, **k: biharmonic(f, x, *a, **k),
        weighted=lambda f, *a, **k: weighted_laplacian(f, x, jnp.eye(2), *a, **k),
        operator=lambda f, *a, **k: linear_operator(
            f, x, [(1, (0, 0)), (1, (2, 0))], *a, **k
        ),
        value=lambda f, *a, **k: linear_operator(f, x, [(1, (0, 0))], *a, **k),
        partial=lambda f, *a, **k: partial_derivative(f, x, (1, 1), *a, **k),
        stochastic=lambda f, *a, **k: stochastic_laplacian(
            f, x, key, *a, num_samples=4, **k
        ),
        batches=lambda f, *a, **k: stochastic_laplacian(
            f, x, key, *a, num_samples=4, batch_size=2, **k
        ),
        quartic=lambda f, *a, **k: stochastic_biharmonic(
            f, x, key, *a, num_samples=2, **k
        ),
    )
    for name, operator in operators.items():
        found = operator(fun, 1, scale=scale, has_aux=True)
        if name == "both":
            (value, aux), *rest = found
            found = (value, *rest), aux
        expected = operator(alone)
        for a, e in zip(jax.tree.leaves(found[0]), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(a, e)
        assert found[1]["n"] == 1 and found[1]["name"] == "aux", name
        np.testing.assert_array_equal(found[1]["x"], x)
        assert found[1]["largest"] == 0
    without = lambda x, n, *, scale: fun(x, n, scale=scale)[0]  # noqa: E731
    for operator in (
        lambda f, *a, **k: hvp(f, x, v, *a, **k),
        lambda f, *a, **k: directional_gradients(f, x, v, 2, *a, **k),
        lambda f, *a, **k: value_jacobian_hessian(f, x, *a, **k),
        lambda f, *a, **k: derivative_tensor(f, x, 2, *a, **k),
        lambda f, *a, **k: directional_derivatives(f, x, v, 2, *a, **k),
        lambda f, *a, **k: taylor_polynomial(f, x, v, 2, *a, **k).coefficients,
    ):
        found, expected = operator(without, 1, scale=scale), operator(alone)
        for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(a, e)


def test_weighted_laplacian():
    mlp = _mlp(3)
    x = jnp.array([0.3, -0.2, 0.5])
    sigma = jax.random.normal(jax.random.key(3), (3, 2))
    actual = jax.jit(lambda x, s: weighted_laplacian(mlp, x, s))(x, sigma)
    _assert_same(actual, jnp.trace(sigma @ sigma.T @ jax.hessian(mlp)(x)))
    # Of a PyTree; `None` is what does not move.
    fun = lambda x: mlp(jnp.concatenate([x[0], x[1][None]]))  # noqa: E731
    actual = weighted_laplacian(fun, (x[:2], x[2]), (sigma[:2], None))
    part = sigma[:2] @ sigma[:2].T
    _assert_same(actual, jnp.trace(part @ jax.hessian(mlp)(x)[:2, :2]))


@pytest.mark.slow
def test_linear_operator():
    def fun(x):
        return jnp.stack([jnp.sin(x[0] * x[1]) * jnp.exp(x[2]), jnp.prod(jnp.cos(x))])

    def partial(*index):
        y = fun
        for i in index:
            y = (lambda y, i: lambda x: jax.jvp(y, (x,), (jnp.eye(3)[i],))[1])(y, i)
        return y

    x = jnp.array([0.3, -0.2, 0.5])
    # Of several orders, with numbers and arrays; terms that occur twice; the value.
    terms = [
        (2.0, (0, 0, 0)),
        (1, (1, 0, 0)),
        (-0.5, (1, 0, 0)),
        (jnp.array(0.3), (2, 0, 0)),
        (0.7, (1, 1, 0)),
        (x[0], (0, 2, 1)),
        (1.5, (2, 0, 2)),
        (jnp.array(-1.0), (2, 0, 2)),
        (3.0, (0, 3, 0)),
        (-3.0, (0, 3, 0)),
    ]

    def expected(x):
        y = 2 * fun(x) + 0.5 * partial(0)(x) + 0.3 * partial(0, 0)(x)
        y = y + 0.7 * partial(0, 1)(x) + x[0] * partial(1, 1, 2)(x)
        return y + 0.5 * partial(0, 0, 2, 2)(x)

    actual = jax.jit(lambda x: linear_operator(fun, x, terms))(x)
    _assert_same(actual, jax.jit(expected)(x))
    # The biharmonic operator, term by term.
    terms = [
        (1, tuple(2 * ((i == k) + (j == k)) for k in range(3)))
        for i in range(3)
        for j in range(3)
    ]
    actual = jax.jit(lambda x: linear_operator(fun, x, terms))(x)
    _assert_same(actual, jax.jit(lambda x: biharmonic(fun, x))(x))
    # Of no order at all.
    assert_close(linear_operator(fun, x, [(2, (0, 0, 0))]), 2 * fun(x))
    assert_close(linear_operator(fun, x, [(0, (0, 0, 2))]), 0 * fun(x))


def _wide(x):
    """Shapes that are not those of the operands: numbers that move times arrays, matrix
    products on both sides, one operand twice."""
    m = jnp.stack([x, jnp.sin(x), x * x[0]])
    y = m @ jnp.cos(m) @ x + x[1] * jnp.ones(3) / (2 + x[2])
    z = lax.dot_general(m, jnp.stack([m, m]), (((0,), (1,)), ((), ())))
    return jnp.concatenate([y * y, jnp.cumsum(x * jnp.sum(z)), -m[0] / jnp.tanh(x)])


def _kinks(x):
    return jnp.where(x > 0, jax.nn.relu(x) ** 3, jnp.abs(x) * x**2) + jnp.max(
        x
    ) * jnp.sort(x)


def _solves(x):
    a = jnp.outer(jnp.sin(x), x) + 3 * jnp.eye(3)
    lower = jnp.tril(a)
    y = jax.scipy.linalg.solve_triangular(lower, x, lower=True)
    fixed = jax.scipy.linalg.solve_triangular(
        jnp.tril(jnp.ones((3, 3))), x**2, lower=True
    )
    return jnp.linalg.solve(a, y) + fixed


_LOOPS = [scan_reverse, switch_in_scan, under_checkpoint, while_loop]
# It has no batching rule.
_LOOPS.append(completeness_cases.CASES["run_state"].fun)


@pytest.mark.sample(3)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sums_of_programs(order):
    """Random weighted sums over random directions are those of the jets, one by one:
    through loops and branches, too, of which nothing is known."""
    x = jnp.array([0.3, -0.7, 0.9])
    directions = jnp.stack(
        [v[0][0] for v in (random_series([x], 1, seed=r) for r in range(4))]
    )
    weights = np.array([0.4, -1.1, 0.0, 0.7])
    programs = [_wide, _kinks, _solves]
    programs += _LOOPS if order == 2 else []

    for fun in programs:
        argument = Argument("test", fun, x)
        wanted = {order: weights} | ({1: np.ones(4)} if order > 1 else {})

        def collapsed(x, fun=fun, wanted=wanted, argument=argument):
            sums = argument.weighted_sums([directions], wanted)
            return [sums[k] for k in wanted]

        def one_by_one(x, fun=fun, wanted=wanted):
            def jet(v):
                terms = ([v] + [None] * (order - 1),)
                return filter_jet(fun, (x,), terms, factorial_scaled=False)[1]

            terms = lax.map(jet, directions)
            return [jnp.tensordot(w, terms[k - 1], axes=1) for k, w in wanted.items()]

        actual, expected = jax.jit(collapsed)(x), jax.jit(one_by_one)(x)
        for a, e in zip(actual, expected, strict=True):
            scale = 1 + np.max(np.abs(e))
            assert np.max(np.abs(a - e)) < 1e-11 * scale, fun


# -- costs


def _vectors(fun, *args, width):
    """How many vectors are multiplied by matrices of this size, in all."""
    found = 0

    def visit(jaxpr):
        nonlocal found
        for eqn in jaxpr.eqns:
            before = found
            if eqn.primitive.name in ("jit", "scan", "remat2"):
                visit(getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"]))
            if eqn.primitive.name == "cond":
                visit(eqn.params["branches"][0].jaxpr)
            if eqn.primitive.name == "scan":
                found = before + (found - before) * eqn.params["length"]
            if eqn.primitive.name == "dot_general":
                a, b = (v.aval.shape for v in eqn.invars)
                if (width, width) in (a, b):
                    found += int(np.prod(eqn.outvars[0].aval.shape)) // width

    visit(jax.make_jaxpr(fun)(*args).jaxpr)
    return found


def test_vectors_that_are_propagated():
    """2 + D, and not 1 + 2 D, through each of the hidden layers."""
    size, width, depth = 10, 32, 3
    mlp, x = _mlp(size, width, depth), jnp.linspace(-1.0, 1.0, size)
    between = depth - 1
    count = ft.partial(_vectors, width=width)
    assert count(mlp, x) == between
    assert count(lambda x: laplacian(mlp, x), x) == (2 + size) * between
    mask = np.arange(size) < 3
    assert count(lambda x: laplacian(mlp, x, mask=mask), x) == (2 + 3) * between
    sigma = jnp.ones((size, 4))
    assert count(lambda x: weighted_laplacian(mlp, x, sigma), x) == (2 + 4) * between
    assert count(lambda x: biharmonic(mlp, x, mask=mask), x) == (2 + 3) ** 2 * between
    # One vector for all first derivatives; a term of lower order comes for nothing.
    unit = lambda n, *places: (n, tuple(n * (i in places) for i in range(size)))  # noqa: E731
    gradient = [(0.1 * i, unit(1, i)[1]) for i in range(size)]
    assert count(lambda x: linear_operator(mlp, x, gradient), x) == 2 * between
    heat = [(1.0, unit(2, i)[1]) for i in range(4)] + [(0.5, unit(1, 2)[1])]
    assert count(lambda x: linear_operator(mlp, x, heat), x) == (2 + 4) * between
    # A mixed derivative of order 4: three vectors for each of four lines, and two.
    mixed = [(1, (2, 2) + (0,) * (size - 2))]
    assert count(lambda x: linear_operator(mlp, x, mixed), x) == (2 + 3 * 4) * between
    # Several points: the same, for each of them.
    points = jnp.stack([x, x + 1])
    many = jax.vmap(lambda x: laplacian(mlp, x))
    assert count(many, points) == 2 * (2 + size) * between


@pytest.mark.slow
def test_vectors_through_loops():
    """And through branches and checkpoints: sums are carried as sums."""
    size, width, depth = 5, 32, 4
    keys = jax.random.split(jax.random.key(0), 3)
    first = jax.random.normal(keys[0], (width, size)) / 2
    weights = jax.random.normal(keys[1], (depth, width, width)) / 6
    x = jnp.linspace(-1.0, 1.0, size)

    def layer(carry, inputs):
        total, h = carry
        weight, number = inputs
        h = h + lax.cond(number < 9, jnp.tanh, jnp.sin, weight @ h)
        return (total + jnp.sum(h**2), h), h[0]

    def network(x, layer):
        numbers = jnp.arange(depth)
        carry = (jnp.zeros(()), first @ x)
        (total, h), ys = lax.scan(layer, carry, (weights, numbers), reverse=True)
        return total + jnp.sum(jnp.sin(ys)) + h[0]

    expected = jax.jit(_trace(ft.partial(network, layer=layer)))(x)
    for one in (layer, jax.checkpoint(layer)):
        fun = ft.partial(network, layer=one)
        assert _vectors(fun, x, width=width) == depth
        ours = lambda x, fun=fun: laplacian(fun, x)  # noqa: E731
        assert _vectors(ours, x, width=width) == (2 + size) * depth
        _assert_same(jax.jit(ours)(x), expected)
    # The checkpoint is still there.
    assert count_primitives(ours, x)["remat2"] == 1
    slope = jax.jit(jax.grad(ours))(x)
    _assert_same(slope, jax.jit(jax.grad(_trace(fun)))(x), tol=1e-11)


def test_nothing_is_computed_for_each_direction_above_the_last_activation():
    mlp, x = _mlp(10, 32, 1), jnp.linspace(-1.0, 1.0, 10)
    counts = count_primitives(lambda x: laplacian(mlp, x), x)
    # The first layer: the point; of the directions it is the matrix. The last: the sum.
    assert counts["dot_general"] == 2
    assert counts["reduce_sum"] == 1 and counts["tanh"] == 1


# -- it is ordinary JAX


def test_transformations():
    mlp, x = _mlp(3), jnp.array([[0.3, -0.2, 0.5], [0.1, 0.9, -0.4]])
    many = jax.jit(jax.vmap(lambda x: laplacian(mlp, x)))(x)
    expected = jax.jit(jax.vmap(_trace(mlp)))(x)
    _assert_same(many, expected)
    _assert_same(laplacian(mlp, x[0]), expected[0])
    # Backwards and forwards through it.
    third = jax.jit(jax.grad(lambda x: laplacian(mlp, x)))(x[0])
    _assert_same(third, jax.jit(jax.grad(_trace(mlp)))(x[0]))
    slope = jax.jit(lambda x, v: jax.jvp(lambda x: laplacian(mlp, x), (x,), (v,))[1])
    theirs = jax.jit(lambda x, v: jax.jvp(_trace(mlp), (x,), (v,))[1])
    _assert_same(slope(x[0], x[1]), theirs(x[0], x[1]))
    # With respect to parameters.
    loss = lambda mlp, lap: jnp.mean(lap(mlp)(x[0]) ** 2)  # noqa: E731
    ours = eqx.filter_jit(
        eqx.filter_grad(lambda m: loss(m, lambda m: lambda x: laplacian(m, x)))
    )(mlp)
    theirs = eqx.filter_jit(eqx.filter_grad(lambda m: loss(m, _trace)))(mlp)
    _assert_same(ours, theirs, tol=1e-11)
    x32 = x[0].astype(jnp.float32)
    mlp32 = jax.tree.map(lambda p: p.astype(jnp.float32) if eqx.is_array(p) else p, mlp)
    assert laplacian(mlp32, x32).dtype == jnp.float32


@pytest.mark.sample(2)
@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.gelu])
def test_a_loss_is_trained(activation):
    """-Δu = π² sin(π x) on (0, 1), with u = 0 at both ends."""
    mlp = _mlp(1, 12, 1, activation=activation)
    points = jnp.linspace(0.02, 0.98, 25)[:, None]

    def solution(mlp, x):
        return x[0] * (1 - x[0]) * mlp(x)

    def loss(mlp):
        residual = jax.vmap(lambda x: laplacian(ft.partial(solution, mlp), x))(points)
        return jnp.mean((residual + jnp.pi**2 * jnp.sin(jnp.pi * points[:, 0])) ** 2)

    optimiser = optax.adam(optax.cosine_decay_schedule(0.03, 400))
    arrays, static = eqx.partition(mlp, eqx.is_inexact_array)

    @jax.jit
    def train(arrays):
        def step(carry, _):
            arrays, state = carry
            value, slopes = jax.value_and_grad(lambda p: loss(eqx.combine(p, static)))(
                arrays
            )
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimiser.update(slopes, state)
            return (optax.apply_updates(arrays, updates), state), value

        return lax.scan(step, (arrays, optimiser.init(arrays)), None, length=400)

    (arrays, _), losses = train(arrays)
    assert losses[-1] < 1e-3 * losses[0]
    u = jax.vmap(ft.partial(solution, eqx.combine(arrays, static)))(points)
    assert jnp.max(jnp.abs(u - jnp.sin(jnp.pi * points[:, 0]))) < 0.02


_SHARDED = """
import jax, jax.numpy as jnp, equinox as eqx, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from eqx_taylor import biharmonic, hvp, laplacian, partial_derivative
from eqx_taylor import value_jacobian_hessian, weighted_laplacian

mlp = eqx.nn.MLP(3, "scalar", 16, 2, jnp.tanh, key=jax.random.key(0))
mesh = Mesh(jax.devices(), "batch")
spec = NamedSharding(mesh, P("batch"))
x = jax.device_put(jax.random.normal(jax.random.key(1), (8 * len(jax.devices()), 3)), spec)
fun = jax.jit(jax.vmap(lambda x: laplacian(mlp, x) + biharmonic(mlp, x)))
compiled = fun.lower(x).compile()
y = compiled(x)
assert len(jax.devices()) == 4
assert y.sharding.is_equivalent_to(spec, 1), y.sharding
text = compiled.as_text()
assert "all-gather" not in text and "all-reduce" not in text, text
alone = fun(jax.device_put(x, jax.devices()[0]))
assert np.allclose(np.asarray(y), np.asarray(alone), rtol=1e-4, atol=1e-4)

# Within a map over the devices.
def several(x):
    third = partial_derivative(mlp, x, (2, 1, 0))
    weighted = weighted_laplacian(mlp, x, jnp.outer(x, jnp.ones(2)))
    hessian = value_jacobian_hessian(mlp, x)[2]
    return laplacian(mlp, x) + third + weighted, hvp(mlp, x, x), hessian

several = jax.vmap(several)
mapped = jax.shard_map(several, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
for a, b in zip(jax.jit(mapped)(x), jax.jit(several)(np.asarray(x))):
    assert np.allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)
print("sharded")
"""


def test_a_batch_over_devices():
    """Nothing is communicated."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", _SHARDED], env=env, capture_output=True, text=True
    )
    assert done.stdout == "sharded\n", done.stderr


# -- what is wrong

X = jnp.array([0.1, 0.2, 0.3])
WRONG = {
    "integers": (
        lambda: laplacian(jnp.sum, jnp.arange(3)),
        TypeError,
        ["laplacian", "int", "floating point"],
    ),
    "integers: biharmonic": (
        lambda: biharmonic(jnp.sum, jnp.arange(3)),
        TypeError,
        ["biharmonic", "int"],
    ),
    "complex": (
        lambda: laplacian(jnp.sum, X.astype(complex)),
        TypeError,
        ["laplacian", "complex", "real and the imaginary part"],
    ),
    "mask of another shape": (
        lambda: laplacian(jnp.sum, X, mask=np.ones(2, bool)),
        ValueError,
        ["laplacian", "`mask`", "(3,)", "(2,)"],
    ),
    "mask of numbers": (
        lambda: laplacian(jnp.sum, X, mask=np.ones(3)),
        ValueError,
        ["laplacian", "`mask`", "boolean"],
    ),
    "mask that is traced": (
        lambda: jax.jit(lambda m: laplacian(jnp.sum, X, mask=m))(X > 0),
        ValueError,
        ["laplacian", "`mask`", "known while tracing"],
    ),
    "mask of nothing": (
        lambda: biharmonic(jnp.sum, X, mask=False),
        ValueError,
        ["biharmonic", "selects nothing"],
    ),
    "nothing comes out": (
        lambda: laplacian(lambda x: "y", X),
        TypeError,
        ["laplacian", "nothing that can be differentiated"],
    ),
    "sigma of another shape": (
        lambda: weighted_laplacian(jnp.sum, X, jnp.ones((2, 3))),
        ValueError,
        ["weighted_laplacian", "`sigma`", "(3,)", "(2, 3)"],
    ),
    "sigma: another number of columns": (
        lambda: weighted_laplacian(lambda x: x[0], (X[0], X[1]), (jnp.ones(2), jnp.ones(3))),
        ValueError,
        ["weighted_laplacian", "columns", "[2, 3]"],
    ),
    "no terms": (
        lambda: linear_operator(jnp.sum, X, []),
        TypeError,
        ["linear_operator", "`terms`", "list of pairs"],
    ),
    "no pair": (
        lambda: linear_operator(jnp.sum, X, [(1.0, (2, 0, 0)), (0, 2, 0)]),
        TypeError,
        ["linear_operator", "terms[1]", "pair"],
    ),
    "no number": (
        lambda: linear_operator(jnp.sum, X, [("a", (2, 0, 0))]),
        TypeError,
        ["linear_operator", "coefficient of terms[0]", "'a'"],
    ),
    "many numbers": (
        lambda: linear_operator(jnp.sum, X, [(X, (2, 0, 0))]),
        TypeError,
        ["linear_operator", "coefficient of terms[0]", "(3,)"],
    ),
    "wrong length": (
        lambda: linear_operator(jnp.sum, X, [(1.0, (2, 0, 0, 0))]),
        ValueError,
        ["linear_operator", "terms[0][1]", "(4,)", "(3,)"],
    ),
    "aux without a pair": (
        lambda: value_gradient_laplacian(jnp.sum, X, has_aux=True),
        TypeError,
        ["value_gradient_laplacian", "`has_aux=True`", "pair"],
    ),
    "value_gradient_laplacian of integers": (
        lambda: value_gradient_laplacian(jnp.sum, jnp.arange(3)),
        TypeError,
        ["value_gradient_laplacian", "int", "floating point"],
    ),
    "too many arguments": (
        lambda: laplacian(lambda x, t: x, X),
        TypeError,
        ["laplacian", "missing a required argument", "by keyword"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_error(name):
    assert_raises(*WRONG[name])


# -- nothing to differentiate by


@pytest.mark.slow
def test_leaves_without_entries():
    """In every function of a PyTree."""
    x = {"a": jnp.array([1.0, 2.0]), "none": jnp.zeros((0, 2))}
    index = {"a": np.array([1, 1]), "none": np.zeros((0, 2), int)}
    sigma = {"a": jnp.eye(2), "none": jnp.zeros((0, 2, 2))}

    def fun(x):
        return x["a"][0] ** 3 * x["a"][1] ** 2 + jnp.sum(x["none"])

    @jax.jit
    def found(x):
        hessian = derivative_tensor(fun, x, 2)
        return [
            laplacian(fun, x),
            weighted_laplacian(fun, x, sigma),
            partial_derivative(fun, x, index),
            linear_operator(fun, x, [(1.0, index)]),
            biharmonic(fun, x),
            hessian["a"]["a"],
            value_jacobian_hessian(fun, x)[2]["a"]["a"],
            hvp(fun, x, x)["a"],
        ]

    hessian = np.array([[24.0, 12.0], [12.0, 2.0]])
    expected = [26.0, 26.0, 12.0, 12.0, 24.0, hessian, hessian, np.array([48.0, 16.0])]
    for a, e in zip(found(x), expected, strict=True):
        assert_close(a, jnp.asarray(e), 20)
    assert derivative_tensor(fun, x, 2)["a"]["none"].shape == (2, 0, 2)
    stochastic = stochastic_laplacian(fun, x, key=jax.random.key(0), num_samples=2)
    assert jnp.isfinite(stochastic.mean)


def test_no_columns():
    x = jnp.array([1.0, 2.0])
    for fun in (lambda x: jnp.sum(x**3), lambda x: jnp.tanh(x), lambda x: lax.scan(
            lambda c, a: (c * a, c), x[0], x)[1]):  # fmt: skip
        found = weighted_laplacian(fun, x, jnp.zeros((2, 0)))
        assert_close(found, jnp.zeros_like(fun(x)), 0)
