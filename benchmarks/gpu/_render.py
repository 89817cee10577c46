"""The tables of a record, in Markdown. No figure is typed by hand, but what others have
published, which is named so."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from .._report import quantity
from ._record import Line, load, Record


MISSING = (
    "This is still to be measured: `python -m benchmarks.gpu`, in a clone of the "
    "repository on a machine with a GPU, takes eight minutes, and `python -m "
    "benchmarks --gpu` puts the tables here (`benchmarks/README.md` says more)."
)
# Nanoseconds for one trajectory, as the authors of DiffEqGPU have published them.
PUBLISHED = (("MPGOS", 5.3, ""), ("DiffEqGPU", 9.0, "about "))
PUBLISHED_WHERE = "V100, float32, tolerance 1e-8"


# -- cells


def seconds(value: Any) -> str:
    return "" if value is None else quantity(value, "s")


def size(value: Any) -> str:
    return "" if value is None else quantity(value, "bytes")


def number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"


def error(value: Any) -> str:
    return "" if value is None else f"{value:.1e}"


def run_time(row: Line) -> str:
    if row.get("run") is None:
        return ""
    return f"{seconds(row['run'])} ({seconds(row['low'])} to {seconds(row['high'])})"


def compile_time(row: Line) -> str:
    return seconds(row["trace"] + row["lower"] + row["compile"])


def work(row: Line) -> str:
    text = row["work"]
    if row.get("size") != row.get("wanted"):
        text += f", halved to {row['size']} to fit the memory"
    return text


def memory(row: Line) -> str:
    """What XLA has planned for one program; and what was in use, where it is known."""
    planned, peak = size(row.get("memory")), size(row.get("peak"))
    return f"{planned}, {peak} in use" if peak else planned


def table(columns: dict[str, Callable[[Line], str]], rows: Sequence[Line]) -> str:
    lines = [
        "| " + " | ".join(columns) + " |",
        "|---|---|" + "---:|" * (len(columns) - 2),
    ]
    for row in rows:
        lines.append("| " + " | ".join(cell(row) for cell in columns.values()) + " |")
    return "\n".join(lines)


def who(row: Line) -> str:
    return row["who"]


# -- sections


def _right(record: Record) -> str:
    rows = record.rows("right")
    compared = sum(row["number"] for row in rows)
    text = (
        f"{compared} programs and functions, in float64 and float32, on the device and "
        "on the CPU of the same process; jets to "
        f"{rows[0]['work']}. As in the accuracy tables, 50 roundings of the largest "
        "term are allowed for each order and one more; of solves, their tolerance."
    )
    wrong = [line for row in rows for line in row["wrong"]]
    alike = [line for row in rows for line in row["alike"]]
    broken = [line for row in rows for line in row["broken"]]
    parts = [text]
    if wrong:
        listed = "\n".join(
            f"- {line['name']}: {line['roundings']:.3g} roundings in result "
            f"{line['number']}; {line['allowed']:.3g} are allowed, and on the CPU "
            f"there are {line['on_cpu']:.3g}."
            for line in wrong
        )
        parts.append(f"**What differs by more:**\n\n{listed}")
    else:
        parts.append("Nothing differs by more.")
    if alike:
        names = ", ".join(line["name"] for line in alike)
        parts.append(f"What loses as much in float32 on the CPU: {names}.")
    if broken:
        listed = "\n".join(f"- {line['name']}: {line['why']}." for line in broken)
        parts.append(f"**What fails:**\n\n{listed}")
    return "\n\n".join(parts)


def _precision(record: Record) -> str:
    rows = record.rows("precision")
    orders = max(len(row["errors"]) for row in rows)
    columns = {
        "`jax_default_matmul_precision`": who,
        "": lambda row: row["work"],
        "run": run_time,
    }
    for k in range(orders):
        columns[str(k)] = lambda row, k=k: f"{row['errors'][k]:.0e}"
    return (
        "The largest error of each coefficient of a float32 jet, relative to its "
        "largest entry, against float64 on the CPU. Emulated: operands of products "
        "rounded to the bits of that format.\n\n" + table(columns, rows)
    )


def _together(rows: Sequence[Line]) -> list[Line]:
    """Those of the same work one after another."""
    order = list(dict.fromkeys(row["work"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["work"]))


def with_ratios(rows: Sequence[Line]) -> list[Line]:
    """Each with its run time, per item, relative to the first of ours at the same."""
    found: list[Line] = []
    ours: dict[str, float] = {}
    for row in _together(rows):
        time = row["run"] / (row.get("size") or 1)
        if row["who"].startswith(("eqx_taylor", "TaylorSolver")):
            ours.setdefault(row["work"], time)
        first = ours.get(row["work"])
        found.append(row | dict(ratio=None if first is None else time / first))
    return found


def ratio(row: Line) -> str:
    return "" if row.get("ratio") is None else f"{row['ratio']:.2f}"


def _plain(about: str, **more: Callable[[Line], str]) -> Callable[[Record, str], str]:
    columns = {"": work, " ": _solver, "run": run_time, "to ours": ratio, **more}
    columns |= {"trace, lower, compile": compile_time, "memory": memory}

    def section(record: Record, name: str) -> str:
        return f"{about}\n\n{table(columns, with_ratios(record.rows(name)))}"

    return section


def each(row: Line) -> str:
    return seconds(row.get("each"))


def steps(row: Line) -> str:
    if row.get("most_steps") is None:
        return number(row.get("steps"))
    return f"{row['steps']:.1f} (most: {row['most_steps']:.0f})"


def _solver(row: Line) -> str:
    return row["who"] if row.get("order") is None else f"{row['who']}({row['order']})"


def _lorenz(record: Record, name: str) -> str:
    columns = {
        "": work,
        " ": _solver,
        "one trajectory": each,
        "run": run_time,
        "to ours": ratio,
        "steps": steps,
        "error": lambda row: error(row.get("error")),
        "tolerance": lambda row: error(row.get("tolerance")),
        "trace, lower, compile": compile_time,
        "memory": memory,
    }
    rows = with_ratios(record.rows(name))
    text = (
        "Lorenz systems with rho spread over [0, 21], from (1, 0, 0), t from 0 to 1, "
        "each a lane under `vmap`. The error is the largest of a sample, relative to "
        "the largest number of the state, against extrapolation in 80-bit floats. In "
        "float64, tolerances are such that all solvers make the same error."
    )
    published = ", ".join(
        f"{name} {about}{value:g} ns" for name, value, about in PUBLISHED
    )
    others = (
        f"As published by others ({PUBLISHED_WHERE}), not measured here, for one "
        f"trajectory: {published}."
    )
    return f"{text}\n\n{table(columns, rows)}\n\n{others}"


def _compile(record: Record, name: str) -> str:
    columns = {
        "": lambda row: row["work"],
        " ": who,
        "trace": lambda row: seconds(row["trace"]),
        "lower": lambda row: seconds(row["lower"]),
        "compile": lambda row: seconds(row["compile"]),
        "all": compile_time,
    }
    rows = _together(record.rows(name))
    return (
        "A solve with each solver and, of `TaylorSolver`, with growing orders.\n\n"
        + table(columns, rows)
    )


SECTIONS: dict[str, tuple[str, Callable[[Record, str], str]]] = {
    "right": ("Whether it is right", lambda record, name: _right(record)),
    "precision": (
        "Precision of matrix products",
        lambda record, name: _precision(record),
    ),
    "jets": (
        "Jets of MLPs",
        _plain(
            "Values and derivatives along a line, float32, products as JAX has them "
            "by default. Nested `jvp` doubles with "
            "every order and is left out where that is too much."
        ),
    ),
    "laplacian": ("Laplacians of MLPs", _plain("At each point of a batch, float32.")),
    "lorenz": ("Ensembles of Lorenz systems", _lorenz),
    "neural_ode": (
        "A neural ODE",
        _plain(
            "A tanh MLP with three times the weights that it is initialised to, "
            "float32, products in full precision, from 0 to 1; the gradient with "
            "respect to its weights. Tolerances are such that all solvers make the "
            "same error in the final state.",
            steps=steps,
            error=lambda row: error(row.get("error")),
        ),
    ),
    "solar": (
        "Ensembles of outer Solar Systems",
        _plain(
            "Each number of the initial state is changed by a thousandth. Tolerances "
            "are such that all solvers make the same error.",
            **{"one trajectory": each, "steps": steps},
            error=lambda row: error(row.get("error")),
        ),
    ),
    "blocks": (
        "Blocks of lanes",
        _plain(
            "`lax.map` with a `batch_size`: under `vmap` all lanes go on until the "
            "slowest is done.",
            **{"one trajectory": each, "steps": steps},
        ),
    ),
    "compile": ("Compile times", _compile),
}


# -- the whole


def _run_line(run: Line) -> str:
    device = run["device"]
    parts = [device["kind"]]
    if device.get("memory"):
        parts.append(f"{size(device['memory'])} for JAX")
    if device.get("driver"):
        parts.append(f"driver {device['driver']}")
    if device.get("runtime"):
        parts.append(" ".join(device["runtime"].split()))
    if device["platform"] != "cpu":
        parts.append(f"beside {run['host']}")
    versions = ", ".join(" ".join(item) for item in run["versions"].items())
    return f"Measured on {run['date']}: {', '.join(parts)}; {versions}."


def all_names(record: Record) -> list[tuple[str, str]]:
    """The steps that there are, at the sizes of this record."""
    from ._plan import plan
    from ._steps import FULL, TINY

    runs = record.of("run")
    sizes = TINY if runs and runs[-1]["profile"] == TINY.name else FULL
    return [step.key for step in plan(sizes)]


def left_out(record: Record, only: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The steps that have not been made, by section; of the sections `only`."""
    missing = {(line["section"], line["step"]) for line in record.of("missing")}
    known = record.ended | missing
    found: dict[str, list[str]] = {}
    for section, name in all_names(record):
        if (section, name) not in known and (only is None or section in only):
            found.setdefault(section, []).append(name)
    return found


