"""Measures this package on an accelerator: whether it is right there, and how fast.

    python -m benchmarks.gpu

from a checkout, without installing anything; JAX with CUDA, Equinox, Diffrax, Lineax
and Optimistix have to be there. First values on the device are compared with the same
on the CPU, then times are measured, the most telling first. Every result is appended to
a file as soon as it is there: an interrupted run loses nothing, and the same command
goes on. `--render FILE` makes the tables of it, and `python -m benchmarks --gpu` puts
them on the page.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from . import RECORDS
from ._record import load, Record, Unusable


SECTION_NAMES = (
    "right",
    "precision",
    "jets",
    "laplacian",
    "lorenz",
    "neural_ode",
    "solar",
    "blocks",
    "compile",
)
NO_DEVICE = (
    "JAX finds no accelerator here, only the CPU. `--tiny` tries this script out on "
    "it, `--cpu` measures the CPU. (With a GPU in the machine, JAX needs its CUDA "
    'packages: `pip install "jax[cuda13]"`, or `"jax[cuda12]"`.)'
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of the whole run (%(default)g)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTION_NAMES,
        metavar="NAME",
        help=f"these sections only, of: {', '.join(SECTION_NAMES)}",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="DIR",
        default=RECORDS,
        help="the folder of the file to which results are appended: gpu.jsonl, with "
        "--cpu cpu.jsonl, with --tiny tiny.jsonl (%(default)s)",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="measures the CPU, for want of a GPU"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="tries all of it out on the CPU, at sizes that say nothing; the exit code "
        "is 1 unless every step has figures",
    )
    parser.add_argument(
        "--render",
        type=pathlib.Path,
        metavar="FILE",
        help="prints the tables of a file, in Markdown, and measures nothing",
    )
    # The time at which the worker has to be done.
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    # The process that waits for the worker.
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if not 0 < args.minutes < float("inf"):
        parser.error(f"--minutes has to be a positive number, and is {args.minutes}")
    if args.cpu and args.tiny:
        parser.error("--tiny runs on the CPU as it is: give one of --tiny and --cpu")
    return args


def record_path(args: argparse.Namespace) -> pathlib.Path:
    name = "tiny" if args.tiny else "cpu" if args.cpu else "gpu"
    return args.out / f"{name}.jsonl"


def say(text: str) -> None:
    print(text, flush=True)


# -- the process that measures


def work(args: argparse.Namespace) -> int:
    # Not above, as this takes seconds, and in the other process it is not needed.
    import jax

    from ._plan import plan
    from ._steps import Context, FULL, go_through, in_order, Pace, TINY
    from ._supervise import end_with_parent
    from ._where import devices, setting

    end_with_parent(args.parent)
    jax.config.update("jax_enable_x64", True)
    device, cpu = devices()
    if device.platform == "cpu" and not (args.cpu or args.tiny):
        say(NO_DEVICE)
        return 2
    sizes = TINY if args.tiny else FULL
    record = Record(record_path(args))
    here = setting(device, sizes.name)
    try:
        record.check_device(here["device"]["kind"], sizes.name)
    except Unusable as e:
        say(str(e))
        return 2
    record.append("run", **here, minutes=args.minutes, only=args.only)
    steps = in_order(plan(sizes), args.only)
    context = Context(sizes, device, cpu, say, record)
    # A CPU is slower than what was guessed for. This is corrected as it goes.
    pace = Pace(1.0 if device.platform != "cpu" or args.tiny else 4.0)
    with jax.default_device(device):
        go_through(steps, context, pace, args.worker, say=say)
    return 0


# -- the process that waits


def environment(args: argparse.Namespace) -> dict[str, str]:
    found = dict(os.environ)
    if args.cpu or args.tiny:
        found["JAX_PLATFORMS"] = "cpu"
    if args.tiny:
        # Nearly all of its time is compilation, and nobody looks at the figures.
        found.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    return found


def report(args: argparse.Namespace, record: Record) -> bool:
    """Says what the run has brought, and what it has not; whether all is there."""
    from ._render import left_out, troubles

    for line in troubles(record):
        say(line)
    missing = left_out(record, args.only)
    if missing:
        say("Not measured for want of time; the same command goes on with them:")
        for section, names in missing.items():
            say(f"  {section}: {'; '.join(names)}")
    else:
        say("Everything is measured.")
    say(f"Results: {record.path}; tables: python -m benchmarks.gpu --render FILE")
    wrong = [row for row in record.rows("right") if row["wrong"] or row["broken"]]
    return not (missing or wrong or record.of("failed", "stopped"))


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.worker is not None:
        return work(args)
    if args.render is not None:
        from ._render import render

        try:
            print(render(load(args.render)))
        except Unusable as e:
            print(e, file=sys.stderr)
            return 2
        return 0
    from ._supervise import Interrupted, supervise, worker_command

    begin = time.time()
    finish = begin + 60 * args.minutes
    record = Record(record_path(args))
    if record.broken:
        say(f"{record.path}: {record.broken} broken line(s), which are left out.")
    if record.ended:
        say(f"{len(record.ended)} steps are in {record.path}: going on behind them.")
    passed_on = list(sys.argv[1:] if arguments is None else arguments)
    try:
        record.path.parent.mkdir(parents=True, exist_ok=True)
        with record.path.open("ab"):
            pass
        # This process does not import JAX before the other has ended: the memory of the
        # device is that one's.
        command = worker_command(passed_on, finish)
        code = supervise(command, record, finish, say, environment(args))
    except Interrupted:
        say(
            f"\nInterrupted. What was measured is in {record.path}; the same command "
            "goes on."
        )
        return 130
    except OSError as e:
        print(f"cannot write {record.path}: {e}", file=sys.stderr)
        return 2
    if code not in (0, 2):
        say(f"The process that measures ended with code {code}.")
    if code != 2:
        is_whole = report(args, record)
        say(f"In {time.time() - begin:.0f} s.")
        # Of figures that do not come there may be reasons; here they all have to.
        if args.tiny and not is_whole:
            return code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
