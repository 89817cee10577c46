"""Estimates by random numbers: unbiased, with the variance that they say, and of a size
that does not depend on how many samples there are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_taylor import (
    biharmonic,
    laplacian,
    stochastic_biharmonic,
    stochastic_laplacian,
)


SIZE = 6
X = jax.random.normal(jax.random.key(1), (SIZE,))
MATRIX = jax.random.normal(jax.random.key(5), (SIZE, SIZE)) / 2


def _fun(x):
    return {"y": jnp.sin(jnp.sum(jnp.tanh(MATRIX @ x))), "n": 3}


def _estimate(kind, sampling, batch):
    estimate = stochastic_laplacian if kind == "laplacian" else stochastic_biharmonic

    @jax.jit
    def run(key):
        return estimate(
            _fun, X, key, num_samples=10_000, batch_size=batch, sampling=sampling
        )

    return run


@pytest.mark.parametrize(
    "kind, sampling, batch",
    [
        ("laplacian", "rademacher", 5),
        ("laplacian", "normal", 10),
        ("laplacian", "sphere", 5),
        ("laplacian", "sparse", 2),
        ("biharmonic", "sphere", 10),
        ("biharmonic", "normal", 10),
        ("biharmonic", "sparse", 10),
    ],
)
def test_mean_of_many_samples(kind, sampling, batch):
    exact = {"laplacian": laplacian, "biharmonic": biharmonic}[kind](_fun, X)["y"]
    run = _estimate(kind, sampling, batch)
    estimates = jax.vmap(run)(jax.random.split(jax.random.key(2), 3))
    assert estimates.mean["n"] is None
    errors, mean = estimates.standard_error["y"], estimates.mean["y"]
    assert np.all(np.abs(mean - exact) < 3 * errors)
    # The errors that it says are those that it makes: not much less than they are.
    assert np.all(errors < 0.1 * np.abs(exact)) and np.all(errors > 0)
    assert np.ptp(mean) > 0.05 * np.mean(errors)


def test_variances():
    """Of a quadratic form: from the entries of its Hessian."""
    a = MATRIX + MATRIX.T
    off = 2 * (jnp.sum(a**2) - jnp.sum(jnp.diag(a) ** 2))
    variances = {
        "rademacher": off,
        "normal": 2 * jnp.sum(a**2),
        "sparse": SIZE**2 * jnp.var(jnp.diag(a)),
    }
    for sampling, expected in variances.items():

        @jax.jit
        def run(key, sampling=sampling):
            return stochastic_laplacian(
                lambda x: x @ a @ x / 2,
                X,
                key,
                num_samples=20_000,
                batch_size=1,
                sampling=sampling,
            )

        estimate = run(jax.random.key(0))
        np.testing.assert_allclose(20_000 * estimate.variance, expected, rtol=0.1)
    # All coordinates at once, different ones: nothing is left to chance.
    exact = stochastic_laplacian(
        lambda x: x @ a @ x / 2,
        X,
        jax.random.key(0),
        num_samples=SIZE,
        sampling="sparse",
    )
    np.testing.assert_allclose(exact.mean, jnp.trace(a), rtol=1e-14)
    # Of one batch there is no difference between batches.
    assert np.isnan(exact.variance)


def test_of_trees_and_their_gradients():
    x = {"a": jnp.array([0.1, 0.2], jnp.float32), "b": jnp.array([[0.3]]), "c": "text"}
    key = jax.random.key(0)

    def estimate(scale, x):
        def fun(x):
            return scale * (jnp.sum(x["a"] ** 2).astype(float) + jnp.sum(x["b"] ** 4))

        return stochastic_laplacian(fun, x, key, num_samples=4, batch_size=2).mean

    # Diagonal Hessians have no variance.
    expected = 2 * 2 + 12 * 0.3**2
    np.testing.assert_allclose(estimate(1.5, x), 1.5 * expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(estimate)(1.5, x), expected, rtol=1e-6)
    slope = eqx.filter_grad(lambda x: estimate(1.5, x))(x)
    np.testing.assert_allclose(slope["b"], [[1.5 * 24 * 0.3]], rtol=1e-12)


def test_sine_gordon_in_ten_thousand_dimensions():
    """Δu + sin(u) at 100 points, by 16 directions each, in less than 2 GiB."""
    size, points = 10_000, 100
    key = jax.random.key(0)
    net = eqx.nn.MLP(
        size, "scalar", 128, 2, jnp.tanh, dtype=jnp.float32, key=jax.random.key(1)
    )
    x = jax.random.normal(key, (points, size), jnp.float32) / 100

    def residual(x, key):
        u = stochastic_laplacian(net, x, key, num_samples=16, sampling="sparse").mean
        return u + jnp.sin(net(x))

    keys = jax.random.split(key, points)
    compiled = jax.jit(jax.vmap(residual)).lower(x, keys).compile()
    memory = compiled.memory_analysis()
    used = memory.temp_size_in_bytes + memory.output_size_in_bytes
    used += memory.argument_size_in_bytes
    assert used < 2 * 2**30
    assert np.all(np.isfinite(compiled(x, keys)))
    # The mean is right in so many dimensions, too: of one layer it is known.
    w, a = net.layers[0].weight[:32], jnp.linspace(-1.0, 1.0, 32).astype(jnp.float32)

    def shallow(x):
        return a @ jnp.tanh(100 * (w @ x))

    z = jnp.tanh(100 * (w @ x[0]))
    exact = 1e4 * jnp.sum(a * -2 * z * (1 - z**2) * jnp.sum(w**2, axis=1))
    for sampling in ("rademacher", "sparse"):
        estimate = jax.jit(
            lambda key, sampling=sampling: stochastic_laplacian(
                shallow, x[0], key, num_samples=800, batch_size=20, sampling=sampling
            )
        )(key)
        assert abs(estimate.mean - exact) < 3 * estimate.standard_error
        assert estimate.standard_error < 0.5 * abs(exact)


WRONG = {
    "integers": (
        lambda key: stochastic_laplacian(jnp.sum, jnp.arange(3), key, num_samples=4),
        TypeError,
        ["stochastic_laplacian", "int"],
    ),
    "sampling": (
        lambda key: stochastic_biharmonic(jnp.sum, X, key, num_samples=4, sampling="rademacher"),
        ValueError,
        ["stochastic_biharmonic", "`sampling`", "'sphere'", "'rademacher'"],
    ),
    "no samples": (
        lambda key: stochastic_laplacian(jnp.sum, X, key, num_samples=0),
        ValueError,
        ["stochastic_laplacian", "`num_samples`", "at least 1"],
    ),
    "no multiple": (
        lambda key: stochastic_laplacian(jnp.sum, X, key, num_samples=10, batch_size=4),
        ValueError,
        ["stochastic_laplacian", "multiple", "10", "4"],
    ),
    "more than there are": (
        lambda key: stochastic_laplacian(jnp.sum, X, key, num_samples=10, sampling="sparse"),
        ValueError,
        ["stochastic_laplacian", "6 coordinates", "`laplacian`"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_error(name):
    call, kind, words = WRONG[name]
    with pytest.raises(kind) as error:
        call(jax.random.key(0))
    for word in words:
        assert word in str(error.value)
