"""Ensembles of 1024 trajectories at the tolerance of a rounding error, against heyoka's
ensembles, both on all cores.

heyoka takes as many trajectories at a time as fit a register, with steps of their own,
in each of its threads: `ensemble_propagate_until_batch`. It copies the integrator
for every batch; so there is a second rival, which keeps one for each thread.

Ours are the layouts of docs/ensembles.md: blocks of trajectories one after another,
divided among as many devices as there are cores by `jax.shard_map`; in a block, either
lanes under `vmap`, or one system that takes the steps of its most difficult member.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eqx_taylor import _outer_solar_system as solar_system

from . import problems
from ._heyoka import (
    equations,
    from_heyoka,
    heyoka,
    lorenz,
    MISSING,
    solar_systems,
    solve,
    Time,
    timed,
    to_heyoka,
)
from ._report import Figure, main, Report
from .work_precision import take_turns


TITLE = "Ensembles of 1024 at a tolerance of 2.2e-16, against heyoka"
MEMBERS = 1024
# Trajectories that step together. At order 20 more of them leave the cache.
BLOCK = 32
# At `problem.t1`, relative to the largest component, all of them as exact as rounding
# lets them be. Lorenz multiplies an error by some thousands until then.
AGREEMENT = {"Lorenz": 1e-9, "Outer Solar System": 1e-11}


def cores() -> int:
    """Those that this process may use; a power of two, which divides `MEMBERS`."""
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    return 2 ** (min(number, MEMBERS // BLOCK).bit_length() - 1)


def text(devices: int, threads: int) -> str:
    return f"""
The problems are Lorenz to $t = 50$, from states around $(1, 2, 3)$, and the outer Solar
System over 100 years, with each entry of its state changed by a thousandth. Tolerances
are those of one solve.

Ours has trajectories along the last axis, in blocks of {BLOCK} (`jax.lax.map`), on
{devices} device(s) (`jax.shard_map`). In "one system" all members of a block take the
same steps, chosen by the norm of the worst one, as docs/ensembles.md recommends for
members that are alike. "Lanes" is `jax.vmap` of a solve, where each has its own steps.

