"""Kinks and jumps at the start of a step: derivatives are those of the side into which
the solution goes.

Jets are compared with total derivatives of that side, written out by hand; solves with
integrals and solutions put together from pieces.
"""

import diffrax as dx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, count_equations, nested_ode_jet
from jax import lax

from eqx_taylor import filter_jet, ode_jet, TaylorController, TaylorSolver
from eqx_taylor._interpreter import Walk
from eqx_taylor._jax import trace


KNOTS = np.array([-1.0, 0.0, 0.5, 2.0])
VALUES = np.array([0.5, 1.0, 2.0, -1.0])


def _interp(x):
    return jnp.interp(x, jnp.asarray(KNOTS, x.dtype), jnp.asarray(VALUES, x.dtype))


@jax.custom_jvp
def _ramp(x):
    return jnp.where(x > 0, x, 0)


@_ramp.defjvp
def _(primals, tangents):
    [x], [dx] = primals, tangents
    return _ramp(x), jnp.where(x > 0, dx * jnp.cos(x) / jnp.cos(x), 0 * dx)


def _layers(x):
    """Kinks in the body of a loop, by what is carried."""
    weights = jnp.array([1.0, 2.0, 0.5], x.dtype)
    return lax.scan(lambda c, w: (jax.nn.relu(w * c), jnp.sin(c)), x, weights)[0]


def _held(t):
    """A value that is held until the next knot."""
    knots = jnp.array([0.1, 0.3, 0.7], t.dtype)
    return jnp.array([1.0, 2.0, 4.0, 8.0], t.dtype)[jnp.searchsorted(knots, t)]


def _sorted_pairs(y):
    return lax.sort((y, jnp.sin(y[::-1])), num_keys=1)[1]


def _bounded(t):
    """As of a table that complains about times it does not have."""
    return eqx.error_if(jnp.sin(t), (t > 0.5) | (t < 0), "no such time")


EIGHT = sum([0.1] * 8)  # 0.7999999999999999
UP, DOWN = lambda y: y + 1, lambda y: y - 1  # noqa: E731

