"""Seconds to the first result: what tracing, lowering and compiling of a solve cost,
beside Dopri8.

Each measurement is made in a fresh process, and what is compared takes turns. Seconds
of compilation are those of the CPU, in user and in system mode, of all threads: another
process that is running adds little to them. A warm-up compilation comes before, and is
not counted. Run times are of one process for all that is compared in a row, in turns.

`--only PART` measures a part; `--turns` says how many processes there are of each.
"""

import argparse
import functools as ft
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ._first_result import (
    Compilation,
    compilation,
    compilations,
    demonstration,
    median,
    NAMES,
    Program,
    runs,
    split,
    TOLERANCE,
)
from ._report import Figure, main, Report
from ._timing import compared


TITLE = "Seconds to the first result"
TURNS = 3


# -- tables and figures


def _seconds(found: Sequence[Compilation]) -> list[float]:
    return [compilation.whole for compilation in found]


def table(found: Mapping[Program, Sequence[Compilation]], peer: Program) -> str:
    lines = [
        "| | trace + lower + compile, CPU s | of the last | lines of StableHLO |",
        "|---|---|---:|---:|",
    ]
    whole = float(np.median(_seconds(found[peer])))
    for program in [*(p for p in found if p != peer), peer]:
        middle = median(found[program])
        ratio = float(np.median(_seconds(found[program]))) / whole
        kind = "gradient of " if program.gradient else ""
        lines.append(
            f"| {kind}{NAMES[program.field]}, {program.name} "
            f"| {split(found[program])} | {ratio:.2f} | {middle.lines} |"
        )
    return "\n".join(lines)


class Part(NamedTuple):
    figures: Sequence[Figure]
    text: str


def _against(
    program: Program,
    peer: Program,
    found: Mapping[Program, Sequence[Compilation]],
    at_most: float | None,
) -> Figure:
    return compared(
        f"{'gradient' if program.gradient else 'solve'}, {NAMES[program.field]}, "
        f"{program.name}",
        "trace + lower + compile, CPU",
        peer.name if peer.method != program.method else "itself",
        _seconds(found[program]),
        _seconds(found[peer]),
        at_most,
    )


def _run_against(
    work: str,
    ours: Program,
    peer: Program,
    name: str,
    seconds: float,
    at_most: float,
    one_step: bool = False,
) -> Part:
    found = runs([ours, peer], seconds, one_step=one_step)
    figure = compared(
        work, "run", name, found[ours].seconds, found[peer].seconds, at_most
    )
    return Part([figure], "")


# -- the parts


def _forward(seconds: float, turns: int) -> Iterator[Part]:
    """Of the small MLP, at all orders; and what a solve takes, and one step of it."""
    at_most = {5: None, 8: 1.5, 12: 1.6, 20: 1.8}
    peer = Program("mlp", "Dopri8")
    ours = {Program("mlp", order): bound for order, bound in at_most.items()}
    found = compilations([*ours, Program("mlp", "Tsit5"), peer], turns)
    figures = [_against(p, peer, found, bound) for p, bound in ours.items()]
    yield Part(figures, table(found, peer))


def _systems(seconds: float, turns: int) -> Iterator[Part]:
    """Lorenz's equations and the outer Solar System."""
    at_most = {12: 1.8, 20: 2.5}
    for field in ["lorenz", "solar_system"]:
        peer = Program(field, "Dopri8")
        ours = {Program(field, order): bound for order, bound in at_most.items()}
        found = compilations([*ours, peer], turns)
        figures = [_against(p, peer, found, bound) for p, bound in ours.items()]
        yield Part(figures, table(found, peer))


def _gradient(seconds: float, turns: int) -> Iterator[Part]:
    """By Diffrax's default adjoint."""
    peer = Program("mlp", "Dopri8", gradient=True)
    ours = Program("mlp", 12, gradient=True)
    found = compilations([ours, peer], turns)
    yield Part([_against(ours, peer, found, 2.5)], table(found, peer))
    yield _run_times([ours, peer], seconds)


def _fixed(seconds: float, turns: int) -> Iterator[Part]:
    """The run time of a solve that takes one step; and of the whole solve."""
    for forward_mode in (True, False):
        of = ft.partial(Program, "mlp", forward_mode=forward_mode)
        peer, ours = of("Dopri8"), of(12)
        adjoint = "`ForwardMode`" if forward_mode else "default adjoint"
        work = f"solve of one step, {NAMES['mlp']}, order 12, {adjoint}"
        yield _run_against(work, ours, peer, "Dopri8", seconds, 1.1, one_step=True)
    orders = [Program("mlp", order) for order in (5, 8, 12, 20)]
    yield _run_times([*orders, Program("mlp", "Dopri8")], seconds)


def _run_times(programs: Sequence[Program], seconds: float) -> Part:
    """Whole solves. They are at one tolerance and not at one error: no targets."""
    *_, peer = programs
    found = runs(programs, seconds, one_step=False)
    figures = [
        compared(
            f"{'gradient' if p.gradient else 'solve'}, {NAMES[p.field]}, {p.name}, "
            f"{found[p].steps} steps",
            "run",
            f"{peer.name}, {found[peer].steps} steps",
            found[p].seconds,
            found[peer].seconds,
            None,
        )
        for p in programs
        if p != peer
    ]
    return Part(figures, "")


