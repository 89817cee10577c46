"""An ensemble of Lorenz systems: what the layout of the states, and the number of lanes
that step together, make of the run time.

Times are the least of all runs, as whatever else the machine does only adds to them.
"Per step" is one step of one trajectory; steps that a lane waits for others to make are
not counted. In one system all trajectories take the steps of the most difficult one.
"""

import argparse
import os
import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eqx_taylor import TaylorController, TaylorSolver

from ._timing import compare, print_machine
from .problems import lorenz_slopes


def field(t, y, rho):
    """Components along the first axis. There may be others, over trajectories."""
    return jnp.stack(lorenz_slopes(y, rho=rho, beta=8 / 3))


def field_of_tuple(t, y, rho):
    return tuple(lorenz_slopes(y, rho=rho, beta=8 / 3))


def norm_of_worst(y):
    """Of arrays with components first: no trajectory is less accurate than alone."""
    return jnp.max(jnp.sqrt(jnp.mean(y**2, axis=0)))


def solver(field, rtol, t1, **kwargs):
    def solve(y0, rho):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            TaylorSolver(rtol=rtol, atol=rtol),
            t0=0.0,
            t1=t1,
            dt0=None,
            y0=y0,
            args=rho,
            stepsize_controller=TaylorController(rtol, rtol, **kwargs),
            throw=False,
        )
        assert solution.ys is not None
        return jax.tree.map(lambda y: y[0], solution.ys), solution.stats["num_steps"]

    return solve


def layouts(rtol, t1, sizes):
    """Name, function of `y0` of shape (3, N) and `rho` of shape (N,)."""
    solve = solver(field, rtol, t1)
    solve_tuple = solver(field_of_tuple, rtol, t1)
    solve_all = solver(field, rtol, t1, norm=norm_of_worst)

    def batch_first(y0, rho):
        ys, steps = jax.vmap(solve)(y0.T, rho)
        return ys.T, steps

    batch_last = jax.vmap(solve, in_axes=-1, out_axes=-1)

    def tuple_of_components(y0, rho):
        ys, steps = jax.vmap(solve_tuple)(tuple(y0), rho)
        return jnp.stack(ys), steps

    def in_blocks(size, fun):
        """Of `fun`, for arrays with the trajectories along the last axis."""

        def blocks(y0, rho):
            number = rho.shape[0] // size
            y0s = jnp.moveaxis(y0.reshape(3, number, size), 1, 0)
            ys, steps = jax.lax.map(
                lambda block: fun(*block), (y0s, rho.reshape(number, size))
            )
            steps = jnp.broadcast_to(steps.reshape(number, -1), (number, size))
            return jnp.moveaxis(ys, 0, 1).reshape(y0.shape), steps.reshape(-1)

        return blocks

    def one_at_a_time(y0, rho):
        ys, steps = jax.lax.map(lambda member: solve(*member), (y0.T, rho))
        return ys.T, steps

    yield "one at a time (`lax.map`)", one_at_a_time
    yield "`vmap`, batch axis first", batch_first
    yield "`vmap`, batch axis last", batch_last
    yield "`vmap`, a tuple of components", tuple_of_components
    for size in sizes:
        yield f"the first, blocks of {size}", in_blocks(size, batch_first)
        yield f"the tuple, blocks of {size}", in_blocks(size, tuple_of_components)
    yield "one system (3, N)", solve_all
    for size in sizes:
        yield f"one system, blocks of {size}", in_blocks(size, solve_all)
    if len(jax.devices()) == 1:
        return
    mesh = Mesh(np.array(jax.devices()), ("members",))
    along_last = PartitionSpec(None, "members"), PartitionSpec("members")
    sharding = [NamedSharding(mesh, spec) for spec in along_last]

    def shard_map(fun):
        return jax.shard_map(
            fun, mesh=mesh, in_specs=along_last, out_specs=along_last, check_vma=False
        )

    def divided_by_xla(y0, rho):
        y0, rho = jax.lax.with_sharding_constraint((y0, rho), tuple(sharding))
        return batch_first(y0, rho)

    devices = f"{len(jax.devices())} devices"
    yield f"the first, {devices}, `jit`", divided_by_xla
    yield f"the first, {devices}, `shard_map`", shard_map(batch_first)
    for size in sizes:
        yield (
            f"the first, {devices}, `shard_map`, blocks of {size}",
            shard_map(in_blocks(size, batch_first)),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1024)
    parser.add_argument("--rtol", type=float, default=1e-9)
    parser.add_argument("--t1", type=float, default=2.0)
    parser.add_argument("--blocks", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--devices", type=int, default=1, help="as many on the CPU")
    parser.add_argument("--only", help="a regular expression for the names of rows")
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    for size in args.blocks:
        if args.members // args.devices % size != 0:
            parser.error("the members of each device must be a multiple of each block")
    y0 = jnp.array([[1.0], [2.0], [20.0]])
    y0 = y0 + jax.random.normal(jax.random.key(0), (3, args.members))
    rho = jnp.linspace(20.0, 30.0, args.members)
    rivals = [
        (name, fun)
        for name, fun in layouts(args.rtol, args.t1, args.blocks)
        if args.only is None or re.search(args.only, name)
    ]
    print_machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"
    order = TaylorSolver(rtol=args.rtol, atol=args.rtol).taylor_order
    print(
        f"{args.members} trajectories to t = {args.t1}, order {order}, float64, "
        f"{cores} core(s), {len(jax.devices())} device(s)\n"
    )
    timings = compare(rivals, (y0, rho), args.seconds)
    print("| | run, ms | steps | per step, µs | trace+compile, s |")
    print("|---|---:|---:|---:|---:|")
    reference, _ = timings[0].result
    for timing in timings:
        y1, steps = timing.result
        least = float(np.min(timing.runs))
        steps = np.broadcast_to(steps, (args.members,))
        print(
            f"| {timing.name} | {1e3 * least:.1f} | {np.mean(steps):.1f} "
            f"| {1e6 * least / np.sum(steps):.3f} | {timing.compile:.1f} |"
        )
        difference = np.max(np.abs(y1 - reference)) / np.max(np.abs(reference))
        assert difference < 1e3 * args.rtol, (timing.name, difference)


if __name__ == "__main__":
    main()
