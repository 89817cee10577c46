"""A damped pendulum: its parameters and initial state, fitted to noisy data."""

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqx_taylor import taylor_method


jax.config.update("jax_enable_x64", True)

NAMES = ("frequency", "damping", "angle at 0", "velocity at 0")
TRUE = np.array([1.5, 0.2, 2.0, 0.5])
GUESS = np.array([1.2, 0.0, 1.5, 0.0])
TS = np.linspace(0.0, 8.0, 41)
NOISE = 0.05  # Of the angles, which is all that is measured.
ITERATIONS = 400


def vector_field(t, y, args):
    angle, velocity = y
    frequency, damping = args
    return velocity, -(frequency**2) * jnp.sin(angle) - damping * velocity


# --8<-- [start:core]
def solve(parameters):
    """The angles at `TS`."""
    frequency, damping, angle, velocity = parameters
    solver, controller = taylor_method(rtol=1e-8, atol=1e-8)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        solver,
        t0=0.0,
        t1=TS[-1],
        dt0=None,
        y0=(angle, velocity),
        args=(frequency, damping),
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(ts=TS, fn=lambda t, y, args: y[0]),
        max_steps=256,
        # For a few parameters. For many, leave it out, and take `jax.grad`.
        adjoint=diffrax.ForwardMode(),
    ).ys


@jax.jit
def make_data():
    noise = NOISE * jax.random.normal(jax.random.key(0), TS.shape)
    return solve(jnp.asarray(TRUE)) + noise


@jax.jit
def fit(guess, data):
    def residuals(parameters):
        r = (solve(parameters) - data) / NOISE
        return r, r

    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, ITERATIONS))

    def update(carry, _):
        parameters, state = carry
        # The loss is the mean of r², and so its gradient that of 2 r dr.
        jacobian, r = jax.jacfwd(residuals, has_aux=True)(parameters)
        gradient = 2 * jacobian.T @ r / r.size
        updates, state = optimiser.update(gradient, state)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, state), (jnp.mean(r**2), jacobian, r)

    start = guess, optimiser.init(guess)
    (fitted, _), rows = jax.lax.scan(update, start, length=ITERATIONS)
    losses, jacobians, rs = rows
    # The covariance of a least-squares fit, to first order in the noise.
    covariance = jnp.linalg.inv(jacobians[-1].T @ jacobians[-1])
    angles = data + NOISE * rs[-1]
    return fitted, jnp.sqrt(jnp.diagonal(covariance)), losses, angles


# --8<-- [end:core]


def main(plot=None):
    data = make_data()
    fitted, errors, losses, angles = map(np.asarray, fit(jnp.asarray(GUESS), data))
    for iteration in (0, 50, 100, 200, ITERATIONS - 1):
        print(f"loss after {iteration:3d} iterations: {losses[iteration]:9.4f}")
    print("parameter       guess   fitted             true")
    for name, guess, value, error, true in zip(NAMES, GUESS, fitted, errors, TRUE):
        print(f"{name:<16}{guess:<8g}{value:.4f} ± {error:.4f}    {true:g}")
    if plot is not None:
        draw(plot, data, angles, losses)
    return dict(fitted=fitted, errors=errors, losses=losses, data=np.asarray(data))


def draw(path, data, angles, losses):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(TS, data, "o", ms=4, label="data")
    left.plot(TS, angles, lw=1, label="fit")
    left.set(title="Angle", xlabel="t")
    left.legend()
    right.semilogy(losses)
    right.set(title="Loss", xlabel="iteration")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw the data and the fit")
    main(parser.parse_args().plot)
