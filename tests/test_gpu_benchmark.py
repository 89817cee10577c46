"""`python -m benchmarks.gpu` without a GPU: what it keeps, skips, stops and renders. The
measurements themselves are tried out by `--tiny`, in `.ci/run`."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time

import accuracy_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqx_taylor
from benchmarks import __main__ as everything, matmul_precision
from benchmarks.gpu import (
    __main__ as command,
    _checks,
    _ensembles,
    _functions,
    _measure,
    _plan,
    _render,
    _steps,
    _supervise,
)
from benchmarks.gpu._check import Check
from benchmarks.gpu._record import load, Record, Unusable
from benchmarks.problems import lorenz_slopes


ROOT = pathlib.Path(__file__).parents[1]
TIMES = dict(trace=0.5, lower=0.25, compile=1.25, memory=3 * 2**20)


def _run(**kwargs):
    """A line `run`."""
    device = dict(
        kind="A GPU",
        platform="gpu",
        memory=80 * 2**30,
        driver="580.1",
        runtime="cuda 13",
    )
    device |= kwargs.pop("device", {})
    return (
        dict(
            date="2026-01-02",
            profile="full",
            device=device,
            host="A CPU",
            versions={"Python": "3.12.3", "jax": "0.11.2"},
            missing=["folx"],
        )
        | kwargs
    )


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "gpu.jsonl")
    record.append("run", **_run())
    return record


def _row(record, section, step, **row):
    at = dict(section=section, step=step)
    record.append("begin", **at, at=0.0, at_most=1.0)
    record.append("row", **at, **row)
    record.append("done", **at, took=1.0)


def _timed(who, work, run, size=10, **kwargs):
    row = dict(who=who, work=work, run=run, low=0.9 * run, high=1.1 * run)
    return row | TIMES | dict(size=size, wanted=10) | kwargs


# -- rendering


def test_render(record):
    wrong = dict(name="tanh, float32", number=3, roundings=9e4, allowed=450.0)
    wrong |= dict(on_cpu=2.0, ratio=200.0, alike=False)
    alike = wrong | dict(name="lgamma, float32", on_cpu=8e4, alike=True)
    broken = dict(name="svd", why="NotImplementedError: no kernel")
    checks = dict(who="networks", work="order 8", number=3, worst=200.0)
    checks |= dict(wrong=[wrong], alike=[alike], broken=[broken])
    _row(record, "right", "networks", **checks)
    errors = dict(errors=[1e-7, 2e-4], error=2e-4)
    _row(record, "precision", "default", **_timed("default", "MLP", 1e-3), **errors)
    _row(record, "jets", "a", **_timed("eqx_taylor", "order 8", 2e-3))
    _row(record, "jets", "b", **_timed("nested jvp", "order 8", 5e-3, size=5))
    lorenz = _timed("TaylorSolver", "10 systems", 8e-3, each=8e-4, order=12)
    lorenz |= dict(steps=7.5, most_steps=9.0, error=1e-9, tolerance=3e-9)
    _row(record, "lorenz", "a", **lorenz)
    _row(record, "compile", "a", who="Tsit5", work="Lorenz", **TIMES)
    text = _render.render(load(record.path))
    lines = text.splitlines()
    assert lines[0] == (
        "Measured on 2026-01-02: A GPU, 80 GiB for JAX, driver 580.1, cuda 13, beside A "
        "CPU; Python 3.12.3, jax 0.11.2."
    )
    assert "- tanh, float32: 9e+04 roundings in result 3; 450 are allowed" in text
    assert "What loses as much in float32 on the CPU: lgamma, float32." in text
    assert "- svd: NotImplementedError: no kernel." in text
    assert (
        "| order 8 | eqx_taylor | 2 ms (1.8 ms to 2.2 ms) | 1.00 | 2 s | 3 MiB |"
        in lines
    )
    # Of half the size, so that an item takes five times as long.
    assert (
        "| order 8, halved to 5 to fit the memory | nested jvp | 5 ms (4.5 ms to 5.5 ms) "
        "| 5.00 | 2 s | 3 MiB |"
    ) in lines
    assert "| default | MLP | 1 ms (900 µs to 1.1 ms) | 1e-07 | 2e-04 |" in lines
    assert (
        "| 10 systems | TaylorSolver(12) | 800 µs | 8 ms (7.2 ms to 8.8 ms) | 1.00 "
        "| 7.5 (most: 9) | 1.0e-09 | 3.0e-09 | 2 s | 3 MiB |"
    ) in lines
    assert "As published by others (V100, float32, tolerance 1e-8)" in text
    assert "MPGOS 5.3 ns, DiffEqGPU about 9 ns" in text
    assert "| Lorenz | Tsit5 | 500 ms | 250 ms | 1.25 s | 2 s |" in lines
    # What there is no row of has no heading, and is named as missing.
    assert "### Jets of MLPs" in lines and "### Blocks of lanes" not in lines
    assert "still to be measured" in text and "5 of `blocks`" in text
    # All rows of a table have the same columns.
    for before, after in zip(lines, lines[1:]):
        if before.startswith("|") and after.startswith("|"):
            assert before.count("|") == after.count("|")


def test_render_prints_what_is_in_a_file(record, capsys):
    _row(record, "jets", "a", **_timed("eqx_taylor", "order 8", 2e-3))
    assert command.main(["--render", str(record.path)]) == 0
    assert "### Jets of MLPs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "lines, words",
    [
        (None, "There is no file"),
        ([], "is no record"),
        ([dict(kind="row", section="jets", step="a")], "is no record"),
        (
            [dict(kind="run", device=dict(kind=name)) for name in ("One", "Two")],
            "of several devices: One, Two",
        ),
    ],
)
def test_files_that_cannot_be_rendered(tmp_path, capsys, lines, words):
    path = tmp_path / "gpu.jsonl"
    if lines is not None:
        path.touch()
        record = Record(path)
        for line in lines:
            record.append(**line)
    assert command.main(["--render", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_a_broken_line_is_left_out(record):
    _row(record, "jets", "a", **_timed("eqx_taylor", "order 8", 2e-3))
    with record.path.open("ab") as file:
        file.write(b'{"kind": "row", "section": "jets", "st')
    # As long as the line has no end, it may still be written.
    assert Record(record.path).broken == 0
    again = Record(record.path)
    _row(again, "jets", "b", **_timed("nested jvp", "order 8", 4e-3))
    assert again.broken == 1
    found = Record(record.path)
    assert [row["who"] for row in found.rows("jets")] == ["eqx_taylor", "nested jvp"]
    assert "1 line(s) of the record are broken" in _render.render(found)


def test_missing_peers_are_named_until_they_are_measured(record):
    at = dict(section="laplacian", step="MLP: folx")
    record.append("begin", **at, at=0.0, at_most=1.0)
    record.append("missing", **at, peer="folx")
    assert _render.troubles(record) == [
        "- not measured, because not installed: folx",
    ]
    assert ("laplacian", "MLP: folx") not in record.ended
    record.append("done", **at, took=1.0)
    assert _render.troubles(record) == []


def test_what_is_noted_is_listed(record):
    at = dict(section="jets", step="a")
    record.append("note", **at, text="out of memory at 8: halved to 4")
    record.append("failed", **at, why="ValueError: no", took=1.0)
    record.append("stopped", section="solar", step="b", why="after 90 s", took=90.0)
    text = _render.render(record)
    assert "- jets, a: out of memory at 8: halved to 4" in text
    assert "- jets, a: failed: ValueError: no" in text
    assert "- solar, b: stopped: after 90 s" in text


def test_page_has_the_section(tmp_path, record, monkeypatch):
    assert "still to be measured: `python -m benchmarks.gpu`" in everything.gpu_part(
        tmp_path / "none.jsonl"
    )
    _row(record, "jets", "a", **_timed("eqx_taylor", "order 8", 2e-3))
    monkeypatch.setattr(everything, "GPU_RECORD", record.path)
    page = tmp_path / "page.md"
    page.write_text(
        f"Before.\n\n{everything.GPU_BEGIN}\nold\n{everything.GPU_END}\n\nAfter.\n"
    )
    assert everything.main(["--gpu", "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(
        "Before.\n\n<!-- begin: gpu -->\n\n## On a GPU\n\nMeasured on"
    )
    assert text.endswith("<!-- end: gpu -->\n\nAfter.\n") and "old" not in text
    with pytest.raises(SystemExit, match="make all of it"):
        everything.with_gpu_part("A page without marks.")


def test_page_in_the_repository_is_that_of_the_record():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert everything.gpu_part() in page, "run: python -m benchmarks --gpu"


# -- the command line


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--minutes", "0"], "--minutes has to be a positive number"),
        (["--minutes", "nan"], "--minutes has to be a positive number"),
        (["--minutes", "soon"], "invalid float value"),
        (["--only", "jet"], "invalid choice: 'jet'"),
        (["--only"], "expected at least one argument"),
        (["--tiny", "--cpu"], "give one of --tiny and --cpu"),
    ],
)
def test_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2
    assert words in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert command.main(["--tiny", "--out", str(file)]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_names_of_sections_are_the_same_everywhere():
    names = list(command.SECTION_NAMES)
    assert list(_plan.SECTIONS) == names and list(_render.SECTIONS) == names
    for sizes in (_steps.FULL, _steps.TINY):
        steps = _plan.plan(sizes)
        assert {step.section for step in steps} == set(names)
        assert len({step.key for step in steps}) == len(steps)
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert ", ".join(f"`{name}`" for name in names) in readme


@pytest.fixture
def work(monkeypatch):
    """The worker, in this process."""
    monkeypatch.setattr(_supervise, "end_with_parent", lambda parent: None)

    def run(*arguments):
        return command.work(command.parse([*arguments, "--worker", "0"]))

    return run


def test_no_gpu(work, tmp_path, capsys):
    assert work("--out", str(tmp_path)) == 2
    said = capsys.readouterr().out
    assert "finds no accelerator here" in said and "--tiny" in said and "--cpu" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other, words",
    [
        (dict(device=dict(kind="Another")), "figures of another device, 'Another'"),
        (dict(profile="full"), "figures of the sizes 'full'"),
    ],
)
def test_a_file_of_another_device(work, tmp_path, capsys, other, words):
    record = Record(tmp_path / "tiny.jsonl")
    mine = dict(device=dict(kind=_kind_of_this_cpu()), profile="tiny")
    record.append("run", **_run(**mine | other))
    assert work("--tiny", "--out", str(tmp_path)) == 2
    said = capsys.readouterr().out
    assert words in said and "--out" in said
    assert len(Record(record.path).lines) == 1


def _kind_of_this_cpu():
    from benchmarks.gpu._where import described

    return described(jax.devices("cpu")[0])["kind"]


def test_a_run_names_device_and_versions(work, tmp_path):
    # There is no time for any step.
    assert work("--tiny", "--out", str(tmp_path)) == 0
    [run] = Record(tmp_path / "tiny.jsonl").lines
    assert run["kind"] == "run" and run["profile"] == "tiny"
    assert run["device"]["kind"] == _kind_of_this_cpu()
    assert {"jax", "diffrax", "equinox", "eqx_taylor", "Python"} <= run[
        "versions"
    ].keys()


# -- steps, and the time that there is


def _step(name, run=None, guess=1.0, wave=1, section="jets"):
    return _steps.Step(
        section, name, run or (lambda context: iter([{"who": name}])), guess, wave
    )


def _context(record):
    return _steps.Context(_steps.TINY, None, None, print, record)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, seconds):
        """A step that takes so long."""

        def run(context):
            self.now += seconds
            yield {"who": str(seconds)}

        return run


def _go(record, steps, finish=1e9, clock=None):
    said = []
    left_out = _steps.go_through(
        steps,
        _context(record),
        _steps.Pace(),
        finish,
        clock=clock or Clock(),
        say=said.append,
    )
    return [step.name for step in left_out], said


def test_steps_that_do_not_fit_are_left_out(record):
    clock = Clock()
    steps = [
        _step("a", clock.taking(4), guess=4),
        _step("long", clock.taking(20), guess=20),
        _step("b", clock.taking(5), guess=5),
        _step("c", clock.taking(5), guess=5),
    ]
    left_out, _ = _go(record, steps, finish=10, clock=clock)
    assert left_out == ["long", "c"]
    assert [row["step"] for row in record.rows("jets")] == ["a", "b"]
    assert clock.now == 9
    # No step may take more than is left.
    assert [line["at_most"] for line in record.of("begin")] == [10, 6]
    # The next run goes on with them.
    left_out, _ = _go(record, steps, clock=clock)
    assert left_out == []
    assert [row["step"] for row in record.rows("jets")] == ["a", "b", "long", "c"]


def test_estimates_follow_what_steps_have_taken():
    pace = _steps.Pace(2.0)
    step = _step("a", guess=3)
    assert pace.estimate(step) == 6
    pace.add(_step("b", guess=1, section="solar"), 4.0)
    assert pace.estimate(step) == 12
    pace.add(_step("c", guess=2), 2.0)
    assert pace.estimate(step) == 3


def test_checks_leave_time_for_the_rest(record):
    clock = Clock()
    checks = [_step(f"r{i}", clock.taking(2), 2, 0, "right") for i in range(4)]
    steps = [*checks, _step("fast", clock.taking(3), 3)]
    left_out, _ = _go(record, steps, finish=12, clock=clock)
    # Of twelve seconds four and a half are for the checks, at first.
    order = [line["step"] for line in record.of("begin")]
    assert order == ["r0", "r1", "fast", "r2", "r3"] and left_out == []


def test_most_telling_first():
    steps = [_step("late", wave=2), _step("early"), _step("other", section="solar")]
    assert [s.name for s in _steps.in_order(steps, None)] == ["early", "other", "late"]
    assert [s.name for s in _steps.in_order(steps, ["solar"])] == ["other"]


def test_a_step_that_fails_does_not_keep_the_others(record):
    def broken(context):
        yield {"who": "before"}
        raise ValueError("no such thing\nas this")

    def lacks(context):
        _measure.peer("a_package_that_nobody_has.part")
        yield {}

    steps = [_step("x", broken), _step("y", lacks), _step("z")]
    left_out, said = _go(record, steps)
    assert left_out == [] and "  failed: ValueError: no such thing" in said
    # What was there before is kept.
    assert [row["step"] for row in record.rows("jets")] == ["x", "z"]
    assert [
        (line["kind"], line["step"]) for line in record.of(*("failed", "done"))
    ] == [
        ("failed", "x"),
        ("done", "z"),
    ]
    [missing] = record.of("missing")
    assert missing["peer"] == "a_package_that_nobody_has"
    # What failed would fail again; what was not there may be there now.
    _go(record, steps)
    assert [line["step"] for line in record.of("begin")] == ["x", "y", "z", "y"]


def test_an_interrupted_step_is_made_again(record):
    def interrupted(context):
        yield {"who": "ours", "work": "w", "run": 1.0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _go(record, [_step("first"), _step("a", interrupted)])
    again = Record(record.path)
    assert again.open_step is not None and again.open_step["step"] == "a"
    row = {"who": "ours", "work": "w", "run": 2.0}
    _go(again, [_step("first"), _step("a", lambda context: iter([row]))])
    [_, found] = again.rows("jets")
    assert found["run"] == 2.0
    assert again.open_step is None


# -- the process that waits


def _worker(tmp_path, record, script):
    """A process that appends to the record, as a worker does."""
    path = tmp_path / "worker.py"
    path.write_text(
        "import os, pathlib, time\n"
        "from benchmarks.gpu._record import Record\n"
        f"record = Record(pathlib.Path({str(record.path)!r}))\n"
        "def begin(name, at_most=60.0):\n"
        "    record.append('begin', section='jets', step=name, at=time.time(),\n"
        "                  at_most=at_most)\n"
        "def done(name):\n"
        "    record.append('done', section='jets', step=name, took=0.0)\n"
        f"{textwrap.dedent(script)}"
    )
    return [sys.executable, str(path)]


def _supervised(tmp_path, record, script, seconds=60.0):
    said = []
    command = _worker(tmp_path, record, script)
    begin = time.time()
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    code = _supervise.supervise(
        command, record, begin + seconds, said.append, environment
    )
    return code, said, time.time() - begin


@pytest.fixture
def signals():
    import signal

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_step_that_takes_too_long_or_ends_the_process(tmp_path, record, signals):
    script = """
        names = {step for _, step in record.ended}
        if "slow" not in names:
            begin("slow", 0.3)
            time.sleep(60)
        if "crash" not in names:
            begin("crash")
            os.kill(os.getpid(), 9)
        begin("last")
        done("last")
    """
    code, said, took = _supervised(tmp_path, record, script)
    assert code == 0 and took < 40
    assert [
        (line["kind"], line["step"]) for line in record.of("stopped", "failed")
    ] == [
        ("stopped", "slow"),
        ("failed", "crash"),
    ]
    assert said[0].startswith("  stopped after ")
    assert said[1] == "  failed: the process ended by signal 9"
    assert ("jets", "last") in record.ended


def test_the_run_ends_in_time(tmp_path, record, signals):
    script = 'begin("a")\ntime.sleep(60)'
    code, _, took = _supervised(tmp_path, record, script, seconds=3.0)
    assert code == 0 and took < 15
    # It is not to blame: with more time, it is made.
    assert record.ended == set() and record.open_step is not None


def test_the_worker_s_exit_code_is_handed_on(tmp_path, record, signals):
    code, _, _ = _supervised(tmp_path, record, "raise SystemExit(2)")
    assert code == 2


def test_interrupted_run_says_where_its_results_are(tmp_path):
    """By SIGTERM, of the command itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    path = tmp_path / "tiny.jsonl"
    deadline = time.time() + 300
    while not Record(path).of("run") and time.time() < deadline:
        time.sleep(0.2)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Interrupted. What was measured is in" in said and "goes on" in said
    assert Record(path).of("run")


