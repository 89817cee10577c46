import pathlib
import subprocess
import sys

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_taylor import __main__ as demonstration, _outer_solar_system as problem


def _rows(output: str) -> dict[str, list[float]]:
    """The table's rows: the numbers behind each solver's name."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("solver"))
    rows = (line.split() for line in lines[start + 1 : start + 4])
    return {name: [float(x) for x in numbers] for name, *numbers in rows}


def _long_double_solution(years, order=30, step=150):
    """The outer Solar System's positions in 80-bit floats, without any of our code.

    A Taylor series by hand, pair by pair:

        d = x_j - x_i,   r = d·d,   w = r^(-3/2)  =>  r w' = -3/2 r' w,
        x_i'' = Σ_j G m_j w d.

    Orders 30 and 28, with steps of 150 and 120 days, agree to 6e-15 AU at 1000 years.
    """
    real = np.longdouble
    mass = problem.MASSES.astype(real)
    i, j = np.triu_indices(len(mass), k=1)
    t1 = real(years) * real(problem.DAYS_PER_YEAR)
    num_steps = int(np.ceil(t1 / step))
    h = t1 / num_steps
    y0 = problem.initial_state()
    x0, v0 = (np.asarray(x).astype(real) for x in y0)
    for _ in range(num_steps):
        x = np.zeros((order + 1, *x0.shape), real)
        v, d = np.zeros_like(x), np.zeros((order, len(i), 3), real)
        r, w = np.zeros((order, len(i)), real), np.zeros((order, len(i)), real)
        x[0], v[0] = x0, v0
        for k in range(order):
            d[k] = x[k, j] - x[k, i]
            r[k] = np.einsum("npc,npc->p", d[: k + 1], d[k::-1])
            if k == 0:
                w[0] = 1 / (r[0] * np.sqrt(r[0]))
            else:
                n = np.arange(1, k + 1)
                scale = real(-1.5) * n - (k - n)
                w[k] = np.einsum("n,np,np->p", scale, r[n], w[k - n]) / (k * r[0])
            pull = problem.GRAVITATIONAL_CONSTANT * np.einsum(
                "np,npc->pc", w[: k + 1], d[k::-1]
            )
            x[k + 1] = v[k] / (k + 1)
            np.add.at(v[k + 1], i, mass[j, None] * pull / (k + 1))
            np.add.at(v[k + 1], j, -mass[i, None] * pull / (k + 1))
        x0, v0 = x[order], v[order]
        for k in reversed(range(order)):
            x0, v0 = x0 * h + x[k], v0 * h + v[k]
    return x0.astype(float)


def test_defaults(capsys, monkeypatch):
    runs = {}
    run = demonstration._run

    def recording_run(method, t1):
        runs[method.name] = run(method, t1)
        return runs[method.name]

    monkeypatch.setattr(demonstration, "_run", recording_run)
    demonstration.main([])
    rows = _rows(capsys.readouterr().out)
    assert list(rows) == ["TaylorSolver(order=20)", "Dopri8()", "Tsit5()"]
    steps, rejected, _, _, energy_error, position_error = rows["TaylorSolver(order=20)"]
    assert energy_error < 1e-13
    assert position_error < 1e-8
    assert 3 * steps < rows["Dopri8()"][0]
    assert rejected < 0.1 * steps

    # The reference that the errors are taken against. Rounding is all that is wrong
    # with it: errors in position grow like t^(3/2), to a few thousand ulps by now.
    if np.finfo(np.longdouble).eps < 1e-18:
        error = runs["reference"].y1[0] - _long_double_solution(years=1000)
        assert np.linalg.norm(error, axis=-1).max() < 2e-10


@pytest.mark.slow
def test_steps_at_1e_12():
    taylor, dopri8, _ = demonstration._methods(order=20, rtol=1e-12)
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
    assert "pip install eqx_taylor[plot]" in line


@pytest.mark.slow
def test_plot(tmp_path, capsys, monkeypatch):
    # The reference of the true order takes longest of all to compile.
    monkeypatch.setattr(demonstration, "_REFERENCE_ORDER", 3)
    path = tmp_path / "a.png"
    demonstration.main(
        ["--years", "20", "--order", "3", "--rtol", "1e-5", "--plot", str(path)]
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"Wrote {path}." in capsys.readouterr().out


def test_progress(monkeypatch, capsys):
    # Below the limit nothing is shown; above it (here: at once) the meter is.
    t1 = 100 * problem.DAYS_PER_YEAR
    method = demonstration._methods(4, 1e-6)[2]
    demonstration._run(method, t1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(demonstration, "_LONG_RUN", 0.0)
    progress = demonstration._Progress("a solver")
    progress.show(np.array(0.25))
    progress.finish()
    shown, blank = capsys.readouterr().err.split("\r")[1:3]
    assert shown == "a solver:  25.0 %"
    assert blank == " " * len(shown)


def test_as_a_command():
    """It starts, and changes neither JAX's settings nor loads matplotlib unasked."""
    code = """if True:
        import runpy, sys
        import jax
        sys.argv = ["eqx_taylor", "--order", "zero"]
        try:
            runpy.run_module("eqx_taylor", run_name="__main__")
        except SystemExit as e:
            assert e.code == 2
        assert not jax.config.jax_enable_x64
        assert "matplotlib" not in sys.modules
    """
    root = pathlib.Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "--order: invalid whole number value: 'zero'" in result.stderr
