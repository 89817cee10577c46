"""Taylor coefficients of order 20 of ODE solutions: of 256 states at once against
probdiffeq's routines, of one state against `jax.experimental.jet` called once for each
order.

A call on one small state is over before it is measured, so what is timed there is a
loop of 100 steps of Taylor's method: coefficients, their polynomial, again.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet as jax_jet
from jax.flatten_util import ravel_pytree

import eqx_taylor
from eqx_taylor import _outer_solar_system as solar_system

from ._report import Figure, main, peer, quantity, Report
from ._timing import check_equal, compare, Timing
from .problems import lorenz_slopes


ORDER, BATCH, STEPS = 20, 256, 100
OURS, JAX_JET = "`eqx_taylor.ode_jet`", "`jax.experimental.jet`"
# Rounding errors, relative to the largest number of each order.
BOUND = 1e-9


class Problem(NamedTuple):
    name: str
    # Of time and state.
    field: Callable
    y0: jax.Array
    # Of the loop.
    step: float


def lorenz(t, y):
    return jnp.stack(lorenz_slopes(y, beta=8 / 3))


def forced_oscillator(t, y):
    return jnp.stack([y[1], -y[0] + jnp.sin(2 * t) * jnp.exp(-t * y[0])])


def outer_solar_system():
    y0, unravel = ravel_pytree(solar_system.initial_state())

    def field(t, y):
        return ravel_pytree(solar_system.vector_field(t, unravel(y), None))[0]

    return field, y0


def mlp():
    net = eqx.nn.MLP(64, 64, 256, 2, activation=jnp.tanh, key=jax.random.key(0))
    return lambda t, y: net(y), jnp.linspace(-1, 1, 64)


def problems() -> list[Problem]:
    return [
        Problem("Lorenz", lorenz, jnp.array([1.0, 2.0, 3.0]), 0.01),
        Problem("Outer Solar System", *outer_solar_system(), 50.0),
        Problem("MLP 64-256-256-64", *mlp(), 0.01),
    ]


def forced() -> Problem:
    y0 = jnp.array([0.5, -0.3])
    return Problem("Forced oscillator", forced_oscillator, y0, 0.01)


def ours(field: Callable) -> Callable:
    return lambda t, y: eqx_taylor.ode_jet(
        lambda t, y, _: field(t, y), t, y, order=ORDER
    )


# -- 256 states at once


def by_probdiffeq(field: Callable, doubling: bool) -> dict[str, Callable]:
    """Its routines that reach order 20: names, functions of time and state. They take
    the time for a constant, which changes nothing for the fields here. What they return
    are derivatives; neither these nor our coefficients are converted while timed."""
    probdiffeq = peer("probdiffeq.probdiffeq")
    vf = probdiffeq.ode(lambda y, *, t: field(t, y))

    def call(routine):
        return lambda t, y: routine(vf, (y,), t=t)[0]

    routines = {
        "padded scan": call(probdiffeq.jetexpand_ode_padded_scan(num=ORDER)),
        "unroll": call(probdiffeq.jetexpand_ode_unroll(num=ORDER)),
    }
    if doubling:
        # From n coefficients to 2n + 1: 1, 3, 7, 15, 31.
        number = math.ceil(math.log2(ORDER + 2)) - 1
        doubled = call(probdiffeq.jetexpand_ode_doubling_unroll(num_doublings=number))
        routines["doubling"] = lambda t, y: doubled(t, y)[: ORDER + 1]
    return routines


def normalised(derivatives: Any) -> np.ndarray:
    """Of a list of derivatives: coefficients, the order first."""
    return np.stack(
        [np.asarray(d) / math.factorial(k) for k, d in enumerate(derivatives)]
    )


def ensemble(problem: Problem, seconds: float) -> tuple[list[Timing], dict, float]:
    noise = jax.random.normal(jax.random.key(1), (BATCH, *problem.y0.shape))
    states = problem.y0 * (1 + 0.01 * noise)
    # Of the outer Solar System, compiling the doubling takes minutes, and a run of it
    # a hundred times that of the others.
    theirs = by_probdiffeq(problem.field, doubling=problem.name == "Lorenz")
    rivals = {OURS: ours(problem.field), **theirs}
    failures: dict[str, str] = {}
    timings = compare(
        [(name, jax.vmap(fun, in_axes=(None, 0))) for name, fun in rivals.items()],
        (jnp.array(0.0), states),
        seconds,
        failures=failures,
    )
    if OURS in failures:
        raise RuntimeError(f"{problem.name}: {failures[OURS]}")
    coefficients = np.moveaxis(np.asarray(timings[0].result), 1, 0)
    error = 0.0
    for t in timings[1:]:
        who = f"{problem.name}, {t.name}"
        parts = list(coefficients), list(normalised(t.result))
        error = max(error, check_equal(*parts, BOUND, who))
    return [t._replace(result=None) for t in timings], failures, error


def run_ensembles(seconds: float) -> tuple[str, list[Figure], dict]:
    lines = [
        "| | | run | trace + compile |",
        "|---|---|---:|---:|",
    ]
    figures, data, notes, worst = [], {}, [], 0.0
    for problem in problems():
        timings, failures, error = ensemble(problem, seconds)
        worst = max(worst, error)
        for t in timings:
            row = (
                f"| {problem.name} | {t.name} | {quantity(t.run, 's')} "
                f"| {quantity(t.compile, 's')} |"
            )
            print(row, flush=True)
            lines.append(row)
        notes += [
            f"- {problem.name}: {name} fails: {reason}."
            for name, reason in failures.items()
        ]
        our, *peers = timings
        fastest = min(peers, key=lambda t: t.run)
        soonest = min(peers, key=lambda t: t.compile)
        work = f"`ode_jet` of order {ORDER}, {BATCH} states, {problem.name}"
        figures += [
            Figure(
                work,
                "run",
                f"probdiffeq, {fastest.name}",
                our.run,
                fastest.run,
                ours_spread=our.spread,
                theirs_spread=fastest.spread,
                at_most=0.3,
            ),
            Figure(
                work,
                "trace + compile",
                f"probdiffeq, {fastest.name}",
                our.compile,
                fastest.compile,
                at_most=0.3,
            ),
        ]
        if soonest is not fastest:
            figures.append(
                Figure(
                    work,
                    "trace + compile",
                    f"probdiffeq, {soonest.name}: the soonest compiled",
                    our.compile,
                    soonest.compile,
                )
            )
        data[problem.name] = {
            t.name: dict(run=t.run, spread=t.spread, compile=t.compile) for t in timings
        }
    table, failed = "\n".join(lines), "\n".join(notes)
    text = f"""
