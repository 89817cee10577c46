"""Compiles programs for an NVIDIA GPU with XLA, where there is none: nothing is run.

    python tests/cuda_ahead_of_time.py

needs `pip install jax-cuda12-plugin jax-cuda12-pjrt` of jaxlib's version, and prints a
line for each program.
"""

import os
import re
import sys
import time


os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    # There are no libraries of CUDA.
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    # An error would be raised by a callback, for which there has to be a device.
    "EQX_ON_ERROR": "nan",
}

import diffrax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import eqx_taylor  # noqa: E402
from eqx_taylor import NativeAdjoint, taylor_method  # noqa: E402


# What XLA has to know of an H100, as in its own list of devices.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 1 patch: 1 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def lorenz(t, y, rho):
    del t
    a, b, c = y
    return jnp.stack([10 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c])


def functions(t, y, args):
    return jnp.sin(args * y) * jnp.exp(-t) + jnp.log1p(y**2) ** 0.7


def solve(field, adjoint, saveat, y0, args):
    solver, controller = taylor_method(rtol=1e-6, atol=1e-6)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=jnp.zeros((), y0.dtype),
        t1=jnp.ones((), y0.dtype),
        dt0=None,
        y0=y0,
        args=args,
        saveat=saveat,
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=64,
        throw=False,
    )
    return solution.ys, solution.stats["num_steps"]


def jets(weights, x):
    def network(x):
        for w in weights:
            x = jnp.tanh(w @ x)
        return x

    series = [jnp.ones_like(x), None, None, None]
    derivatives = eqx_taylor.filter_jet(network, (x,), (series,))
    return derivatives, eqx_taylor.laplacian(lambda x: jnp.sum(network(x)), x)


def programs():
    """The name of each, the function, and the shapes and dtypes of its arguments."""
    end, at_times = (
        diffrax.SaveAt(t1=True),
        diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, 5), dense=False),
    )
    native, xla = NativeAdjoint(), diffrax.ForwardMode()
    double, single = jnp.float64, jnp.float32

    def solves(field, adjoint, saveat, lanes):
        def one(y0, args):
            return solve(field, adjoint, saveat, y0, args)

        return one if lanes is None else jax.vmap(one)

    for name, field, dtype, lanes, saveat in [
        ("Lorenz, one solve", lorenz, double, None, end),
        ("Lorenz, 1000 lanes", lorenz, double, 1000, at_times),
        ("Lorenz, float32, 1000 lanes", lorenz, single, 1000, end),
        ("functions, 1000 lanes", functions, double, 1000, end),
        ("functions, float32, 1000 lanes", functions, single, 1000, end),
    ]:
        shape = () if lanes is None else (lanes,)
        given = [((*shape, 3), dtype), (shape, dtype)]
        yield f"NativeAdjoint: {name}", solves(field, native, saveat, lanes), given
    yield (
        "TaylorSolver: Lorenz, 1000 lanes",
        solves(lorenz, xla, at_times, 1000),
        [((1000, 3), double), ((1000,), double)],
    )
    yield (
        "jets and Laplacian of a network, in batches",
        jax.vmap(jets, in_axes=(None, 0)),
        [([((16, 16), single)] * 3), ((64, 16), single)],
    )


def main() -> None:
    topology = topologies.get_topology_desc(
        topology_name="", platform="cuda", target_config=H100, topology="1x1x1"
    )
    sharding = NamedSharding(Mesh(topology.devices, ("x",)), PartitionSpec())

    def struct(given):
        if isinstance(given, list):
            return [struct(x) for x in given]
        return jax.ShapeDtypeStruct(*given, sharding=sharding)

    for name, fun, given in programs():
        start = time.perf_counter()
        traced = jax.jit(fun).trace(*map(struct, given))
        lowered = traced.lower(lowering_platforms=("cuda",))
        between = time.perf_counter()
        text = lowered.compile().as_text()
        end = time.perf_counter()
        kernels = len(re.findall(r'custom_call_target="__gpu\$xla.gpu.ptx"', text))
        if name.startswith("NativeAdjoint") != (kernels > 0):
            sys.exit(f"{name}: {kernels} kernels of our own")
        print(
            f"{name}: {kernels} kernels of our own, traced and lowered in "
            f"{between - start:.1f} s, compiled in {end - between:.1f} s"
        )


if __name__ == "__main__":
    main()
