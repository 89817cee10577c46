"""Reverse mode of the series of a solution by its transposed series: against reverse mode
of nested derivatives."""

import diffrax
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import assert_close, nested_ode_jet

from eqx_taylor._ode import transposed_series
from eqx_taylor._ode.transposed_series import series_with_transpose


ORDER = 4


@jax.jit
def _layer(w, x):
    return jnp.tanh(w @ x)


def _network(t, y, args):
    first, second = args
    return second @ (_layer(first, y) * jnp.cos(t))


def _kepler(t, y, args):
    del t
    x, v = y["x"], y["v"]
    return dict(x=v, v=-args * x / jnp.sum(x**2) ** 1.5)


def _elementary(t, y, args):
    a = jnp.exp(-(y**2)) + jnp.log1p(y**2) * jax.nn.sigmoid(args * y)
    b = jnp.sqrt(2 + jnp.sin(t * y)) / (1 + y**4) + jnp.arctan(args * y)
    return a + b * jnp.logaddexp(y, args)


def _indexed(t, y, args):
    del t
    return jnp.cumsum(y[jnp.array([1, 0, 1])] * args) * y[::-1]


def _complex(t, y, args):
    return jax.lax.complex(0 * args, args) * y + jnp.conj(y) * jax.lax.complex(
        t * y.real, 0 * y.real
    )


def _determinant(t, y, args):
    # Its derivative has matrix equations.
    return jnp.linalg.det(y + args) * y.T


def _kinked(t, y, args):
    return jax.nn.relu(y) - args * jnp.abs(y) + t


def _looped(t, y, args):
    return jax.lax.fori_loop(0, 3, lambda i, x: jnp.sin(args * x), y) + t


X = np.array([0.3, -0.7, 0.9])
KEPLER = dict(x=np.array([1.0, 0.2]), v=np.array([0.1, 0.9]))
CASES = {
    "network": (_network, X, (np.eye(4, 3) + 0.3, np.eye(3, 4) - 0.2)),
    "kepler": (_kepler, KEPLER, np.array(1.3)),
    "elementary": (_elementary, X, np.array(0.7)),
    "indexed": (_indexed, X, np.array([0.5, 1.5, -1.0])),
    "complex": (_complex, np.array([0.3 + 0.5j, -0.7j]), np.array(0.6)),
    "determinant": (_determinant, np.eye(2) + 0.2, np.array(0.3)),
    "kinked": (_kinked, X, np.array(0.4)),
    "looped": (_looped, X, np.array(0.8)),
}


def _loss(coefficients):
    """Of coefficients on a leading axis; those of order 0 and 3 do not enter."""
    weights = jnp.array([0.0, 1.0, -2.0, 0.0, 5.0])
    total = 0.0
    for c in jtu.tree_leaves(coefficients):
        w = weights.reshape(-1, *[1] * (c.ndim - 1)).astype(c.real.dtype)
        c = c.real + c.imag if jnp.iscomplexobj(c) else c
        total += jnp.sum(w * c**2)
    return total


def _series(field, t, y, args):
    unit = jnp.ones((), jnp.asarray(t).dtype)
    return series_with_transpose(
        diffrax.ODETerm(field), t, unit, y, args, ORDER, "ode_jet", None
    )


def _nested(field, t, y, args):
    terms = nested_ode_jet(field, t, y, args, ORDER)
    return jtu.tree_map(lambda *c: jnp.stack(c), *terms)


@pytest.mark.filterwarnings("ignore:Complex dtype support")
@pytest.mark.sample(4)
@pytest.mark.parametrize("name", CASES)
def test_against_nested_derivatives(name, monkeypatch):
    by_products = []
    own = transposed_series._by_products

    def counted(*args):
        by_products.append(args)
        return own(*args)

    monkeypatch.setattr(transposed_series, "_by_products", counted)
    field, *point = CASES[name]
    y, args = jtu.tree_map(jnp.asarray, point)
    t = jnp.array(0.4)
    actual, expected = (
        jax.jit(jax.grad(lambda *x, of=of: _loss(of(field, *x)), (0, 1, 2)))(t, y, args)
        for of in (_series, _nested)
    )
    for a, e in zip(jtu.tree_leaves(actual), jtu.tree_leaves(expected), strict=True):
        assert_close(a, e, ulps=400)
    # Once for the series itself, and once more to differentiate its products. (JAX 0.10
    # writes the determinant of a 2x2 matrix out.)
    expected = dict(determinant={1, 2}, kinked={0}, looped={0}).get(name, {1})
    assert len(by_products) in expected
