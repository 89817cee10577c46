"""Events: every one of thousands, against heyoka's; and what looking for them costs.

    python -m benchmarks.events         # the count, where heyoka is installed
    python -m benchmarks.events --cost  # the price of a step, and compile times

Random linear and quadratic conditions on solutions of five problems. heyoka finds
events within its own steps, at a tolerance of 1e-15.
"""

import argparse
import time
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import find_events, TaylorController, TaylorSolver
from eqx_taylor._outer_solar_system import initial_state, vector_field


jax.config.update("jax_enable_x64", True)

# Conditions in a program, and sets of them for each problem.
CONDITIONS, SETS = 4, 16
# Of two roots that are closer than this, in lengths of steps, rounding errors may hide
# both. One more set has conditions that nearly touch zero.
NEAR = 1e-7


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
    along = integrator.propagate_until(end, c_output=True)[4]
    return [sorted(times) for times in found], along


def near_double(ts, steps):
    """Which roots of a condition have another one closer than `NEAR` of a step."""
    ts = np.asarray(ts)
    if len(ts) < 2:
        return np.zeros(len(ts), bool)
    gaps = np.diff(ts, prepend=-np.inf, append=np.inf)
    cells = np.clip(np.searchsorted(steps, ts) - 1, 0, len(steps) - 2)
    return np.minimum(gaps[1:], gaps[:-1]) < NEAR * np.diff(steps)[cells]


class Tally:
    """The numbers of events that both find, that one finds alone, and of which the two
    solutions differ; and the largest difference of times."""

    def __init__(self):
        self.pairs, self.worst, self.alone, self.open = 0, 0.0, [0, 0], 0

    def __str__(self):
        here, heyoka = self.alone
        return f"{self.pairs:7} {self.worst:9.1e} {self.open:5} {here:5} {heyoka:7}"


def is_open(alone, solutions, value):
    """Of the events that one alone finds: whether the condition has no such roots along
    the solution of the other one. That is so of two roots between which the condition
    is beyond zero by less than the solutions differ; and of one at the start, where it
    is zero but for rounding errors. The conditions are computed in 80 bits."""
    out = [False] * len(alone)
    for i, (which, t) in enumerate(alone):
        if t < 1e-14:
            out[i] = True
            continue
        if i == 0 or alone[i - 1][0] != which or t - alone[i - 1][1] > 1e-5:
            continue
        before, gap = alone[i - 1][1], t - alone[i - 1][1]
        other = solutions["heyoka" if which == "here" else "here"]
        signs = [
            np.sign(value(other(x))) for x in (before - gap, before + gap / 2, t + gap)
        ]
        out[i] = out[i - 1] = len(set(signs)) == 1
    return out


def compare(ours, theirs, steps, tallies, solutions, value):
    """Adds to the tallies of roots, and of near-double roots, apart. Returns the times
    of the events that one of the two finds alone, of the former."""
    ours, theirs = (
        list(zip(events, near_double([t for t, _ in events], steps)))
        for events in (ours, theirs)
    )
    left = []
    while ours or theirs:
        if ours and theirs and abs(ours[0][0][0] - theirs[0][0][0]) < 1e-5:
            ((t, up), near), ((s, sign), near_there) = ours.pop(0), theirs.pop(0)
            assert up == (sign > 0), (t, s, up, sign)
            tally = tallies[bool(near or near_there)]
            tally.pairs, tally.worst = tally.pairs + 1, max(tally.worst, abs(t - s))
            continue
        is_here = not theirs or (bool(ours) and ours[0][0][0] < theirs[0][0][0])
        (t, _), near = (ours if is_here else theirs).pop(0)
        left.append((("here" if is_here else "heyoka", t), bool(near)))
    are_open = is_open([event for event, _ in left], solutions, value)
    for (event, near), open_ in zip(left, are_open):
        tally = tallies[near]
        if open_:
            tally.open += 1
        else:
            tally.alone[["here", "heyoka"].index(event[0])] += 1
    return [e for (e, near), open_ in zip(left, are_open) if not near and not open_]


def exactly(coefficients, y):
    """A condition, in 80 bits."""
    a, b, c = [np.asarray(x, np.longdouble) for x in coefficients]
    y = np.asarray(y, np.longdouble)
    return a + b @ y + y @ c @ y


def tangent(rng, sets, extremes):
    """Conditions like those of the sets, that at one extreme are beyond zero by next to
    nothing: two roots that are very close, or none that rounding errors leave."""
    out = []
    for (a, b, c), ys in zip(sets, extremes):
        if len(ys) > 0:
            y = ys[rng.integers(len(ys))]
            terms = np.concatenate([b * y, (np.outer(y, y) * c).ravel()])
            beyond = np.sum(np.abs(terms)) * 10 ** rng.uniform(-16, -8)
            a = -np.sum(terms) + beyond * rng.choice([-1, 1])
        out.append((a, b, c))
    return out


def count():
    import heyoka as hy  # pyright: ignore[reportMissingImports]

    rng, rng_of_tangents = map(np.random.default_rng, (0, 1))
    total = 0
    columns = "events   differ  open  here  heyoka"
    print(f"{'':14} {columns:>37}   near-double roots: {columns}")
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
        assert solution.interpolation is not None
        ends = np.asarray(solution.interpolation.ts)
        ends = ends[np.isfinite(ends)]

        def condition(i):
            def value(t, y, args, **kwargs):
                a, b, c = args
                return a[i] + jnp.dot(b[i], y) + jnp.dot(y, jnp.dot(c[i], y))

            return value

        def slope(i, field=field):
            def value(t, y, args, **kwargs):
                _, b, c = args
                f = field(t, y, None)
                return jnp.dot(b[i] + jnp.dot(c[i], y) + jnp.dot(c[i].T, y), f)

            return value

        def program(make, solution=solution):
            event = diffrax.Event([make(i) for i in range(CONDITIONS)])
            return jax.jit(
                lambda args: find_events(solution, event, args, max_events=4000)
            )

        find, find_extremes = program(condition), program(slope)

        def stacked(sets):
            return tuple(jnp.array(x) for x in map(np.array, zip(*sets)))

        tallies = Tally(), Tally()
        for k in range(SETS + 1):
            draws = rng if k < SETS else rng_of_tangents
            sets = [coefficients(draws, points) for _ in range(CONDITIONS)]
            if k == SETS:
                found = find_extremes(stacked(sets))
                index, ys = np.asarray(found.index), np.asarray(found.ys)
                extremes = [ys[index == i] for i in range(CONDITIONS)]
                sets = tangent(draws, sets, extremes)
            events = find(stacked(sets))
            ts, index, upwards = map(
                np.asarray, (events.ts, events.index, events.upwards)
            )
            assert not events.has_more and np.all(np.diff(ts[index >= 0]) >= 0)
            lists, along = by_heyoka(name, start, end, sets, hy)
            solutions = dict(here=solution.evaluate, heyoka=along)
            for i, theirs in enumerate(lists):
                mine = list(zip(ts[index == i], upwards[index == i]))
                value = partial(exactly, sets[i])
                left = compare(mine, theirs, ends, tallies, solutions, value)
                for which, t in left:
                    print(f"   found by {which} alone: {name} {t!r}", flush=True)
        total += tallies[0].pairs
        print(f"{name:14} {tallies[0]}                      {tallies[1]}", flush=True)
    print(f"events: {total}, besides near-double roots")


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
