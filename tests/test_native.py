"""Solves by machine code, against closed forms; what is not served, and what is said of it.

Without llvmlite only the latter is tested.
"""

import importlib.util

import diffrax
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optimistix
import pytest
from helpers import assert_close

from eqx_taylor import NativeAdjoint, TaylorController, TaylorSolver


needs_llvmlite = pytest.mark.skipif(
    importlib.util.find_spec("llvmlite") is None,
    reason="llvmlite is not installed: pip install 'eqx_taylor[native]'",
)
SaveAt = diffrax.SaveAt


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Of machine code: not that of the user."""
    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def solve(field, y0, t1=2.0, args=None, *, t0=0.0, order=16, tol=1e-13, dt0=None, **kw):
    kw.setdefault("adjoint", NativeAdjoint())
    kw.setdefault("stepsize_controller", TaylorController(rtol=tol, atol=tol))
    kw.setdefault("max_steps", 256)
    solver = kw.pop("solver", TaylorSolver(order=order))
    term = field if isinstance(field, diffrax.AbstractTerm) else diffrax.ODETerm(field)
    return diffrax.diffeqsolve(term, solver, t0, t1, dt0, y0, args, **kw)


def oscillator(t, y, rate):
    return {"v": -(rate**2) * y["x"], "x": y["v"]}


def exact_oscillator(t, rate):
    return np.sin(rate * t) / rate, np.cos(rate * t)


REST = {"v": jnp.array(1.0), "x": jnp.array(0.0)}


def forced(t, y, args):
    """y' = y cos t"""
    return y * jnp.cos(t)


# -- one solve


@needs_llvmlite
def test_whatever_is_saved():
    """PyTrees, and all of `SaveAt` that is served, in one solve each."""
    rate, ts = jnp.array(3.0), jnp.linspace(0.0, 2.0, 5)
    subs = [
        diffrax.SubSaveAt(t0=True, ts=ts, t1=True),
        diffrax.SubSaveAt(steps=1, fn=lambda t, y, args: args * y["x"]),
        diffrax.SubSaveAt(steps=3, t1=True, fn=lambda t, y, args: (t, y["v"])),
    ]
    saveat = SaveAt(subs=subs, dense=True)

    @jax.jit
    def run():
        found = solve(oscillator, REST, 2.0, rate, saveat=saveat)
        return found, jax.vmap(found.evaluate)(jnp.linspace(0.0, 2.0, 50))

    found, dense = run()
    x, v = exact_oscillator(np.concatenate([[0], ts, [2]]), 3.0)
    assert_close(found.ys[0]["x"], x, ulps=500)
    assert_close(found.ys[0]["v"], v, ulps=500)
    np.testing.assert_array_equal(found.ts[0], [0.0, *ts, 2.0])
    steps = int(found.stats["num_accepted_steps"])
    assert steps == found.stats["num_steps"] and 3 < steps < 30
    times = np.asarray(found.ts[1])
    assert times[steps - 1] == 2 and np.all(np.isinf(times[steps:]))
    assert np.all(np.isinf(found.ys[1][steps:]))
    assert_close(found.ys[1][:steps], np.sin(3 * times[:steps]), ulps=500)
    third = times[:steps][2::3]
    saved = len(third) + (steps % 3 != 0)
    assert_close(found.ts[2][: len(third)], third, ulps=0)
    assert found.ts[2][saved - 1] == 2 and np.all(np.isinf(found.ts[2][saved:]))
    assert_close(found.ys[2][1][:saved], np.cos(3 * found.ts[2][:saved]), ulps=500)
    assert_close(dense["x"], np.sin(3 * np.linspace(0, 2, 50)) / 3, ulps=500)


