"""Solves by machine code (`NativeAdjoint`), against heyoka and Dopri8.

`python -m benchmarks.native` prints both: solves and ensembles at the tolerance of a
rounding error beside heyoka's, and problems of users beside those of Dopri8 in Diffrax.
It needs llvmlite, and for the first part heyoka.
"""

import os
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

import eqx_taylor
from eqx_taylor import _outer_solar_system as solar_system

from . import problems
from ._heyoka import EPS, heyoka, lorenz, MISSING, solar_systems, Time, timed
from ._report import Figure, main, Report
from ._timing import warm_up
from .heyoka_ensemble import cores, initial_states, MEMBERS, Peer as EnsemblePeer
from .heyoka_single import Peer
from .work_precision import take_turns


TITLE = "Solves by machine code"
PARTS = """One call of a solve, in µs: all of it; a solve that is one of a thousand in
a loop inside of one `jit`, so that no call is in it; and a call which returns an array
more than the state has, and computes nothing.

| | ours | in a loop | nothing | Dopri8 | in a loop | nothing |
|---|---:|---:|---:|---:|---:|---:|"""
TEXT = """
Ours is `diffrax.diffeqsolve` with `TaylorSolver`, `TaylorController` and
`adjoint=NativeAdjoint()`, under `jit`, and under `vmap` for ensembles. Compile times
are from the Python function to an executable, without machine code from disk. "In XLA"
is the same solve without `NativeAdjoint`: with `ForwardMode`.

Lorenz to $t = 50$ and the outer Solar System over 1000 years are solved at a tolerance
of 2.2e-16, as for heyoka; the ensembles of 1024 to $t = 50$ and over 100 years. Dopri8
has `PIDController` with the same tolerances. Each rival runs twenty times in a row, and
then the next.
"""


def solve(
    field: Callable[..., Any],
    y0: Any,
    t1: Any,
    rtol: float,
    atol: float,
    adjoint: Any = None,
) -> tuple[Any, Any]:
    """The state at `t1`, and the number of steps."""
    solver, controller = eqx_taylor.taylor_method(rtol, atol)
    return _solved(field, y0, t1, solver, controller, adjoint)


def _solved(field, y0, t1, solver, controller, adjoint=None):
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=0.0,
        t1=t1,
        dt0=None,
        y0=y0,
        stepsize_controller=controller,
        adjoint=eqx_taylor.NativeAdjoint() if adjoint is None else adjoint,
        max_steps=None,
    )
    y1 = jax.tree.map(lambda y: y[-1], solution.ys)
    return y1, solution.stats["num_steps"]


def by_dopri8(field, y0, t1, rtol, atol):
    controller = diffrax.PIDController(rtol, atol)
    forward = diffrax.ForwardMode()
    return _solved(field, y0, t1, diffrax.Dopri8(), controller, forward)


