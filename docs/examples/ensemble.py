"""Many Lorenz systems at once, on all devices of one process.

Each member has an initial state and a parameter of its own, and takes steps of its own.
"""

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eqx_taylor import taylor_method


def vector_field(t, y, rho):
    a, b, c = y
    return jnp.stack([10 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c])


def solve(y0, rho):
    """One member: its final state, how many steps it took, and whether it got there."""
    solver, controller = taylor_method(rtol=1e-6, atol=1e-6)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        solver,
        t0=0.0,
        t1=1.0,
        dt0=None,
        y0=y0,
        args=rho,
        stepsize_controller=controller,
        # One member that fails need not end all others, and raising an error would be a
        # call from the device to Python.
        throw=False,
    )
    successful = solution.result == diffrax.RESULTS.successful
    return solution.ys[0], solution.stats["num_steps"], successful


def members(number):
    """Initial states and parameters: arrays of NumPy, on no device yet."""
    random = np.random.default_rng(0)
    y0 = np.array([1.0, 2.0, 20.0]) + random.normal(size=(number, 3))
    return y0, np.linspace(20.0, 30.0, number)


def over_devices(partition):
    """Of all devices, of all processes: how an array with a leading axis over members
    lies on them, and a function that solves for all members."""
    mesh = Mesh(jax.devices(), ("members",))
    spec = PartitionSpec("members")
    solve_all = jax.vmap(solve)
    if partition == "shard_map":
        # Each device runs a loop of its own, until the last of its members is done.
        # Otherwise XLA divides one loop among them, and all devices have to agree at
        # every step whether there is another. (`check_vma`, which is for functions with
        # collectives, does not get through Diffrax's loops.)
        solve_all = jax.shard_map(
            solve_all, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
    return NamedSharding(mesh, spec), jax.jit(solve_all)


def report(y1, steps, successful):
    print(f"{len(steps)} members, {np.sum(successful)} of them successful")
    print(f"Steps: {np.min(steps)} to {np.max(steps)}, {np.mean(steps):.2f} on average")
    print("Mean of the final states:", np.array2string(np.mean(y1, 0), precision=6))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1024)
    parser.add_argument("--devices", type=int, help="as many on the CPU")
    parser.add_argument(
        "--partition", choices=("shard_map", "jit"), default="shard_map"
    )
    parser.add_argument("--save", help="a file (.npz) for the results")
    args = parser.parse_args()
    # Before anything asks JAX for its devices.
    jax.config.update("jax_enable_x64", True)
    if args.devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.devices)

    sharding, solve_all = over_devices(args.partition)
    y0, rho = jax.device_put(members(args.members), sharding)
    y1, steps, successful = solve_all(y0, rho)

    shards = y1.addressable_shards
    print(f"{len(shards)} devices, with {shards[0].data.shape[0]} members each")
    report(y1, steps, successful)
    if args.save is not None:
        np.savez(args.save, y1=y1, steps=steps, successful=successful)


if __name__ == "__main__":
    main()
