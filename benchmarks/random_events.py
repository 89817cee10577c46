"""Events of random conditions, at any order and tolerance, against other searches.

    python -m benchmarks.random_events            # a few minutes
    python -m benchmarks.random_events --cases 64 # for each problem and order

Solves that end at events (`TaylorSolver(event=...)`), and `find_events`. There are
seven nonlinear conditions in each program, of which some are switched on, each at a
level that it crosses, or at an extreme, or beyond it by next to nothing. Two oracles:

- along the solution that is returned, its polynomials in 80 bits: conditions at
  hundreds of points of each step, and at each of their extremes between these;
- along the exact solution (closed forms, or SciPy's DOP853): the same, but for what the
  two solutions differ by.

The solver is asked which condition is first, and when; whether a solve ends at all;
and for each root that `find_events` finds, or leaves out.
"""

import argparse
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from eqx_taylor import find_events, TaylorController, TaylorSolver

from .events import circle, henon_heiles, kepler, lorenz


RATES = np.arange(1.0, 6.0)


def oscillators(t, y, args):
    """A state that is not small: five of them, (cos, -sin) of each rate."""
    x, u = y[:5], y[5:]
    rates = RATES if isinstance(y, np.ndarray) else jnp.asarray(RATES, y.dtype)
    parts = [u * rates, -x * rates]
    return (np if isinstance(y, np.ndarray) else jnp).concatenate(parts)


# The field, the start, the end.
PROBLEMS: dict[str, Any] = dict(
    circle=(circle, [1.0, 0.0], 8.0),
    lorenz=(lorenz, [1.0, 2.0, 20.0], 2.0),
    kepler=(kepler, [0.4, 0.0, 0.0, 2.0], 8.0),
    henon_heiles=(henon_heiles, [0.1, 0.2, 0.3, 0.1], 8.0),
    oscillators=(oscillators, [1.0] * 5 + [0.0] * 5, 4.0),
)


def _linear(w, t, y):
    return w[0] + w[1] * t + sum(w[2 + i] * y[i] for i in range(len(y)))


# Of three linear functions of time and state. `np` or `jnp` is the first argument.
SHAPES: dict[str, Any] = dict(
    product=lambda xp, u, v, w: u * v,
    square=lambda xp, u, v, w: u * u,
    cubic=lambda xp, u, v, w: u * v * w,
    exponential=lambda xp, u, v, w: xp.exp(u) * v,
    quotient=lambda xp, u, v, w: u / (1 + v * v),
    distance=lambda xp, u, v, w: xp.sqrt(0.1 + u * u + v * v),
    wave=lambda xp, u, v, w: xp.sin(2 * u + v),
)
NAMES = list(SHAPES)
# Of half of the programs: both, upwards, downwards.
DIRECTIONS = [None, True, False, None, True, False, None]


def value(xp, name, args, t, y):
    """A condition: `on f(u, v, w) - level`."""
    weights, on, level = (x[NAMES.index(name)] for x in args)
    u, v, w = (_linear(weights[k], t, y) for k in range(3))
    return on * SHAPES[name](xp, u, v, w) - level


def conditions() -> list[Any]:
    def make(name):
        return lambda t, y, args, **kwargs: value(jnp, name, args, t, y)

    return [make(name) for name in NAMES]


TOLERANCES = [1e-3, 1e-6, 1e-9, 1e-11, 1e-13]
# The noise of a condition, in roundings of its size along the solution. The bound is 16
# roundings of the sum of its Taylor terms, which is so much larger for long steps.
_NOISE = 256
KINDS = ["first", "all", "exact", "lanes"]


class Along(NamedTuple):
    """A solution in 80 bits: the ends of the pieces between which it is smooth, and a
    function from the numbers of pieces and the parts of them to times and states."""

    ends: np.ndarray
    at: Any


def polynomials(interpolation) -> Along:
    """The solution that Diffrax returns."""
    n = int(np.sum(np.isfinite(interpolation.ts))) - 1
    ends = np.asarray(interpolation.ts, np.longdouble)[: n + 1]
    series = np.asarray(interpolation.infos["coefficients"], np.longdouble)[:n]
    unit = np.asarray(interpolation.infos["unit"], np.longdouble)[:n]

    def at(piece, x):
        h = ends[piece + 1] - ends[piece]
        s = x * h / unit[piece]
        y = np.zeros((len(x), series.shape[2]), np.longdouble)
        for k in reversed(range(series.shape[1])):
            y = y * s[:, None] + series[piece, k]
        return ends[piece] + x * h, y.T

    return Along(ends, at)