# -- measurements


def test_a_size_that_is_too_large_is_halved(record):
    notes = []
    context = _context(record)
    context.note = notes.append
    tried = []

    def attempt(size):
        tried.append(size)
        if size > 300:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return size

    assert _measure.halved_to_fit(context, 1000, attempt) == 250
    assert tried == [1000, 500, 250]
    assert notes == [
        "out of memory at 1000: halved to 500",
        "out of memory at 500: halved to 250",
    ]


def test_other_errors_halve_nothing(record):
    def wrong(size):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        _measure.halved_to_fit(_context(record), 8, wrong)

    def never(size):
        raise MemoryError

    with pytest.raises(MemoryError):
        _measure.halved_to_fit(_context(record), 8, never)


def test_measured(record):
    context = _context(record)
    context.device = jax.devices("cpu")[0]
    row, result = _measure.measured(context, lambda x: 2 * x, (jnp.arange(3.0),))
    np.testing.assert_array_equal(result, [0.0, 2.0, 4.0])
    assert row["low"] <= row["run"] <= row["high"] and row["runs"] >= 3
    assert min(row["trace"], row["lower"], row["compile"]) > 0
    assert row["memory"] is None or row["memory"] >= 48


@pytest.mark.parametrize("order", [0.7, 1.0, 1.6])
def test_tolerance_for_an_error(order):
    tolerance, error = _measure.tolerance_for(1e-9, lambda t: 30 * t**order, 1e-15)
    assert abs(np.log(error / 1e-9)) < np.log(1.2)
    assert error == 30 * tolerance**order