@needs_llvmlite
@pytest.mark.parametrize(
    "dtype, tol, order", [("float64", 1e-14, 18), ("float32", 1e-6, 8)]
)
def test_times_forwards_and_backwards(dtype, tol, order):
    """y = exp(sin t), with time in the field."""

    def run(t0, t1, compensated):
        t0, t1 = jnp.array(t0, dtype), jnp.array(t1, dtype)
        y0 = jnp.exp(jnp.sin(t0)) * jnp.ones(2, dtype)
        solver = TaylorSolver(order=order, compensated=compensated)
        saveat = SaveAt(
            ts=t0 + (t1 - t0) * jnp.linspace(0, 1, 4, dtype=dtype), dense=True
        )
        found = solve(forced, y0, t1, t0=t0, solver=solver, tol=tol, saveat=saveat)
        return (
            found.ts,
            found.ys,
            found.evaluate(t0 + (t1 - t0) * jnp.array(0.3, dtype)),
        )

    for ends in [(0.5, 7.0), (7.0, 0.5)]:
        for compensated in (False, True):
            ts, ys, inside = jax.jit(run, static_argnums=2)(*ends, compensated)
            assert ys.dtype == dtype
            exact = np.exp(np.sin(np.asarray(ts, float)))[:, None] * np.ones(2)
            assert_close(ys, exact.astype(dtype), ulps=100)
            t = np.float64(ends[0]) + 0.3 * (ends[1] - ends[0])
            assert_close(
                inside, (np.exp(np.sin(t)) * np.ones(2)).astype(dtype), ulps=100
            )


@pytest.mark.slow
@needs_llvmlite
def test_steps_are_those_of_the_solver():
    """But for the first one, which is chosen by another series."""
    y0 = jnp.array([1.0, 2.0])

    def field(t, y, args):
        return jnp.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])

    run = jax.jit(
        lambda adjoint, **kw: solve(field, y0, 20.0, dt0=0.01, adjoint=adjoint, **kw),
        static_argnames=("adjoint",),
    )
    native, xla = run(NativeAdjoint()), run(diffrax.RecursiveCheckpointAdjoint())
    assert native.stats["num_steps"] == xla.stats["num_steps"]
    assert_close(native.ys, xla.ys, ulps=5000)


@needs_llvmlite
def test_limits_of_steps():
    @jax.jit
    def steps(dtmax, factormax):
        controller = TaylorController(
            rtol=1e-8, atol=1e-8, dtmax=dtmax, factormax=factormax
        )
        found = solve(
            forced,
            jnp.array(1.0),
            4.0,
            dt0=2.0**-6,
            saveat=SaveAt(steps=True, t1=True),
            stepsize_controller=controller,
        )
        return found.ts, found.stats["num_steps"]

    ts, number = steps(0.125, 10.0)
    ts = np.asarray(ts[: int(number)])
    assert np.max(np.diff(ts)) <= 0.125 and ts[0] == 2.0**-6
    ts, number = steps(jnp.inf, 2.0)
    np.testing.assert_array_equal(ts[:3], np.cumsum([1, 2, 4]) / 64)


@needs_llvmlite
def test_nothing_to_solve():
    saveat = SaveAt(t0=True, ts=[1.0, 1.0], t1=True)
    found = jax.jit(lambda t: solve(forced, jnp.array(3.0), t, t0=t, saveat=saveat))(
        1.0
    )
    np.testing.assert_array_equal(found.ys, [3.0] * 4)
    assert found.stats["num_steps"] == 0


