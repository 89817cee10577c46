"""Ensembles of solves: lanes of `vmap`, devices, and processes.

What is asserted to be equal bit for bit is computed by the same machine code: XLA makes
it for a number of lanes, wherever these are. With another number of lanes it fuses and
vectorises otherwise, multiplications and additions are contracted in other places, and
results differ by roundings, which the solution then carries along.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import diffrax
import jax
import numpy as np
import pytest
import scipy.integrate

from benchmarks.problems import kepler_slopes
from eqx_taylor import TaylorController, TaylorSolver


EXAMPLES = pathlib.Path(__file__).parents[1] / "docs" / "examples"
TEXT = (EXAMPLES.parent / "ensembles.md").read_text(encoding="utf-8")
MEMBERS, DEVICES = 1024, 8

sys.path.insert(0, str(EXAMPLES))
try:
    import ensemble
finally:
    sys.path.remove(str(EXAMPLES))


def _run(script, *args, xla_flags="", timeout=240):
    """What a script prints. It and the processes it started are gone afterwards."""
    env = os.environ | {"XLA_FLAGS": xla_flags}
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return process.returncode, out, err


def _results(tmp_path, script, *args, **kwargs):
    file = tmp_path / "results.npz"
    code, out, err = _run(script, *args, "--save", file, **kwargs)
    assert code == 0, err
    with np.load(file) as results:
        return out, results["y1"], results["steps"]


def _assert_close(y1, expected, scale):
    assert np.max(np.abs(y1 - expected)) < 1e-14 * scale


@pytest.fixture(scope="module")
def on_one_device():
    """In blocks of as many members as a device has, where there are eight."""
    y0, rho = ensemble.members(MEMBERS)
    solve_all = jax.jit(jax.vmap(ensemble.solve))
    size = MEMBERS // DEVICES
    blocks = [
        solve_all(y0[i : i + size], rho[i : i + size]) for i in range(0, MEMBERS, size)
    ]
    y1, steps, successful = map(np.concatenate, zip(*blocks))
    assert np.all(successful)
    return y1, steps


# -- lanes


def test_lanes_are_as_single_solves(on_one_device):
    """One by one, a block, and all at once. Lanes have numbers of steps of their own."""
    y1, steps = on_one_device
    y0, rho = ensemble.members(MEMBERS)
    size = np.max(np.abs(y1))
    one = jax.jit(ensemble.solve)
    some = range(0, MEMBERS, 31)
    for i in some:
        alone, alone_steps, _ = one(y0[i], rho[i])
        _assert_close(alone, y1[i], size)
        assert alone_steps == steps[i]
    assert len(set(steps[some].tolist())) > 3

    whole, whole_steps, _ = jax.jit(jax.vmap(ensemble.solve))(y0, rho)
    _assert_close(whole, y1, size)
    np.testing.assert_array_equal(whole_steps, steps)


def test_ensemble_solves_the_equation(on_one_device):
    """A few members, against another method."""
    y1, _ = on_one_device
    y0, rho = ensemble.members(MEMBERS)
    for i in (0, 500, 1023):

        def slopes(t, y, rho=rho[i]):
            a, b, c = y
            return [10 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c]

        exact = scipy.integrate.solve_ivp(
            slopes, (0, 1), y0[i], method="DOP853", rtol=1e-12, atol=1e-12
        ).y[:, -1]
        # The tolerance of the local error is 1e-6, and errors grow along the way.
        np.testing.assert_allclose(y1[i], exact, atol=1e-3)


def _kepler(eccentricity, t):
    """Position at a time after pericentre, by Kepler's equation."""
    anomaly = np.full_like(eccentricity, np.pi)
    for _ in range(50):
        anomaly -= (anomaly - eccentricity * np.sin(anomaly) - t) / (
            1 - eccentricity * np.cos(anomaly)
        )
    minor = np.sqrt(1 - eccentricity**2)
    return np.stack([np.cos(anomaly) - eccentricity, minor * np.sin(anomaly)], 1)


