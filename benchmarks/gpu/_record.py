"""What was measured, as a file of lines of JSON to which lines are only ever appended.

Each line is on the disk before the next measurement begins, so that a run that is
interrupted, at any moment and in any way, loses the measurement that it was making and
nothing else. The kinds of lines:

- `run`: the device, driver and versions of a run; at its start.
- `begin`: a step, and the seconds that it may take.
- `row`: a result of a step.
- `note`: what else there is to say of a step: a size that was halved, say.
- `missing`: a step that needs a package that is not installed.
- `done`, `failed`, `stopped`: the end of a step. It is not tried again.
"""

import json
import os
import pathlib
from typing import Any


Line = dict[str, Any]
# How a step ends.
ENDS = ("done", "failed", "stopped")


class Unusable(Exception):
    """A file that cannot be gone on with, or rendered; the message is for the user."""


class Record:
    def __init__(self, path: pathlib.Path):
        self.path = path
        self.lines: list[Line] = []
        # Lines that are no JSON: of runs that were killed while writing.
        self.broken = 0
        self._read = 0
        self.refresh()

    def refresh(self) -> list[Line]:
        """Reads what was appended since, by another process too; returns it."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        # A line that is being written is read when it is complete.
        complete, newline, _ = new.rpartition(b"\n")
        self._read += len(complete) + len(newline)
        lines = []
        for raw in complete.splitlines():
            try:
                line = json.loads(raw)
            except ValueError:
                line = None
            if isinstance(line, dict) and "kind" in line:
                lines.append(line)
            elif raw.strip():
                self.broken += 1
        self.lines += lines
        return lines

    def append(self, kind: str, **what: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end > 0:
                file.seek(end - 1)
                # What was cut off must not spoil this line, too.
                if file.read(1) != b"\n":
                    file.write(b"\n")
            line = json.dumps({"kind": kind} | what)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.refresh()

    def of(self, *kinds: str) -> list[Line]:
        return [line for line in self.lines if line["kind"] in kinds]

    @property
    def ended(self) -> set[tuple[str, str]]:
        """The steps that are not to be tried again: sections and names."""
        return {(line["section"], line["step"]) for line in self.of(*ENDS)}

    @property
    def open_step(self) -> Line | None:
        """The step that was begun last, unless it has ended."""
        for line in reversed(self.lines):
            if line["kind"] in (*ENDS, "missing", "run"):
                return None
            if line["kind"] == "begin":
                return line
        return None

    def rows(self, section: str) -> list[Line]:
        """In the order in which they were measured first. Of a row that was measured
        again, because its step had been interrupted, the last counts."""
        found: dict[tuple, Line] = {}
        for row in self.of("row"):
            if row["section"] == section:
                key = row["step"], row.get("work"), row.get("who")
                found[key] = row
        return list(found.values())

    @property
    def devices(self) -> list[str]:
        """The names of all, in the order of the runs."""
        return list(dict.fromkeys(run["device"]["kind"] for run in self.of("run")))

    def check_device(self, device: str, profile: str) -> None:
        """That a run on this device may go on with this file."""
        others = [name for name in self.devices if name != device]
        if others:
            raise Unusable(
                f"{self.path} holds figures of another device, {others[0]!r}; this "
                f"one is {device!r}. Give another folder (--out), or move the file."
            )
        sizes = [r["profile"] for r in self.of("run") if r["profile"] != profile]
        if sizes:
            raise Unusable(
                f"{self.path} holds figures of the sizes {sizes[0]!r}, and these would "
                f"be {profile!r}. Give another folder (--out), or move the file."
            )


def load(path: pathlib.Path) -> Record:
    """A record that is to be rendered."""
    if not path.is_file():
        raise Unusable(f"There is no file {path}: `python -m benchmarks.gpu` makes it.")
    record = Record(path)
    if not record.of("run"):
        raise Unusable(f"{path} is no record of `python -m benchmarks.gpu`.")
    if len(record.devices) > 1:
        raise Unusable(
            f"{path} holds figures of several devices: {', '.join(record.devices)}. "
            "Figures of different devices do not go into one table: give a file of "
            "one device."
        )
    return record