@needs_llvmlite
@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9, 17])
def test_sizes(size, compensated):
    """The loop looks at several entries at once, and the last ones are fewer. In lanes
    it looks at one: the steps are the same. An entry that is zero has no error."""
    rates = jnp.linspace(0.2, 1.5, size)
    entries = jnp.arange(size, dtype=float)
    y0 = jnp.where(entries == 1, 0.0, 1 + entries)

    def end(y0, t1):
        solution = solve(
            lambda t, y, rates: -rates * y,
            y0,
            t1,
            rates,
            order=8,
            solver=TaylorSolver(order=8, compensated=compensated),
            stepsize_controller=TaylorController(rtol=1e-11, atol=0.0),
        )
        return solution.ys[0], solution.stats["num_steps"]

    found, steps = jax.jit(end)(y0, 2.0)
    exact = y0 * jnp.exp(-2.0 * rates)
    np.testing.assert_allclose(found, exact, rtol=1e-10)
    both = jax.vmap(end, in_axes=(None, 0))(y0, jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(both[0][0], exact, rtol=1e-10)
    assert steps == both[1][0]


# -- what fails


@needs_llvmlite
def test_results():
    results = diffrax.RESULTS

    def run(field, y0, t1, **kwargs):
        return jax.jit(lambda y0: solve(field, y0, t1, throw=False, **kwargs))(y0)

    found = run(forced, jnp.array(1.0), 100.0, max_steps=5)
    assert found.result == results.max_steps_reached
    assert found.stats["num_steps"] == 5
    found = run(forced, jnp.array(jnp.nan), 1.0, max_steps=1000)
    assert found.result == results.nonfinite
    # The pole of y' = y^2 at 1.
    found = run(lambda t, y, args: y**2, jnp.array(1.0), 2.0, max_steps=1000)
    assert found.result in (results.dt_min_reached, results.nonfinite)
    assert found.stats["num_steps"] < 1000
    found = run(lambda t, y, args: jnp.log(t - 1) * y, jnp.array(1.0), 2.0)
    assert found.result == results.nonfinite
    # As a Python number, which is known while tracing.
    found = solve(
        lambda t, y, a: -a * y, jnp.array(1.0), args=float("nan"), throw=False
    )
    assert found.result == results.nonfinite


@needs_llvmlite
def test_a_failed_solve_raises():
    with pytest.raises(Exception, match="maximum number of solver steps"):
        solve(forced, jnp.array(1.0), 100.0, order=8, max_steps=5)


@needs_llvmlite
def test_a_jump_is_not_stepped_over():
    """A field that leaves for a pole between two steps: the defect rejects them."""

    def field(t, y, args):
        # A narrow peak, whose integral is pi / 100.
        return 1 / (1 + ((t - 5) * 100) ** 2) + jnp.zeros_like(y)

    found = jax.jit(lambda y: solve(field, y, 10.0, tol=1e-10, dt0=4.0))(jnp.array(0.0))
    exact = 2 * mpmath.atan(500) / 100
    assert abs(found.ys[0] - float(exact)) < 1e-9
    assert found.stats["num_rejected_steps"] > 0


# -- many solves


@needs_llvmlite
@pytest.mark.parametrize(
    "dtype, tol, order",
    [("float64", 1e-13, 16), pytest.param("float32", 1e-6, 8, marks=pytest.mark.slow)],
)
def test_vmap(dtype, tol, order):
    """Lanes with their own steps: over states, over arguments, over ends, over both."""
    rates = jnp.linspace(1.0, 4.0, 11, dtype=dtype)
    sizes = jnp.linspace(0.5, 2.0, 3, dtype=dtype)
    ts = jnp.linspace(0.0, 2.0, 4, dtype=dtype)

    def run(size, rate, ts, max_steps=256):
        y0 = {"v": size, "x": jnp.zeros((), dtype)}
        t1 = jnp.array(2.0, dtype)
        found = solve(
            oscillator, y0, t1, rate, tol=tol, order=order, max_steps=max_steps,
            saveat=SaveAt(ts=ts, t1=True, dense=True), t0=jnp.zeros((), dtype),
        )  # fmt: skip
        inside = found.evaluate(jnp.array(0.7, dtype))["x"]
        return found.ys["x"], inside, found.stats["num_steps"]

    over_both = jax.vmap(jax.vmap(run, (0, None, None)), (None, 0, None))

    def exact(size, rate, t):
        return (size * np.sin(rate * t) / rate).astype(dtype)

    t = np.append(np.asarray(ts, float), 2.0)
    ys, inside, steps = jax.jit(over_both)(sizes, rates, ts)
    rate, size = (
        np.asarray(x, float) for x in np.meshgrid(rates, sizes, indexing="ij")
    )
    ulps = 500 if dtype == "float64" else 50
    assert_close(ys, exact(size[..., None], rate[..., None], t), ulps=ulps)
    assert_close(
        inside, exact(size, rate, np.float64(jnp.array(0.7, dtype))), ulps=ulps
    )
    assert np.all(np.diff(steps[:, 0]) >= 0) and steps[-1, 0] > steps[0, 0]
    # One by one they take the same steps.
    ys_1, _, steps_1 = jax.jit(run)(sizes[1], rates[5], ts)
    assert steps_1 == steps[5, 1]
    assert_close(ys[5, 1], ys_1, ulps=20)
    # Over states only: one of many.
    ys, _, _ = jax.jit(jax.vmap(run, (0, None, None)))(sizes, rates[3], ts)
    assert_close(ys[1], exact(1.25, rate[3, 0], t), ulps=ulps)
    # Over times.
    ys, _, _ = jax.jit(jax.vmap(run, (None, None, 0)))(sizes[0], rates[3], ts[:, None])
    assert_close(ys[:, 0], exact(0.5, rate[3, 0], t[:-1]), ulps=ulps)


@needs_llvmlite
def test_lanes_end_by_themselves():
    """Of many solves, in several threads, some fail."""
    ends = jnp.linspace(0.1, 1.9, 100)
    run = lambda t1: solve(  # noqa: E731
        lambda t, y, args: y**2, jnp.array(1.0), t1, max_steps=1000, throw=False
    )
    found = jax.jit(jax.vmap(run))(ends)
    good = np.asarray(ends) < 0.999
    exact = 1 / (1 - np.asarray(ends)[good])
    # An error of one part grows as the square of the solution.
    assert np.all(np.abs(found.ys[good, 0] - exact) < 1e-12 * exact**2)
    failed = np.asarray(found.result != diffrax.RESULTS.successful)
    np.testing.assert_array_equal(failed, ~good)


# -- derivatives


@pytest.mark.slow
@needs_llvmlite
def test_gradients_are_those_of_otherwise():
    """Of what the field closes over, of arguments, states and times; under `vmap`."""

    def end(factor, rate, t1):
        def field(t, y, rate):
            return -rate * factor * y

        found = solve(field, factor, t1, rate, order=8, tol=1e-10, max_steps=32)
        return found.ys[0]

    # factor * exp(-factor rate t1)
    factor, rate, t1 = 1.5, jnp.array([0.25, 0.5]), 2.0
    grad = jax.vmap(jax.value_and_grad(end, (0, 1, 2)), (None, 0, None))
    value, found = jax.jit(grad)(jnp.array(factor), rate, jnp.array(t1))
    e = np.exp(-factor * np.asarray(rate) * t1)
    np.testing.assert_allclose(value, factor * e, rtol=1e-9)
    np.testing.assert_allclose(
        found[0], (1 - factor * np.asarray(rate) * t1) * e, rtol=1e-8
    )
    np.testing.assert_allclose(found[1], -(factor**2) * t1 * e, rtol=1e-8)
    np.testing.assert_allclose(found[2], -(factor**2) * np.asarray(rate) * e, rtol=1e-8)


@needs_llvmlite
def test_no_forward_mode():
    end = lambda y: solve(forced, y, max_steps=16).ys[0]  # noqa: E731
    with pytest.raises(TypeError, match="NativeAdjoint: it has no forward mode"):
        jax.jvp(end, (jnp.array(1.0),), (jnp.array(1.0),))


# -- what is not served

_EVENT = diffrax.Event(lambda t, y, args, **kwargs: y - 2)
_TAYLOR = TaylorController(rtol=1e-6, atol=1e-6)
REASONS = {
    "kink": (dict(field=lambda t, y, args: jnp.abs(y)), "`abs`.*test_native"),
    "loop": (
        dict(field=lambda t, y, args: jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, y)),
        "`lt`.*test_native",
    ),
    "complex": (dict(field=lambda t, y, args: y, y0=jnp.array(1j)), "complex128"),
    "solver": (
        dict(solver=diffrax.Tsit5(), stepsize_controller=diffrax.PIDController(1e-6, 1e-6)),
        "the solver is a Tsit5",
    ),
    "controller": (dict(stepsize_controller=diffrax.PIDController(1e-6, 1e-6)), "no `TaylorController`"),
    "norm": (
        dict(stepsize_controller=TaylorController(1e-6, 1e-6, norm=optimistix.max_norm)),
        "norm of its own",
    ),
    "dtmin": (dict(stepsize_controller=TaylorController(1e-6, 1e-6, dtmin=1e-3)), "`dtmin`"),
    "event": (dict(event=_EVENT, solver=TaylorSolver(order=6, event=_EVENT)), "has an event"),
    "stiff": (dict(solver=TaylorSolver(order=6, warn_if_stiff=True)), "warn_if_stiff"),
    "states": (dict(saveat=SaveAt(t1=True, solver_state=True)), "asks for states"),
    "ts and steps": (dict(saveat=SaveAt(ts=[1.0], steps=True)), "`ts` and `steps`"),
    "no entries": (dict(y0=jnp.zeros(0)), "no entries"),
    "term": (
        dict(field=diffrax.MultiTerm(diffrax.ODETerm(forced), diffrax.ODETerm(forced))),
        "MultiTerm",
    ),
}  # fmt: skip