def test_tolerance_for_an_error_below_rounding():
    _, error = _measure.tolerance_for(1e-12, lambda t: max(t, 3e-11), 1e-15)
    assert error == 3e-11
    with pytest.raises(RuntimeError, match="no tolerance gives a finite error"):
        _measure.tolerance_for(1e-6, lambda t: np.nan, 1e-15)


def test_lorenz_systems_of_a_sample():
    """Their ends are computed by extrapolation; here by SciPy."""
    integrate = pytest.importorskip("scipy.integrate")
    sample = _ensembles._Sample(3, jnp.float64)
    _, rho = sample.args
    for i, r in enumerate(np.asarray(rho)):

        def field(t, y, r=r):
            return lorenz_slopes(y, rho=r)

        expected = integrate.solve_ivp(
            field, (0, 1), [1.0, 0, 0], rtol=1e-12, atol=1e-13, method="DOP853"
        ).y[:, -1]
        np.testing.assert_allclose(
            sample.exact[:, i].astype(float), expected, rtol=1e-9, atol=1e-10
        )


# -- comparisons with the CPU


def test_functions_are_those_of_the_accuracy_tables():
    before = {name: sys.modules[name] for name in ("flint", "balls")}
    real, of_complex = _functions.accuracy_cases()
    assert [c.name for c in real] == [c.name for c in accuracy_cases.REAL_CASES]
    assert [c.name for c in of_complex] == [
        c.name for c in accuracy_cases.COMPLEX_CASES
    ]
    assert {name: sys.modules[name] for name in before} == before
    with pytest.raises(RuntimeError, match="from a checkout"):
        _functions.accuracy_cases(pathlib.Path("no") / "such.py")


