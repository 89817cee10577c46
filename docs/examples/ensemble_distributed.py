"""The ensemble of `ensemble.py`, on all devices of several processes.

Run it once for each process, on one machine or on many:

    python ensemble_distributed.py --coordinator HOST:PORT --process-id 0
    python ensemble_distributed.py --coordinator HOST:PORT --process-id 1

where HOST is where process 0 runs. There are two processes, or `--num-processes`.
Without `--process-id` it starts all of them itself, on this machine.
"""

import argparse
import socket
import subprocess
import sys
import time

import jax
import numpy as np
from ensemble import members, over_devices, report
from jax.experimental import multihost_utils


def run_process(args):
    # Before anything asks JAX for its devices.
    jax.config.update("jax_enable_x64", True)
    if args.devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.devices)
    # For processes with CPUs only. GPUs have collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        args.coordinator,
        args.num_processes,
        args.process_id,
        initialization_timeout=args.timeout,
    )

    sharding, solve_all = over_devices(args.partition)
    # Global arrays, of which each process makes the parts on its own devices.
    y0, rho = (
        jax.make_array_from_callback(x.shape, sharding, lambda index, x=x: x[index])
        for x in members(args.members)
    )
    results = solve_all(y0, rho)
    # Now each process has all of them, as arrays of NumPy.
    y1, steps, successful = multihost_utils.process_allgather(results, tiled=True)

    if jax.process_index() == 0:
        processes, devices = jax.process_count(), len(jax.devices())
        here = len(jax.local_devices())
        print(f"{processes} processes, here {here} of {devices} devices")
        report(y1, steps, successful)
        if args.save is not None:
            np.savez(args.save, y1=y1, steps=steps, successful=successful)
    jax.distributed.shutdown()


def start_all(args):
    """All processes, on this machine. None of them is left when this returns."""
    if args.coordinator is None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            args.coordinator = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, __file__]
    for name, value in vars(args).items():
        if name != "process_id" and value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    processes = []
    try:
        for i in range(args.num_processes):
            processes.append(subprocess.Popen([*command, "--process-id", str(i)]))
        deadline = time.monotonic() + args.timeout
        while True:
            codes = [process.poll() for process in processes]
            if any(codes):
                sys.exit(f"a process failed; exit codes (None: still running): {codes}")
            if None not in codes:
                return
            if time.monotonic() > deadline:
                sys.exit(f"not done after {args.timeout} s; exit codes: {codes}")
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coordinator", help="host and port of process 0")
    parser.add_argument("--num-processes", type=int, default=2)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--members", type=int, default=1024)
    parser.add_argument("--devices", type=int, help="as many on each CPU")
    parser.add_argument(
        "--partition", choices=("shard_map", "jit"), default="shard_map"
    )
    parser.add_argument("--timeout", type=int, default=300, help="in seconds")
    parser.add_argument("--save", help="a file (.npz) for the results, of process 0")
    args = parser.parse_args()
    if args.process_id is None:
        start_all(args)
    else:
        run_process(args)


if __name__ == "__main__":
    main()
