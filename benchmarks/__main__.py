"""Runs the benchmarks, each in a process of its own, and writes `docs/benchmarks.md`.

A benchmark that fails is reported, on the page and by the exit code, and the others go
on. `--json FOLDER` keeps what each of them reports; `--from FOLDER` makes the page of
that without running them. Needs `pip install ".[benchmarks,plot]"`.
"""

import argparse
import importlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ._report import as_report, Figure, machine, markdown, Report
from .gpu import RECORDS
from .gpu._render import page_part


# In the order of the page.
NAMES = [
    "jet_mlp",
    "jets",
    "jet_memory",
    "laplacian",
    "regularization",
    "jet_equations",
    "compile_order",
    "first_result",
    "ode_jet",
    "work_precision_targets",
    "heyoka_single",
    "heyoka_ensemble",
    "gradient_time",
    "replay_adjoint",
    "simplification",
    "engine",
    "dead_ends",
]
ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
# What `python -m benchmarks.gpu` has measured, and where it goes on the page.
GPU_RECORD = RECORDS / "gpu.jsonl"
GPU_BEGIN, GPU_END = "<!-- begin: gpu -->", "<!-- end: gpu -->"
# Of one benchmark, so that one that hangs does not keep the others.
SECONDS_AT_MOST = 900

# What a script's file holds; or why there is none.
Outcome = dict[str, Any] | str


# -- running


def run_script(name: str, path: pathlib.Path, seconds: float | None) -> Outcome:
    """What `python -m benchmarks.NAME` reports; its output appears as it comes."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
    if seconds is not None:
        command += ["--seconds", str(seconds)]
    # That of an earlier run is not to be taken for this one's.
    path.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS_AT_MOST,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {SECONDS_AT_MOST} s"
    sys.stderr.write(done.stderr)
    if done.returncode == 0 and path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    # The page does not name places on this machine.
    said = done.stderr.replace(sys.executable, "python").replace(str(ROOT), ".")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def read(name: str, folder: pathlib.Path) -> Outcome:
    path = folder / f"{name}.json"
    if not path.exists():
        return "not run"
    return json.loads(path.read_text(encoding="utf-8"))


# -- the page


def image(name: str) -> str:
    return f"benchmarks_{name}.png"


def _where(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The machine and the day; all of them, if the reports are of several."""
    found: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if not isinstance(outcome, str):
            at = f"{outcome['date']}: {machine(outcome['place'])}."
            found.setdefault(at, []).append(name)
    if len(found) == 1:
        return [f"Measured on {at}" for at in found]
    return [
        f"{', '.join(f'`{name}`' for name in names)}: measured on {at}"
        for at, names in found.items()
    ]


def slug(title: str) -> str:
    """The anchor that MkDocs gives to a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def _overview(reports: Mapping[str, Report]) -> list[str]:
    """How many targets are met. The figures are in the sections, each once."""
    targets = {
        report.title: [f for f in report.figures if f.at_most is not None]
        for report in reports.values()
    }
    targets = {title: figures for title, figures in targets.items() if figures}
    if not targets:
        return []
    rows = [
        f"| [{title}](#{slug(title)}) | {len(figures)} "
        f"| {sum(not figure.missed for figure in figures)} |"
        for title, figures in targets.items()
    ]
    total = sum(map(len, targets.values()))
    met = sum(not f.missed for figures in targets.values() for f in figures)
    return [
        "## Targets",
        f"A target is a ratio of ours to the peer's. {met} of {total} figures meet "
        "their targets. The sections have the figures, with the ratios that miss a "
        "target in bold; [the reasons](devdocs/performance.md#bounds). Times are "
        "medians, ± half the distance between the quartiles.",
        "\n".join(["| section | targets | met |", "|---|---:|---:|", *rows]),
    ]


def _took(outcome: dict[str, Any]) -> str:
    took = outcome.get("took")
    return "" if took is None else f", in {took:.0f} s"


def page(outcomes: Mapping[str, Outcome], images: Mapping[str, str]) -> str:
    """In Markdown. `images` are the files of plots by the name of the benchmark, and
    of the overview, which is `targets`."""
    reports = {
        name: as_report(outcome)
        for name, outcome in outcomes.items()
        if not isinstance(outcome, str)
    }
    failed = {name: why for name, why in outcomes.items() if isinstance(why, str)}
    parts = [
        "<!-- Written by `python -m benchmarks`. What is changed here is lost. -->",
        "# Benchmarks",
        "This page is written by `python -m benchmarks`, in a clone of the repository, "
        'with `pip install ".[benchmarks,plot]"`. Each comparison runs in one process, '
        "in which the rivals take turns, and checks that their results, or their "
        "errors, are equal. `python -m benchmarks.NAME` runs one comparison.",
        *_where(outcomes),
    ]
    if failed:
        lines = [f"    - `{name}`: {why}" for name, why in failed.items()]
        parts.append('!!! warning "Without figures"\n\n' + "\n".join(lines))
    parts.append(
        '!!! note "On a GPU"\n\n    These figures are of a CPU. Those of a GPU are '
        "[at the end](#on-a-gpu)."
    )
    parts += _overview(reports)
    if "targets" in images:
        parts.append(_picture("Ratios and targets", images["targets"]))
    for name, report in reports.items():
        parts.append(markdown(report).rstrip())
        if name in images:
            parts.append(_picture(report.title, images[name]))
        outcome = outcomes[name]
        assert not isinstance(outcome, str)
        parts.append(f"`python -m benchmarks.{name}`{_took(outcome)}.")
    parts.append(gpu_part())
    return "\n\n".join(parts) + "\n"


def gpu_part(record: pathlib.Path | None = None) -> str:
    """The section on GPUs, of the record of `python -m benchmarks.gpu`."""
    tables = page_part(GPU_RECORD if record is None else record)
    return f"{GPU_BEGIN}\n\n## On a GPU\n\n{tables}\n{GPU_END}"


def with_gpu_part(text: str) -> str:
    """A page with its section on GPUs written again."""
    before, begin, rest = text.partition(GPU_BEGIN)
    _, end, after = rest.partition(GPU_END)
    if not begin or not end:
        raise SystemExit(f"the page has no {GPU_BEGIN} and {GPU_END}: make all of it")
    return before + gpu_part() + after


def _picture(title: str, file: str) -> str:
    return f"![{title}](images/{file})"


def _short(text: str, length: int = 56) -> str:
    text = text.replace("`", "")
    return text if len(text) <= length else text[: length - 3] + "..."


def plot_targets(figures: Sequence[Figure], path: pathlib.Path) -> None:
    """The ratios, each beside what it is to be at most."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (10, 1 + 0.22 * len(figures))
    drawing, ax = plt.subplots(figsize=size, layout="constrained")
    rows = range(len(figures))
    colors = ["C3" if figure.missed else "C0" for figure in figures]
    ax.scatter([figure.ratio for figure in figures], rows, color=colors, label="ratio")
    targets = [figure.at_most for figure in figures if figure.at_most is not None]
    ax.scatter(targets, rows, marker="|", color="k", s=80, label="at most")
    names = [f"{_short(figure.work)}: {figure.quantity}" for figure in figures]
    ax.set_yticks(rows, names, fontsize=7)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel("ours / peer's")
    ax.grid(True, axis="x", which="major", alpha=0.3)
    ax.legend(fontsize=8)
    # Without the version of matplotlib in the file.
    drawing.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(drawing)


