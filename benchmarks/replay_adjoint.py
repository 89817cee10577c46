"""Gradients of solves by `ReplayAdjoint`, beside Diffrax's adjoints: compilation, run
time at equal error, a training step of any solver, and memory.

What is compared is in one process and takes turns. Seconds of compilation are those of
the CPU, of all threads, of tracing, lowering and compiling.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from eqx_taylor import ReplayAdjoint, TaylorController, TaylorSolver

from . import problems
from ._report import Figure, main, Report
from ._timing import compared, spread, warm_up
from .work_precision import take_turns, time_to_error


TITLE = "Gradients by steps that are made again"
MAX_STEPS = 512
DEFAULT = diffrax.RecursiveCheckpointAdjoint()
REPLAY = ReplayAdjoint()
# The last one is for errors of 1e-12: errors of gradients are larger than tolerances.
TOLERANCES = [1e-5, 1e-7, 1e-9, 1e-11, 1e-12, 1e-14]


class Problem(NamedTuple):
    """The norm of where a solve ends, by its parameters."""

    name: str
    field: Callable
    y0: Any
    t1: float
    parameters: jax.Array
    # What the field and the start are made of.
    unravel: Callable[[jax.Array], tuple[Any, Any]]
    atol_per_rtol: float = 1.0


def _mlp(batch: int | None = None) -> Problem:
    net = eqx.nn.MLP(8, 8, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    parameters, static = eqx.partition(net, eqx.is_inexact_array)
    vector, unravel = ravel_pytree(parameters)
    y0 = jnp.linspace(-1.0, 1.0, 8)
    name = "MLP 8-24-24-8"
    if batch is not None:
        y0 = y0 * jnp.linspace(0.5, 1.0, batch)[:, None]
        name = f"{name}, batch {batch}"

    def field(t, y, args):
        del t
        fun = eqx.combine(args, static)
        return fun(y) if batch is None else jax.vmap(fun)(y)

    # Twice what it is initialised to: otherwise five steps will do.
    return Problem(name, field, y0, 10.0, 2 * vector, lambda v: (y0, unravel(v)))


def _lorenz() -> Problem:
    """Each of the seven terms has a factor, and the start is a parameter as well."""
    y0, factors = jnp.array([1.0, 1.0, 1.0]), jnp.array([10, 10, 28, 1, 1, 1, 8 / 3])

    def field(t, y, p):
        x, v, z = y
        first, second = p[1] * v - p[0] * x, p[2] * x - p[3] * x * z - p[4] * v
        return jnp.stack([first, second, p[5] * x * v - p[6] * z])

    vector = jnp.concatenate([y0, factors])
    return Problem("Lorenz", field, y0, 5.0, vector, lambda v: (v[:3], v[3:]))


def _solar_system() -> Problem:
    """By the masses and the start."""
    problem = problems.outer_solar_system()
    masses = jnp.ones(6)
    vector, unravel = ravel_pytree((problem.y0, masses))

    def field(t, y, scale):
        positions, velocities = y
        difference = positions[None] - positions[:, None]
        square = jnp.sum(difference**2, -1) + jnp.eye(6)
        weights = (scale * _MASSES)[None] * square**-1.5 * (1 - jnp.eye(6))
        return velocities, jnp.sum(weights[..., None] * difference, 1)

    return Problem(
        problem.name, field, problem.y0, problem.t1 / 10, vector, unravel,
        problem.atol_per_rtol,
    )  # fmt: skip


def _gravity() -> np.ndarray:
    from eqx_taylor import _outer_solar_system as system

    return np.asarray(system.GRAVITATIONAL_CONSTANT * system.MASSES)


_MASSES = _gravity()
PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "mlp": _mlp,
    "lorenz": _lorenz,
    "solar_system": _solar_system,
}


class Method(NamedTuple):
    """A solver, or the order of `TaylorSolver`; 0 lets the tolerance choose it."""

    solver: str | int
    adjoint: Any
    max_steps: int = MAX_STEPS

    @property
    def name(self) -> str:
        solver = self.solver
        if not isinstance(solver, str):
            solver = f"order {solver}" if solver else "TaylorSolver"
        adjoint = self.adjoint
        if adjoint is DEFAULT:
            return f"{solver}, default adjoint"
        every = adjoint.checkpoint_every
        return f"{solver}, ReplayAdjoint({every if every > 1 else ''})"


def gradient(problem: Problem, method: Method, tolerance: float) -> Callable:
    """A function of parameters and a tolerance: the gradient, and the steps."""
    if isinstance(method.solver, str):
        solver, controller = getattr(diffrax, method.solver)(), diffrax.PIDController
    else:
        order = method.solver
        solver = TaylorSolver(order) if order else TaylorSolver(rtol=tolerance)
        controller = TaylorController

    def loss(vector, rtol):
        y0, args = problem.unravel(vector)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(problem.field), solver, t0=0.0, t1=problem.t1, dt0=None,
            y0=y0, args=args, adjoint=method.adjoint, max_steps=method.max_steps,
            stepsize_controller=controller(rtol, problem.atol_per_rtol * rtol),
        )  # fmt: skip
        end = ravel_pytree(solution.ys)[0]
        return jnp.linalg.norm(end), solution.stats["num_steps"]

    return jax.grad(loss, has_aux=True)


def compiled(fun: Callable, *args: Any) -> tuple[Any, float]:
    """An executable, and the CPU seconds it took. Nothing is kept of before."""
    jax.clear_caches()
    start = time.process_time()
    executable = jax.jit(lambda *args: fun(*args)).lower(*args).compile()
    return executable, time.process_time() - start


# -- the parts


def _compile(seconds: float, turns: int) -> Iterator[Figure]:
    problem, rtol = _mlp(), jnp.array(1e-9)
    peer = Method("Dopri8", DEFAULT, 4096)
    ours = [
        (Method(12, REPLAY, 4096), 1.5),
        (Method(8, REPLAY, 4096), None),
        (Method(12, DEFAULT, 4096), None),
        (Method("Dopri8", REPLAY, 4096), None),
    ]
    times: dict[Method, list[float]] = {m: [] for m in [peer, *(m for m, _ in ours)]}
    for _ in range(turns):
        for method, taken in times.items():
            fun = gradient(problem, method, 1e-9)
            taken.append(compiled(fun, problem.parameters, rtol)[1])
    for method, at_most in ours:
        yield compared(
            f"gradient, {problem.name}, {method.name}", "trace + lower + compile, CPU",
            peer.name, times[method], times[peer], at_most,
        )  # fmt: skip


class Row(NamedTuple):
    tolerance: float
    steps: int
    error: float
    run: float
    spread: float


def _at_equal_error(seconds: float, turns: int) -> Iterator[Figure]:
    targets = {
        "mlp": {1e-6: 0.8, 1e-9: 0.5, 1e-12: 0.35},
        "lorenz": {1e-6: 0.5, 1e-9: 0.5},
        "solar_system": {1e-6: 0.5, 1e-9: 0.5},
    }
    for name, at_most in targets.items():
        problem = PROBLEMS[name]()
        vector = problem.parameters
        methods = [
            Method(0, REPLAY),
            Method("Dopri8", DEFAULT),
            Method("Dopri8", REPLAY),
        ]
        methods = (
            [m._replace(max_steps=4096) for m in methods] if name != "mlp" else methods
        )
        exact = compiled(
            gradient(problem, Method(20, REPLAY, 4096), 1e-16), vector, jnp.array(1e-15)
        )[0](vector, jnp.array(1e-15))[0]  # fmt: skip
        executables = {
            m: compiled(gradient(problem, m, 0), vector, jnp.array(1.0))[0]
            for m in methods[1:]
        }
        rows: dict[Method, list[Row]] = {m: [] for m in methods}
        for tolerance in TOLERANCES:
            args = vector, jnp.array(tolerance)
            fun = gradient(problem, methods[0], tolerance)
            executables[methods[0]], _ = compiled(fun, *args)
            calls = [executables[m] for m in methods]
            found = [jax.block_until_ready(call(*args)) for call in calls]
            runs = [lambda f=f: f(*args) for f in calls]
            times = take_turns(runs, seconds, in_a_row=20)
            for method, (value, steps), taken in zip(methods, found, times):
                error = jnp.linalg.norm(value - exact) / jnp.linalg.norm(exact)
                median = float(np.median(taken))
                row = Row(tolerance, int(steps), float(error), median, spread(taken))
                rows[method].append(row)
                print(f"  {problem.name}, {method.name}: {row}", flush=True)
        for target, bound in at_most.items():
            reached = {m: time_to_error(rows[m], target) for m in methods}
            known = {m: time[0] for m, time in reached.items() if time is not None}
            peers = [m for m in methods[1:] if m in known]
            if methods[0] not in known or not peers:
                print(
                    f"  no tolerance brings {target:g} for {problem.name}", flush=True
                )
                continue
            fastest = min(peers, key=lambda m: known[m])
            for peer in peers:
                yield Figure(
                    f"gradient with an error of {target:g}, {problem.name}", "run",
                    peer.name, known[methods[0]], known[peer],
                    at_most=bound if peer is fastest else None,
                )  # fmt: skip


def _any_solver(seconds: float, turns: int) -> Iterator[Figure]:
    for batch in (None, 64):
        problem, tolerance = _mlp(batch), 1e-6
        args = problem.parameters, jnp.array(tolerance)
        for solver in ("Tsit5", "Dopri8"):
            methods = [Method(solver, adjoint) for adjoint in (REPLAY, DEFAULT)]
            calls = [
                compiled(gradient(problem, m, tolerance), *args)[0] for m in methods
            ]
            ours, theirs = take_turns([lambda f=f: f(*args) for f in calls], seconds)
            yield compared(
                f"gradient, {problem.name}, {methods[0].name}", "run", methods[1].name,
                ours, theirs, 0.7,
            )  # fmt: skip


def _memory(seconds: float, turns: int) -> Iterator[Figure]:
    """Of the neural ODE of the page on choosing order and controller."""
    mlp = eqx.nn.MLP(64, 64, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
    parameters, static = eqx.partition(mlp, eqx.is_inexact_array)
    vector, unravel = ravel_pytree(parameters)
    y0 = jax.random.normal(jax.random.key(1), (64, 64))

    def field(t, y, args):
        del t
        return jax.vmap(eqx.combine(args, static))(y)

    problem = Problem(
        "MLP 64-64-64-64, batch 64", field, y0, 1.0, vector, lambda v: (y0, unravel(v))
    )
    rtol = jnp.array(1e-6)
    for solver, max_steps in [(8, 64), (8, 4096), ("Tsit5", 64), ("Tsit5", 4096)]:
        every = ReplayAdjoint(checkpoint_every=round(max_steps**0.5))
        methods = [Method(solver, a, max_steps) for a in (DEFAULT, REPLAY, every)]
        calls = [compiled(gradient(problem, m, 1e-6), vector, rtol)[0] for m in methods]
        sizes = [float(c.memory_analysis().temp_size_in_bytes) for c in calls]
        times = take_turns([lambda f=f: f(vector, rtol) for f in calls], seconds)
        for method, size, taken in zip(methods[1:], sizes[1:], times[1:]):
            work = f"gradient, {problem.name}, {method.name}, {max_steps} steps"
            has_target = method.adjoint is REPLAY and (solver, max_steps) == (8, 64)
            yield Figure(
                work, "memory", methods[0].name, size, sizes[0], "bytes",
                at_most=0.5 if has_target else None,
            )  # fmt: skip
            yield compared(work, "run", methods[0].name, taken, times[0], None)


PARTS: Mapping[str, Callable[[float, int], Iterator[Figure]]] = {
    "compile": _compile,
    "equal_error": _at_equal_error,
    "any_solver": _any_solver,
    "memory": _memory,
}


def run(seconds: float, only: Sequence[str] | None = None, turns: int = 3) -> Report:
    jax.config.update("jax_enable_x64", True)
    warm_up()
    figures = []
    for name in PARTS if only is None else only:
        for figure in PARTS[name](seconds, turns):
            figures.append(figure)
            target = "" if figure.at_most is None else f", at most {figure.at_most:g}"
            print(
                f"  {figure.work}, {figure.quantity}: {figure.ratio:.2f} of "
                f"{figure.peer}{target}",
                flush=True,
            )
    return Report(TITLE, _TEXT, figures)


_TEXT = """
Float64. Parameters: of a tanh MLP 8-24-24-8, twice those that it is initialised to, to
$t = 10$; the start and a factor of each of the seven terms of Lorenz's equations, to
$t = 5$; the start and the masses of the outer Solar System, over ten years. The
gradient is that of the norm of the final state, and its error relative, from that at a
tolerance of 1e-15. `TaylorSolver` takes its order from the tolerance. Each rival runs
twenty times in a row, as in a training loop. Dopri8 has Diffrax's default adjoint and
`ReplayAdjoint`; the target is for the faster one. `ReplayAdjoint(64)` keeps the state
of every 64-th step. Memory is XLA's temporary size.
"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART")
    parser.add_argument(
        "--turns", type=int, default=3, help="compilations (%(default)s)"
    )


if __name__ == "__main__":
    main(run, options=_options)
