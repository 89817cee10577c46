"""Random programs, for as long as one likes:

    python tests/fuzz.py --programs 10000

Numbers to order 20 against ball arithmetic (`fuzz_scalars`), arrays to order 4 against
nested derivatives (`fuzz_programs`), and of some of these the jet under `jit`, `vmap`
and `shard_map`, and as the vector field of an ODE. (Fields that are not smooth are in
`fuzz_solves.py`.) What a seed gives depends on nothing else: the n-th
program of a run is `--seed SEED --first n --programs 1`. Status 1 if any is wrong.
"""

import argparse
import collections
import random
import sys
import time
import traceback
import warnings

import conftest as conftest  # the settings of the tests, before JAX is imported
import jax
import jax.extend.core as jex
from fuzz_programs import (
    check_eager,
    check_nested,
    check_ode_jet,
    check_shard_map,
    check_unused,
    check_vmap,
    Mismatch,
    random_program,
    reduced,
    Skipped,
)
from fuzz_scalars import check_scalar, random_scalar_program, reduced_scalar


# Compiled functions are kept by JAX, and their number grows.
_CLEAR_EVERY = 1000
_PROGRESS_EVERY = 100


def one_array(program, rng: random.Random, counts) -> None:
    actual = check_nested(program)
    # Each of these compiles programs of its own.
    which = rng.random()
    if which < 0.05:
        counts["without jit"] += 1
        check_eager(program, actual)
    elif which < 0.1:
        counts["under vmap"] += 1
        check_vmap(program, actual)
    elif which < 0.25:
        counts["as vector fields"] += check_ode_jet(program, nested=which < 0.13)
    elif which < 0.35:
        counts["inside of shard_map"] += check_shard_map(program, actual, rng)


def _fails(check):
    def fails(program):
        try:
            check(program)
        except Skipped:
            return False
        except Exception:
            return True
        return False

    return fails


def _primitives(program) -> set[str]:
    arrays = {k: jax.numpy.asarray(v) for k, v in program.inputs.items()}
    found = set()

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            found.add(eqn.primitive.name)
            for value in eqn.params.values():
                for x in value if isinstance(value, tuple | list) else [value]:
                    if isinstance(x, jex.ClosedJaxpr | jex.Jaxpr):
                        visit(getattr(x, "jaxpr", x))

    visit(jax.make_jaxpr(lambda kw: program.function()(**kw))(arrays).jaxpr)
    return found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--scalars", type=float, default=0.4, help="their share")
    args = parser.parse_args(argv)
    warnings.simplefilter("error")
    # Compiling is most of the work, and takes a third of the time.
    jax.config.update("jax_disable_most_optimizations", True)

    counts: collections.Counter[str] = collections.Counter()
    skipped: collections.Counter[str] = collections.Counter()
    primitives: set[str] = set()
    start = time.monotonic()
    for n in range(args.first, args.first + args.programs):
        if time.monotonic() - start > 60 * args.minutes:
            break
        rng = random.Random(f"{args.seed} {n}")
        program = check = None
        try:
            if rng.random() < args.scalars:
                program, check = random_scalar_program(rng), check_scalar
                check_scalar(program)
                counts["of numbers"] += 1
            else:
                program, check = random_program(rng), check_nested
                primitives |= _primitives(program)
                one_array(program, rng, counts)
                counts["of arrays"] += 1
                if rng.random() < 0.05:
                    program = None  # What it is about is in the message.
                    check_unused(rng)
                    counts["with unused results"] += 1
        except Skipped as e:
            skipped[str(e)] += 1
            if "wrong" in str(e) or "ours is" in str(e):
                print(f"--seed {args.seed} --first {n}: {e}\n{program!r}\n")
        except Exception as e:
            kind = "mismatches" if isinstance(e, Mismatch) else "errors"
            counts[kind] += 1
            print(f"\n{'=' * 88}\n{kind}: --seed {args.seed} --first {n} --programs 1")
            print("".join(traceback.format_exception(e, limit=-4)))
            if program is not None:
                shrink = reduced if check is check_nested else reduced_scalar
                print(f"{shrink(program, _fails(check))!r}\n{'=' * 88}")
        done = n + 1 - args.first
        if done % _PROGRESS_EVERY == 0:
            took = time.monotonic() - start
            print(f"{done} programs, {took:.0f} s, {dict(counts)}", flush=True)
        if done % _CLEAR_EVERY == 0:
            jax.clear_caches()

    took = time.monotonic() - start
    counts["mismatches"] += 0
    print(f"\nPrimitives of the programs of arrays: {', '.join(sorted(primitives))}")
    print(
        f"{sum(skipped.values()) + counts['of numbers'] + counts['of arrays'] + counts['mismatches'] + counts['errors']} "
        f"programs, {counts['mismatches']} mismatches, {counts['errors']} errors, "
        f"{dict(counts)}, skipped {dict(skipped)}, {took:.0f} s, seed {args.seed}"
    )
    return int(counts["mismatches"] + counts["errors"] > 0)


if __name__ == "__main__":
    sys.exit(main())
