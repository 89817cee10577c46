"""The flow of a pendulum as a polynomial in the initial state."""

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import filter_jet


jax.config.update("jax_enable_x64", True)

ORDER = 6
T1 = 6.0
Y0 = np.array([1.5, 0.0])
DIRECTION = np.array([0.6, 0.8])
RADII = 2.0 ** -np.arange(0.0, 7.0)


def vector_field(t, y, args):
    angle, velocity = y
    return jnp.stack([velocity, -jnp.sin(angle)])


# --8<-- [start:core]
def flow(y0):
    """The state at `T1`."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        diffrax.Dopri8(),
        t0=0.0,
        t1=T1,
        dt0=0.05,
        y0=y0,
        stepsize_controller=diffrax.ConstantStepSize(),
        adjoint=diffrax.ForwardMode(),  # A jet is forward mode, too.
    ).ys[-1]


@jax.jit
def taylor_map(y0, direction):
    """The coefficients of `r -> flow(y0 + r direction)`, of shape `(ORDER + 1, 2)`."""
    y1, terms = filter_jet(
        flow,
        (y0,),
        ([direction] + [None] * (ORDER - 1),),
        factorial_scaled=False,
    )
    return jnp.stack([y1, *terms])


# --8<-- [end:core]


@jax.jit
def flows(y0s):
    return jax.vmap(flow)(y0s)


def main(plot=None):
    coefficients = np.asarray(taylor_map(jnp.asarray(Y0), jnp.asarray(DIRECTION)))
    true = np.asarray(flows(Y0 + RADII[:, None] * DIRECTION))
    errors, rates = {}, {}
    for order in range(1, ORDER + 1):
        polynomial = coefficients[: order + 1]
        mapped = np.polynomial.polynomial.polyval(RADII, polynomial).T
        errors[order] = np.linalg.norm(mapped - true, axis=1)
        rates[order] = np.log2(errors[order][:-1] / errors[order][1:])
    print("   r     " + "".join(f"  order {order}" for order in errors))
    for i, radius in enumerate(RADII):
        row = "".join(f"{error[i]:9.1e}" for error in errors.values())
        print(f"{radius:<9.6f}" + row)
    row = "".join(f"{rate[-1]:9.2f}" for rate in rates.values())
    print("falls like r^" + row[4:])
    if plot is not None:
        draw(plot, coefficients, errors)
    return dict(coefficients=coefficients, errors=errors, rates=rates)


def draw(path, coefficients, errors):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    r = np.linspace(-1.0, 1.0, 201)
    true = np.asarray(flows(Y0 + r[:, None] * DIRECTION))
    left.plot(*true.T, color="black", lw=2, label="the flow")
    for order in (1, 2, 4, 6):
        mapped = np.polynomial.polynomial.polyval(r, coefficients[: order + 1])
        left.plot(*mapped, "--", lw=1, label=f"order {order}")
        right.loglog(RADII, errors[order], "o-", ms=4, label=f"order {order}")
    left.plot(*coefficients[0], "o", color="black")
    left.set(title="Where a line of states goes", xlabel="angle", ylabel="velocity")
    left.set(xlim=(-2.8, 2.4), ylim=(-1.3, 2.8))
    left.legend()
    right.set(title="Error of the map", xlabel="displacement r")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw the map and its errors")
    main(parser.parse_args().plot)
