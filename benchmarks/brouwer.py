"""Rounding errors over long times: the outer Solar System, by Brouwer's law.

Where rounding errors are independent of each other, the energy makes a random walk, and
its error grows like the square root of time (Brouwer 1937). Errors with a bias, or a
truncation error that is not far below rounding, grow like time itself.

Some orbits that start next to each other are followed with a tolerance far below
rounding; the root mean square of their relative energy errors is fitted by a power of
time, from a hundredth of the time on.
"""

import argparse
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import (
    _outer_solar_system as solar_system,
    TaylorController,
    TaylorSolver,
)

from ._timing import print_machine


def relative_energy(y, xp=np, real=np.longdouble):
    """In 80-bit floats where there are any: the energy's own rounding is no part."""
    x, v = (xp.asarray(part).astype(real) for part in y)
    mass = solar_system.MASSES.astype(real)
    kinetic = xp.sum(mass[:, None] * v**2, axis=(-2, -1)) / 2
    i, j = np.triu_indices(len(mass), k=1)
    distance = xp.sqrt(xp.sum((x[..., i, :] - x[..., j, :]) ** 2, -1))
    potential = xp.sum(mass[i] * mass[j] / distance, -1)
    return kinetic - solar_system.GRAVITATIONAL_CONSTANT * potential


def neighbours(number):
    """Initial states that differ by a few parts in 1e8, as the first of them."""
    x, v = solar_system.initial_state()
    shifts = 1 + 1e-8 * np.arange(number)
    return x[None] * shifts[:, None, None], jnp.broadcast_to(v, (number, *v.shape))


def errors(years, number, order, rtol, compensated, samples=41):
    t1 = years * solar_system.DAYS_PER_YEAR
    ts = np.geomspace(t1 / 100, t1, samples)

    @jax.jit
    @jax.vmap
    def solve(y0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(solar_system.vector_field),
            TaylorSolver(order, compensated=compensated),
            t0=0.0,
            t1=t1,
            dt0=None,
            y0=y0,
            stepsize_controller=TaylorController(rtol=rtol, atol=1e-3 * rtol),
            saveat=diffrax.SaveAt(t0=True, ts=ts),
            max_steps=None,
            adjoint=diffrax.ForwardMode(),
        )
        return solution.ys, solution.stats["num_steps"]

    start = time.perf_counter()
    ys, steps = jax.block_until_ready(solve(neighbours(number)))
    seconds = time.perf_counter() - start
    energy = relative_energy(ys)
    error = energy[:, 1:] / energy[:, :1] - 1
    rms = np.sqrt(np.mean(error**2, axis=0)).astype(float)
    return ts / solar_system.DAYS_PER_YEAR, rms, int(np.max(steps)), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=float, default=1e5)
    parser.add_argument("--orbits", type=int, default=16)
    parser.add_argument("--order", type=int, default=20)
    # Truncation adds up over all steps, and must remain below their rounding errors.
    parser.add_argument("--rtol", type=float, default=1e-24)
    parser.add_argument("--plot", help="a file to draw to; needs matplotlib")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print_machine()
    print(
        f"\n{args.orbits} orbits of {args.years:g} years, order {args.order}, "
        f"rtol {args.rtol:g}: the error after t years is about a t^p.\n"
        "\n| | steps | a | p | error at the end | run time, s |"
        "\n|---|---:|---:|---:|---:|---:|"
    )
    curves = {}
    for compensated in (False, True):
        ts, rms, steps, seconds = errors(
            args.years, args.orbits, args.order, args.rtol, compensated
        )
        slope, intercept = np.polyfit(np.log(ts), np.log(rms), 1)
        name = "compensated" if compensated else "plain"
        curves[name] = ts, rms
        print(
            f"| {name} | {steps} | {np.exp(intercept):.1e} | {slope:.2f} "
            f"| {rms[-1]:.1e} | {seconds:.0f} |",
            flush=True,
        )
    if args.plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, (ts, rms) in curves.items():
            axes.loglog(ts, rms, label=name, lw=1.2)
        axes.loglog(ts, 1.5e-16 * np.sqrt(ts), "k--", lw=0.8, label="1.5e-16 √t")
        axes.set(
            title="Outer Solar System: relative energy error (root mean square)",
            xlabel="time (years)",
            ylabel="error",
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(args.plot, dpi=150)


if __name__ == "__main__":
    main()
