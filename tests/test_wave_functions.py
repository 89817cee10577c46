"""Local energies of neural wave functions, and Laplacians of networks for differential
equations, against the trace of `jax.hessian`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks._particles import cost
from benchmarks._wave_functions import FIELDS, WAVE_FUNCTIONS
from benchmarks.wave_functions import (
    as_float,
    by_hessian,
    by_sparse_folx,
    kinetic,
    ours,
    slope_of,
    walkers,
)
from eqx_taylor import laplacian, value_gradient_laplacian


def _of(make, n, dtype=jnp.float64):
    return as_float(make(n, jax.random.key(0)), dtype)


def _nested(fun, x):
    """Value, gradient, Laplacian, and the size of the terms of this."""
    y, gradient = jax.value_and_grad(fun)(x)
    diagonal = jnp.diag(jax.hessian(fun)(x).reshape(x.size, x.size))
    size = jnp.sum(jnp.abs(diagonal)) + jnp.sum(gradient**2)
    return (y, gradient, jnp.sum(diagonal)), size


def _compare(fun, xs, tolerance):
    found = jax.jit(jax.vmap(lambda x: value_gradient_laplacian(fun, x)))(xs)
    exact = as_float(fun, jnp.float64)
    wide = xs.astype(jnp.float64)
    expected, size = jax.jit(jax.vmap(lambda x: _nested(exact, x)))(wide)
    for a, e in zip(found, expected, strict=True):
        assert a.shape == e.shape and a.dtype == xs.dtype
        error = np.abs(np.asarray(a) - np.asarray(e)).reshape(len(xs), -1).max(axis=1)
        assert np.all(error < tolerance * (1 + np.asarray(size)))


@pytest.mark.parametrize("name", WAVE_FUNCTIONS)
def test_local_energy(name):
    """Of several walkers; spins with matrices of three rows, or one of six."""
    _compare(_of(WAVE_FUNCTIONS[name], 6), walkers(6, 2).astype(float), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAVE_FUNCTIONS)
def test_local_energy_of_float32(name):
    _compare(_of(WAVE_FUNCTIONS[name], 8, jnp.float32), walkers(8, 2), 1e-4)


@pytest.mark.parametrize("name", FIELDS)
def test_field(name):
    xs = jax.random.normal(jax.random.key(1), (4, 3))
    _compare(_of(FIELDS[name], 3), xs, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAVE_FUNCTIONS)
def test_gradient_of_the_energy(name):
    """With respect to all parameters, of the mean over walkers."""
    fun, xs = _of(WAVE_FUNCTIONS[name], 6), walkers(6, 2).astype(float)
    found, expected = [
        jax.jit(lambda xs, by=by: slope_of(kinetic(by))(fun, xs))(xs)
        for by in (ours, by_hessian)
    ]
    # Determinants that nearly vanish have large terms of either sign.
    assert np.max(np.abs(found - expected)) < 1e-10 * np.max(np.abs(expected))


def test_operations():
    """In evaluations of the function: there are 24 directions, and one network of one
    electron each, which needs three of them."""
    x, most = walkers(8, 1)[0], dict(slater_jastrow=6.2, fermi_net=17.5)
    for name, at_most in most.items():
        fun = _of(WAVE_FUNCTIONS[name], 8, jnp.float32)
        once, _ = cost(lambda x, fun=fun: fun(x), x)
        operations, _ = cost(lambda x, fun=fun: laplacian(fun, x), x)
        assert operations < at_most * once


@pytest.mark.slow
@pytest.mark.parametrize("name", WAVE_FUNCTIONS)
def test_operations_beside_folx(name):
    """At most those of its sparse mode, to what XLA computes twice within fusions."""
    pytest.importorskip("folx")
    fun, x = _of(WAVE_FUNCTIONS[name], 12, jnp.float32), walkers(12, 1)[0]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        both = [cost(lambda x, by=by: by(fun, x), x) for by in (ours, by_sparse_folx)]
    (operations, size), (their_operations, their_size) = both
    assert operations < 1.05 * their_operations
    assert size < their_size


def test_flax():
    """A network whose parameters are a PyTree beside it: they are further arguments."""
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            h = jnp.tanh(linen.Dense(8)(x))
            return jnp.sum(linen.Dense(1)(jnp.sin(linen.Dense(8)(h))))

    net, x = Net(), jnp.linspace(-1, 1, 9).reshape(3, 3)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        params = as_float(net.init(jax.random.key(0), x), jnp.float64)
        fun = lambda x, params: net.apply(params, x)  # noqa: E731

        def loss(by):
            return lambda params: jnp.sum(by(params, x) ** 2)

        found, expected = [
            jax.jit(jax.value_and_grad(loss(by)))(params)
            for by in (
                lambda params, x: laplacian(fun, x, params),
                lambda params, x: _nested(lambda x: fun(x, params), x)[0][2],
            )
        ]
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.max(np.abs(a - e)) < 1e-12 * (1 + np.max(np.abs(e)))


def test_parameters_in_a_dictionary():
    """As in frameworks without modules, of a loop over layers."""
    rng = np.random.default_rng(0)
    params = dict(
        start=jnp.asarray(rng.normal(size=(3, 8)) / 2),
        layers=jnp.asarray(rng.normal(size=(2, 8, 8)) / 3),
    )

    def fun(x, params):
        step = lambda h, w: (h + jnp.tanh(h @ w), None)  # noqa: E731
        h, _ = jax.lax.scan(step, x @ params["start"], params["layers"])
        return jnp.sum(jnp.sin(h))

    xs = jnp.asarray(rng.normal(size=(2, 4, 3)))
    batch = lambda by: lambda p: jnp.sum(jax.vmap(lambda x: by(x, p))(xs) ** 2)  # noqa: E731
    found = jax.jit(jax.grad(batch(lambda x, p: laplacian(fun, x, p))))(params)
    nested = lambda x, p: _nested(lambda x: fun(x, p), x)[0][2]  # noqa: E731
    expected = jax.jit(jax.grad(batch(nested)))(params)
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.max(np.abs(a - e)) < 1e-12 * np.max(np.abs(e))