### {BATCH} states at once

`ode_jet`, in float64 under `jax.vmap`, is compared with the routines of probdiffeq that
reach order {ORDER}:
`jetexpand_ode_padded_scan`, `jetexpand_ode_unroll`, and
`jetexpand_ode_doubling_unroll`, which has no orders between 14 and 30 (orders above
{ORDER} are cut off). The last one is measured for Lorenz only: for the outer Solar
System it took minutes to compile, and a run took a hundred times as long as with the
others.
`jetexpand_ode_via_jvp` doubles its work with every order and is not tried. The targets
are relative to the routine with the least run time, and to its compile time; the
routine that compiles fastest has a row of its own. `ode_jet` returns coefficients,
probdiffeq derivatives; the time to convert them is not included.

{table}

{failed}

The largest difference, relative to each order's largest coefficient, is {worst:.1e}.
"""
    return text, figures, data


# -- one state, in a loop


def march(coefficients, t0, y0, step):
    def body(i, carry):
        t, y, _ = carry
        terms = coefficients(t, y)
        powers = step ** jnp.arange(len(terms))
        return t + step, powers @ terms, terms

    empty = jnp.zeros_like(jax.eval_shape(coefficients, t0, y0))
    return jax.lax.fori_loop(0, STEPS, body, (t0, y0, empty))[2]


def by_jax_jet(field, t0, y0):
    """As is done wherever `jax.experimental.jet` is used for ODEs: one more
    coefficient with every call. Time is one more state, of slope 1."""

    def augmented(state):
        t, y = state[0], state[1:]
        return jnp.concatenate([jnp.ones((1,), y.dtype), field(t, y)])

    state = jnp.concatenate([t0[None], y0])
    terms = [augmented(state)]
    for _ in range(ORDER - 1):
        first, rest = jax_jet(augmented, (state,), (terms,))
        terms = [first, *rest]
    return jnp.stack([y0, *[x[1:] / math.factorial(k) for k, x in enumerate(terms, 1)]])


def run_loops(seconds: float) -> tuple[str, list[Figure], dict]:
    figures, data, worst = [], {}, 0.0
    for problem in [*problems(), forced()]:

        def theirs(t, y, field=problem.field):
            return by_jax_jet(field, t, y)

        rivals = [(OURS, ours(problem.field)), (JAX_JET, theirs)]
        timings = compare(
            [
                (name, lambda t, y, fun=fun: march(fun, t, y, problem.step))
                for name, fun in rivals
            ],
            (jnp.array(0.0), problem.y0),
            seconds,
        )
        our, their = timings
        error = check_equal(
            list(our.result),
            list(their.result),
            BOUND,
            f"{problem.name}, {STEPS} steps",
        )
        worst = max(worst, error)
        work = f"{STEPS} steps of order {ORDER}, {problem.name}"
        figures += [
            Figure(
                work,
                "run",
                JAX_JET,
                our.run,
                their.run,
                ours_spread=our.spread,
                theirs_spread=their.spread,
            ),
            Figure(work, "trace + compile", JAX_JET, our.compile, their.compile),
        ]
        print(f"{work}: {our.run / their.run:.3f}", flush=True)
        data[problem.name] = {
            t.name: dict(run=t.run, spread=t.spread, compile=t.compile) for t in timings
        }
    text = f"""
### One state, {STEPS} steps

`ode_jet`, in float64, is compared with `jax.experimental.jet`, called once for each
order as ODE codes do. The largest difference of a coefficient in the last step,
relative to each order's largest, is {worst:.1e}.
"""
    return text, figures, data


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    first, figures, ensembles = run_ensembles(seconds)
    second, more, loops = run_loops(seconds)
    return Report(
        f"Taylor coefficients of ODEs, order {ORDER}",
        first + second,
        [*figures, *more],
        dict(ensembles=ensembles, loops=loops),
    )


if __name__ == "__main__":
    main(run)
