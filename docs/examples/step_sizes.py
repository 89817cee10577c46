"""Steps along two orbits: Kepler's, where the best length is known, and Arenstorf's."""

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import taylor_method


jax.config.update("jax_enable_x64", True)

TOLERANCE = 1e-12
ECCENTRICITY = 0.9
# The Moon's mass; the period of the orbit (Hairer, Nørsett, Wanner I, Section II.0).
MU, PERIOD = 0.012277471, 17.0652165601579625588917206249


def kepler(t, y, args):
    position, velocity = y[:2], y[2:]
    return jnp.concatenate([velocity, -position / jnp.sum(position**2) ** 1.5])


def arenstorf(t, y, args):
    """A satellite of Earth and Moon, in the frame that turns with them."""
    x, y, vx, vy = y
    earth = (1 - MU) * ((x + MU) ** 2 + y**2) ** -1.5
    moon = MU * ((x - (1 - MU)) ** 2 + y**2) ** -1.5
    ax = x + 2 * vy - earth * (x + MU) - moon * (x - (1 - MU))
    return jnp.stack([vx, vy, ax, y - 2 * vx - earth * y - moon * y])


# --8<-- [start:core]
# From the far end of the ellipse, where the body is slow, twice around it.
KEPLER = (
    kepler,
    (1 + ECCENTRICITY, 0, 0, np.sqrt(2 / (1 + ECCENTRICITY) - 1)),
    4 * np.pi,
)
ARENSTORF = arenstorf, (0.994, 0, 0, -2.00158510637908252240537862224), PERIOD

TAYLOR = taylor_method(rtol=TOLERANCE, atol=TOLERANCE)
DOPRI8 = diffrax.Dopri8(), diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)


def solve(problem, method):
    """The solution, and the times and states at the ends of the steps."""
    field, y0, t1 = problem
    solver, controller = method
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=0.0,
        t1=t1,
        dt0=None,
        y0=jnp.array(y0, float),
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(t0=True, steps=True, dense=True),
    )
    used = np.isfinite(solution.ts)
    return solution, np.asarray(solution.ts[used]), np.asarray(solution.ys[used])


# --8<-- [end:core]


def distance_to_singularity(t):
    """Of Kepler's problem, in the complex plane of time.

    The body falls into the centre, r = 1 - e cos(E) = 0, at E = i arccosh(1/e), which
    by Kepler's equation t = E - e sin(E) is the time i (arccosh(1/e) - sqrt(1 - e²)):
    counted from the passage of the near end, once in each revolution. It is at the far
    end that the solve starts.
    """
    height = np.arccosh(1 / ECCENTRICITY) - np.sqrt(1 - ECCENTRICITY**2)
    return np.hypot((t % (2 * np.pi)) - np.pi, height)


def main(plot=None):
    found, errors = {}, {}
    print(
        f"tolerance {TOLERANCE:g}        steps  rejected  shortest   longest     error"
    )
    for name, problem in (("Kepler", KEPLER), ("Arenstorf", ARENSTORF)):
        for solver, method in (("TaylorSolver", TAYLOR), ("Dopri8", DOPRI8)):
            solution, ts, ys = found[name, solver] = solve(problem, method)
            # The last step is cut off by the end.
            h = np.diff(ts)[:-1]
            # Both orbits are closed.
            error = errors[name, solver] = np.max(np.abs(ys[-1] - ys[0]))
            rejected = solution.stats["num_rejected_steps"]
            print(
                f"{name:<9} {solver:<13}{len(ts) - 1:6d}{rejected:10d}"
                f"{h.min():10.5f}{h.max():10.5f}{error:10.0e}"
            )
    _, ts, _ = found["Kepler", "TaylorSolver"]
    # Without the first step, which no series was there to choose by, and the last.
    ratios = np.diff(ts)[1:-1] / distance_to_singularity(ts[1:-2])
    print(
        "Kepler: a step, over the distance to the singularity: "
        f"{ratios.min():.3f} to {ratios.max():.3f}"
    )
    if plot is not None:
        draw(plot, found, np.median(ratios))
    return dict(found=found, errors=errors, ratios=ratios)


def draw(path, found, ratio):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    for row, (name, of_time) in zip(
        figure.subplots(2, 2, width_ratios=(1, 1.3)),
        (("Kepler", True), ("Arenstorf", False)),
    ):
        draw_orbit(row[0], *found[name, "TaylorSolver"])
        row[0].set(title=f"{name}'s orbit, and where steps end", aspect="equal")
        for solver, style in (("TaylorSolver", "o-"), ("Dopri8", "-")):
            _, ts, _ = found[name, solver]
            label = f"{solver}: {len(ts) - 1} steps"
            row[1].semilogy(ts[:-2], np.diff(ts)[:-1], style, ms=3, lw=1, label=label)
        if of_time:
            t = np.linspace(0, 4 * np.pi, 1001)
            row[1].semilogy(
                t,
                ratio * distance_to_singularity(t),
                "--",
                color="black",
                lw=1,
                label=f"{ratio:.2f} × distance to the singularity",
            )
        row[1].set(title="Length of the steps", xlabel="t")
        row[1].grid(alpha=0.3)
        row[1].set_ylim(bottom=2e-4)
        row[1].legend(loc="lower center")
    figure.savefig(path, dpi=110)


def draw_orbit(axis, solution, ts, ys):
    between = np.linspace(ts[:-1], ts[1:], 10, endpoint=False).T.reshape(-1)
    curve = np.asarray(jax.vmap(solution.evaluate)(jnp.asarray(between)))
    axis.plot(*curve[:, :2].T, lw=1, color="C0")
    axis.plot(*ys[:, :2].T, "o", ms=3, color="C0")
    axis.set(xlabel="x", ylabel="y")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw orbits and steps")
    main(parser.parse_args().plot)
