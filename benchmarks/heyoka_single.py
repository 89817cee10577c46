"""One solve at the tolerance of a rounding error, against heyoka's.

Both take order 20 and choose their own steps. What is compared is the time of the whole
integration, so that a longer step counts as much as a faster one. So that it is fair,
the errors of both are measured, at an earlier time at which a reference is known.

The outer Solar System is `heyoka.model.nbody` there, which goes by pairs.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eqx_taylor import _outer_solar_system as solar_system

from . import problems
from ._heyoka import (
    EPS,
    equations,
    from_heyoka,
    heyoka,
    lorenz,
    MISSING,
    solar_systems,
    solve,
    System,
    Time,
    timed,
    to_heyoka,
)
from ._report import Figure, main, Report
from .work_precision import take_turns


TITLE = "A solve at a tolerance of 2.2e-16, against heyoka"
TEXT = f"""
The problems are Lorenz to $t = 50$ and the outer Solar System over 1000 years. Both
solvers have order 20. `heyoka.taylor_adaptive` has its default tolerance of {EPS:.1e},
and `propagate_until` has no output. `TaylorSolver` and `TaylorController` have the same
tolerance as `rtol`, and as `atol` this (Lorenz) or a thousandth of it (outer Solar
System, where velocities are 1e-3), in `diffrax.diffeqsolve` with `ForwardMode` and
`max_steps=None`, under `jit`.

Errors are relative. Those of the state are measured at $t = 10$ (Lorenz) and after 100
years, those of the energy after 1000 years.
"""

# Ours may have so many times the error of heyoka's, and so much in addition. Errors of
# some roundings are a matter of luck: heyoka's change fivefold with the last digit of
# the initial state. A tolerance ten times as large is not.
MORE_ERROR, LUCK = 3.0, {"Lorenz": 1e-12, "Outer Solar System": 2e-13}
MORE_ENERGY_ERROR = 2e-14


def energy_error(y: Any) -> float | None:
    if not isinstance(y, tuple):
        return None
    y = jax.tree.map(jnp.asarray, y)
    start = solar_system.energy(solar_system.initial_state())
    return float(jnp.abs(solar_system.energy(y) / start - 1))


class Peer:
    def __init__(self, heyoka: Any, problem: problems.Problem, compact: bool):
        self.name = f"heyoka, {'compact' if compact else 'default'} mode"
        self.y0 = problem.y0
        self.start = to_heyoka(problem.y0)
        system = equations(heyoka, problem)
        self.integrator, self.compile = timed(
            lambda: heyoka.taylor_adaptive(
                system, self.start.copy(), compact_mode=compact
            )
        )
        self.integrate(problem.t1)
        self.early = from_heyoka(self.integrator.state, problem.y0)
        self.steps = 0
        self.late: Any = None

    def integrate(self, t1: float) -> int:
        self.integrator.time = 0.0
        self.integrator.state[:] = self.start
        return self.integrator.propagate_until(t1)[3]

    def finish(self, t1: float) -> None:
        self.steps = self.integrate(t1)
        self.late = from_heyoka(self.integrator.state, self.y0)


def against(
    peers: list[Peer], system: System, t1: float, reference: Any, seconds: float
) -> tuple[list[Figure], list[str]]:
    """The figures of one way to write the problem; and rows of a table, of ours and of
    the peers."""
    problem = system.problem

    def ours(y0, t1):
        return solve(problem, y0, t1)

    start = problem.y0, jnp.array(t1)
    executable, compile_time = timed(lambda: jax.jit(ours).lower(*start).compile())
    early, _ = executable(problem.y0, jnp.array(problem.t1))
    late, steps = executable(*start)
    steps = int(steps)
    for peer in peers:
        peer.finish(t1)
    runs = [lambda: executable(*start)]
    runs += [lambda peer=peer: peer.integrate(t1) for peer in peers]
    mine, *theirs = [Time.of(taken) for taken in take_turns(runs, seconds)]

    def row(name, steps, time, error, energy):
        energy = "" if energy is None else f"{energy:.1e}"
        per_step = 1e6 * time.median / steps
        return f"| {name} | {steps} | {per_step:.3g} | {error:.1e} | {energy} |"

    error, energy = problems.error(early, reference), energy_error(late)
    rows = [row(system.name, steps, mine, error, energy)]
    figures = []
    for peer, time in zip(peers, theirs):
        their_error = problems.error(peer.early, reference)
        their_energy = energy_error(peer.late)
        assert error <= MORE_ERROR * their_error + LUCK[problem.name], (
            f"{system.name}: an error of {error:.1e}; {peer.name}: {their_error:.1e}"
        )
        if energy is not None and their_energy is not None:
            assert energy <= MORE_ERROR * their_energy + MORE_ENERGY_ERROR, (
                f"{system.name}: {energy:.1e} in energy, not {their_energy:.1e}"
            )
        rows.append(
            row(
                f"{problem.name}, {peer.name}",
                peer.steps,
                time,
                their_error,
                their_energy,
            )
        )
        is_default = peer is peers[0]
        figures.append(
            Figure(
                system.name,
                "run",
                peer.name,
                mine.median,
                time.median,
                "s",
                mine.spread,
                time.spread,
                system.at_most if is_default else None,
            )
        )
        if is_default:
            each = mine.median / steps, time.median / peer.steps
            figures.append(Figure(system.name, "run, a step", peer.name, *each))
            figures.append(
                Figure(system.name, "steps", peer.name, steps, peer.steps, "")
            )
        figures.append(
            Figure(system.name, "compile", peer.name, compile_time, peer.compile)
        )
    return figures, rows


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    module = heyoka()
    if module is None:
        return Report(TITLE, MISSING, [])
    figures: list[Figure] = []
    rows = [
        "| | steps | µs a step | error | of the energy |",
        "|---|---:|---:|---:|---:|",
    ]
    for systems, t1 in [
        ([lorenz(1.2)], 50.0),
        (solar_systems(1.2, 2.0), 1000 * solar_system.DAYS_PER_YEAR),
    ]:
        problem = systems[0].problem
        reference = problem.reference()
        peers = [Peer(module, problem, compact) for compact in (False, True)]
        theirs: list[str] = []
        for system in systems:
            some, (ours, *theirs) = against(peers, system, t1, reference, seconds)
            figures += some
            rows.append(ours)
        rows += theirs
    return Report(TITLE, TEXT + "\n" + "\n".join(rows), figures)


if __name__ == "__main__":
    main(run)
