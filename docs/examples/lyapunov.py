"""The Lyapunov exponents of the Lorenz attractor, by the variational equations."""

import argparse

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import taylor_method


jax.config.update("jax_enable_x64", True)

SIGMA, RHO, BETA = 10.0, 28.0, 8 / 3
# Of time, between two orthonormalisations; and how many of them, after those in which
# the state comes to the attractor.
INTERVAL, COUNT, WARM_UP = 0.25, 40_000, 400


def lorenz(y):
    x, y, z = y
    return jnp.stack([SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z])


# --8<-- [start:core]
def vector_field(t, state, args):
    """The state and a matrix whose columns are displacements of it: Q' = f'(y) Q."""
    y, Q = state

    def along(column):
        return eqx.filter_jvp(lorenz, (y,), (column,))[1]

    return lorenz(y), jax.vmap(along, in_axes=1, out_axes=1)(Q)


def advance(state, _):
    """One interval; then the displacements are made orthonormal again."""
    solver, controller = taylor_method(rtol=1e-12, atol=1e-12)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        solver,
        t0=0.0,
        t1=INTERVAL,
        dt0=0.05,
        y0=state,
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode(),  # Nothing is differentiated backwards.
    )
    y, Q = jax.tree.map(lambda x: x[-1], solution.ys)
    Q, R = jnp.linalg.qr(Q)
    growth = jnp.log(jnp.abs(jnp.diagonal(R)))
    return (y, Q), (growth, y, solution.stats["num_steps"])


@jax.jit
def run(y0):
    """The logarithms of the growth in each interval, of shape `(COUNT, 3)`; the states
    and the numbers of steps."""
    _, rows = jax.lax.scan(advance, (y0, jnp.eye(3)), length=WARM_UP + COUNT)
    return jax.tree.map(lambda x: x[WARM_UP:], rows)


# --8<-- [end:core]


def main(plot=None):
    growth, ys, steps = map(np.asarray, run(jnp.array([1.0, 1.0, 1.0])))
    rates = growth / INTERVAL
    exponents = rates.mean(axis=0)
    # The standard error from means over 100 units of time each: longer than anything
    # that the motion remembers.
    means = rates.reshape(-1, round(100 / INTERVAL), 3).mean(axis=1)
    errors = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    divergence = -(SIGMA + 1 + BETA)
    sum_error = np.abs(exponents.sum() - divergence)
    steps = steps.mean() / INTERVAL
    print(f"{COUNT * INTERVAL:g} units of time, {steps:.0f} steps in each")
    for exponent, error in zip(exponents, errors):
        print(f"{exponent:9.4f} ± {error:.4f}")
    print(f"sum of the three: {exponents.sum():.11f}")
    print(f"divergence of the field, -41/3, less that: {sum_error:.1e}")
    if plot is not None:
        draw(plot, rates, ys)
    return dict(exponents=exponents, errors=errors, sum_error=sum_error, rates=rates)


def draw(path, rates, ys):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(ys[:, 0], ys[:, 2], ".", ms=1)
    left.set(title="The state after each interval", xlabel="x", ylabel="z")
    n = np.arange(1, len(rates) + 1)
    right.semilogx(n * INTERVAL, np.cumsum(rates[:, 0]) / n, lw=1)
    right.axhline(0.9056, color="0.5", ls="--", lw=1, label="published: 0.9056")
    right.set(title="First exponent: mean up to t", xlabel="t", xlim=(10, None))
    right.set(ylim=(0.8, 1.0))
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw the convergence")
    main(parser.parse_args().plot)
