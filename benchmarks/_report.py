"""What a benchmark reports: figures, each beside that of a peer, and a text around it.

Every script has a function `run(seconds)` that returns a `Report`, and ends in
`main(run)`: `python -m benchmarks.NAME` prints it, `--json FILE` keeps it, too.
`python -m benchmarks` runs all of them, each in a process of its own.

A script may have a function `plot(data, path)` as well, which draws `Report.data`, as
JSON gives it back, with matplotlib; `python -m benchmarks` calls it for the page.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax


class Figure(NamedTuple):
    """One measurement of ours beside the peer's, both in `unit`."""

    # What was done: "jet of order 12, MLP".
    work: str
    # What was measured: "run", "compile", "memory", "steps".
    quantity: str
    # Who did it as well.
    peer: str
    ours: float
    theirs: float
    # "s", "bytes", or "" for a number.
    unit: str = "s"
    # Half the distance between the quartiles, of each.
    ours_spread: float | None = None
    theirs_spread: float | None = None
    # The ratio of ours to theirs that is aimed at.
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def missed(self) -> bool:
        # Not `>`: a ratio that is not a number has met nothing.
        return self.at_most is not None and not self.ratio <= self.at_most


class Report(NamedTuple):
    title: str
    # Markdown, below the title.
    text: str
    figures: Sequence[Figure]
    # What a plot of it wants to know; anything that JSON can hold.
    data: Any = None


_UNITS = dict(s=[(1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])
_UNITS["bytes"] = [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1, "bytes")]


def _digits(value: float) -> str:
    """Three of them, and never an exponent for a number of four."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"


def quantity(value: float, unit: str) -> str:
    """Three digits, in a unit of which it is one or more."""
    for size, name in _UNITS.get(unit, []):
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)} {unit}".rstrip()


def _digit(value: float) -> str:
    """One of them."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1g}"


def with_spread(value: float, spread: float | None, unit: str) -> str:
    """Both in the unit of the value: `3.1 ± 0.04 ms`."""
    if spread is None:
        return quantity(value, unit)
    for size, name in _UNITS.get(unit, [(1, unit)]):
        if abs(value) >= size:
            text = f"{_digits(value / size)} ± {_digit(spread / size)} {name}"
            return text.rstrip()
    return f"{_digits(value)} ± {_digit(spread)} {unit}".rstrip()


def _ratio(figure: Figure) -> str:
    # A ratio that rounds to its target has not met it if it is above.
    text = f"{figure.ratio:.2f}"
    if figure.missed and float(text) <= (figure.at_most or 0):
        text = f"{figure.ratio:.3g}"
    return f"**{text}**" if figure.missed else text


def table(figures: Sequence[Figure]) -> str:
    """In Markdown. A ratio that misses its target is in bold."""
    lines = [
        "| | | ours | peer | | ratio | at most |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for f in figures:
        lines.append(
            f"| {f.work} | {f.quantity} | {with_spread(f.ours, f.ours_spread, f.unit)} "
            f"| {with_spread(f.theirs, f.theirs_spread, f.unit)} | {f.peer} "
            f"| {_ratio(f)} | {'' if f.at_most is None else f'{f.at_most:g}'} |"
        )
    return "\n".join(lines)


def markdown(report: Report, level: int = 2) -> str:
    parts = [f"{'#' * level} {report.title}", report.text.strip()]
    if report.figures:
        parts.append(table(report.figures))
    return "\n\n".join(part for part in parts if part) + "\n"


# -- where it was measured

_PACKAGES = (
    "eqx_taylor jax jaxlib equinox diffrax optimistix lineax numpy "
    "probdiffeq heyoka folx optax"
).split()


def cpu_model() -> str:
    """As Linux names it; as Python does elsewhere."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def place() -> dict[str, Any]:
    """The machine and the software on it."""
    device = jax.devices()[0]
    return dict(
        cpu=cpu_model(),
        # Those that this process may use, where the system tells.
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        device=f"{device.platform}: {device.device_kind}",
        versions=versions(),
    )


def machine(at: dict[str, Any] | None = None) -> str:
    at = place() if at is None else at
    packages = ", ".join(" ".join(item) for item in at["versions"].items())
    cores = at["cores"]
    return (
        f"{at['cpu']}, {cores} core{'' if cores == 1 else 's'}, {at['system']}, "
        f"{at['device']}; {packages}"
    )


def peer(name: str) -> ModuleType:
    """A package that a comparison needs and the library does not."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise SystemExit(
            f"{name} is not installed, which this benchmark compares with: "
            'python -m pip install ".[benchmarks]"'
        ) from e


# -- in a file, and from the command line


def write(report: Report, path: pathlib.Path, took: float | None = None) -> None:
    data = report._asdict() | dict(
        figures=[figure._asdict() for figure in report.figures],
        place=place(),
        date=datetime.date.today().isoformat(),
        took=took,
    )
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def as_report(data: dict[str, Any]) -> Report:
    """Of what `write` has written."""
    figures = [Figure(**figure) for figure in data["figures"]]
    return Report(data["title"], data["text"], figures, data["data"])


def load(path: pathlib.Path) -> Report:
    return as_report(json.loads(path.read_text(encoding="utf-8")))


def main(
    run: Callable[..., Report],
    seconds: float = 2.0,
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """`options` adds those of one script; its `run` takes them as keyword arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"per comparison ({seconds:g})"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    options(parser)
    args = vars(parser.parse_args())
    path = args.pop("json")
    print(machine(), flush=True)
    start = time.perf_counter()
    report = run(args.pop("seconds"), **args)
    took = time.perf_counter() - start
    print(f"\n{markdown(report)}\nIn {took:.0f} s.", flush=True)
    if path is not None:
        write(report, path, took)