CHECK = Check("f", lambda x: [x], lambda dtype: (jnp.ones(2, dtype),))


def _results(**changed):
    ones = [np.ones(2)]
    return dict.fromkeys(
        ["device64", "device32", "cpu64", "cpu32", "exact32"], ones
    ) | {name: [np.array(value)] for name, value in changed.items()}


def test_what_differs_is_found():
    assert _checks.judged(CHECK, _results(), 100.0) == []
    off = [1.0, 1 + 200 * 2.0**-52]
    [line] = _checks.judged(CHECK, _results(device64=off), 100.0)
    assert line["name"] == "f, float64" and not line["alike"]
    assert abs(line["roundings"] - 200) < 1 and line["allowed"] == 100
    assert _checks.judged(CHECK, _results(device64=off), 300.0) == []
    [line] = _checks.judged(CHECK, _results(device64=[1.0, np.nan]), 100.0)
    assert line["roundings"] == np.inf
    # TensorFloat32 has ten bits.
    [line] = _checks.judged(CHECK, _results(device32=[1.0, 1 + 2.0**-11]), 100.0)
    assert line["name"] == "f, float32" and not line["alike"] and line["on_cpu"] == 0


def test_what_float32_loses_on_the_cpu_is_no_fault_of_the_device():
    off = [1.0, 1 + 200 * 2.0**-23]
    [line] = _checks.judged(CHECK, _results(device32=off, cpu32=off), 100.0)
    assert line["alike"]
    # Nor is as much of it in float64.
    off64 = [1.0, 1 + 200 * 2.0**-52]
    found = _checks.judged(
        CHECK, _results(device32=off, cpu32=off, device64=off64), 100.0
    )
    assert [line["name"] for line in found] == ["f, float32"]