@needs_llvmlite
@pytest.mark.filterwarnings("ignore:Complex dtype support")
@pytest.mark.parametrize("name", REASONS)
def test_what_is_not_served_runs_in_xla(name):
    kwargs, words = REASONS[name]
    kwargs = {"stepsize_controller": _TAYLOR, "solver": TaylorSolver(order=6), **kwargs}
    field, y0 = kwargs.pop("field", forced), kwargs.pop("y0", jnp.array(1.0))
    with pytest.warns(UserWarning, match=f"NativeAdjoint: .*{words}.* runs in XLA"):
        jax.eval_shape(lambda: solve(field, y0, t1=1.5, max_steps=16, **kwargs).ys)


def test_without_the_extra(monkeypatch):
    """What is imported, and what runs: the solve as it is without."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "llvmlite" else find(name),
    )
    with pytest.warns(UserWarning, match=r"pip install \"eqx_taylor\[native\]\""):
        found = jax.jit(lambda y: solve(forced, y, order=8, tol=1e-8, max_steps=32).ys)(
            1.0
        )
    assert abs(found[0] - np.exp(np.sin(2.0))) < 1e-7


def test_arguments(without_types):
    with pytest.raises(
        TypeError, match="NativeAdjoint: `otherwise` must be an adjoint"
    ):
        NativeAdjoint(otherwise=3)  # pyright: ignore


# -- machine code on disk


@needs_llvmlite
def test_machine_code_is_kept(folder, monkeypatch):
    from eqx_taylor._native import engine

    machines, names, registered = [], set(), engine._register
    monkeypatch.setattr(
        engine,
        "_register",
        lambda name, address: (
            names.add(name) or registered(name, address) if name not in names else None
        ),
    )

    def run(factor):
        # As in a process of its own; what XLA knows stays.
        machines.append(fresh := engine.Machine())
        monkeypatch.setattr("eqx_taylor._native.cpu.machine", lambda: fresh)
        compiled = []
        monkeypatch.setattr(
            fresh,
            "_compiled",
            lambda *args: compiled.append(args) or compile_(fresh, *args),
        )
        field = lambda t, y, args: factor * y  # noqa: E731
        found = jax.jit(lambda y: solve(field, y, 1.0).ys[0])(jnp.array(1.0))
        assert_close(found, np.exp(factor), ulps=50)
        return len(compiled)

    compile_ = engine.Machine._compiled
    assert run(0.5) == 1
    [file] = folder.iterdir()
    assert run(0.5) == 0
    # Another program.
    assert run(0.25) == 1 and len(list(folder.iterdir())) == 2
    # A file that was cut short.
    file.write_bytes(file.read_bytes()[:-1])
    assert run(0.5) == 1 and run(0.5) == 0
    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", "")
    assert run(0.5) == 1 and len(list(folder.iterdir())) == 2
    # A folder that is none.
    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(file))
    assert run(0.5) == 1