heyoka runs in {threads} thread(s), with batches of trajectories in one register.
"Ensemble" is `ensemble_propagate_until_batch`, which copies the integrator with its
code for every batch; "kept" is our own loop over batches, which keeps an integrator
for each thread.
"""


# -- ours


def norm_of_worst(y: Any) -> jax.Array:
    """The root mean square of each trajectory; the largest of them."""
    leaves = jax.tree.leaves(y)
    squares = [jnp.sum(x**2, axis=tuple(range(x.ndim - 1))) for x in leaves]
    size = sum(x.size // x.shape[-1] for x in leaves)
    return jnp.sqrt(jnp.max(jnp.stack(squares).sum(axis=0)) / size)


def _in_blocks(fun: Callable) -> Callable:
    """Of `fun(y0, t1)`, with trajectories along the last axis."""

    def split(y):
        return jnp.moveaxis(y.reshape(*y.shape[:-1], -1, BLOCK), -2, 0)

    def join(y):
        y = jnp.moveaxis(y, 0, -2)
        return y.reshape(*y.shape[:-2], -1)

    def blocks(y0, t1):
        y1, steps = jax.lax.map(lambda y: fun(y, t1), jax.tree.map(split, y0))
        steps = jnp.broadcast_to(steps.reshape(len(steps), -1), (len(steps), BLOCK))
        return jax.tree.map(join, y1), steps.reshape(-1)

    return blocks


def _on_all_devices(fun: Callable, y0: Any) -> Callable:
    along = jax.tree.map(lambda y: PartitionSpec(*[None] * (y.ndim - 1), "members"), y0)
    return jax.shard_map(
        fun,
        mesh=Mesh(np.array(jax.devices()), ("members",)),
        in_specs=(along, PartitionSpec()),
        out_specs=(along, PartitionSpec("members")),
        check_vma=False,
    )


def layouts(problem: problems.Problem, y0: Any) -> list[tuple[str, Callable]]:
    def one(y0, t1):
        return solve(problem, y0, t1)

    def one_system(y0, t1):
        return solve(problem, y0, t1, norm=norm_of_worst)

    lanes = jax.vmap(one, in_axes=(-1, None), out_axes=(-1, 0))
    return [
        (name, _on_all_devices(_in_blocks(fun), y0))
        for name, fun in [("one system", one_system), ("lanes", lanes)]
    ]


# -- heyoka's


class Peer:
    def __init__(self, heyoka: Any, problem: problems.Problem, y0: Any, threads: int):
        self.heyoka = heyoka
        self.threads = threads
        self.y0 = y0
        self.starts = to_heyoka(y0)
        self.ends = np.empty_like(self.starts)
        self.width = heyoka.recommended_simd_size()
        system = equations(heyoka, problem)
        self.integrator, self.compile = timed(
            lambda: heyoka.taylor_adaptive_batch(
                system, np.zeros((len(self.starts), self.width))
            )
        )
        self.kept_integrators = [
            heyoka.taylor_adaptive_batch(
                system, np.zeros((len(self.starts), self.width))
            )
            for _ in range(threads)
        ]
        self.pool = ThreadPoolExecutor(threads)

    def _start(self, integrator, i):
        integrator.set_time(0.0)
        integrator.state[:] = self.starts[:, i * self.width : (i + 1) * self.width]
        return integrator

    def ensemble(self, t1: float) -> list:
        batches = MEMBERS // self.width
        return self.heyoka.ensemble_propagate_until_batch(
            self.integrator, t1, batches, self._start, max_workers=self.threads
        )

    def steps(self, results: list) -> float:
        """Mean over the trajectories."""
        members = [m for integrator, *_ in results for m in integrator.propagate_res]
        return float(np.mean([member[3] for member in members]))

    def final_states(self, results: list) -> Any:
        ends = np.concatenate([integrator.state for integrator, *_ in results], axis=1)
        return from_heyoka(ends, self.y0)

    def kept(self, t1: float) -> None:
        def work(thread):
            integrator = self.kept_integrators[thread]
            for i in range(thread, MEMBERS // self.width, self.threads):
                self._start(integrator, i).propagate_until(t1)
                columns = slice(i * self.width, (i + 1) * self.width)
                self.ends[:, columns] = integrator.state

        list(self.pool.map(work, range(self.threads)))


def initial_states(problem: problems.Problem) -> Any:
    random = np.random.default_rng(0)

    def around(y):
        y = np.asarray(y)[..., None]
        noise = random.normal(size=(*y.shape[:-1], MEMBERS))
        return jnp.asarray(y * (1 + 1e-3 * noise) if y.ndim > 2 else y + noise)

    return jax.tree.map(around, problem.y0)


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    module = heyoka()
    if module is None:
        return Report(TITLE, MISSING, [])
    threads = cores()
    figures: list[Figure] = []
    rows = [
        "| | steps, mean | µs a step of a trajectory | difference from heyoka's |",
        "|---|---:|---:|---:|",
    ]
    for systems, t1 in [
        ([lorenz(1.0)], 50.0),
        (solar_systems(1.0, 1.0)[::2], 100 * solar_system.DAYS_PER_YEAR),
    ]:
        problem = systems[0].problem
        y0 = initial_states(problem)
        peer = Peer(module, problem, y0, threads)
        expected = peer.final_states(peer.ensemble(problem.t1))
        peer.kept(problem.t1)
        for a, b in zip(
            jax.tree.leaves(from_heyoka(peer.ends, y0)), jax.tree.leaves(expected)
        ):
            np.testing.assert_array_equal(a, b)
        their_steps = peer.steps(peer.ensemble(t1))
        their_rows: list[str] = []
        for system in systems:
            executables, compile_times, steps = [], [], []
            start = y0, jnp.array(t1)
            names, functions = zip(*layouts(system.problem, y0))
            for name, fun in zip(names, functions):
                executable, compile_time = timed(
                    lambda: jax.jit(fun).lower(*start).compile()
                )
                early, _ = executable(y0, jnp.array(problem.t1))
                difference = problems.error(early, expected)
                assert difference <= AGREEMENT[problem.name], (
                    f"{system.name}, {name}: {difference:.1e} from heyoka"
                )
                _, numbers = executable(*start)
                executables.append(executable)
                compile_times.append(compile_time)
                steps.append((float(np.mean(numbers)), difference))
            runs = [lambda f=f: f(*start) for f in executables]
            runs += [lambda: peer.ensemble(t1), lambda: peer.kept(t1)]
            times = [Time.of(taken) for taken in take_turns(runs, seconds)]
            theirs = dict(zip(["heyoka, ensemble", "heyoka, kept"], times[-2:]))
            for name, mine, (mean, difference), compile_time in zip(
                names, times, steps, compile_times
            ):
                each = 1e6 * mine.median / mean / MEMBERS
                rows.append(
                    f"| {system.name}, {name} | {mean:.1f} | {each:.3g} "
                    f"| {difference:.1e} |"
                )
                for their_name, time in theirs.items():
                    figures.append(
                        Figure(
                            f"{system.name}, {name}",
                            "run",
                            their_name,
                            mine.median,
                            time.median,
                            "s",
                            mine.spread,
                            time.spread,
                            system.at_most if name == names[0] else None,
                        )
                    )
                figures.append(
                    Figure(
                        f"{system.name}, {name}",
                        "compile",
                        "heyoka",
                        compile_time,
                        peer.compile,
                    )
                )
            their_rows = [
                f"| {problem.name}, {name} | {their_steps:.1f} "
                f"| {1e6 * time.median / their_steps / MEMBERS:.3g} | |"
                for name, time in theirs.items()
            ]
        rows += their_rows
    about = text(len(jax.devices()), threads)
    return Report(TITLE, about + "\n" + "\n".join(rows), figures)


if __name__ == "__main__":
    # Before anything asks for the devices.
    jax.config.update("jax_num_cpu_devices", cores())
    main(run)
