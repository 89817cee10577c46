"""What `python -m benchmarks` makes of reports, without running any benchmark."""

import ast
import builtins
import importlib.util
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    __main__ as everything,
    _first_result,
    _report,
    _timing,
    first_lines,
    first_result,
)
from benchmarks._report import Figure, quantity, Report


MET = Figure("a jet", "run", "a peer", 1e-3, 1e-2, ours_spread=2e-5, at_most=0.18)
MISSED = Figure("a jet", "memory", "a peer", 3 * 2.0**20, 2.0**20, "bytes", at_most=0.7)
INFORMATION = Figure("a solve", "steps", "another", 12, 24, unit="")
REPORT = Report("A title", "Some text.\n", [MET, MISSED, INFORMATION], {"orders": [1]})


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (1.5, "s", "1.5 s"),
        (0.1234, "s", "123 ms"),
        (3.1e-5, "s", "31 µs"),
        (2e-9, "s", "2 ns"),
        (1234.0, "s", "1234 s"),
        (0.0, "s", "0 s"),
        (1000 / 1024 * 2.0**30, "bytes", "1000 MiB"),
        (3 * 2.0**20, "bytes", "3 MiB"),
        (17, "bytes", "17 bytes"),
        (5198, "", "5198"),
        (0.25, "", "0.25"),
    ],
)
def test_quantity(value, unit, text):
    assert quantity(value, unit) == text


def test_spread_is_in_the_unit_of_the_value():
    assert _report.with_spread(3.1e-3, 4e-5, "s") == "3.1 ± 0.04 ms"
    assert _report.with_spread(256e-6, 21e-6, "s") == "256 ± 21 µs"
    assert _report.with_spread(2.0, None, "s") == "2 s"
    assert _report.with_spread(12, 1, "") == "12 ± 1"


def test_table_has_missed_targets_in_bold():
    lines = _report.table(REPORT.figures).splitlines()
    assert lines[2] == "| a jet | run | 1 ± 0.02 ms | 10 ms | a peer | 0.10 | 0.18 |"
    assert lines[3] == "| a jet | memory | 3 MiB | 1 MiB | a peer | **3.00** | 0.7 |"
    assert lines[4] == "| a solve | steps | 12 | 24 | another | 0.50 |  |"
    # All rows have the same columns.
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    "ours, missed, text",
    [
        (1.0, False, "1.00"),
        (1.001, True, "**1**"),
        (1.004, True, "**1**"),
        (1.006, True, "**1.01**"),
    ],
)
def test_a_target_is_missed_by_any_amount(ours, missed, text):
    figure = Figure("w", "run", "p", ours, 1.0, at_most=1.0)
    assert figure.missed is missed
    assert f"| {text} |" in _report.table([figure])


def test_a_ratio_that_is_no_number_meets_nothing():
    assert Figure("w", "run", "p", float("nan"), 1.0, at_most=1.0).missed


def test_markdown():
    text = _report.markdown(REPORT, level=3)
    assert text.startswith("### A title\n\nSome text.\n\n| | | ours |")
    assert _report.markdown(Report("T", "", [])) == "## T\n"


def test_report_comes_back_from_its_file(tmp_path):
    path = tmp_path / "report.json"
    _report.write(REPORT, path, took=1.5)
    assert _report.load(path) == REPORT
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["took"] == 1.5
    assert data["place"]["versions"]["jax"]
    assert data["place"]["cores"] >= 1
    assert data["place"]["cpu"] in _report.machine(data["place"])


def test_a_missing_peer_says_what_to_install():
    with pytest.raises(SystemExit, match=r"\.\[benchmarks\]"):
        _report.peer("a_package_that_nobody_has")


def test_rivals_of_the_same_result_take_turns():
    failures: dict[str, str] = {}

    def broken(x):
        raise ValueError("no such thing\nas this")

    first, second = _timing.compare(
        [("sum", jnp.sum), ("broken", broken), ("dot", lambda x: x @ jnp.ones(3))],
        (jnp.arange(3.0),),
        seconds=0.0,
        compiles=2,
        failures=failures,
    )
    assert failures == {"broken": "`ValueError`: no such thing"}
    assert [first.name, second.name] == ["sum", "dot"]
    assert len(first.runs) == len(second.runs) >= 3
    assert len(first.compiles) == 2 and first.compile_spread is not None
    assert first.run > 0 and first.spread >= 0 and first.compile > 0
    assert _timing.check_equal(first.result, second.result, 1e-14, "dot") <= 1e-14


def test_a_rival_that_fails_is_an_error_by_default():
    def broken(x):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        _timing.compare([("broken", broken)], (jnp.arange(3.0),), seconds=0.0)


@pytest.mark.parametrize("wrong", [[1.0, 2.1], [1.0, float("nan")]])
def test_other_results_are_an_error(wrong):
    with pytest.raises(RuntimeError, match="the other: the results differ"):
        _timing.check_equal(np.array(wrong), np.array([1.0, 2.0]), 1e-6, "the other")


