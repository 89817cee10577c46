"""The Sun, Jupiter and Saturn: when do the planets meet, and is energy conserved?"""

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from eqx_taylor import TaylorController, TaylorSolver


jax.config.update("jax_enable_x64", True)

# AU, years of 365 days, solar masses. Hairer, Lubich, Wanner: "Geometric Numerical
# Integration", Section I.2.4, in the frame in which the barycentre is at rest.
G = (0.01720209895 * 365) ** 2
MASSES = np.array([1.00000597682, 1 / 1047.355, 1 / 3501.6])
# fmt: off
POSITIONS = np.array([
    [-5.137271893918405e-3, -5.288891104344273e-3, 6.180743702483316e-6],
    [3.404393156051084, 3.6305811472186558, 0.0342464685434024],
    [6.606942557811084, 6.381645992310656, -0.1361381213577972],
])
VELOCITIES = np.array([
    [2.3859757364179156e-3, -2.3396779489468049e-3, -8.1384891821122709e-7],
    [-2.0433186406983279, 2.0141003472039567, -9.7316724504621210e-4],
    [-1.5233982268351876, 1.4589658329821569, 0.0061033600397708],
])
# fmt: on


def vector_field(t, y, args):
    x, v = y
    d = x[None, :, :] - x[:, None, :]  # d[i, j] points from body i to body j.
    r2 = jnp.sum(d**2, axis=-1) + np.eye(3)  # 1 instead of 0: no body pulls itself.
    weight = G * MASSES[None, :] * r2**-1.5
    return v, jnp.sum(weight[:, :, None] * d, axis=1)


def energy(y):
    x, v = y
    i, j = np.triu_indices(3, k=1)
    distance = jnp.linalg.norm(x[i] - x[j], axis=-1)
    kinetic = 0.5 * jnp.sum(MASSES * jnp.sum(v**2, axis=-1))
    return kinetic - G * jnp.sum(MASSES[i] * MASSES[j] / distance)


def sine_of_lead(t, y, args, **kwargs):
    """The sine of the angle by which Jupiter is ahead of Saturn, as the Sun sees it,
    times the side of the Sun: 1 for conjunctions, -1 for oppositions.

    It rises through zero when Jupiter overtakes (side 1), and when it is opposite (-1).
    """
    side = args
    x, _ = y
    jupiter, saturn = x[1, :2] - x[0, :2], x[2, :2] - x[0, :2]
    cross = saturn[0] * jupiter[1] - saturn[1] * jupiter[0]
    return side * cross / (jnp.linalg.norm(jupiter) * jnp.linalg.norm(saturn))


# --8<-- [start:core]
def solve(y0, t0, t1, side=None, **kwargs):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        TaylorSolver(order=20, compensated=True, event=kwargs.get("event")),
        t0=t0,
        t1=t1,
        dt0=None,
        y0=y0,
        args=side,
        stepsize_controller=TaylorController(rtol=1e-16, atol=1e-16),
        adjoint=diffrax.ForwardMode(),  # Nothing is differentiated backwards.
        **kwargs,
    )


@jax.jit
def meetings(y0):
    """10 times 2 events, conjunctions and oppositions in turn; each solve goes on from
    the event before."""
    event = diffrax.Event(
        sine_of_lead, optx.Newton(rtol=1e-15, atol=1e-13), direction=True
    )

    def next_event(carry, side):
        t, y = carry
        # Never reached. 30 years are more than the planets need.
        solution = solve(y, t, t + 30.0, side, event=event, throw=False)
        t, y = solution.ts[-1], jax.tree.map(lambda x: x[-1], solution.ys)
        steps = solution.stats["num_steps"]
        found = solution.result == diffrax.RESULTS.event_occurred
        missed = jnp.abs(sine_of_lead(t, y, side))
        return (t, y), (t, y[0], energy(y), missed, steps, found)

    # At the start Jupiter is ahead, so that the opposition comes first.
    sides = jnp.tile(jnp.array([-1.0, 1.0]), 10)
    return jax.lax.scan(next_event, (jnp.array(0.0), y0), sides)[1]


# --8<-- [end:core]


def long_run(y0, years):
    """The relative error of the energy at 1000 times."""
    ts = jnp.linspace(0.0, years, 1001)
    saveat = diffrax.SaveAt(ts=ts, fn=lambda t, y, args: energy(y))
    run = jax.jit(lambda y0: solve(y0, 0.0, years, saveat=saveat, max_steps=None))
    solution = run(y0)
    errors = jnp.abs(solution.ys / energy(y0) - 1)
    return np.asarray(ts), np.asarray(errors), int(solution.stats["num_steps"])


def main(years=None, plot=None):
    y0 = jnp.asarray(POSITIONS), jnp.asarray(VELOCITIES)
    if years is not None:
        _, errors, steps = long_run(y0, years)
        print(f"{years:g} years in {steps} steps of {years / steps:.2f} years")
        print(f"relative energy error, at the end: {errors[-1]:.1e}")
        print(f"                       at most:    {errors.max():.1e}")
        return dict(steps=steps, errors=errors)

    ts, xs, energies, missed, steps, found = map(np.asarray, meetings(y0))
    assert found.all()
    conjunctions = ts[1::2]
    between = np.diff(conjunctions)
    energy_error = np.max(np.abs(energies / energy(y0) - 1))
    print("Jupiter overtakes Saturn at t =")
    for row in conjunctions.reshape(2, 5):
        print("  ".join(f"{t:17.12f}" for t in row))
    print(
        f"years between two conjunctions: {between.min():.2f} to {between.max():.2f}, "
        f"on average {between.mean():.3f}"
    )
    print(f"steps: {steps.sum()}, of {ts[-1] / steps.sum():.2f} years")
    print(f"sine of the angle at the events: at most {missed.max():.1e}")
    print(f"relative energy error: at most {energy_error:.1e}")
    if plot is not None:
        draw(plot, xs[1::2], between)
    return dict(
        ts=ts, between=between, missed=missed, steps=steps, energy_error=energy_error
    )


def draw(path, xs, between):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, name in ((1, "Jupiter"), (2, "Saturn")):
        left.plot(*(xs[:, i, :2] - xs[:, 0, :2]).T, "o", ms=5, label=name)
    for x in xs:
        left.plot(*(x[[0, 2], :2] - x[0, :2]).T, color="0.8", lw=1, zorder=0)
    left.set(title="Conjunctions", xlabel="x (AU)", ylabel="y (AU)", aspect="equal")
    left.legend()
    right.plot(np.arange(2, len(xs) + 1), between, "o-")
    right.set(
        title="Time since the conjunction before",
        xlabel="conjunction",
        ylabel="years",
        xticks=range(2, len(xs) + 1, 3),
    )
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--years", type=float, help="instead: energy over so many years"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the conjunctions")
    options = parser.parse_args()
    main(options.years, options.plot)