def exact(name) -> Along:
    """Closed forms, or SciPy's solution at 1e-13."""
    field, start, end = PROBLEMS[name]
    ends = np.linspace(0, end, 65).astype(np.longdouble)

    def at_times(t):
        if name == "circle":
            return np.stack([np.cos(t), -np.sin(t)])
        if name == "oscillators":
            angle = RATES.astype(np.longdouble)[:, None] * t
            return np.concatenate([np.cos(angle), -np.sin(angle)])
        assert solution is not None
        return solution(t.astype(float)).astype(np.longdouble)

    solution = None
    if name not in ("circle", "oscillators"):
        solution = scipy.integrate.solve_ivp(
            lambda t, y: np.asarray(FIELDS[name](y)), (0, end), start, "DOP853",
            rtol=1e-13, atol=1e-14, max_step=end / 400, dense_output=True,
        ).sol  # fmt: skip

    def at(piece, x):
        t = ends[piece] + x * (ends[piece + 1] - ends[piece])
        return t, at_times(t)

    return Along(ends, at)


# For NumPy.
FIELDS: dict[str, Any] = dict(
    lorenz=lambda y: [
        10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8.0 / 3 * y[2]
    ],
    henon_heiles=lambda y: [
        y[2], y[3], -y[0] - 2 * y[0] * y[1], y[1] * y[1] - y[1] - y[0] * y[0]
    ],
    kepler=lambda y: [y[2], y[3], *(-y[:2] / (y[0] ** 2 + y[1] ** 2) ** 1.5)],
)  # fmt: skip


def sampled(along: Along, function, number):
    """Times and values, in order: at `number` points of each piece, and at each extreme
    of the function and of its size between them."""
    pieces = len(along.ends) - 1
    piece = np.repeat(np.arange(pieces), number)
    x = np.tile(np.arange(number, dtype=np.longdouble) / number, pieces)
    piece, x = np.append(piece, pieces - 1), np.append(x, np.longdouble(1))
    g = function(*along.at(piece, x))
    position = piece + x
    # Three points in a row of which the middle one is nearest to zero.
    size = np.abs(g)
    same = (np.sign(g[:-2]) == np.sign(g[1:-1])) & (np.sign(g[1:-1]) == np.sign(g[2:]))
    is_least = same & (size[1:-1] <= size[:-2]) & (size[1:-1] <= size[2:])
    # Far from zero nothing is hidden between the points.
    is_least &= size[1:-1] < 4 * np.maximum(size[:-2], size[2:]) - 3 * size[1:-1] + 1e-3
    at = np.flatnonzero(is_least) + 1
    low, high, sign = position[at - 1], position[at + 1], np.sign(g[at])

    def there(p):
        i = np.clip(p.astype(int), 0, pieces - 1)
        return function(*along.at(i, p - i))

    for _ in range(50 if len(at) else 0):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        nearer = there(a) * sign < there(b) * sign
        low, high = np.where(nearer, low, a), np.where(nearer, b, high)
    position = np.concatenate([position, low])
    position = np.sort(position)
    i = np.minimum(position.astype(int), pieces - 1)
    t, y = along.at(i, position - i)
    return t, function(t, y)


class Case(NamedTuple):
    """Arguments of the conditions; and of each that is switched on its place, its size
    along the solution, and by how much its extreme is beyond zero, relative to it."""

    args: tuple[np.ndarray, np.ndarray, np.ndarray]
    active: list[int]
    sizes: dict[int, float]
    beyond: dict[int, float]


def random_case(rng, along: Along, number: int, least: float, dtype) -> Case:
    """Draws conditions, with numbers that `dtype` has."""
    n = along.at(np.zeros(1, int), np.zeros(1, np.longdouble))[1].shape[0]
    pieces = len(along.ends) - 1
    scale = np.max(np.abs(along.at(np.arange(pieces), np.full(pieces, 0.5))[1]), axis=1)
    scale = scale.astype(float) + 0.1
    weights = rng.normal(size=(len(NAMES), 3, n + 2))
    weights[:, :, 0] *= 0.5
    weights[:, :, 1] *= rng.integers(0, 2) * 0.3
    weights[:, :, 2:] /= scale
    active = sorted(rng.choice(len(NAMES), rng.integers(1, 4), replace=False).tolist())
    weights = weights.astype(dtype).astype(float)
    on, level = np.zeros(len(NAMES)), -np.ones(len(NAMES))
    sizes, beyond = {}, {}
    for i in active:
        on[i], level[i] = 1.0, 0.0
        name = NAMES[i]
        args = (weights, on, level)
        t, g = sampled(along, partial(value, np, name, args), number)
        sizes[i] = float(np.max(np.abs(g)))
        kind = rng.integers(4)
        inner = np.flatnonzero((g[1:-1] - g[:-2]) * (g[2:] - g[1:-1]) < 0) + 1
        if kind == 0 or len(inner) == 0:
            level[i] = rng.uniform(float(np.min(g)), float(np.max(g)))
            continue
        # Of an extreme of the function itself, from the parabola through three points.
        k = rng.choice(inner)
        a, b, c = g[k - 1 : k + 2]
        p, q, r = t[k - 1 : k + 2]
        d1, d2 = (b - a) / (q - p), (c - b) / (r - q)
        bend = (d2 - d1) / (r - p)
        x = (p + q) / 2 - d1 / (2 * bend)
        top = a + d1 * (x - p) + bend * (x - p) * (x - q)
        # As near as rounding errors are to that of the extreme, or next to it.
        beyond[i] = 10 ** rng.uniform(np.log10(least), -2) * rng.choice([-1, 1])
        if kind == 1:
            beyond[i] = 0.0
        level[i] = float(top) + beyond[i] * sizes[i]
    level = level.astype(dtype).astype(float)
    return Case((weights, on, level), active, sizes, beyond)


