"""Events: every one of thousands, against heyoka's; and what looking for them costs.

    python -m benchmarks.events         # the count, where heyoka is installed
    python -m benchmarks.events --cost  # the price of a step, and compile times

Random linear and quadratic conditions on solutions of five problems. heyoka finds
events within its own steps, at a tolerance of 1e-15.
"""

import argparse
import time
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import find_events, TaylorController, TaylorSolver
from eqx_taylor._outer_solar_system import initial_state, vector_field


jax.config.update("jax_enable_x64", True)

# Conditions in a program, and sets of them for each problem.
CONDITIONS, SETS = 8, 8
# Of two roots that are closer than this, in units of time, rounding errors may hide
# both.
NEAR = 1e-6


def circle(t, y, args):
    return jnp.stack([y[1], -y[0]])


def lorenz(t, y, args):
    x, y, z = y
    return jnp.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])


def henon_heiles(t, y, args):
    x, y, u, v = y
    return jnp.stack([u, v, -x - 2.0 * x * y, y * y - y - x * x])


def kepler(t, y, args):
    x, y, u, v = y
    cube = (x * x + y * y) ** 1.5
    return jnp.stack([u, v, -x / cube, -y / cube])


def pendulum(t, y, args):
    return jnp.stack([y[1], -9.8 * jnp.sin(y[0])])


# The field, the start, the end.
PROBLEMS: dict[str, Any] = dict(
    circle=(circle, [1.0, 0.0], 100.0),
    lorenz=(lorenz, [1.0, 2.0, 20.0], 12.0),
    henon_heiles=(henon_heiles, [0.1, 0.2, 0.3, 0.1], 150.0),
    kepler=(kepler, [0.4, 0.0, 0.0, 2.0], 100.0),
    pendulum=(pendulum, [0.25, 0.0], 60.0),
)


def heyoka_system(name, hy):
    x, y, u, v = hy.make_vars("x", "y", "u", "v")
    z = hy.make_vars("z")
    cube = (x * x + y * y) ** 1.5
    return dict(
        circle=[(x, y), (y, -x)],
        lorenz=[
            (x, 10.0 * (y - x)), (y, x * (28.0 - z) - y), (z, x * y - 8.0 / 3.0 * z)
        ],
        henon_heiles=[(x, u), (y, v), (u, -x - 2.0 * x * y), (v, y * y - y - x * x)],
        kepler=[(x, u), (y, v), (u, -x / cube), (v, -y / cube)],
        pendulum=[(x, y), (y, -9.8 * hy.sin(x))],
    )[name]  # fmt: skip


def coefficients(rng, points):
    """A condition `a + b y + y C y` that is zero at one of the points of the solution,
    and linear every other time."""
    n = points.shape[1]
    scale = np.abs(points).max(0)
    b = rng.normal(size=n) / scale
    c = rng.normal(size=(n, n)) / np.outer(scale, scale) * rng.integers(0, 2)
    y = points[rng.integers(len(points))]
    return -(b @ y + y @ c @ y), b, c


def by_heyoka(name, start, end, sets, hy):
    """Times and directions of the events of each condition."""
    system = heyoka_system(name, hy)
    variables = [x for x, _ in system]
    found = [[] for _ in sets]
    events = []
    for i, (a, b, c) in enumerate(sets):
        linear = [hy.expression(float(w)) * x for w, x in zip(b, variables)]
        square = [
            hy.expression(float(c[j, k])) * x * y
            for j, x in enumerate(variables)
            for k, y in enumerate(variables)
            if c[j, k] != 0
        ]
        value = hy.sum([hy.expression(float(a)), *linear, *square])

        def callback(integrator, t, sign, i=i):
            found[i].append((t, sign))

        events.append(hy.nt_event(value, callback))
    integrator = hy.taylor_adaptive(system, start, tol=1e-15, nt_events=events)
    integrator.propagate_until(end)
    return [sorted(times) for times in found]


def compare(ours, theirs):
    """The number of pairs, the largest difference of their times, and what is left on
    either side; near-double roots apart."""
    ours, theirs = list(ours), list(theirs)
    pairs, worst, left = 0, 0.0, [[], []]
    while ours or theirs:
        if ours and theirs and abs(ours[0][0] - theirs[0][0]) < 1e-5:
            (t, up), (s, sign) = ours.pop(0), theirs.pop(0)
            assert up == (sign > 0), (t, s, up, sign)
            pairs, worst = pairs + 1, max(worst, abs(t - s))
        elif not theirs or (ours and ours[0][0] < theirs[0][0]):
            left[0].append(ours.pop(0)[0])
        else:
            left[1].append(theirs.pop(0)[0])
    return pairs, worst, left


