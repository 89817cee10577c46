import pathlib
import subprocess
import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqx_taylor
from benchmarks.solar_system_reference import positions_after
from eqx_taylor import __main__ as demonstration, _outer_solar_system as problem


def _rows(output: str) -> dict[str, list[float]]:
    """The table's rows: the numbers behind each solver's name."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("solver"))
    rows = (line.split() for line in lines[start + 1 : start + 4])
    return {name: [float(x) for x in numbers] for name, *numbers in rows}


def test_defaults(capsys):
    demonstration.main([])
    captured = capsys.readouterr()
    rows = _rows(captured.out)
    # Those that compile fastest first, and no reference to wait for.
    assert list(rows) == ["Dopri8()", "Tsit5()", "TaylorSolver(order=20)"]
    assert "Computing a reference" not in captured.err
    assert "TaylorSolver(order=20): compiling ..." in captured.err
    steps, rejected, _, _, energy_error, position_error = rows["TaylorSolver(order=20)"]
    assert energy_error < 1e-13
    # Errors in position grow like t^(3/2), to a few thousand ulps by now.
    assert position_error < 2e-10
    assert 3 * steps < rows["Dopri8()"][0]
    assert rejected < 0.1 * steps


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="`longdouble` has no more digits"
)
def test_stored_reference():
    """What is stored is what the script computes, which uses none of our code."""
    error = problem.POSITIONS_AFTER_1000_YEARS - positions_after(1000)
    assert np.abs(error).max() < 2e-14


def test_computed_reference(capsys, monkeypatch):
    """Where no reference is stored."""
    # The true order takes longest of all to compile, and is no better so soon.
    monkeypatch.setattr(demonstration, "_REFERENCE_ORDER", 14)
    monkeypatch.setattr(demonstration, "_REFERENCE_STEP", 25.0)
    with jax.default_device(jax.devices("cpu")[0]):
        positions, how = demonstration._reference(20.0)
    assert "TaylorSolver(order=14) in 293 steps of 24.93 days" in how
    assert "Computing a reference ...\n" in capsys.readouterr().err
    error = np.asarray(positions) - positions_after(20)
    assert np.linalg.norm(error.astype(float), axis=-1).max() < 2e-12


@pytest.mark.slow
def test_steps_at_1e_12():
    dopri8, _, taylor = demonstration._methods(order=20, rtol=1e-12)
    t1 = 1000 * problem.DAYS_PER_YEAR
    num_steps = demonstration._run(taylor, t1).num_steps
    assert 3 * num_steps < demonstration._run(dopri8, t1).num_steps


def test_energy_is_a_first_integral():
    # A check of `energy` and `vector_field` against each other.
    y0 = problem.initial_state()
    sol = diffrax.diffeqsolve(
        diffrax.ODETerm(problem.vector_field),  # pyright: ignore[reportArgumentType]
        diffrax.Dopri8(),
        t0=0.0,
        t1=10 * problem.DAYS_PER_YEAR,
        dt0=20.0,
        y0=y0,
    )
    assert sol.ys is not None
    x1, v1 = sol.ys
    error = problem.energy((x1[-1], v1[-1])) / problem.energy(y0) - 1
    assert jnp.abs(error) < 1e-12


@pytest.mark.parametrize(
    "argv, message",
    (
        (["--years", "-1"], "must be more than 0"),
        (["--years", "nan"], "must be more than 0"),
        (["--years", "a"], "--years: invalid number"),
        (["--order", "0"], "must be from 1 to 64"),
        (["--order", "2.5"], "--order: invalid whole number"),
        (["--rtol", "0"], "must be from 1e-15"),
        (["--rtol", "1e-30"], "must be from 1e-15"),
        (["--rtol", "x"], "--rtol: invalid number"),
        (["--plot", "/no/such/folder/a.png"], "cannot write '/no/such/folder/a.png'"),
        (["--plot", "orbits.docx"], "must end in one of ."),
        (["--years"], "expected one argument"),
        (["--plto", "a.png"], "unrecognized arguments: --plto a.png"),
    ),
)
def test_bad_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as info:
        demonstration.main(argv)
    assert info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("python -m eqx_taylor: error: ")
    assert message in line


def test_plot_without_matplotlib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    with pytest.raises(SystemExit) as info:
        demonstration.main(["--plot", "a.png"])
    assert info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install matplotlib" in line


@pytest.mark.slow
def test_plot(tmp_path, capsys, monkeypatch):
    # The reference of the true order takes longest of all to compile.
    monkeypatch.setattr(demonstration, "_REFERENCE_ORDER", 3)
    path = tmp_path / "a.png"
    demonstration.main(
        ["--years", "20", "--order", "3", "--rtol", "1e-5", "--plot", str(path)]
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert f"Wrote {path}." in captured.out
    assert "Drawing: each solver runs once more" in captured.out
    assert "Tsit5(): solving once more ..." in captured.err


def test_progress(monkeypatch, capsys):
    # Below the limit nothing is shown; above it (here: at once) the meter is.
    t1 = 100 * problem.DAYS_PER_YEAR
    method = demonstration._methods(4, 1e-6)[1]
    demonstration._run(method, t1)
    announced = "Tsit5(): compiling ..."
    assert capsys.readouterr().err == f"\r{announced}\r{' ' * len(announced)}\r"
    monkeypatch.setattr(demonstration, "_LONG_RUN", 0.0)
    progress = demonstration._Progress("a solver")
    progress.show(np.array(0.25))
    progress.finish()
    shown, blank = capsys.readouterr().err.split("\r")[1:3]
    assert shown == "a solver:  25.0 %"
    assert blank == " " * len(shown)


@pytest.mark.parametrize(
    "argument, code, said",
    [
        ("--help", 0, "needs matplotlib"),
        ("--version", 0, f"eqx_taylor {eqx_taylor.__version__}"),
        ("--order=zero", 2, "--order: invalid whole number value: 'zero'"),
    ],
)
def test_as_a_command(argument, code, said):
    """What needs no JAX is answered before it is imported, which takes seconds."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "eqx_taylor", argument],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    assert said in (result.stdout if code == 0 else result.stderr)
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported
    assert imported.isdisjoint({"jax", "numpy", "equinox", "matplotlib"})


def test_importing_asks_nothing():
    """Of a command line that is another program's; and JAX's settings stay."""
    code = """if True:
        import sys
        sys.argv = ["-m", "--order", "zero"]
        import eqx_taylor, jax
        assert not jax.config.jax_enable_x64
        assert "matplotlib" not in sys.modules
    """
    root = pathlib.Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
