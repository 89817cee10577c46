"""What each choice in the engine is worth: the same solves with it and without it.

The choices are those by which series are computed order by order, in an ODE's solution;
each is taken back by itself, the others staying as they are.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from eqx_taylor import _outer_solar_system as solar_system
from eqx_taylor._core import jax as _jax
from eqx_taylor._core.storage import storage_policy, StoragePolicy
from eqx_taylor._ode import solver as _solver

from ._heyoka import lorenz, solar_systems, solve, System, Time
from ._report import Figure, main, Report
from .jet_mlp import by_filter_jet
from .jets import seed
from .work_precision import take_turns


TITLE = "What each choice in the engine is worth"
TEXT = """
The solves are at a tolerance of 2.2e-16 and order 20: Lorenz to $t = 50$, the outer
Solar System over 100 years. "Ours" is the engine as it is, "peer" the engine without
one choice; a ratio below 1 shows what the choice saves.

- **stored**: a coefficient that later orders use is stored
  (`jax.lax.optimization_barrier`), not computed again in each XLA fusion that uses it.
- **not if used once**: a coefficient that a single equation uses is computed in the
  loop of that equation instead.
- **side by side**: sums of products are split in four parts, which do not wait for
  each other.
- **long loops**: products run over joined axes, (36, 3) instead of (6, 6, 3), with
  broadcast operands stored in that shape.
- **probe**: the error is checked inside the step as well. This choice costs time.

The table shows the program that XLA compiled: fusions are loops with a kernel of their
own, operations are the multiplications and additions of arrays in all fusions. An
operation that is computed several times counts several times.
"""


@contextlib.contextmanager
def _without(choice: str | None) -> Iterator[None]:
    policies = {
        "stored": StoragePolicy(stores=False),
        "not if used once": StoragePolicy(stores_what_is_used_once=True),
        "side by side": StoragePolicy(side_by_side=1),
        "long loops": StoragePolicy(long=0),
    }
    with contextlib.ExitStack() as stack:
        if choice == "probe":
            none = mock.patch.object(_solver, "probe_points", lambda number: [])
            stack.enter_context(none)
        elif choice is not None:
            stack.enter_context(storage_policy(policies[choice]))
        yield


CHOICES = ["stored", "not if used once", "side by side", "long loops", "probe"]


class Profile(NamedTuple):
    """What XLA has made of a program."""

    # Loops of a kernel of their own, and all the rest that has one.
    fusions: int
    # Multiplications and additions of whole arrays, in all of them.
    operations: int

    @classmethod
    def of(cls, executable: Any) -> "Profile":
        text = executable.as_text()
        return cls(
            len(re.findall(r" fusion\(", text)),
            len(re.findall(r" (?:multiply|add|subtract)\(", text)),
        )


def _compiled(
    system: System, t1: float, choice: str | None
) -> tuple[Callable[[], Any], Profile]:
    problem = system.problem
    start = problem.y0, jnp.array(t1)
    with _without(choice):
        # `diffeqsolve` is jitted, and JAX would remember how it was traced before.
        jax.clear_caches()
        fun = jax.jit(lambda y0, t1: solve(problem, y0, t1))
        executable = fun.lower(*start).compile()
    jax.clear_caches()
    return lambda: executable(*start), Profile.of(executable)


def _slow_functions(seconds: float) -> Figure:
    """The jet of a function that is made of sines, which are stored."""
    _, _, fun, x, v, _ = seed()
    runs = []
    for stores in (True, False):
        with storage_policy(StoragePolicy(stores_slow=stores)):
            jet = jax.jit(lambda x, v: by_filter_jet(fun, x, v, 6))
            executable = jet.lower(x, v).compile()
        runs.append(lambda executable=executable: executable(x, v))
    ours, theirs = [Time.of(taken) for taken in take_turns(runs, seconds)]
    return Figure(
        "jet of order 6 of `0.3 * sin(t) * t**10` at 4096 times",
        "run",
        "sines not stored",
        ours.median,
        theirs.median,
        "s",
        ours.spread,
        theirs.spread,
    )


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    cases = [(lorenz(0.0), 50.0)]
    cases += [
        (system, 100 * solar_system.DAYS_PER_YEAR) for system in solar_systems(0, 0)
    ]
    figures = []
    rows = [
        "| | | µs a step | fusions | operations |",
        "|---|---|---:|---:|---:|",
    ]
    for system, t1 in cases:
        compiled = [_compiled(system, t1, choice) for choice in [None, *CHOICES]]
        runs, profiles = zip(*compiled)
        steps = [int(jax.block_until_ready(fun())[1]) for fun in runs]
        times = [Time.of(taken) for taken in take_turns(runs, seconds)]
        # Roundings differ, and so may the number of steps, by a few.
        each = [time.median / n for time, n in zip(times, steps)]
        names = ["as it is", *[f"without “{choice}”" for choice in CHOICES]]
        rows += [
            f"| {system.name} | {name} | {1e6 * one:.3g} | {profile.fusions} "
            f"| {profile.operations} |"
            for name, one, profile in zip(names, each, profiles)
        ]
        for name, one, time, n in zip(names[1:], each[1:], times[1:], steps[1:]):
            figures.append(
                Figure(
                    system.name,
                    "run, a step",
                    name,
                    each[0],
                    one,
                    "s",
                    times[0].spread / steps[0],
                    time.spread / n,
                )
            )
    figures.append(_slow_functions(seconds))
    if not _jax.BARRIER_HOLDS:
        rows.append("\nThis version of JAX drops the barriers: nothing is stored.")
    return Report(TITLE, TEXT + "\n" + "\n".join(rows), figures)


if __name__ == "__main__":
    main(run)