def count():
    import heyoka as hy  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    total = 0
    print(
        f"{'problem':14} {'events':>7} {'largest difference':>19}  found by one alone"
    )
    for name, (field, start, end) in PROBLEMS.items():
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            TaylorSolver(order=20),
            t0=0.0,
            t1=end,
            dt0=None,
            y0=jnp.array(start),
            stepsize_controller=TaylorController(1e-16, 1e-16),
            saveat=diffrax.SaveAt(dense=True),
            max_steps=4096,
        )
        points = np.asarray(jax.vmap(solution.evaluate)(jnp.linspace(0.0, end, 500)))

        def condition(i):
            def value(t, y, args, **kwargs):
                a, b, c = args
                return a[i] + jnp.dot(b[i], y) + jnp.dot(y, jnp.dot(c[i], y))

            return value

        event = diffrax.Event([condition(i) for i in range(CONDITIONS)])

        @jax.jit
        def find(args, solution=solution, event=event):
            events = find_events(solution, event, args, max_events=4000)
            return events.ts, events.index, events.upwards, events.has_more

        pairs, worst, alone = 0, 0.0, [0, 0]
        for _ in range(SETS):
            sets = [coefficients(rng, points) for _ in range(CONDITIONS)]
            args = tuple(jnp.array(x) for x in map(np.array, zip(*sets)))
            ts, index, upwards, has_more = map(np.asarray, find(args))
            assert not has_more and np.all(np.diff(ts[index >= 0]) >= 0)
            for i, theirs in enumerate(by_heyoka(name, start, end, sets, hy)):
                mine = list(zip(ts[index == i], upwards[index == i]))
                number, difference, left = compare(mine, theirs)
                pairs, worst = pairs + number, max(worst, difference)
                for side, times in enumerate(left):
                    alone[side] += len(times)
                    if times:
                        print(
                            "   alone:",
                            ["here", "heyoka"][side],
                            name,
                            times,
                            flush=True,
                        )
        total += pairs
        print(
            f"{name:14} {pairs:7} {worst:19.1e}  here {alone[0]}, heyoka {alone[1]}",
            flush=True,
        )
    print(f"events: {total}")


def cost():
    """The time of a step without conditions, and with some that never are zero."""

    def lorenz_condition(i):
        return lambda t, y, args, **kwargs: y[0] * y[1] - y[2] * 1.5 - 2000.0 - i

    problems = dict(
        lorenz=(lorenz, jnp.array([1.0, 2.0, 20.0]), 200.0, lorenz_condition),
        solar=(vector_field, initial_state(), 365.25e3, _distance),
    )
    for name, (field, y0, t1, make) in problems.items():
        base = None
        for number in [0, 1, 3, 10]:
            event = None
            if number > 0:
                event = diffrax.Event([make(i) for i in range(number)])

            @jax.jit
            def run(y0, event=event, field=field, t1=t1):
                solution = diffrax.diffeqsolve(
                    diffrax.ODETerm(field),
                    TaylorSolver(order=20, event=event),
                    t0=0.0,
                    t1=t1,
                    dt0=None,
                    y0=y0,
                    stepsize_controller=TaylorController(1e-15, 1e-15),
                    event=event,
                    max_steps=100_000,
                )
                return solution.ys, solution.stats["num_steps"]

            start = time.perf_counter()
            compiled = run.lower(y0).compile()
            compile_time = time.perf_counter() - start
            times = []
            for _ in range(7):
                start = time.perf_counter()
                _, steps = jax.block_until_ready(compiled(y0))
                times.append((time.perf_counter() - start) / int(steps))
            step = min(times)
            base = step if base is None else base
            print(
                f"{name:8} {number:3} conditions: {step * 1e6:8.2f} us a step "
                f"({step / base - 1:+.0%}), {int(steps)} steps, "
                f"compiled in {compile_time:.1f} s",
                flush=True,
            )


_PAIRS = [(i, j) for i in range(1, 6) for j in range(i + 1, 6)]


def _distance(i):
    """Of two planets, and 0.01 AU."""

    def value(t, y, args, **kwargs):
        positions, _ = y
        first, second = _PAIRS[i]
        apart = positions[first] - positions[second]
        return jnp.dot(apart, apart) - 1e-4

    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cost", action="store_true")
    cost() if parser.parse_args().cost else count()
