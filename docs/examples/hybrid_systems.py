"""A neuron whose spikes are counted, a spacecraft that switches its engine, and the
closest approaches of two satellites.

    python docs/examples/hybrid_systems.py --plot hybrid_systems.png
"""

import argparse
import functools as ft

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import find_events, hybrid_solve, TaylorController, TaylorSolver


jax.config.update("jax_enable_x64", True)

CURRENTS = (5.0, 10.0, 20.0)  # Microamperes per square centimetre.
THRUST, T1 = 0.01, 40.0

controller = TaylorController(rtol=1e-10, atol=1e-10)


def neuron(t, y, current):
    """Hodgkin and Huxley's model, in millivolts and milliseconds."""
    v, m, h, n, _ = y
    a_m = (v + 40) / 10 / -jnp.expm1(-(v + 40) / 10)
    a_n = (v + 55) / 100 / -jnp.expm1(-(v + 55) / 10)
    a_h, b_h = 0.07 * jnp.exp(-(v + 65) / 20), 1 / (1 + jnp.exp(-(v + 35) / 10))
    b_m, b_n = 4 * jnp.exp(-(v + 65) / 18), 0.125 * jnp.exp(-(v + 65) / 80)
    ions = 120 * m**3 * h * (v - 50) + 36 * n**4 * (v + 77) + 0.3 * (v + 54.4)
    slopes = a_m * (1 - m) - b_m * m, a_h * (1 - h) - b_h * h, a_n * (1 - n) - b_n * n
    return current - ions, *slopes, jnp.zeros_like(v)


def spikes(current):
    """The voltage rises through zero at a spike. The last leaf of the state counts
    them."""
    return hybrid_solve(
        diffrax.ODETerm(neuron),
        TaylorSolver(order=8),
        t0=0.0,
        t1=60.0,
        dt0=None,
        y0=tuple(map(jnp.array, (-65.0, 0.053, 0.596, 0.318, 0.0))),
        args=current,
        event=diffrax.Event(lambda t, y, args, **kwargs: y[0], direction=True),
        update=lambda t, y, args, event_mask: (*y[:4], y[4] + 1),
        max_events=8,
        stepsize_controller=controller,
    )


# --8<-- [start:core]
def spacecraft(t, y, thrust):
    """A spacecraft in the plane, whose thrust is along its velocity."""
    position, velocity, is_on = y
    gravity = -position / jnp.sum(position**2) ** 1.5
    along = velocity / jnp.sqrt(jnp.sum(velocity**2))
    return velocity, gravity + thrust * is_on * along, jnp.zeros_like(is_on)


def start():
    return jnp.array([1.1, 0.0]), jnp.array([0.0, 1.1]), jnp.array(1.0)


def thrust_arcs(thrust):
    """The engine runs where the spacecraft is within 1.3 radii of the planet."""
    return hybrid_solve(
        diffrax.ODETerm(spacecraft),
        TaylorSolver(order=8),
        t0=0.0,
        t1=T1,
        dt0=None,
        y0=start(),
        args=thrust,
        event=diffrax.Event(lambda t, y, args, **kwargs: jnp.sum(y[0] ** 2) - 1.3**2),
        update=lambda t, y, args, event_mask: (*y[:2], 1 - y[2]),
        max_events=12,
        stepsize_controller=controller,
    )


@jax.jit
@ft.partial(jax.value_and_grad, has_aux=True)
def energy(thrust):
    """The energy at the end, and the solution."""
    arcs = thrust_arcs(thrust)
    position, velocity, _ = arcs.y1
    return jnp.sum(velocity**2) / 2 - 1 / jnp.sqrt(jnp.sum(position**2)), arcs


# --8<-- [end:core]


def satellites(t, y, args):
    positions, velocities = y
    cubes = jnp.sum(positions**2, axis=1, keepdims=True) ** 1.5
    return velocities, -positions / cubes


def receding(t, y, args, **kwargs):
    """Half of the slope of the squared distance. It rises through zero where the
    distance is least."""
    (a, b), (u, v) = y
    return jnp.dot(a - b, u - v)


@jax.jit
def conjunctions(times):
    """Satellites on circles of radius 1 and 1.01, in planes at right angles: their
    states at some times, and their conjunctions."""
    outer = 1.01
    positions = jnp.array([[1.0, 0.0, 0.0], [outer, 0.0, 0.0]])
    velocities = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, outer**-0.5]])
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(satellites),
        TaylorSolver(order=12),
        t0=0.0,
        t1=20.0,
        dt0=None,
        y0=(positions, velocities),
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(dense=True),
        max_steps=256,
    )
    event = diffrax.Event(receding, direction=True)
    events = find_events(solution, event, max_events=16)
    return jax.vmap(solution.evaluate)(times), events


def distances(ys):
    positions, _ = ys
    return jnp.linalg.norm(positions[:, 0] - positions[:, 1], axis=1)


def main(plot=None):
    neurons = jax.jit(jax.vmap(spikes))(jnp.array(CURRENTS))
    print("spikes:", *np.asarray(neurons.y1[-1], int))

    (value, arcs), slope = energy(THRUST)
    switches = arcs.events.ts[: int(arcs.events.num_events)]
    print("the engine is switched at", *(f"{t:.8f}" for t in switches))
    print(f"energy: {value:.8f}; its derivative by the thrust: {slope:.6f}")

    times = jnp.linspace(0.0, 20.0, 500)
    ys, events = conjunctions(times)
    number = int(events.num_events)
    for t, distance in zip(events.ts[:number], distances(events.ys)):
        print(f"conjunction at {t:.8f}, distance {distance:.8f}")
    if plot is not None:
        draw(plot, neurons, arcs, (times, distances(ys)), events)
    return dict(neurons=neurons, arcs=arcs, energy=(value, slope), events=events)


@jax.jit
@jax.vmap
def path(t0, t1, y):
    """Positions between two times, between which the engine is not switched."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(spacecraft),
        TaylorSolver(order=8),
        t0=t0,
        t1=t1,
        dt0=None,
        y0=y,
        args=THRUST,
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(ts=jnp.linspace(t0, t1, 100)),
    ).ys[0]


def draw(file, neurons, arcs, curve, events):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    spike_times = [ts[np.isfinite(ts)] for ts in np.asarray(neurons.events.ts)]
    left.eventplot(spike_times, linelengths=0.6)
    left.set(
        title="Spikes of three neurons",
        xlabel="ms",
        ylabel="current",
        yticks=range(len(CURRENTS)),
        yticklabels=CURRENTS,
    )
    number = int(arcs.events.num_events)
    ts = jnp.array([0.0, *arcs.events.ts[:number], T1])
    ys = jax.tree.map(
        lambda y0, ys: jnp.stack([y0, *ys[:number]]), start(), arcs.ys_after
    )
    for xs, is_on in zip(path(ts[:-1], ts[1:], ys), ys[2]):
        middle.plot(*xs.T, color="C3" if is_on else "0.7", lw=2 if is_on else 1)
    angles = np.linspace(0, 2 * np.pi, 100)
    middle.plot(1.3 * np.cos(angles), 1.3 * np.sin(angles), "k:", lw=1)
    middle.set(title="Thrust arcs", xlabel="radii", aspect="equal")
    right.plot(*curve)
    right.plot(events.ts, distances(events.ys), "o")
    right.set(title="Distance of two satellites", xlabel="time")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw all three")
    main(parser.parse_args().plot)
