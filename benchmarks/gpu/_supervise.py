"""Runs the worker, and stops what takes too long.

Neither a compilation nor a program on a GPU can be stopped from within its process. So
the measurements are made by a process of their own, and this one, which has no device,
reads in the record which step is at work. A step that outlasts its time, or that ends
the process, is noted there, and a new worker goes on behind it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from ._record import Record


# For a worker to start, to import all and to find its device.
START = 90.0
# Between SIGTERM and SIGKILL.
GRACE = 5.0


class Interrupted(Exception):
    pass


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def supervise(
    command: Sequence[str],
    record: Record,
    finish: float,
    say: Callable[[str], None],
    environment: dict[str, str] | None = None,
) -> int:
    """The exit code of the last worker; of one that was stopped at the end, 0."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Only noted: an exception might come while a worker is being started, which
        # would then be left alone.
        signal.signal(number, lambda number, frame: asked.append(number))
    while True:
        # In a session of its own: a key pressed here must not end it unasked.
        process = subprocess.Popen(command, start_new_session=True, env=environment)
        code = _watch(process, record, finish, say, asked)
        if code is not None:
            return code
        if time.time() > finish:
            return 0


def _watch(process, record, finish, say, asked) -> int | None:
    """The exit code; `None` where another worker is to go on."""
    begun = time.time()
    already, runs = len(record.of("begin")), len(record.of("run"))
    while True:
        try:
            code = process.wait(0.2)
        except subprocess.TimeoutExpired:
            code = None
        if asked:
            stop(process)
            raise Interrupted
        record.refresh()
        step = record.open_step if len(record.of("begin")) > already else None
        if code == 0:
            return 0
        if code is not None:
            if step is None:
                return code
            signalled = f"by signal {-code}" if code < 0 else f"with code {code}"
            why = f"the process ended {signalled}"
            say(f"  failed: {why}")
            _end(record, "failed", step, why)
            return None
        now = time.time()
        if now > finish:
            # Not "stopped": with more time it might end, so a later run tries again.
            stop(process)
            return 0
        if step is None:
            if len(record.of("run")) == runs and now > begun + START:
                stop(process)
                say(f"The device was not there after {START:.0f} s.")
                return 1
        elif now > step["at"] + step["at_most"]:
            stop(process)
            why = f"stopped after {now - step['at']:.0f} s"
            say(f"  {why}")
            _end(record, "stopped", step, why)
            return None


def _end(record: Record, kind: str, step: dict, why: str) -> None:
    took = time.time() - step["at"]
    record.append(kind, section=step["section"], step=step["step"], why=why, took=took)


def end_with_parent(parent: int) -> None:
    """Of the worker: it must not hold the device when nobody waits for it. `parent` is
    the process that does, which may have ended while this one was starting."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def worker_command(arguments: Sequence[str], finish: float) -> list[str]:
    module = ["-m", "benchmarks.gpu", "--worker", repr(finish)]
    module += ["--parent", str(os.getpid())]
    return [sys.executable, *module, *arguments]