def test_solves_may_differ_within_the_tolerance():
    check = Check("f", CHECK.fun, CHECK.args, slack=lambda dtype: 1e-6)
    assert _checks.judged(check, _results(device64=[1.0, 1 + 5e-7]), 100.0) == []
    assert _checks.judged(check, _results(device64=[1.0, 1 + 5e-6]), 100.0) != []


def test_elementwise_functions_are_measured_by_their_terms(record):
    """Of `sin` at 0 every second coefficient is zero; a rounding of its neighbours is
    nothing there. What overflows is not compared."""
    cases = {case.name: case for case in accuracy_cases.REAL_CASES}
    context = _context(record)
    context.device = context.cpu = jax.devices("cpu")[0]
    checks = [_checks.elementwise(cases[name], 8, False) for name in ("sin", "exp")]
    results = _checks.evaluate(checks, context)
    assert sorted(results) == ["cpu32", "cpu64", "device32", "device64", "exact32"]
    own = [{place: found[i] for place, found in results.items()} for i in range(2)]
    for check, found in zip(checks, own):
        assert _checks.judged(check, found, 450.0) == []
    # Coefficient 2 at 0 is between two of size 1.
    changed = [np.array(x) for x in own[0]["device64"]]
    changed[2][0] += 100 * 2.0**-52
    assert _checks.judged(checks[0], own[0] | dict(device64=changed), 450.0) == []
    changed[2][0] += 1000 * 2.0**-52
    [line] = _checks.judged(checks[0], own[0] | dict(device64=changed), 450.0)
    assert line["number"] == 2