def wrong(case, along, found, noise, number, end, directions, eps):
    """What is wrong with an answer: a list of sentences. `found` is whether the solve
    ended there, and the times of events of each condition: all of them, or at most the
    first one. `noise` is that of each condition which is switched on."""
    terminal, times = found
    out = []
    slack_of_end = 1e4 * eps * end
    stop = min([t for ts in times.values() for t in ts], default=end)
    for i in range(len(NAMES)):
        if i not in case.active and times[i]:
            out.append(f"{NAMES[i]} is never zero")
    for i in case.active:
        args = tuple(x.astype(np.longdouble) for x in case.args)

        def g(t, y, name=NAMES[i], args=args):
            return value(np, name, args, t, y)

        t, values = sampled(along, g, number)
        definite = np.abs(values) > noise[i]
        t, values = t[definite], values[definite]
        mine = np.asarray(times[i], np.longdouble)
        if len(mine):
            piece = np.clip(
                np.searchsorted(along.ends, mine, "right") - 1, 0, len(along.ends) - 2
            )
            h = along.ends[piece + 1] - along.ends[piece]
            x = (mine - along.ends[piece]) / h
            there = g(*along.at(piece, x))
            slack = 32 * eps * np.maximum(np.abs(mine), h)
            slopes = (g(*along.at(piece, x + slack / h)) - there) / slack
            off = np.abs(there) - np.abs(slopes) * slack - 2 * noise[i]
            for s, o in zip(mine, off):
                if o > 0:
                    out.append(f"{NAMES[i]}: no root at {s:.12g}, by {o:.1e}")
        crosses = values[1:] * values[:-1] < 0
        wanted = directions[i]
        if wanted is not None:
            crosses &= (values[1:] > 0) == wanted
        inside = np.searchsorted(np.sort(mine), t)
        counts = np.diff(inside)
        for k in range(len(t) - 1):
            # A bracket without a root before it: only up to where the solve ended.
            if terminal and t[k + 1] >= stop - slack_of_end:
                if crosses[k] and t[k + 1] < stop:
                    out.append(f"{NAMES[i]}: missed {float(t[k]):.12g}")
                break
            # Two roots may be hidden by rounding errors, and one of them is wanted.
            is_odd = counts[k] % 2 == 1 if wanted is None else counts[k] > 0
            if crosses[k] != is_odd and (crosses[k] or wanted is None):
                what = "missed" if crosses[k] else "invented"
                out.append(f"{NAMES[i]}: {what} {float(t[k]):.12g}")
                break
    return out


class Program:
    """The programs of one problem, order and dtype."""

    def __init__(self, name, order, dtype, directions):
        self.field, self.start, self.end = PROBLEMS[name]
        event = diffrax.Event(conditions(), direction=directions)

        def solve(tol, args, event, saveat, order=order):
            def cast(x):
                return jnp.asarray(x, dtype)

            return diffrax.diffeqsolve(
                diffrax.ODETerm(self.field), TaylorSolver(order, event=event),
                cast(0.0), cast(self.end), None, cast(self.start),
                args=jax.tree.map(cast, args), event=event, saveat=saveat,
                stepsize_controller=TaylorController(cast(tol), cast(tol)),
                max_steps=4096, throw=False,
            )  # fmt: skip

        def dense(tol):
            return solve(tol, None, None, diffrax.SaveAt(dense=True)).interpolation

        def first(tol, args):
            solution = solve(tol, args, event, diffrax.SaveAt(t1=True))
            assert solution.ts is not None and solution.event_mask is not None
            return solution.ts[0], jnp.array(solution.event_mask)

        def all_of_them(tol, args):
            solution = solve(tol, None, None, diffrax.SaveAt(dense=True))
            args = jax.tree.map(lambda x: jnp.asarray(x, dtype), args)
            found = find_events(solution, event, args, max_events=100)
            return found.ts, found.index, found.has_more

        self.dense = jax.jit(dense)
        self.first, self.all_of_them = jax.jit(first), jax.jit(all_of_them)
        self.lanes = jax.jit(jax.vmap(first))


