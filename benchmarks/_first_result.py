"""What `first_result` measures, each in a process of its own: this one, if it is run as
`python -m benchmarks._first_result`."""

import contextlib
import functools as ft
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import TaylorController, TaylorSolver

from . import problems
from ._timing import warm_up
from .work_precision import take_turns


TOLERANCE = 1e-9
# A solve that ends so early takes one step, whatever the method.
ONE_STEP = 1e-4
ROOT = pathlib.Path(__file__).parents[1]
_MODULE = "benchmarks._first_result"


class Program(NamedTuple):
    """A solve, or its gradient, as JSON gives it back to the process that makes it."""

    field: str
    # The order of `TaylorSolver`, or the name of a solver of Diffrax.
    method: int | str
    gradient: bool = False
    # Diffrax's default adjoint, or `ForwardMode`.
    forward_mode: bool = False
    unroll: bool | None = None
    # `xla_backend_optimization_level`.
    level: int | None = None

    @property
    def name(self) -> str:
        name = self.method if isinstance(self.method, str) else f"order {self.method}"
        options = []
        if self.unroll is not None:
            options.append(f"`unroll={self.unroll}`")
        if self.level is not None:
            options.append(f"optimization level {self.level}")
        return ", ".join([name, *options])


# -- within the process that measures


class Field(NamedTuple):
    """A vector field, and where a solve of it starts and ends."""

    name: str
    field: problems.Field
    y0: Any
    # What the gradient is taken of: parameters, or nothing.
    args: Any
    t1: float
    atol_per_rtol: float = 1.0


def _of_problem(problem: problems.Problem) -> Field:
    return Field(
        problem.name,
        problem.field,
        problem.y0,
        None,
        problem.t1,
        problem.atol_per_rtol,
    )


def _mlp(sizes: tuple[int, int], batch: int | None, t1: float) -> Field:
    size, width = sizes
    net = eqx.nn.MLP(size, size, width, 2, activation=jnp.tanh, key=jax.random.key(0))
    parameters, static = eqx.partition(net, eqx.is_inexact_array)
    # As large as they are initialised to, so few steps will do that what is measured is
    # Diffrax's loop.
    parameters = jax.tree.map(lambda x: 2 * x, parameters)

    def field(t, y, args):
        del t
        fun = eqx.combine(args, static)
        return fun(y) if batch is None else jax.vmap(fun)(y)

    y0 = jnp.linspace(-1.0, 1.0, size)
    name = f"MLP {size}-{width}-{width}-{size}"
    if batch is not None:
        y0 = y0 * jnp.linspace(0.5, 1.0, batch)[:, None]
        name += f", batch {batch}"
    return Field(name, field, y0, parameters, t1)


FIELDS: Mapping[str, Callable[[], Field]] = {
    "mlp": lambda: _mlp((8, 24), None, 10.0),
    "batch": lambda: _mlp((64, 256), 256, 0.5),
    "lorenz": lambda: _of_problem(problems.lorenz()),
    "solar_system": lambda: _of_problem(problems.outer_solar_system()),
}
NAMES = {
    "mlp": "MLP 8-24-24-8",
    "batch": "MLP 64-256-256-64, batch 256",
    "lorenz": "Lorenz",
    "solar_system": "outer Solar System by broadcasting",
}


def _solver(program: Program) -> tuple[Any, Callable]:
    if isinstance(program.method, str):
        return getattr(diffrax, program.method)(), diffrax.PIDController
    return TaylorSolver(program.method, unroll=program.unroll), TaylorController


def build(program: Program) -> tuple[Callable, tuple]:
    """A function of arrays, and arguments for it. The last one is where it ends."""
    field = FIELDS[program.field]()
    solver, controller = _solver(program)
    of_diffrax = diffrax.RecursiveCheckpointAdjoint()
    adjoint = diffrax.ForwardMode() if program.forward_mode else of_diffrax

    def solve(y0, args, t1):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field.field),  # pyright: ignore[reportArgumentType]
            solver,
            t0=0.0,
            t1=t1,
            dt0=None,
            y0=y0,
            args=args,
            stepsize_controller=controller(
                rtol=TOLERANCE, atol=field.atol_per_rtol * TOLERANCE
            ),
            adjoint=adjoint,
        )
        y1 = jax.tree.map(lambda y: y[-1], solution.ys)
        return y1, solution.stats["num_steps"]

    def gradient(y0, args, t1):
        def loss(args):
            y1, steps = solve(y0, args, t1)
            return jnp.linalg.norm(y1), steps

        return jax.grad(loss, has_aux=True)(args)

    fun = gradient if program.gradient else solve
    return fun, (field.y0, field.args, jnp.array(field.t1))