# -- emulated precision of products


def test_emulated_products():
    a = jax.random.normal(jax.random.key(0), (8, 8), jnp.float32)

    def fun(a):
        return jax.jit(lambda x: jnp.tanh(x @ a))(a @ a)

    wide = np.asarray(a, np.float64)
    exact = np.tanh(wide @ wide @ wide)
    same = matmul_precision.emulated(fun, 23)(a)
    np.testing.assert_array_equal(same, fun(a))
    for bits in (10, 7):
        found = np.asarray(matmul_precision.emulated(fun, bits)(a), np.float64)
        error = np.max(np.abs(found - exact))
        assert 2.0 ** -(bits + 4) < error < 2.0 ** -(bits - 5)
    # Closed forms: 1 + 2**-12 is not there in ten bits.
    x = jnp.full((1, 1), 1 + 2.0**-12, jnp.float32)
    assert matmul_precision.emulated(jnp.matmul, 10)(x, x)[0, 0] == 1.0


def test_products_that_are_not_reached_are_an_error():
    def fun(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=2)[0]

    with pytest.raises(NotImplementedError, match="products within `scan`"):
        matmul_precision.emulated(fun, 10)(jnp.eye(2, dtype=jnp.float32))


def test_errors_of_orders():
    actual = [np.array([1.0, 2.0]), np.array([4.0])]
    exact = [np.array([1.0, 2.5]), np.array([5.0])]
    assert matmul_precision.errors_of_orders(actual, exact) == [0.2, 0.2]