def run(name, order, tols, cases, rng, *, dtype=float, directed=False, report=print):
    """Returns how many answers there were, and sentences about wrong ones.

    A solve also ends a step at an event of the other direction, and goes on from there
    along another solution, within the tolerance. So with `directed` it is compared with
    the exact solution alone.
    """
    directions = DIRECTIONS if directed else [None] * len(NAMES)
    program = Program(name, order, dtype, directions)
    eps = float(jnp.finfo(dtype).eps)
    tally, said = dict.fromkeys(KINDS, 0), []
    true = exact(name)
    for tol in tols:
        along = polynomials(program.dense(tol))
        points = int(np.clip(6000 // (len(along.ends) - 1), 24, 1000))

        def judge(kind, case, terminal, ts, index, solution=along, extra=None, tol=tol):
            """Of the events of one answer."""
            times = {i: np.asarray(ts)[index == i].tolist() for i in range(len(NAMES))}
            noise = {
                i: _NOISE * eps * (case.sizes[i] + abs(case.args[2][i]))
                + (extra or {}).get(i, 0.0)
                for i in case.active
            }
            found = terminal, times
            number = points if extra is None else 100  # noqa: B023
            tally[kind] += 1
            for sentence in wrong(
                case, solution, found, noise, number, program.end, directions, eps
            ):
                about = {NAMES[i]: f"{b:.1e}" for i, b in case.beyond.items()}
                said.append((kind, tol, sentence, about))
                where = f"{name} order {order} tolerance {tol:.0e}"
                report(f"   {where}, {kind}: {sentence} {about}", flush=True)

        made = [random_case(rng, along, points, 1e3 * eps, dtype) for _ in range(cases)]
        for case in made:
            first = _only(*program.first(tol, case.args))
            if not directed:
                judge("first", case, True, *first)
            ts, index, has_more = program.all_of_them(tol, case.args)
            assert not has_more
            judge("all", case, False, ts, np.asarray(index))
            # Along the exact solution, but for what the two differ by.
            t, y = along.at(*_grid(along, 40))
            k = np.searchsorted(true.ends, t, "right") - 1
            k = np.clip(k, 0, len(true.ends) - 2)
            h = true.ends[k + 1] - true.ends[k]
            _, z = true.at(k, (t - true.ends[k]) / h)
            values = [[value(np, s, case.args, t, x) for s in NAMES] for x in (y, z)]
            apart = 3 * np.max(
                np.abs(np.subtract(values[0], values[1])), axis=1
            ).astype(float)
            judge("exact", case, True, *first, true, dict(enumerate(apart)))
        stacked = jax.tree.map(lambda *x: np.stack(x), *(c.args for c in made))
        for case, *first in zip(made, *program.lanes(np.full(cases, tol), stacked)):
            if not directed:
                judge("lanes", case, True, *_only(*first))
    return tally, said


def _only(t, mask):
    """The event that ends a solve, as lists of all events are."""
    index = np.flatnonzero(mask)
    return np.full(len(index), t, float), index


def _grid(along, number):
    pieces = len(along.ends) - 1
    x = np.tile(np.arange(number, dtype=np.longdouble) / number, pieces)
    return np.repeat(np.arange(pieces), number), x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--orders", nargs="*", type=int, default=[4, 8, 12, 20])
    parser.add_argument("--tols", nargs="*", type=float)
    parser.add_argument("--single", action="store_true", help="in float32")
    parser.add_argument("--directed", action="store_true", help="with directions")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dtype = jnp.float32 if given.single else jnp.float64
    tols = given.tols or ([1e-3, 1e-5] if given.single else TOLERANCES)
    rng = np.random.default_rng(given.seed)
    for name in given.problems:
        for order in given.orders:
            tally, said = run(
                name, order, tols, given.cases, rng,
                dtype=dtype, directed=given.directed,
            )  # fmt: skip
            kinds = {k: sum(x[0] == k for x in said) for k in KINDS}
            print(f"{name:14} order {order:2}: {tally}, wrong: {kinds}", flush=True)


if __name__ == "__main__":
    main()
