"""Poincaré sections of Hénon and Heiles's galaxy, by all events of many solutions; and
a ball that bounces with friction, with the gradient of where it is.

    python docs/examples/poincare_section.py --plot poincare_section.png
"""

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import find_events, hybrid_solve, TaylorController, TaylorSolver


jax.config.update("jax_enable_x64", True)

ENERGY, ORBITS, T1 = 1 / 8, 6, 400.0


def henon_heiles(t, y, args):
    x, y, u, v = y
    return u, v, -x - 2 * x * y, y * y - y - x * x


def start(v):
    """On the section x = 0, at y = 0, with this velocity and the energy."""
    zero = jnp.zeros_like(v)
    return zero, zero, jnp.sqrt(2 * ENERGY - v * v), v


# --8<-- [start:core]
@jax.jit
@jax.vmap
def section(v):
    """Where the orbit goes through the plane x = 0, from one side."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(henon_heiles),
        TaylorSolver(order=12),
        t0=0.0,
        t1=T1,
        dt0=None,
        y0=start(v),
        stepsize_controller=TaylorController(rtol=1e-12, atol=1e-12),
        saveat=diffrax.SaveAt(dense=True),
        max_steps=2048,
    )
    event = diffrax.Event(lambda t, y, args, **kwargs: y[0], direction=True)
    return find_events(solution, event, max_events=100)


def bounce(t, y, args, event_mask):
    """The ball keeps a part of its velocity up, and loses some of that along."""
    x, z, u, w = y
    restitution, friction = args
    return x, z, u * (1 - friction), -restitution * w


def ball(args):
    """Thrown at 4 and 3 metres a second, for two seconds."""
    zero = jnp.zeros(())
    return hybrid_solve(
        diffrax.ODETerm(
            lambda t, y, args: (y[2], y[3], 0.0 * y[2], -9.81 + 0.0 * y[3])
        ),
        TaylorSolver(order=4),
        t0=0.0,
        t1=2.0,
        dt0=None,
        y0=(zero, zero, zero + 4.0, zero + 3.0),
        args=args,
        event=diffrax.Event(lambda t, y, args, **kwargs: y[1], direction=False),
        update=bounce,
        max_events=16,
        stepsize_controller=TaylorController(rtol=1e-12, atol=1e-12),
    )


# --8<-- [end:core]


def main(plot=None):
    velocities = jnp.linspace(-0.3, 0.45, ORBITS)
    sections = section(velocities)
    print("crossings of the plane:", *np.asarray(sections.num_events))
    x, y, u, v = sections.ys
    energies = (u**2 + v**2 + x**2 + y**2) / 2 + x**2 * y - y**3 / 3
    exists = sections.index >= 0
    print(f"|x| at them: at most {jnp.max(jnp.abs(x), where=exists, initial=0):.0e}")
    drift = jnp.max(jnp.abs(energies - ENERGY), where=exists, initial=0)
    print(f"the energy there: {ENERGY}, to {drift:.0e}")

    args = jnp.array([0.7, 0.2])
    solution = jax.jit(ball)(args)
    bounces = solution.events.ts[: int(solution.events.num_events)]
    assert not solution.events.has_more
    first = " ".join(f"{t:.10f}" for t in bounces[:4])
    print(f"{len(bounces)} bounces, the first at {first}")
    place, slope = jax.jit(jax.value_and_grad(lambda args: ball(args).y1[0]))(args)
    print(f"after 2 seconds at x = {place:.10f}; its derivatives by restitution")
    print(f"and friction: {slope[0]:.8f} {slope[1]:.8f}")
    if plot is not None:
        draw(plot, sections, solution)
    return dict(sections=sections, bounces=bounces, place=place, slope=slope)


def draw(path, sections, solution):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ys, vs, index in zip(sections.ys[1], sections.ys[3], sections.index):
        left.plot(ys[index >= 0], vs[index >= 0], ".", markersize=3)
    left.set(xlabel="$y$", ylabel="$\\dot y$", title="Hénon-Heiles at $x = 0$")
    ts = np.concatenate([[0.0], solution.events.ts[solution.events.index >= 0], [2.0]])
    after = [np.array([0.0, 0.0, 4.0, 3.0]), *np.stack(solution.ys_after, 1)]
    for a, b, state in zip(ts, ts[1:], after):
        s = np.linspace(0.0, b - a, 50)
        x, z, u, w = state
        right.plot(x + u * s, z + w * s - 9.81 / 2 * s**2, color="C0")
    right.set(xlabel="metres", ylabel="metres", title="A ball with friction")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw both")
    main(parser.parse_args().plot)