# -- the first result


def test_first_result_has_all_targets(monkeypatch, capsys):
    """Every row of every part, of measurements that are not made."""
    per_order = dict(Dopri8=1.0, Tsit5=0.9)

    def compilation(program, environment=None):
        lines = 1000 * (2 if program.gradient else 1)
        compile = per_order.get(program.method, program.method)
        return _first_result.Compilation(0.5, 0.25, compile, lines)

    def compilations(programs, turns):
        return {program: turns * [compilation(program)] for program in programs}

    def runs(programs, seconds, *, one_step):
        steps = 1 if one_step else 20
        return {p: _first_result.Runs(steps, [1.0, 2.0, 3.0]) for p in programs}

    times = {"imports": 1.0, "first row": 5.0, "end": 30.0}
    monkeypatch.setattr(first_result, "compilations", compilations)
    monkeypatch.setattr(first_result, "compilation", compilation)
    monkeypatch.setattr(first_result, "runs", runs)
    monkeypatch.setattr(first_result, "demonstration", lambda: times)
    report = first_result.run(0.0, turns=2)
    targets = [figure.at_most for figure in report.figures if figure.at_most]
    unroll = [1.2, 1.2, 2.0, 4.0]
    start = [1.5, 1.6, 1.8, 1.8, 2.5, 1.8, 2.5, 1.1, 1.1, 2.5]
    assert targets == [*start, *unroll, 1.0, 1.0]
    order8 = next(f for f in report.figures if f.at_most == 1.5)
    assert order8.ratio == 8.75 / 1.75 and order8.missed
    assert (
        "| MLP 8-24-24-8, order 8 | 0.50 + 0.25 + 8.00 | 5.00 | 1000 |" in report.text
    )
    printed = capsys.readouterr().out
    assert "first row after imports, CPU: 0.80, at most 1, met" in printed
    assert "whole, CPU: 1.20, at most 1, missed" in printed

    only = first_result.run(0.0, only=["gradient"], turns=1)
    assert [figure.quantity.split()[0] for figure in only.figures] == ["trace", "run"]


def test_what_is_measured_of_the_first_result():
    program = _first_result.Program("lorenz", 4, forward_mode=True)
    found = _first_result._measure([program], seconds=0.0, one_step=True)
    (compilation,), (times,) = found["compilations"], found["times"]
    assert min(compilation) > 0 and compilation.lines > 100
    assert found["steps"] == [1] and min(times) > 0


# -- the first lines


def test_programs_of_the_front_page_are_short_and_complete():
    """Nobody has to look for a name that an earlier one has assigned."""
    programs = first_lines.programs()
    assert [p.what for p in programs] == [
        "solve",
        "event",
        "Laplacian",
        "jet, of order 10",
    ]
    for program in programs:
        assert 1 < program.lines <= first_lines.LINES_AT_MOST, program
        names, assigned = set(), set(dir(builtins))
        for node in ast.walk(ast.parse(program.source)):
            if isinstance(node, ast.Name):
                stored = isinstance(node.ctx, ast.Store)
                (assigned if stored else names).add(node.id)
            elif isinstance(node, ast.alias):
                assigned.add(node.asname or node.name.partition(".")[0])
            elif isinstance(node, ast.FunctionDef):
                assigned.add(node.name)
            elif isinstance(node, ast.arg):
                assigned.add(node.arg)
        assert names <= assigned, program


def test_table_of_first_lines():
    """The page shows what it prints, but for the seconds."""
    programs = first_lines.programs()
    printed = first_lines.table({p: [(1.0, 2.0)] for p in programs}).splitlines()
    assert printed[2] == "| solve | 11 | 1.0 | 2.0 |"
    page = everything.PAGE.with_name("compile_time.md").read_text(encoding="utf-8")
    for line in printed:
        assert line.removesuffix(" 1.0 | 2.0 |") in page


def test_seconds_of_first_lines():
    program = first_lines.Program("a sum", "import math\n\nprint(math.pi)\n")
    assert program.lines == 2
    imports, rest = first_lines.seconds(program)
    assert imports > 0 and rest >= 0


# -- the page


def _outcome(**kwargs):
    place = dict(
        cpu="A CPU",
        cores=2,
        system="Linux x86_64",
        device="cpu: cpu",
        versions={"Python": "3.13.0", "jax": "0.12.0"},
    )
    data = REPORT._asdict() | dict(figures=[f._asdict() for f in REPORT.figures])
    outcome = data | dict(place=place, date="2026-01-02", took=61.4) | kwargs
    # As a file gives it back.
    return json.loads(json.dumps(outcome))