def troubles(record: Record) -> list[str]:
    """What is wrong on the device, what was halved, what failed, and which peers are
    not there; as a list in Markdown."""
    lines = []
    for row in record.rows("right"):
        for item in row["wrong"]:
            lines.append(f"- WRONG: {item['name']}: {item['roundings']:.3g} roundings")
        for item in row["broken"]:
            lines.append(f"- fails: {item['name']}: {item['why']}")
    for line in record.of("note"):
        lines.append(f"- {line['section']}, {line['step']}: {line['text']}")
    for line in record.of("failed", "stopped"):
        lines.append(
            f"- {line['section']}, {line['step']}: {line['kind']}: {line['why']}"
        )
    names = dict.fromkeys(line["peer"] for line in record.of("missing"))
    # A later run may have found them installed.
    ended = {key for key in record.ended}
    names = [
        name
        for name in names
        if any(
            (line["section"], line["step"]) not in ended
            for line in record.of("missing")
            if line["peer"] == name
        )
    ]
    if names:
        lines.append(f"- not measured, because not installed: {', '.join(names)}")
    return list(dict.fromkeys(lines))


def render(record: Record, level: int = 3) -> str:
    """Headings of this level and below."""
    runs = dict.fromkeys(_run_line(run) for run in record.of("run"))
    parts = list(runs)
    if record.of("run")[-1]["profile"] == "tiny":
        parts.append("**A trial of the script on a CPU: these sizes say nothing.**")
    parts.append(
        "Run times are medians with quartiles; relative to ours, those of one item at "
        "the same work. Memory is what XLA has planned for "
        "arguments, results and what is between; and the peak of the process, where "
        "the program has raised it."
    )
    for name, (title, section) in SECTIONS.items():
        if record.rows(name):
            parts.append(f"{'#' * level} {title}")
            parts.append(section(record, name))
    found = troubles(record)
    if found:
        parts += [f"{'#' * level} What was noted", "\n".join(found)]
    missing = left_out(record)
    if missing:
        listed = ", ".join(
            f"{len(names)} of `{section}`" for section, names in missing.items()
        )
        parts.append(f"Steps that are still to be measured: {listed}.")
    if record.broken:
        parts.append(
            f"{record.broken} line(s) of the record are broken and left out, as of a "
            "run that was interrupted while it wrote."
        )
    return "\n\n".join(parts) + "\n"


def page_part(path: pathlib.Path, level: int = 3) -> str:
    """For the page: the tables if there is such a file; else that there is none."""
    if not path.exists():
        return MISSING + "\n"
    return render(load(path), level)
