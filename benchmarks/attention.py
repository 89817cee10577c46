"""Attention over blocks against JAX's: the memory and the time of values, of jets and
of gradients, by the number of tokens."""

import argparse
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import eqx_taylor
from eqx_taylor._derivatives import attention

from ._report import Figure, main, quantity, Report
from ._timing import check_equal


HEADS, SIZE = 2, 16
# Orders of jets, and what else is measured.
WORKS = ["value", "jax.jvp", "order 1", "order 2", "order 4", "order 8", "gradient"]


class Measured(NamedTuple):
    bytes: int
    # Seconds: the fastest of all runs, as others may use the machine.
    run: float
    result: Any


def work(name, attend):
    """A function of queries, keys and values, and of a direction for each of them."""

    def value(primals, directions):
        del directions
        return attend(*primals)

    def jvp(primals, directions):
        return jax.jvp(attend, tuple(primals), tuple(directions))

    def jet(order, primals, directions):
        series = tuple([v, *[None] * (order - 1)] for v in directions)
        return eqx_taylor.filter_jet(attend, tuple(primals), series)

    def gradient(primals, directions):
        def second(primals):
            return jnp.sum(jet(2, primals, directions)[1][-1])

        return jax.grad(second)(primals)

    if name.startswith("order"):
        return functools.partial(jet, int(name.removeprefix("order ")))
    return {"value": value, "jax.jvp": jvp, "gradient": gradient}[name]


def problem(tokens):
    shape = (1, tokens, HEADS, SIZE)
    keys = jax.random.split(jax.random.key(0), 6)
    arrays = [jax.random.normal(key, shape) for key in keys]
    return arrays[:3], arrays[3:]


def compare(rivals, args, seconds):
    """The rivals take turns."""
    executables = {name: jax.jit(f).lower(*args).compile() for name, f in rivals}
    results = {name: f(*args) for name, f in executables.items()}
    jax.block_until_ready(results)
    fastest = dict.fromkeys(executables, float("inf"))
    begin, turns = time.perf_counter(), 0
    while turns < 3 or time.perf_counter() - begin < seconds:
        for name, f in executables.items():
            start = time.perf_counter()
            jax.block_until_ready(f(*args))
            fastest[name] = min(fastest[name], time.perf_counter() - start)
        turns += 1
    found = {}
    for name, f in executables.items():
        sizes = f.memory_analysis()
        assert sizes is not None, "XLA does not tell on this platform."
        size = sizes.temp_size_in_bytes
        found[name] = Measured(size, fastest[name], results[name])
    return found


def planned(name, attend, args) -> int:
    """The bytes of temporary values, without a run."""
    sizes = jax.jit(work(name, attend)).lower(*args).compile().memory_analysis()
    assert sizes is not None, "XLA does not tell on this platform."
    return sizes.temp_size_in_bytes


def run(seconds: float, tokens: list[int], causal: bool, blocks: bool) -> Report:
    options = dict(is_causal=causal)
    dense = functools.partial(jax.nn.dot_product_attention, **options)
    ours = functools.partial(eqx_taylor.dot_product_attention, **options)
    if blocks:
        return by_blocks(seconds, tokens[-1], ours)
    lines = [
        "| tokens | | memory: blocks | dense | ratio | run: blocks | dense | ratio |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    figures, worst = [], 0.0
    for n in tokens:
        args = problem(n)
        for name in WORKS:
            rivals = [("ours", work(name, ours))]
            # The others would take seconds a run; of them there is the memory alone.
            if n <= 1024 or name in ("value", "jax.jvp", "order 1"):
                rivals.append(("dense", work(name, dense)))
            if name == "order 1":
                rivals.append(("jvp", work("jax.jvp", dense)))
            found = compare(rivals, args, seconds)
            a, b = found["ours"], found.get("dense")
            row = [str(n), name, quantity(a.bytes, "bytes"), "", ""]
            row += [quantity(a.run, "s"), "", ""]
            if b is not None:
                row[3:5] = quantity(b.bytes, "bytes"), f"{a.bytes / b.bytes:.2g}"
                row[6:] = quantity(b.run, "s"), f"{a.run / b.run:.2g}"
                error = check_equal(a.result, b.result, 1e-3, name)
                worst = max(worst, error)
            else:
                size = planned(name, dense, args)
                row[3:5] = quantity(size, "bytes"), f"{a.bytes / size:.2g}"
            lines.append("| " + " | ".join(row) + " |")
            if name == "order 1":
                figures.append(
                    Figure(
                        f"jet of order 1, {n} tokens",
                        "run",
                        "`jax.jvp`, dense",
                        a.run,
                        found["jvp"].run,
                        at_most=1.0,
                    )
                )
    table = "\n".join(lines)
    text = f"""
`eqx_taylor.dot_product_attention` against `jax.nn.dot_product_attention`{
        ", causal" if causal else ""
    }: {HEADS} heads of {
        SIZE
    }, float32, along lines in queries, keys and values. "gradient"
is that of a second derivative. Memory is what XLA plans for temporary values. Run times
are the fastest of runs in turns.

{table}

The largest relative difference between results is {worst:.1e}.
"""
    return Report("Attention over blocks", text, figures)


def by_blocks(seconds, tokens, ours) -> Report:
    """Other lengths of blocks."""
    args = problem(tokens)
    lines = ["| queries, keys | " + " | ".join(WORKS) + " |", "|---" * 8 + "|"]
    found: dict[tuple[int, int], list[str]] = {}
    lengths = [(n, m) for n in (64, 128, 256) for m in (64, 128, 256)]
    for name in WORKS:
        rivals = []
        for pair in lengths:

            def fun(primals, directions, pair=pair):
                attention.QUERIES, attention.KEYS = pair
                return work(name, ours)(primals, directions)

            rivals.append((pair, fun))
        for pair, measured in compare(rivals, args, seconds).items():
            size = quantity(measured.bytes, "bytes")
            text = f"{quantity(measured.run, 's')}, {size}"
            found.setdefault(pair, []).append(text)
    for pair, cells in found.items():
        lines.append("| " + " | ".join([f"{pair[0]}, {pair[1]}", *cells]) + " |")
    return Report(f"Lengths of blocks, {tokens} tokens", "\n".join(lines), [])


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[32, 128, 256, 512, 1024, 2048]
    )
    parser.add_argument("--causal", action="store_true")
    parser.add_argument(
        "--blocks", action="store_true", help="other lengths of blocks, for the last"
    )


if __name__ == "__main__":
    main(run, seconds=0.5, options=options)
