"""Steps, which are the smallest parts of a run, and which of them still fit."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ._record import Line, Record


# Of the time of a run, what comparisons with the CPU may take before all else: of eight
# minutes three.
CHECKS = 0.375


class Missing(Exception):
    """A package that a step needs is not installed."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is; `full` for an accelerator, `tiny` for tests of the
    script itself on a CPU."""

    name: str
    # What the times after which steps are stopped are multiplied by.
    patience: float
    # Of the repeated runs of one measurement, and how many there are at least.
    seconds: float
    repeats: int
    # No order of a solver is higher.
    highest_order: int
    # Diffrax's solvers that are compared with.
    peers: tuple[str, ...]
    # Of the comparisons with the CPU. Of the functions, one of so many.
    check_order: int
    functions_of: int
    check_lanes: int
    # MLPs as (sizes of layers, batch), and the orders of their jets.
    jets: tuple[tuple[tuple[int, ...], int], ...]
    jet_orders: tuple[int, ...]
    nested_at_most: int
    laplacians: tuple[tuple[tuple[int, ...], int], ...]
    # Lorenz systems, the most telling number first; errors; fixed steps.
    lorenz: tuple[int, ...]
    errors: tuple[float, ...]
    fixed_step: float
    # The trajectories whose errors are measured.
    sample: int
    solar_systems: int
    years: float
    blocked: int
    blocks: tuple[int, ...]
    neural_ode: tuple[tuple[int, ...], int]
    neural_orders: tuple[int, ...]
    adjoints: tuple[str, ...]
    compile_orders: tuple[int, ...]


FULL = Sizes(
    name="full",
    patience=1.0,
    seconds=1.0,
    repeats=5,
    highest_order=20,
    peers=("Dopri8", "Tsit5"),
    check_order=8,
    functions_of=1,
    check_lanes=1000,
    jets=(((64, 1024, 1024, 64), 4096), ((64, 256, 256, 256, 64), 128)),
    jet_orders=(8, 4, 12),
    nested_at_most=8,
    laplacians=(
        ((50, 768, 768, 512, 512, 1), 1000),
        ((100, 768, 768, 512, 512, 1), 1000),
    ),
    lorenz=(10**5, 10**6, 10**4),
    errors=(1e-9, 1e-6, 1e-12),
    fixed_step=1e-3,
    sample=256,
    solar_systems=10**4,
    years=100.0,
    blocked=10**5,
    blocks=(10**4, 10**3),
    neural_ode=((64, 256, 64), 1024),
    neural_orders=(8, 5),
    adjoints=("RecursiveCheckpointAdjoint", "BacksolveAdjoint", "DirectAdjoint"),
    compile_orders=(5, 8, 12, 16, 20),
)

# Compilation is what takes the time: there is one of everything, and orders are low.
TINY = Sizes(
    name="tiny",
    # In `.ci/run` the machine may have other things to do.
    patience=5.0,
    seconds=0.02,
    repeats=3,
    highest_order=3,
    peers=("Tsit5",),
    check_order=2,
    functions_of=8,
    check_lanes=20,
    jets=(((4, 8, 4), 3),),
    jet_orders=(3,),
    nested_at_most=3,
    laplacians=(((5, 8, 1), 3),),
    lorenz=(16,),
    errors=(1e-4,),
    fixed_step=0.05,
    sample=4,
    solar_systems=4,
    years=1.0,
    blocked=16,
    blocks=(4,),
    neural_ode=((3, 8, 3), 2),
    neural_orders=(2,),
    adjoints=("RecursiveCheckpointAdjoint",),
    compile_orders=(2, 4),
)


@dataclasses.dataclass
class Context:
    """What a step is told."""

    sizes: Sizes
    # Of JAX: where things are measured, and what they are compared with.
    device: Any
    cpu: Any
    # Appends a line of the kind `note`.
    note: Callable[[str], None]
    record: Record


@dataclasses.dataclass(frozen=True)
class Step:
    section: str
    name: str
    # Yields rows, each of which is kept at once.
    run: Callable[[Context], Iterable[Line]]
    # Seconds on a large GPU, compilation included, by guess.
    guess: float
    # The most telling steps of all sections come first.
    wave: int = 1
    # Seconds after which it is stopped.
    at_most: float = 90.0
    # A package that need not be there.
    needs: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.section, self.name


class Pace:
    """How long steps take here, relative to what was guessed: of those of the same
    section if there were any, else of all, else `at_first`."""

    def __init__(self, at_first: float = 1.0):
        self._at_first = at_first
        self._known: list[tuple[str, float, float]] = []

    def add(self, step: Step, took: float) -> None:
        self._known.append((step.section, step.guess, took))

    def estimate(self, step: Step) -> float:
        own = [(g, t) for section, g, t in self._known if section == step.section]
        known = own or [(g, t) for _, g, t in self._known]
        if not known:
            return step.guess * self._at_first
        return step.guess * sum(t for _, t in known) / sum(g for g, _ in known)


def in_order(steps: Sequence[Step], only: Sequence[str] | None) -> list[Step]:
    """Most telling first; of the sections `only`, if it is given."""
    wanted = [step for step in steps if only is None or step.section in only]
    return sorted(wanted, key=lambda step: step.wave)


def go_through(
    steps: Sequence[Step],
    context: Context,
    pace: Pace,
    finish: float,
    *,
    clock: Callable[[], float] = time.time,
    say: Callable[[str], None] = print,
) -> list[Step]:
    """Makes those steps that are not in the record and fit before `finish`; returns
    those left out for want of time. A step that fails does not keep the others."""
    record = context.record
    checks_finish = clock() + CHECKS * (finish - clock())
    waiting = collections.deque(step for step in steps if step.key not in record.ended)
    postponed: set[tuple[str, str]] = set()
    left_out = []
    while waiting:
        step = waiting.popleft()
        now, estimate = clock(), pace.estimate(step)
        left = finish - now
        if estimate > left:
            left_out.append(step)
            continue
        late = step.wave == 0 and estimate > checks_finish - now
        if late and step.key not in postponed:
            # Behind all others, if time is left then.
            postponed.add(step.key)
            waiting.append(step)
            continue
        start = now
        at = dict(section=step.section, step=step.name)
        at_most = min(step.at_most * context.sizes.patience, left)
        record.append("begin", **at, at_most=at_most, at=start)
        say(f"{step.section}: {step.name}")

        def note(text: str) -> None:
            say(f"  {text}")
            record.append("note", **at, text=text)

        context.note = note
        try:
            for row in step.run(context):
                record.append("row", **at, **row)
                say(f"  {told(row)}")
        except Missing as e:
            say(f"  not measured: {e} is not installed")
            record.append("missing", **at, peer=str(e))
            continue
        except Exception as e:
            why = f"{type(e).__name__}: {first_line(e)}"
            say(f"  failed: {why}")
            record.append("failed", **at, why=why, took=clock() - start)
        else:
            record.append("done", **at, took=clock() - start)
        # What failed tells nothing of how fast the device is, but how fast we were.
        pace.add(step, clock() - start)
    return left_out


def first_line(error: BaseException, length: int = 160) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines or [""])[0]
    return text if len(text) <= length else text[: length - 3] + "..."


def told(row: Line) -> str:
    """A row, in short, for whoever waits."""
    parts = [str(row.get("who") or ""), str(row.get("work") or "")]
    for name in ("run", "compile", "error", "worst", "steps"):
        if row.get(name) is not None:
            parts.append(f"{name} {row[name]:.3g}")
    if row.get("wrong"):
        parts.append(f"WRONG: {', '.join(item['name'] for item in row['wrong'])}")
    return ", ".join(part for part in parts if part)