# The field, the side of it that the solution goes to, time and state. Fields of several
# components have an array for a state.
FIELDS = {
    # of the state
    "relu": (lambda t, y: 1 + jax.nn.relu(y), lambda t, y: 1 + y, 0.0, 0.0),
    "max": (lambda t, y: 1 + jnp.maximum(y, 0), lambda t, y: 1 + y, 0.0, 0.0),
    "min": (lambda t, y: jnp.minimum(y, 0) - 1, lambda t, y: y - 1, 0.0, 0.0),
    "abs, upwards": (lambda t, y: 1 + abs(y) * y, lambda t, y: 1 + y * y, 0.0, 0.0),
    "abs, downwards": (lambda t, y: -1 - abs(y), lambda t, y: y - 1, 0.0, 0.0),
    "clip": (lambda t, y: 2 - jnp.clip(y, 0, 1), lambda t, y: 1 + 0 * y, 0.0, 1.0),
    "clamp": (lambda t, y: 1 + lax.clamp(0 * t, y, t + 2), lambda t, y: 1 + y, 0.3, 0.0),
    "leaky_relu": (lambda t, y: jax.nn.leaky_relu(y) - 1, lambda t, y: 0.01 * y - 1, 0.0, 0.0),
    "relu6": (lambda t, y: jax.nn.relu6(y) - 1, lambda t, y: 5 + 0 * y, 0.0, 6.0),
    "hard_tanh": (lambda t, y: jax.nn.hard_tanh(y), lambda t, y: 1 + 0 * y, 0.0, 1.0),
    "elu": (lambda t, y: 1 + 2 * jax.nn.elu(y, 0.5), lambda t, y: 1 + 2 * y, 0.0, 0.0),
    "where": (lambda t, y: 1 + jnp.where(y > 0, jnp.sin(y), 2 * y), lambda t, y: 1 + jnp.sin(y), 0.0, 0.0),
    "where it is not": (lambda t, y: 1 + jnp.where(y != 0, jnp.sin(y), 0), lambda t, y: 1 + jnp.sin(y), 0.0, 0.0),
    "cond": (lambda t, y: lax.cond(y > 0, lambda y: 1 + y * y, UP, y), lambda t, y: 1 + y * y, 0.0, 0.0),
    "kink in a branch": (lambda t, y: lax.cond(t > 0, lambda y: 1 + jax.nn.relu(y), UP, y), lambda t, y: 1 + y, 0.5, 0.0),
    "switch": (lambda t, y: lax.switch((y >= 0).astype(int), [lambda y: 3 * y - 1, DOWN], y), lambda t, y: 3 * y - 1, 0.0, 0.0),
    "piecewise": (lambda t, y: jnp.piecewise(y, [y < 1, y >= 1], [lambda y: y, lambda y: y**3]), lambda t, y: y**3, 0.0, 1.0),
    "interp, upwards": (lambda t, y: _interp(y), lambda t, y: 2 - 2 * (y - 0.5), 0.0, 0.5),
    "interp, downwards": (lambda t, y: -_interp(y), lambda t, y: -(1 + 2 * y), 0.0, 0.5),
    "custom_jvp": (lambda t, y: 1 + _ramp(y), lambda t, y: 1 + y, 0.0, 0.0),
    "in a loop": (lambda t, y: 1 + _layers(y), lambda t, y: 1 + y, 0.0, 0.0),
    "in a loop, of time": (lambda t, y: y + _layers(t - 0.8), lambda t, y: y + t - 0.8, EIGHT, 1.0),
    "checkpoint": (lambda t, y: 1 + jax.checkpoint(jax.nn.relu)(y), lambda t, y: 1 + y, 0.0, 0.0),
    "checkpoint, of time": (lambda t, y: y + jax.checkpoint(jax.nn.relu)(t), lambda t, y: y + t, 0.0, 0.0),
    "stopped": (lambda t, y: 1 + jnp.where(lax.stop_gradient(y) > 0, y, 2 * y), lambda t, y: 1 + y, 0.0, 0.0),
    # several components
    "one of several": (lambda t, y: 1 + jax.nn.relu(y - jnp.arange(3.0).astype(y.dtype)), lambda t, y: 1 + jnp.stack([y[0], 0 * t, 0 * t]), 0.0, [0.0, 0.5, 0.7]),
    "at rest": (lambda t, y: jnp.stack([y[1], 1 - jax.nn.relu(y[0])]), lambda t, y: jnp.stack([y[1], 1 - y[0]]), 0.0, [0.0, 0.0]),
    "at rest, where": (lambda t, y: jnp.stack([y[1], 1 - jnp.where(y[0] > 0, y[0], 0)]), lambda t, y: jnp.stack([y[1], 1 - y[0]]), 0.0, [0.0, 0.0]),
    "sort": (lambda t, y: jnp.sort(y) * jnp.array([1.0, 2.0, 3.0], y.dtype), lambda t, y: jnp.stack([y[0], 2 * y[1], 3 * y[2]]), 0.0, [1.0, 1.0, 1.0]),
    "sort of pairs": (lambda t, y: jnp.array([2.0, 1.0], y.dtype) * y + _sorted_pairs(y) * (y - 1), lambda t, y: jnp.array([2.0, 1.0], y.dtype) * y + jnp.sin(y) * (y - 1), 0.0, [1.0, 1.0]),
    "median": (lambda t, y: jnp.median(y) * jnp.array([1.0, 2.0, 3.0], y.dtype), lambda t, y: y[1] * jnp.array([1.0, 2.0, 3.0], y.dtype), 0.0, [1.0, 1.0, 1.0]),
    "reduce_max": (lambda t, y: jnp.max(y) * jnp.array([2.0, 1.0], y.dtype), lambda t, y: y[0] * jnp.array([2.0, 1.0], y.dtype), 0.0, [1.0, 1.0]),
    "argmax": (lambda t, y: y[jnp.argmax(y)] * jnp.array([1.0, 2.0], y.dtype), lambda t, y: y[1] * jnp.array([1.0, 2.0], y.dtype), 0.0, [1.0, 1.0]),
    "top_k": (lambda t, y: lax.top_k(y, 2)[0] * jnp.array([1.0, 2.0], y.dtype), lambda t, y: y[::-1] * jnp.array([1.0, 2.0], y.dtype), 0.0, [1.0, 1.0]),
    # of time
    "ramp": (lambda t, y: y + jnp.maximum(t - 0.5, 0), lambda t, y: y + t - 0.5, 0.5, 1.0),
    "a sum of steps": (lambda t, y: y + abs(t - 0.3), lambda t, y: y + t - 0.3, 0.1 + 0.1 + 0.1, 1.0),
    "a sum of steps, below": (lambda t, y: y + abs(t - 0.8), lambda t, y: y + t - 0.8, EIGHT, 1.0),
    "triangle wave": (lambda t, y: y + abs(t % 2 - 1), lambda t, y: y + 3 - t, 2.0, 1.0),
    "triangle wave, below": (lambda t, y: y + abs(t % 0.2 - 0.1), lambda t, y: y + 0.1 - (t - 0.8), EIGHT, 1.0),
    "floor": (lambda t, y: y + abs(t - jnp.floor(t) - 0.5), lambda t, y: y + 1.5 - t, 1.0, 1.0),
    "round": (lambda t, y: y + abs(t - jnp.round(t)), lambda t, y: y + 1 - t, 0.5, 1.0),
    "held": (lambda t, y: y + _held(t), lambda t, y: y + 4.0, 0.3, 1.0),
    "held, below": (lambda t, y: y + _held(t), lambda t, y: y + 8.0, 0.7 - 1e-15, 1.0),
    # What is singular on the side ahead is not decided ahead.
    "sinc": (lambda t, y: y + jnp.sinc(t), lambda t, y: y + 1 - (jnp.pi * t) ** 2 / 6 + (jnp.pi * t) ** 4 / 120, 0.0, 1.0),
    "safe": (lambda t, y: y + jnp.where(t > 0, jnp.log(jnp.where(t > 0, t, 1)), 0), lambda t, y: y, 0.0, 1.0),
    "error_if": (lambda t, y: y + _bounded(t), lambda t, y: y + jnp.sin(t), 0.5, 1.0),
}  # fmt: skip


ORDER = 4


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["64", "32"])
def test_side_of_a_kink(dtype):
    """All in one program: of each field, and of its side."""

    def points():
        for _, _, t, y in FIELDS.values():
            yield jnp.array(t, dtype), jnp.array(y, dtype)

    @jax.jit
    def jets(points):
        return [
            ode_jet(lambda t, y, args, f=f: f(t, y), t, y, order=ORDER)
            for (f, *_), (t, y) in zip(FIELDS.values(), points)
        ]

    @jax.jit
    def sides(points):
        return [
            jnp.stack(nested_ode_jet(lambda t, y, args, f=f: f(t, y), t, y, None, ORDER))
            for (_, f, *_), (t, y) in zip(FIELDS.values(), points)
        ]

    points = list(points())
    for name, actual, expected in zip(FIELDS, jets(points), sides(points)):
        try:
            assert_close(actual, expected, 50)
        except AssertionError as e:
            raise AssertionError(f"{name}: {e} {actual} {expected}") from e
