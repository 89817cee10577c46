"""What a stranger types and waits for, from the front page of the documentation to a
first solve, event, Laplacian and jet: the lines of the programs that stand there, and
the CPU seconds that each takes in a process of its own.

    python -m benchmarks.first_lines

prints the table of `docs/compile_time.md`. Imports are JAX's, Equinox's, Diffrax's and
ours. The rest is nearly all tracing and compilation.
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
from typing import NamedTuple

from ._report import machine


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "index.md"
# What comes first, and the section of the page that has it.
SECTIONS = {
    "solve": "Solve an ODE",
    "event": "Stop at an event",
    "Laplacian": "Compute a Laplacian",
    "jet, of order 10": "Differentiate a module, ten times",
}
LINES_AT_MOST = 12

_TIMED = """
import time
{imports}
imported = time.process_time()
{rest}
print(imported, time.process_time() - imported)
"""
_IMPORT = re.compile(r"^(?:import|from) .*\n", re.MULTILINE)


class Program(NamedTuple):
    what: str
    source: str

    @property
    def lines(self) -> int:
        """Those that are not empty."""
        return sum(bool(line.strip()) for line in self.source.splitlines())


def programs(page: str | None = None) -> list[Program]:
    """The first program of each section."""
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    found = []
    for what, title in SECTIONS.items():
        _, heading, section = text.partition(f"\n## {title}\n")
        assert heading, title
        section, _, _ = section.partition("\n## ")
        block = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        assert block is not None, title
        found.append(Program(what, block[1]))
    return found


def seconds(program: Program) -> tuple[float, float]:
    """CPU seconds of the imports and of the rest, in a fresh process."""
    imports = "".join(_IMPORT.findall(program.source))
    rest = _IMPORT.sub("", program.source)
    command = [sys.executable, "-c", _TIMED.format(imports=imports, rest=rest)]
    printed = subprocess.run(
        command, cwd=PAGE.parents[1], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    first, second = map(float, printed.splitlines()[-1].split())
    return first, second


def table(measured: dict[Program, list[tuple[float, float]]]) -> str:
    lines = [
        "| first | lines | imports, CPU s | the rest, CPU s |",
        "|---|---:|---:|---:|",
    ]
    for program, times in measured.items():
        imports, rest = map(statistics.median, zip(*times))
        row = (program.what, str(program.lines), f"{imports:.1f}", f"{rest:.1f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="processes for each")
    turns = parser.parse_args().turns
    measured: dict[Program, list[tuple[float, float]]] = {p: [] for p in programs()}
    for _ in range(turns):
        for program, times in measured.items():
            times.append(seconds(program))
    print(machine(), "\n\n", table(measured), sep="")


if __name__ == "__main__":
    main()