def test_page():
    outcomes = {
        "jet_mlp": _outcome(),
        "jets": "ValueError: no such thing",
        "ode_jet": _outcome(title="Another title"),
    }
    text = everything.page(outcomes, {"targets": "t.png", "ode_jet": "o.png"})
    assert "This page is written by `python -m benchmarks`" in text.split("\n\n")[2]
    assert "Measured on 2026-01-02: A CPU, 2 cores, Linux x86_64" in text
    assert "Python 3.13.0, jax 0.12.0." in text
    assert "    - `jets`: ValueError: no such thing" in text
    assert "[at the end](#on-a-gpu)" in text
    assert text.endswith(everything.gpu_part() + "\n")
    assert "2 of 4 figures meet their targets" in text
    assert "![Ratios and targets](images/t.png)" in text
    assert "![Another title](images/o.png)" in text
    assert "`python -m benchmarks.ode_jet`, in 61 s." in text
    # The overview leads to the sections, which have the figures: each once.
    overview = text[text.index("## Targets") : text.index("## A title")]
    assert "| [A title](#a-title) | 2 | 1 |" in overview
    assert "| [Another title](#another-title) | 2 | 1 |" in overview
    assert "| a jet |" not in overview
    assert text.count("| a jet | run |") == text.count("| a solve |") == 2


@pytest.mark.parametrize(
    "title",
    [
        "Solves at equal error, against the fastest Runge-Kutta method",
        "A solve at a tolerance of 2.2e-16, against heyoka",
        "`ReplayAdjoint`: gradients",
    ],
)
def test_anchor_of_a_section(title):
    """As Python-Markdown makes it."""
    toc = pytest.importorskip("markdown.extensions.toc")
    assert everything.slug(title) == toc.slugify(title.replace("`", ""), "-")


def test_a_ratio_is_on_the_page_once():
    """Tables of times leave the ratios to the figures."""
    timing = _timing.Timing("a", np.array([0.5]), np.array([1e-3, 2e-3, 3e-3]), None)
    assert _timing.timing_table([timing]).splitlines() == [
        "| | run, ms | ± | trace+compile, s |",
        "|---|---:|---:|---:|",
        "| a | 2 | 0.5 | 0.50 |",
    ]
    assert "| 1.000 | 0.50 | 1.000 |" in _timing.timing_table([timing], ratios=True)
    page = everything.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| [\d.*]+ \| [\d.]* \|$", page, re.MULTILINE)
    assert len(rows) > 100 and len(set(rows)) == len(rows)


def test_page_of_several_machines():
    other = _outcome()
    other["place"]["cpu"] = "Another CPU"
    text = everything.page({"jet_mlp": _outcome(), "jets": other}, {})
    assert "`jet_mlp`: measured on 2026-01-02: A CPU," in text
    assert "`jets`: measured on 2026-01-02: Another CPU," in text


def test_page_of_failures_alone():
    text = everything.page({"jets": "not run"}, {})
    assert "`jets`: not run" in text and "## Targets" not in text


@pytest.fixture
def two(monkeypatch):
    """Of the benchmarks, two."""
    monkeypatch.setattr(everything, "NAMES", ["jet_mlp", "jet_equations"])


def test_page_from_a_folder(tmp_path, two, capsys):
    kept = tmp_path / "kept"
    kept.mkdir()
    _report.write(REPORT, kept / "jet_mlp.json")
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    # The other one has no file.
    assert everything.main(["--from", str(kept), "--page", str(page)]) == 1
    assert "FAILED: jet_equations: not run" in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert "## A title" in text and "`jet_equations`: not run" in text
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "docs" / "images" / "benchmarks_targets.png").exists()


def test_a_script_that_fails_does_not_keep_the_others(tmp_path, two, monkeypatch):
    def run_script(name, path, seconds):
        assert seconds == 0.5
        if name == "jet_mlp":
            return "SystemExit: probdiffeq is not installed"
        _report.write(REPORT, path)
        return json.loads(path.read_text(encoding="utf-8"))

    monkeypatch.setattr(everything, "run_script", run_script)
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    arguments = ["--page", str(page), "--json", str(kept), "--seconds", "0.5"]
    assert everything.main(arguments) == 1
    text = page.read_text(encoding="utf-8")
    assert "`jet_mlp`: SystemExit: probdiffeq is not installed" in text
    assert "## A title" in text
    assert [path.name for path in kept.iterdir()] == ["jet_equations.json"]
    # Of one alone there is no page.
    page.unlink()
    assert everything.main(["--only", "jet_equations", *arguments]) == 0
    assert not page.exists()


def test_script_that_is_not_there(tmp_path):
    outcome = everything.run_script("no_such_script", tmp_path / "x.json", None)
    assert isinstance(outcome, str) and "no_such_script" in outcome


def test_plot_that_fails(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    made = everything.plots({"no_such_script": REPORT}, tmp_path)
    assert made == {"targets": "benchmarks_targets.png"}
    assert "no_such_script: no plot" in capsys.readouterr().err