class Compilation(NamedTuple):
    """CPU seconds, and the lines of the program."""

    trace: float
    lower: float
    compile: float
    lines: int

    @property
    def whole(self) -> float:
        return self.trace + self.lower + self.compile


def compile_program(program: Program) -> tuple[Any, tuple, Compilation]:
    fun, args = build(program)
    start = time.process_time()
    traced = jax.jit(fun).trace(*args)
    is_traced = time.process_time()
    lowered = traced.lower()
    is_lowered = time.process_time()
    options: dict[str, Any] = {}
    if program.level is not None:
        options = {"xla_backend_optimization_level": program.level}
    executable = lowered.compile(compiler_options=options)
    end = time.process_time()
    lines = len(lowered.as_text().splitlines())
    split = is_traced - start, is_lowered - is_traced, end - is_lowered
    return executable, args, Compilation(*split, lines)


def _measure(
    programs: Sequence[Program], seconds: float | None = None, one_step: bool = False
) -> dict[str, Any]:
    """What the process measures: compilations, and runs if there are seconds for it."""
    jax.config.update("jax_enable_x64", True)
    warm_up()
    compiled = [compile_program(program) for program in programs]
    found: dict[str, Any] = dict(compilations=[c for *_, c in compiled])
    if seconds is not None:
        calls = []
        for executable, args, _ in compiled:
            if one_step:
                args = (*args[:-1], jnp.array(ONE_STEP))
            calls.append(ft.partial(executable, *args))
        found["steps"] = [int(call()[1]) for call in calls]
        if one_step and found["steps"] != [1] * len(calls):
            raise RuntimeError(f"one step was to be taken, and not {found['steps']}")
        found["times"] = take_turns(calls, seconds)
    return found


class _Clock(io.StringIO):
    """Output that notes the CPU seconds at which the table had its first row."""

    first_row: float | None = None

    def write(self, text: str) -> int:
        written = super().write(text)
        _, header, rows = self.getvalue().partition("\nsolver")
        if header and rows.count("\n") >= 2 and self.first_row is None:
            self.first_row = time.process_time()
        return written


def _demonstrate() -> dict[str, float | None]:
    """The demonstration in this process: CPU seconds since it started."""
    from eqx_taylor.__main__ import main as demonstration

    imports = time.process_time()
    clock = _Clock()
    with contextlib.redirect_stdout(clock):
        demonstration([])
    return {
        "imports": imports,
        "first row": clock.first_row,
        "end": time.process_time(),
    }


# -- the processes


def _child(arguments: Sequence[str], environment: Mapping[str, str] = {}) -> str:
    """What a process prints."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def _ask(
    programs: Sequence[Program],
    seconds: float | None = None,
    one_step: bool = False,
    environment: Mapping[str, str] = {},
) -> dict[str, Any]:
    """`_measure` in a process of its own."""
    request = json.dumps([programs, seconds, one_step])
    printed = _child([_MODULE, "--measure", request], environment)
    return json.loads(printed.splitlines()[-1])


def compilation(program: Program, environment: Mapping[str, str] = {}) -> Compilation:
    (found,) = _ask([program], environment=environment)["compilations"]
    return Compilation(*found)


def median(found: Sequence[Compilation]) -> Compilation:
    trace, lower, compile, lines = np.median(np.array(found), axis=0).tolist()
    return Compilation(trace, lower, compile, int(lines))


def split(found: Sequence[Compilation]) -> str:
    middle = median(found)
    return f"{middle.trace:.2f} + {middle.lower:.2f} + {middle.compile:.2f}"


def compilations(
    programs: Sequence[Program], turns: int
) -> dict[Program, list[Compilation]]:
    found: dict[Program, list[Compilation]] = {program: [] for program in programs}
    for _ in range(turns):
        for program in programs:
            found[program].append(compilation(program))
    for p in programs:
        # As soon as it is known: the table comes when all parts are done.
        print(f"  {NAMES[p.field]}, {p.name}: {split(found[p])}", flush=True)
    return found


class Runs(NamedTuple):
    steps: int
    seconds: list[float]


def runs(
    programs: Sequence[Program], seconds: float, *, one_step: bool
) -> dict[Program, Runs]:
    found = _ask(programs, seconds, one_step)
    both = zip(found["steps"], found["times"], strict=True)
    return dict(zip(programs, itertools.starmap(Runs, both), strict=True))


def demonstration() -> dict[str, float]:
    """CPU seconds of `python -m eqx_taylor`: at the end of the imports, at the first
    row of its table, and at its end."""
    return json.loads(_child([_MODULE, "--demonstrate"]).splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        asked, *others = json.loads(sys.argv[2])
        print(json.dumps(_measure([Program(*p) for p in asked], *others)))
    elif sys.argv[1:2] == ["--demonstrate"]:
        print(json.dumps(_demonstrate()))