def _unroll(seconds: float, turns: int) -> Iterator[Part]:
    """The rolled driver."""
    peer = Program("mlp", "Dopri8")
    low, *_, high = rolled = [Program("mlp", k, unroll=False) for k in (5, 12, 20)]
    found = compilations([*rolled, peer], turns)
    growth = _against(high, low, found, 1.2)
    yield Part([growth], table(found, peer))
    at_most = {"batch": 1.2, "solar_system": 2.0, "lorenz": 4.0}
    for field, bound in at_most.items():
        ours, unrolled = (Program(field, 12, unroll=u) for u in (False, True))
        work = f"solve, {NAMES[field]}, order 12, `unroll=False`"
        yield _run_against(work, ours, unrolled, "`unroll=True`", seconds, bound)


def _ways(seconds: float, turns: int) -> Iterator[Part]:
    """What a user can do about it: JAX's cache on disk, and XLA's options."""
    program = Program("mlp", 12)
    low = program._replace(level=0)
    found = compilations([program, low], turns)
    figures = [_against(low, program, found, None)]
    # In one process: only what is compiled is faster or slower.
    runs_of = runs([low, program], seconds, one_step=False)
    figures.append(
        compared(
            f"solve, {NAMES['mlp']}, {low.name}",
            "run",
            "itself",
            runs_of[low].seconds,
            runs_of[program].seconds,
            None,
        )
    )
    for p in (program, program._replace(gradient=True)):
        cold, warm = [], []
        for _ in range(turns):
            with tempfile.TemporaryDirectory() as folder:
                environment = {
                    "JAX_COMPILATION_CACHE_DIR": folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                }
                for times in (cold, warm):
                    times.append(compilation(p, environment))
        figures.append(
            compared(
                f"{'gradient' if p.gradient else 'solve'}, {NAMES['mlp']}, {p.name}, "
                "from JAX's cache on disk",
                "trace + lower + compile, CPU",
                "without what is there",
                _seconds(warm),
                _seconds(cold),
                None,
            )
        )
        print(f"  {split(cold)}, then {split(warm)}", flush=True)
    yield Part(figures, "")


def _demonstration(seconds: float, turns: int) -> Iterator[Part]:
    """`python -m eqx_taylor`: its first row, and all of it."""
    first, whole = [], []
    for _ in range(turns):
        answer = demonstration()
        first.append(answer["first row"] - answer["imports"])
        whole.append(answer["end"])
        print(f"  {answer}", flush=True)
    work, peer = "`python -m eqx_taylor`", "what it may take"
    yield Part(
        [
            compared(
                f"{work}, first row after imports", "CPU", peer, first, [5.0], 1.0
            ),
            compared(f"{work}, whole", "CPU", peer, whole, [25.0], 1.0),
        ],
        "",
    )


PARTS: Mapping[str, Callable[[float, int], Iterator[Part]]] = {
    "forward": _forward,
    "systems": _systems,
    "fixed": _fixed,
    "gradient": _gradient,
    "unroll": _unroll,
    "ways": _ways,
    "demonstration": _demonstration,
}


def _verdict(figure: Figure) -> str:
    if figure.at_most is None:
        return ""
    return f", at most {figure.at_most:g}, {'missed' if figure.missed else 'met'}"


def run(
    seconds: float, only: Sequence[str] | None = None, turns: int = TURNS
) -> Report:
    figures: list[Figure] = []
    texts = [_TEXT.format(turns=turns)]
    for name in PARTS if only is None else only:
        print(f"{name}:", flush=True)
        for part in PARTS[name](seconds, turns):
            figures += part.figures
            texts += [part.text] if part.text else []
            if not part.figures:
                print(f"  {part.text}", flush=True)
            for f in part.figures:
                target = "" if f.at_most is None else f", at most {f.at_most:g}"
                met = "" if f.at_most is None else ", missed" if f.missed else ", met"
                print(
                    f"  {f.work}, {f.quantity}: {f.ratio:.2f}{target}{met}", flush=True
                )
    return Report(TITLE, "\n\n".join(texts), figures)


_TEXT = f"""
CPU seconds, in user and system mode, of tracing, lowering and compiling a solve at a
tolerance of {TOLERANCE:g}, float64: each in a fresh process, after a warm-up, ours and
the peer's in turns, {{turns}} of each. `TaylorSolver` has `TaylorController`, and the
others `PIDController`; all have Diffrax's default adjoint if nothing else is said. A
tanh MLP 8-24-24-8 with weights twice those that it is initialised to, to $t = 10$;
Lorenz's equations to $t = 10$; the outer Solar System over 100 years. Run times are of
one process, in turns, at one tolerance and so not at one error.
"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="PART",
        help=f"may be given again; the parts: {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--turns", type=int, default=TURNS, help="processes of each (%(default)s)"
    )


if __name__ == "__main__":
    main(run, options=_options)