def test_unusable_is_for_users():
    with pytest.raises(Unusable, match="python -m benchmarks.gpu"):
        load(pathlib.Path("no") / "such.jsonl")


# -- `jax_default_matmul_precision` and jets


def _precisions(jaxpr):
    """Of all products in a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _precisions(inner)


def _of_jet(fun, shape):
    def jet(x):
        return eqx_taylor.filter_jet(fun, (x,), ([x, x, None, x],))

    x = jnp.eye(*shape, dtype=jnp.float32)
    return list(_precisions(jax.make_jaxpr(jet)(x).jaxpr))


HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def test_coefficients_have_the_precision_of_the_product():
    weights = jnp.ones((3, 3), jnp.float32)

    def network(x, precision=None):
        hidden = jnp.tanh(jnp.matmul(weights, x, precision=precision))
        return jnp.matmul(jnp.matmul(hidden, x, precision=precision), weights)

    found = _of_jet(network, (3, 3))
    assert len(found) > 10 and set(found) == {None}
    with jax.default_matmul_precision("highest"):
        assert set(_of_jet(network, (3, 3))) == {HIGHEST}
    # The last product has none of its own.
    found = _of_jet(lambda x: network(x, "highest"), (3, 3))
    assert found.count(None) == 5 and set(found) == {None, HIGHEST}


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jnp.linalg.solve(x + 4 * jnp.eye(3, dtype=x.dtype), x),
        lambda x: jnp.linalg.cholesky(x + 4 * jnp.eye(3, dtype=x.dtype)),
        lambda x: jnp.linalg.qr(x + 4 * jnp.eye(3, dtype=x.dtype)),
        lambda x: jnp.linalg.eigh(x + jnp.diag(jnp.arange(3, dtype=x.dtype))),
        lambda x: jnp.linalg.svd(x + jnp.diag(jnp.arange(3, dtype=x.dtype))),
    ],
    ids=["solve", "cholesky", "qr", "eigh", "svd"],
)
def test_factorisations_have_all_products_in_float32(fun):
    found = _of_jet(fun, (3, 3))
    assert found and set(found) == {HIGHEST}