def plots(reports: Mapping[str, Report], folder: pathlib.Path) -> dict[str, str]:
    """Of all benchmarks that have a function for it; the names of the files. A plot
    that fails is not worth the page: the reason is printed."""
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        print('No plots, without matplotlib: pip install ".[plot]"', file=sys.stderr)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    figures = [f for r in reports.values() for f in r.figures if f.at_most is not None]
    if figures:
        plot_targets(figures, folder / image("targets"))
        made["targets"] = image("targets")
    for name, report in reports.items():
        try:
            module = importlib.import_module(f"{__package__}.{name}")
            if hasattr(module, "plot"):
                module.plot(report.data, folder / image(name))
                made[name] = image(name)
        # A script that cannot be imported without its peer ends by `SystemExit`.
        except (Exception, SystemExit) as e:
            print(f"{name}: no plot: {type(e).__name__}: {e}", file=sys.stderr)
    return made


# -- the command line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help="runs this one only; may be given again. Without --from no page is "
        f"written. The names: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--seconds", type=float, help="of every comparison, instead of each one's own"
    )
    parser.add_argument(
        "--json",
        type=pathlib.Path,
        metavar="FOLDER",
        help="where the reports are to be kept",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=pathlib.Path,
        metavar="FOLDER",
        help="makes the page of the reports in there; only those of --only are run",
    )
    parser.add_argument(
        "--page", type=pathlib.Path, default=PAGE, metavar="FILE", help="(%(default)s)"
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="runs nothing, and writes only the page's section on GPUs again, with the "
        "tables of what `python -m benchmarks.gpu` has measured",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.gpu:
        text = with_gpu_part(args.page.read_text(encoding="utf-8"))
        args.page.write_text(text, encoding="utf-8")
        print(f"Written: {args.page}")
        return 0
    begin = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) if args.json is None else args.json
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            wanted = args.source is None if args.only is None else name in args.only
            if wanted:
                print(f"\n=== {name} ({time.perf_counter() - begin:.0f} s)", flush=True)
                outcomes[name] = run_script(name, folder / f"{name}.json", args.seconds)
            elif args.source is not None:
                outcomes[name] = read(name, args.source)
    reports = {n: as_report(o) for n, o in outcomes.items() if not isinstance(o, str)}
    if args.only is None or args.source is not None:
        made = plots(reports, args.page.parent / "images")
        args.page.write_text(page(outcomes, made), encoding="utf-8")
        print(f"\nWritten: {args.page}")
    print(f"In {time.perf_counter() - begin:.0f} s.")
    failed = {n: o for n, o in outcomes.items() if isinstance(o, str)}
    for name, why in failed.items():
        print(f"FAILED: {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
