"""Taylor coefficients of order 20 of ODE solutions, against `jax.experimental.jet`
called once for each order.

One call on a small state is over before it is measured, so what is timed is a loop of
100 steps of Taylor's method: coefficients, their polynomial, again.
"""

import argparse
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet as jax_jet
from jax.flatten_util import ravel_pytree

import eqx_taylor
from eqx_taylor import _outer_solar_system as solar_system

from ._timing import compare, print_machine, print_table


def lorenz(t, y):
    return jnp.stack(
        [
            10 * (y[1] - y[0]),
            y[0] * (28 - y[2]) - y[1],
            y[0] * y[1] - 8 / 3 * y[2],
        ]
    )


def forced_oscillator(t, y):
    return jnp.stack([y[1], -y[0] + jnp.sin(2 * t) * jnp.exp(-t * y[0])])


def outer_solar_system():
    y0, unravel = ravel_pytree(solar_system.initial_state())

    def field(t, y):
        return ravel_pytree(solar_system.vector_field(t, unravel(y), None))[0]

    return field, y0


def mlp():
    net = eqx.nn.MLP(64, 64, 256, 2, activation=jnp.tanh, key=jax.random.key(0))
    return lambda t, y: net(y), jnp.linspace(-1, 1, 64)


def problems():
    """Name, field, state, length of a step."""
    yield "Lorenz", lorenz, jnp.array([1.0, 2.0, 3.0]), 0.01
    yield "Forced oscillator", forced_oscillator, jnp.array([0.5, -0.3]), 0.01
    yield "Outer Solar System", *outer_solar_system(), 50.0
    yield "MLP 64-256-256-64", *mlp(), 0.01


STEPS = 100


def march(coefficients, t0, y0, step):
    def body(i, carry):
        t, y, _ = carry
        terms = coefficients(t, y)
        powers = step ** jnp.arange(len(terms))
        return t + step, powers @ terms, terms

    empty = jnp.zeros_like(jax.eval_shape(coefficients, t0, y0))
    return jax.lax.fori_loop(0, STEPS, body, (t0, y0, empty))[2]


def by_jax_jet(field, t0, y0, order):
    """As is done wherever `jax.experimental.jet` is used for ODEs: one more
    coefficient with every call. Time is one more state, of slope 1."""

    def augmented(state):
        t, y = state[0], state[1:]
        return jnp.concatenate([jnp.ones((1,), y.dtype), field(t, y)])

    state = jnp.concatenate([t0[None], y0])
    terms = [augmented(state)]
    for _ in range(order - 1):
        first, rest = jax_jet(augmented, (state,), (terms,))
        terms = [first, *rest]
    return jnp.stack([y0, *[x[1:] / math.factorial(k) for k, x in enumerate(terms, 1)]])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--order", type=int, default=20)
    parser.add_argument("--only", help="a part of the name of one problem")
    args = parser.parse_args()
    order = args.order
    jax.config.update("jax_enable_x64", True)
    print_machine()
    for name, field, y0, step in problems():
        if args.only is not None and args.only.lower() not in name.lower():
            continue
        t0 = jnp.array(0.0)

        def ours(t, y, field=field):
            return eqx_taylor.ode_jet(lambda t, y, _: field(t, y), t, y, order=order)

        def theirs(t, y, field=field):
            return by_jax_jet(field, t, y, order)

        timings = compare(
            [
                ("eqx_taylor.ode_jet", lambda t, y: march(ours, t, y, step)),
                ("jax.experimental.jet", lambda t, y: march(theirs, t, y, step)),
            ],
            (t0, y0),
        )
        print_table(f"{name}, order {order}, float64, {STEPS} steps", timings)
        ours_result, theirs_result = [timing.result for timing in timings]
        scale = np.max(np.abs(ours_result), axis=1, keepdims=True)
        error = np.max(np.abs(ours_result - theirs_result) / scale)
        print(f"\nLargest difference, relative to each order: {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