@pytest.mark.slow
def test_kepler_orbits_of_many_eccentricities():
    """A PyTree for a state; lanes whose steps differ by much; a parameter, the strength
    of the force, with an axis in another place."""

    def solve(y0, strength):
        def field(t, y, strength):
            return kepler_slopes(*y, strength)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            TaylorSolver(6),
            t0=0.0,
            t1=4.0,
            dt0=None,
            y0=y0,
            args=strength[0],
            stepsize_controller=TaylorController(rtol=1e-8, atol=1e-8),
        )
        return solution.ys[0][0], solution.stats["num_steps"]

    e = np.linspace(0, 0.9, 16)
    zero = np.zeros_like(e)
    x0 = np.stack([1 - e, zero], 1)
    # Time scales with the square root of the strength.
    strength = np.linspace(1, 1.5, 16)
    v0 = np.stack([zero, np.sqrt(strength * (1 + e) / (1 - e))], 1)
    lanes = jax.jit(jax.vmap(solve, in_axes=(0, 1), out_axes=(1, 0)))
    x1, steps = lanes((x0, v0), strength[None])
    assert x1.shape == (2, 16)
    exact = _kepler(e, 4 * np.sqrt(strength))
    np.testing.assert_allclose(x1.T, exact, atol=1e-5)
    assert max(steps) > 3 * min(steps)
    one = jax.jit(solve)
    for i in range(16):
        alone, alone_steps = one((x0[i], v0[i]), strength[i : i + 1])
        # A rounding of the speed at pericentre changes the energy, and with it the period,
        # in proportion to the speed squared.
        _assert_close(alone, x1[:, i], 1 / (1 - e[i]))
        assert alone_steps == steps[i]


# -- devices


def _collectives(folder):
    """The collective operations in the optimised program of the solve."""
    [file] = folder.glob("*solve*cpu_after_optimizations.txt")
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    pattern = rf"= (\S+) (?:{names})(?:-start)?\("
    return re.findall(pattern, file.read_text(encoding="utf-8"))


@pytest.mark.sample(2)
@pytest.mark.parametrize("partition", ["shard_map", "jit"])
def test_devices(partition, on_one_device, tmp_path):
    """As many devices as XLA is told that there are. Divided by XLA, the loop asks all
    of them for its predicate; under `shard_map`, they have nothing to say to each other.
    """
    folder = tmp_path / "dump"
    flags = [
        f"--xla_force_host_platform_device_count={DEVICES}",
        f"--xla_dump_to={folder}",
        "--xla_dump_hlo_as_text",
        "--xla_dump_hlo_module_re=.*solve.*",
    ]
    out, y1, steps = _results(
        tmp_path, "ensemble.py", "--partition", partition, xla_flags=" ".join(flags)
    )
    np.testing.assert_array_equal(y1, on_one_device[0])
    np.testing.assert_array_equal(steps, on_one_device[1])
    assert f"{DEVICES} devices, with {MEMBERS // DEVICES} members each" in out
    shapes = _collectives(folder)
    if partition == "shard_map":
        assert shapes == []
        assert out in TEXT
    else:
        # A few scalars, but never the states.
        assert len(shapes) > 0
        assert {shape.split("{")[0] for shape in shapes} == {"pred[]"}, shapes


# -- processes


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["shard_map", "jit"])
def test_processes(partition, on_one_device, tmp_path):
    """Two of them, of four devices each, which the script starts itself."""
    out, y1, steps = _results(
        tmp_path,
        "ensemble_distributed.py",
        *("--num-processes", 2, "--devices", DEVICES // 2, "--partition", partition),
        *("--timeout", 200),
    )
    np.testing.assert_array_equal(y1, on_one_device[0])
    np.testing.assert_array_equal(steps, on_one_device[1])
    # Gloo writes of its connections, too, from several threads, whose lines are cut into one
    # another: what the page shows must be there line by line, in order, whatever is between.
    start = TEXT.index("2 processes, here ")
    shown = TEXT[start : TEXT.index("```", start)].splitlines()
    assert len(shown) == 4
    printed = iter(out.splitlines())
    assert all(line in printed for line in shown), out


@pytest.mark.slow
def test_no_process_is_left():
    """If one cannot go on, here for a number of members that cannot be divided, the
    others are ended, and that there was a failure is reported."""
    code, _, err = _run(
        "ensemble_distributed.py", "--devices", 2, "--members", 7, "--timeout", 100
    )
    assert code == 1
    assert "a process failed" in err
