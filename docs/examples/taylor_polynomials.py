"""Taylor polynomials of two functions: how far do they converge, and how fast?"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import taylor_polynomial


jax.config.update("jax_enable_x64", True)

ORDER = 24
# Where the error is measured, in units of the radius of convergence.
FRACTIONS = (0.25, 0.5, 0.9, 1.1)


def witch(x):
    """Smooth on the whole line, and with poles at ±i."""
    return 1 / (1 + x**2)


def make_network():
    mlp = eqx.nn.MLP(2, "scalar", 32, 2, activation=jnp.tanh, key=jax.random.key(0))
    # Weights as they are initialised make a function that is nearly straight.
    return jax.tree.map(lambda w: 2 * w if eqx.is_inexact_array(w) else w, mlp)


POINT, DIRECTION = np.array([0.3, -0.2]), np.array([1.0, 0.5])


def truncated(p, order, s):
    """Not `p(s)`, which JAX would compile for each of the orders."""
    coefficients = np.asarray(p.coefficients)[: order + 1]
    return np.polynomial.polynomial.polyval(s, coefficients)


def errors(fun, p, radius):
    """Of each order, at each of the fractions: the worse of the two sides."""
    s = radius * np.outer([-1.0, 1.0], FRACTIONS)
    true = fun(s.reshape(-1)).reshape(s.shape)
    rows = [
        np.max(np.abs(truncated(p, order, s) - true), axis=0)
        for order in range(ORDER + 1)
    ]
    return np.array(rows)


def rate(errors):
    """By what factor an error falls with each order, at the upper half of them."""
    orders = np.arange(ORDER // 2, ORDER + 1)
    return np.exp(np.polyfit(orders, np.log(errors[orders]), 1)[0])


def main(plot=None):
    # --8<-- [start:core]
    points = np.array([0.0, 0.5, 1.0, 2.0])
    around = [taylor_polynomial(witch, jnp.array(x), 1.0, ORDER) for x in points]
    radii = np.array([p.radius_of_convergence() for p in around])
    exact = np.sqrt(1 + points**2)
    print("1 / (1 + x²)    at    radius    sqrt(1 + x²)")
    for x, radius, distance in zip(points, radii, exact):
        print(f"              {x:4.1f}    {radius:6.4f}    {distance:6.4f}")

    mlp = make_network()
    network = jax.vmap(lambda s: mlp(POINT + s * DIRECTION))
    of_network = taylor_polynomial(mlp, jnp.array(POINT), DIRECTION, ORDER)
    radius = float(of_network.radius_of_convergence())
    # --8<-- [end:core]
    print(f"network, along a line    {radius:6.4f}")

    both = {
        "1 / (1 + x²) at 0": errors(witch, around[0], 1.0),
        "network": errors(network, of_network, radius),
    }
    print("an error changes with each order by a factor of")
    print("at s / radius        " + "".join(f"{f:8.2f}" for f in FRACTIONS))
    rates = {}
    for name, found in both.items():
        rates[name] = np.array([rate(column) for column in found.T])
        print(f"{name:<21}" + "".join(f"{r:8.2f}" for r in rates[name]))
    if plot is not None:
        draw(plot, around[0], network, of_network, radius, both)
    return dict(
        radii=radii,
        exact=exact,
        rates=rates,
        network=network,
        of_network=of_network,
        radius=radius,
    )


def draw(path, p, network, of_network, radius, errors):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    (left, right), below = figure.subplots(2, 2)
    draw_polynomials(left, witch, p, 1.0, 2.0, (2, 4, 8, 24))
    left.set(title="1 / (1 + x²), and its Taylor polynomials at 0", xlabel="x")
    left.set(ylim=(-0.5, 1.6))
    draw_network(right, network, of_network, radius)
    right.set(title="A network along a line")
    for axis, (name, found) in zip(below, errors.items()):
        for fraction, column in zip(FRACTIONS, found.T):
            axis.semilogy(column, "o-", ms=3, lw=1, label=f"{fraction:g} radii away")
        axis.set(title=f"{name}: error", xlabel="order", ylim=(1e-17, 1e2))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def draw_network(axis, network, p, radius):
    draw_polynomials(axis, network, p, radius, 2 * radius, (2, 4, 8, 24))
    true = network(np.linspace(-2 * radius, 2 * radius, 201))
    middle, half = (np.max(true) + np.min(true)) / 2, np.ptp(true)
    axis.set(ylim=(middle - 1.4 * half, middle + half), xlabel="s")


def draw_polynomials(axis, fun, p, radius, reach, orders):
    s = np.linspace(-reach, reach, 401)
    axis.axvspan(-radius, radius, color="0.92", zorder=0)
    for order in orders:
        axis.plot(s, truncated(p, order, s), label=f"order {order}")
    axis.plot(s, fun(s), color="black", lw=2, label="the function")
    axis.legend(loc="lower center")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw polynomials and errors")
    main(parser.parse_args().plot)