def compiled(fun: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """A function under `jit`, and the seconds that it takes to compile. It is not the
    executable that is returned: with a callback in it, as `throw=True` has for the
    error, JAX calls one by Python, and takes 20 to 60 µs more."""
    jax.clear_caches()
    _, seconds = timed(lambda: jax.jit(lambda *args: fun(*args)).lower(*args).compile())
    run = jax.jit(lambda *args: fun(*args))
    jax.block_until_ready(run(*args))
    return run, seconds


def single(seconds: float, module: Any) -> tuple[list[Figure], list[str]]:
    """Single solves beside heyoka's."""
    figures, rows = [], []
    for systems, t1 in [
        ([lorenz(1.0)], 50.0),
        (solar_systems(1.0, 1.0), 1000 * solar_system.DAYS_PER_YEAR),
    ]:
        problem = systems[0].problem
        peer = Peer(module, problem, compact=False)
        peer.finish(t1)
        atol = problem.atol_per_rtol * EPS
        reference = problem.reference()
        rows.append(
            f"| {problem.name}, heyoka | {peer.steps} | | "
            f"{problems.error(peer.early, reference):.1e} | {_energy(peer.late)} |"
        )
        for system in systems:
            field = system.problem.field

            def ours(y0, t1, adjoint=None, field=field, atol=atol):
                return solve(field, y0, t1, EPS, atol, adjoint)

            start = problem.y0, jnp.array(t1)
            fast, fast_compile = compiled(ours, *start)
            slow, slow_compile = compiled(
                lambda y0, t1: ours(y0, t1, diffrax.ForwardMode()), *start
            )
            early, _ = fast(problem.y0, jnp.array(problem.t1))
            late, steps = fast(*start)
            runs = [
                lambda f=fast, start=start: f(*start),
                lambda f=slow, start=start: f(*start),
                lambda: peer.integrate(t1),
            ]
            mine, xla, theirs = map(Time.of, take_turns(runs, seconds, in_a_row=20))
            each = 1e6 * mine.median / int(steps)
            rows.append(
                f"| {system.name} | {int(steps)} | {each:.3g} "
                f"| {problems.error(early, reference):.1e} | {_energy(late)} |"
            )
            at_most = 5.0 if problem.name == "Lorenz" else 1.0
            for name, run, compile_, bounds in [
                ("heyoka", theirs, peer.compile, (1.0, at_most)),
                ("in XLA", xla, slow_compile, (None, None)),
            ]:
                both = [(mine, run), (Time(fast_compile, 0.0), Time(compile_, 0.0))]
                for quantity, (a, b), bound in zip(["run", "compile"], both, bounds):
                    spreads = (a.spread, b.spread) if quantity == "run" else ()
                    ends = a.median, b.median, "s"
                    spreads = spreads or (None, None)
                    what = system.name, quantity, name
                    figures.append(Figure(*what, *ends, *spreads, bound))
    return figures, rows


def _energy(y: Any) -> str:
    if not isinstance(y, tuple):
        return ""
    y = jax.tree.map(jnp.asarray, y)
    start = solar_system.energy(solar_system.initial_state())
    return f"{float(jnp.abs(solar_system.energy(y) / start - 1)):.1e}"


def ensembles(seconds: float, module: Any) -> list[Figure]:
    figures = []
    for systems, t1 in [
        ([lorenz(1.0)], 50.0),
        (solar_systems(1.0, 1.0), 100 * solar_system.DAYS_PER_YEAR),
    ]:
        problem = systems[0].problem
        y0 = initial_states(problem)
        peer = EnsemblePeer(module, problem, y0, cores())
        expected = peer.final_states(peer.ensemble(problem.t1))
        atol = problem.atol_per_rtol * EPS
        for system in systems:

            def ours(y0, t1, field=system.problem.field, atol=atol):
                one = lambda y0: solve(field, y0, t1, EPS, atol)  # noqa: E731
                return jax.vmap(one, in_axes=-1, out_axes=(-1, 0))(y0)

            start = y0, jnp.array(t1)
            fast, compile_time = compiled(ours, *start)
            early, _ = fast(y0, jnp.array(problem.t1))
            difference = problems.error(early, expected)
            assert difference <= 1e-9, f"{system.name}: {difference:.1e} from heyoka"
            runs = [lambda f=fast, s=start: f(*s), lambda: peer.kept(t1)]
            mine, theirs = map(Time.of, take_turns(runs, seconds, in_a_row=20))
            work = f"{system.name}, {MEMBERS}"
            figures += [
                Figure(
                    work, "run", "heyoka, kept", mine.median, theirs.median, "s",
                    mine.spread, theirs.spread, 1.0,
                ),
                Figure(work, "compile", "heyoka", compile_time, peer.compile),
            ]  # fmt: skip
    return figures


def _users() -> list[tuple[str, Any, Any, float, float, float, int | None, float]]:
    """Name, field, state, end, tolerances, number of states, ratio."""
    net = eqx.nn.MLP(8, 8, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    y0 = jax.random.normal(jax.random.key(1), (8,))
    many = jax.random.normal(jax.random.key(1), (MEMBERS, 8))
    field = lambda t, y, args: net(y)  # noqa: E731
    rows: list[Any] = [
        ("MLP 8-24-24-8", field, y0, 10.0, 1e-9, 1e-9, None, 0.3),
        (f"MLP 8-24-24-8, {MEMBERS}", field, many, 10.0, 1e-9, 1e-9, MEMBERS, 0.3),
    ]
    for problem in (problems.kepler(), problems.arenstorf(), problems.pleiades()):
        atol = problem.atol_per_rtol * 1e-12
        rows.append(
            (
                problem.name,
                problem.field,
                problem.y0,
                problem.t1,
                1e-12,
                atol,
                None,
                0.1,
            )
        )
    return rows


def users(seconds: float) -> list[Figure]:
    """Problems of users, beside Dopri8."""
    figures = []
    for name, field, y0, t1, rtol, atol, many, at_most in _users():

        def of(method, field=field, t1=t1, rtol=rtol, atol=atol, many=many):
            one = lambda y0: method(field, y0, t1, rtol, atol)  # noqa: E731
            return one if many is None else jax.vmap(one)

        fast, fast_compile = compiled(of(solve), y0)
        slow, slow_compile = compiled(of(by_dopri8), y0)
        runs = [lambda f=fast, y=y0: f(y), lambda f=slow, y=y0: f(y)]
        mine, theirs = map(Time.of, take_turns(runs, seconds, in_a_row=20))
        figures += [
            Figure(
                name, "run", "Dopri8", mine.median, theirs.median, "s",
                mine.spread, theirs.spread, at_most,
            ),
            Figure(name, "compile", "Dopri8", fast_compile, slow_compile),
        ]  # fmt: skip
    return figures


# Solves in a loop inside of one function.
_IN_A_LOOP = 1000


def parts(seconds: float) -> list[str]:
    """Where the time of one call goes: a row for each of the smallest problems."""
    rows = []
    for name, field, y0, t1, rtol, atol, many, _ in _users():
        if many is not None:
            continue

        def in_a_loop(method, field=field, t1=t1, rtol=rtol, atol=atol):
            def again(_, y):
                y1, _ = method(field, y, t1, rtol, atol)
                # The same problem each time, which waits for the one before.
                return jax.tree.map(lambda a, b: a + 0 * b, y0, y1)

            return lambda y0: jax.lax.fori_loop(0, _IN_A_LOOP, again, y0)

        def nothing(y0):
            return y0, jnp.array(0)

        def alone(method, field=field, t1=t1, rtol=rtol, atol=atol):
            return lambda y0: method(field, y0, t1, rtol, atol)

        columns = []
        for method in (solve, by_dopri8):
            funs = nothing, in_a_loop(method), alone(method)
            calls = [compiled(fun, y0)[0] for fun in funs]
            runs = [lambda f=f, y=y0: f(y) for f in calls]
            empty, loop, call = map(Time.of, take_turns(runs, seconds, in_a_row=20))
            columns += [call.median, loop.median / _IN_A_LOOP, empty.median]
        cells = " | ".join(f"{1e6 * x:.3g}" for x in columns)
        rows.append(f"| {name} | {cells} |")
    return rows


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    os.environ["EQX_TAYLOR_CACHE_DIR"] = ""
    try:
        import llvmlite  # pyright: ignore[reportMissingImports] # noqa: F401
    except ImportError:
        return Report(TITLE, "**fails**: llvmlite is not installed.", [])
    warm_up()
    module = heyoka()
    figures = users(seconds)
    text = "\n".join([TEXT, PARTS, *parts(seconds), ""])
    if module is None:
        return Report(TITLE, text + "\n" + MISSING, figures)
    more, rows = single(seconds, module)
    head = [
        "| | steps | µs a step | error | of the energy |",
        "|---|---:|---:|---:|---:|",
    ]
    figures = [*more, *ensembles(seconds, module), *figures]
    return Report(TITLE, text + "\n" + "\n".join([*head, *rows]), figures)


if __name__ == "__main__":
    main(run)
