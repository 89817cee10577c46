"""A clamped plate under a load: a neural network that solves Δ²u = exp(x)."""

import argparse

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from eqx_taylor import biharmonic, partial_derivative


jax.config.update("jax_enable_x64", True)

STEPS = 40


def load(point):
    return jnp.exp(point[0])


class Deflection(eqx.Module):
    """On the unit disc, with zero values and slopes at its boundary, whatever the
    network is."""

    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(2, "scalar", 16, 2, jnp.tanh, key=key)

    def __call__(self, point):
        return (1 - jnp.sum(point**2)) ** 2 * self.mlp(point)


def quadrature(rings, spokes):
    """Points in the disc and their weights, for integrals: Gauss and Legendre's along
    the radius, at equal distances around the centre."""
    r, weights = np.polynomial.legendre.leggauss(rings)
    r, weights = (r + 1) / 2, weights / 2
    angles = 2 * np.pi * (np.arange(spokes) + 0.5) / spokes
    x, y = np.outer(r, np.cos(angles)), np.outer(r, np.sin(angles))
    weights = np.outer(weights * r, np.full(spokes, 2 * np.pi / spokes))
    return jnp.array(np.stack([x.ravel(), y.ravel()], axis=1)), jnp.array(
        weights.ravel()
    )


# --8<-- [start:core]
def residual(model, point):
    return biharmonic(model, point) - load(point)


def train(model, points, weights):
    """By Levenberg and Marquardt's method: least squares, with a damping that follows
    its success."""
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    flat, unflatten = jax.flatten_util.ravel_pytree(arrays)

    def weighted(flat, point, weight):
        model = eqx.combine(unflatten(flat), static)
        return jnp.sqrt(weight) * residual(model, point)

    @jax.jit
    def linearised(flat):
        """All residuals, and the gradient of each."""
        one = jax.value_and_grad(weighted)
        return jax.vmap(one, (None, 0, 0))(flat, points, weights)

    @jax.jit
    def step(flat, residuals, jacobian, damping):
        matrix = jacobian.T @ jacobian + damping * jnp.eye(flat.size)
        return flat - jnp.linalg.solve(matrix, jacobian.T @ residuals)

    damping, losses = 1e-2, []
    residuals, jacobian = linearised(flat)
    for _ in range(STEPS):
        losses.append(float(residuals @ residuals))
        while damping < 1e6:
            new = step(flat, residuals, jacobian, damping)
            new_residuals, new_jacobian = linearised(new)
            if new_residuals @ new_residuals < losses[-1]:
                flat, residuals, jacobian = new, new_residuals, new_jacobian
                damping = damping / 5
                break
            damping = damping * 5
    return eqx.combine(unflatten(flat), static), np.array(losses)


# --8<-- [end:core]


def exact(points, terms=20):
    """The deflection as a Fourier series. The load is exp(x) = Σ_n c_n I_n(r) cos(n θ),
    which is its own Δ². To it are added r^n and r^(n+2), whose Δ² is zero."""
    from scipy.special import iv, ivp

    r, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    total = 0.0
    for n in range(terms):
        value, slope = iv(n, 1), ivp(n, 1)
        b = (n * value - slope) / 2
        a = -value - b
        radial = iv(n, r) + a * r**n + b * r ** (n + 2)
        total = total + (1 if n == 0 else 2) * radial * np.cos(n * angle)
    return total


def above(x):
    """The next power of ten."""
    return 10.0 ** np.ceil(np.log10(x))


def main(plot=None):
    model = Deflection(jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    model, losses = train(model, *quadrature(10, 20))
    # At other points than those of the training.
    points, _ = quadrature(17, 33)
    deflection = jax.vmap(model)(points)
    expected = exact(np.asarray(points))
    error = np.max(np.abs(deflection - expected)) / np.max(np.abs(expected))
    # At the edge of the plate the bending moment is that of the second derivative.
    moment = -partial_derivative(model, jnp.array([1.0, 0.0]), (2, 0))
    print(f"parameters of the network       {count}")
    print(f"steps                           {len(losses)}")
    print(f"last loss                       below {above(losses[-1]):.0e}")
    print(f"deflection at the centre        {model(jnp.zeros(2)):.7f}")
    print(f"moment at the edge, (1, 0)      {moment:.5f}")
    print(f"largest error, relative         below {above(error):.0e}")
    if plot is not None:
        draw(plot, model, losses)
    return dict(model=model, losses=losses, error=error, moment=moment)


def draw(path, model, losses):
    from matplotlib.figure import Figure

    r, angle = np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 2 * np.pi, 81))
    x, y = r * np.cos(angle), r * np.sin(angle)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    deflection = np.asarray(jax.vmap(model)(jnp.array(points))).reshape(x.shape)
    error = np.abs(deflection - exact(points).reshape(x.shape))
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figure.colorbar(left.contourf(x, y, 1e3 * deflection, 12), ax=left)
    left.set(title="Deflection u, in 1/1000", aspect="equal")
    figure.colorbar(middle.contourf(x, y, error, 12), ax=middle)
    middle.set(title="Error of u", aspect="equal")
    right.semilogy(losses)
    right.set(title="Integral of (Δ²u - exp(x))²", xlabel="steps")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw the deflection")
    main(parser.parse_args().plot)
