"""Solves by kernels for NVIDIA's GPUs, which an interpreter runs here: as they are given
to XLA, against the machine code of CPUs and against closed forms."""

import functools as ft
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from helpers import assert_close
from ptx_interpreter import Module

from eqx_taylor import NativeAdjoint, TaylorController, TaylorSolver


pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llvmlite") is None,
    reason="llvmlite is not installed: pip install 'eqx_taylor[native]'",
)
SaveAt, RESULTS = diffrax.SaveAt, diffrax.RESULTS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Of machine code: not that of the user."""
    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(tmp_path))


@pytest.fixture
def libdevice():
    """NVIDIA's functions, without which a field has none."""
    from eqx_taylor._native import ptx
    from eqx_taylor._native.atoms import NotNative

    try:
        ptx.check_library()
    except NotNative as error:
        pytest.skip(str(error))


class Gpu:
    """What XLA is told to call, where it is told to compute on a GPU.

    - `kernels`: the text of each kernel by its name.
    - `threads`: how many threads have run.
    """

    def __init__(self):
        self.kernels: dict[str, str] = {}
        self.threads = 0

    def ffi_call(self, target, outs):
        assert target == "__gpu$xla.gpu.ptx"

        def function(*operands, **attributes):
            sizes = [attributes.pop(x) for x in ("grid_x", "block_x")]
            name, text = attributes.pop("name"), attributes.pop("kernel_data")
            kind = attributes.pop("kernel_type")
            assert kind == "ptx" and attributes.keys() == {
                "grid_y", "grid_z", "block_y", "block_z", "shared_mem_bytes"
            }  # fmt: skip
            # XLA decodes no other kind of integer.
            assert {type(x) for x in (*sizes, *attributes.values())} == {np.int32}
            assert all(
                attributes.pop(f"{x}_{y}") == 1 for x in ("grid", "block") for y in "yz"
            )
            self.kernels[name] = text

            def run(*arrays):
                arrays = [np.asarray(x) for x in arrays]
                # XLA has no memory to which an address of nothing could point.
                assert all(x.size for x in arrays)
                self.threads += int(np.prod(sizes))
                return module(text).run(name, *map(int, sizes), arrays, outs)

            return jax.pure_callback(run, outs, *operands)

        return function


@ft.lru_cache(maxsize=64)
def module(text):
    return Module(text)


@pytest.fixture
def gpu(monkeypatch):
    """A function that calls a function, of which solves run on this GPU."""

    def run(function, *args, compiled=True):
        from eqx_taylor._native import call

        found = Gpu()
        with monkeypatch.context() as patch:
            patch.setattr(call, "by_platform", lambda xs, outs, cpu, cuda: cuda(*xs))
            patch.setattr(jax.ffi, "ffi_call", found.ffi_call)
            call_it = jax.jit if compiled else jax.make_jaxpr
            values = jax.block_until_ready(call_it(lambda *xs: function(*xs))(*args))
        assert found.kernels
        return values, found

    return run


def solve(field, y0, t1=2.0, args=None, *, t0=0.0, order=16, tol=1e-13, dt0=None, **kw):
    kw.setdefault("max_steps", 256)
    # Each time another one: Diffrax keeps what it has traced, on either platform.
    term = diffrax.ODETerm(lambda *xs: field(*xs))
    dtype = jax.tree.leaves(y0)[0].dtype
    return diffrax.diffeqsolve(
        term,
        TaylorSolver(order=order, compensated=kw.pop("compensated", False)),
        jnp.asarray(t0, dtype),
        jnp.asarray(t1, dtype),
        dt0,
        y0,
        args,
        stepsize_controller=TaylorController(rtol=tol, atol=tol),
        adjoint=NativeAdjoint(),
        **kw,
    )


def results(found, *names):
    """What is compared with CPUs."""
    chosen = {name: getattr(found, name) for name in ("ts", "ys", *names)}
    return {**chosen, "stats": found.stats, "result": found.result._value}


# -- the cases

# Each is a function without arguments that returns a function which solves, its
# arguments, and a function that checks what is returned by closed forms.
CASES = {}
# The names of those that need functions of NVIDIA.
WITH_FUNCTIONS = set()


def case(*names, with_functions=False, **params):
    """Makes cases of a function: one for each name, with the parameters at its place."""

    def add(make):
        for i, name in enumerate(names or [make.__name__]):
            chosen = {key: values[i] for key, values in params.items()}
            CASES[name] = ft.partial(make, **chosen)
            if with_functions or "function" in name:
                WITH_FUNCTIONS.add(name)
        return make

    return add


def lorenz(t, y, rho):
    a, b, c = y
    return jnp.stack([10 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c])


def exact_lorenz(y0, rho, t, order=40, steps=40):
    """By series, with 40 digits."""
    with mpmath.workdps(40):
        y, h = [mpmath.mpf(float(x)) for x in y0], mpmath.mpf(t) / steps
        for _ in range(steps):
            a, b, c = ([x] for x in y)
            for k in range(order):
                ac = mpmath.fdot(a, c[::-1])
                ab = mpmath.fdot(a, b[::-1])
                da, db = 10 * (b[k] - a[k]), rho * a[k] - ac - b[k]
                dc = ab - mpmath.mpf(8) / 3 * c[k]
                for x, dx in zip((a, b, c), (da, db, dc)):
                    x.append(dx / (k + 1))
            y = [mpmath.fdot((xk, h**k) for k, xk in enumerate(x)) for x in (a, b, c)]
        return np.array([float(x) for x in y])


@case("lorenz 8", "lorenz 20", order=[8, 20], tol=[1e-9, 1e-13])
def shared_arguments(order, tol):
    """More solves than a block has threads; some in the second one have no work."""

    def run(y0, rho):
        return results(solve(lorenz, y0, 1.0, rho, order=order, tol=tol))

    def check(found):
        steps = found["stats"]["num_steps"]
        assert len(set(steps.tolist())) > 1
        for i in (0, 31, 32, 39):
            exact = exact_lorenz(y0[i], 28, 1.0)
            np.testing.assert_allclose(found["ys"][i, 0], exact, rtol=1e4 * tol)

    y0 = jnp.outer(jnp.linspace(0.1, 10, 40), jnp.array([1.0, 2.0, 3.0]))
    return jax.vmap(run, (0, None)), (y0, jnp.array(28.0)), check


@case()
def own_arguments():
    """All from one state, and without a limit of steps."""

    def run(y0, rho):
        return results(solve(lorenz, y0, 1.0, rho, max_steps=None))

    def check(found):
        for i in (0, 32):
            exact = exact_lorenz(y0, float(rhos[i]), 1.0)
            np.testing.assert_allclose(found["ys"][i, 0], exact, rtol=1e-10)

    y0, rhos = jnp.array([1.0, 2.0, 3.0]), jnp.linspace(10, 40, 33)
    return jax.vmap(run, (None, 0)), (y0, rhos), check


def power(x):
    return x**1.5


# Of JAX, and of mpmath.
FUNCTIONS = [
    (getattr(jnp, name), getattr(mpmath, of or name))
    for name, of in [
        ("sin", ""), ("cos", ""), ("tan", ""), ("exp", ""), ("log", ""), ("sinh", ""),
        ("cosh", ""), ("tanh", ""), ("arcsin", "asin"), ("arccos", "acos"),
        ("arctan", "atan"), ("arcsinh", "asinh"), ("arctanh", "atanh"), ("cbrt", ""),
        ("expm1", ""), ("log1p", ""), ("sqrt", ""),
    ]
] + [
    (power, power),
    (jax.scipy.special.erf, mpmath.erf),
    (jax.scipy.special.erfc, mpmath.erfc),
    (lambda x: jnp.arccosh(1 + x), lambda x: mpmath.acosh(1 + x)),
    (jnp.exp2, lambda x: mpmath.mpf(2) ** x),
    (jnp.log2, lambda x: mpmath.log(x, 2)),
    (jax.nn.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x))),
    (jax.nn.softplus, lambda x: mpmath.log(1 + mpmath.exp(x))),
    (jax.lax.rsqrt, lambda x: 1 / mpmath.sqrt(x)),
]  # fmt: skip


@case(
    "functions 64", "functions 32", with_functions=True,
    dtype=["float64", "float32"], order=[12, 6], tol=[1e-12, 1e-5],
)  # fmt: skip
def functions(dtype, order, tol):
    """The integrals of all functions, each of them times an argument."""

    def field(t, y, factors):
        x = y[0] / 2 + factors[0]
        values = [f(x) for f, _ in FUNCTIONS]
        return jnp.stack([jnp.ones_like(x), *values]) * factors[1]

    def run(y0, factors):
        return results(solve(field, y0, 1.0, factors, order=order, tol=tol))

    def check(found):
        assert np.all(found["result"] == 0)
        for ys, (start, factor) in zip(found["ys"], np.asarray(factors, float)):

            def integral(f):
                inside = lambda t: factor * f(factor * t / 2 + start)  # noqa: E731
                return float(mpmath.quad(inside, [0, 1]))

            exact = [factor, *(integral(of) for _, of in FUNCTIONS)]
            np.testing.assert_allclose(ys[0], exact, rtol=100 * tol)

    y0 = jnp.zeros(len(FUNCTIONS) + 1, dtype)
    factors = jnp.array([[0.3, 0.9], [0.1, 1.2]], dtype)
    return jax.vmap(run, (None, 0)), (y0, factors), check


def forced(t, y, args):
    """y = exp(sin t)"""
    return y * jnp.cos(t)


@case(
    "times 64", "times 64 compensated", "times 32", "times 32 compensated",
    with_functions=True, dtype=["float64", "float64", "float32", "float32"],
    compensated=[False, True, False, True],
)  # fmt: skip
def times(dtype, compensated):
    """Explicit time, forwards and backwards, and times of their own."""
    order, tol = (18, 1e-14) if dtype == "float64" else (8, 1e-6)

    def run(t0, t1):
        y0 = jnp.exp(jnp.sin(t0)) * jnp.ones(2, dtype)
        ts = t0 + (t1 - t0) * jnp.linspace(0, 1, 4, dtype=dtype)
        found = solve(
            forced, y0, t1, t0=t0, order=order, tol=tol, compensated=compensated,
            saveat=SaveAt(ts=ts, t1=True, dense=True), dt0=(t1 - t0) / 20,
        )  # fmt: skip
        t = t0 + (t1 - t0) * jnp.array(0.3, dtype)
        return results(found) | {"inside": (t, found.evaluate(t))}

    def check(found):
        for t, y in [(found["ts"], found["ys"]), found["inside"]]:
            exact = np.exp(np.sin(np.asarray(t, float)))[..., None] * np.ones(2)
            assert_close(y, exact.astype(dtype), 100)

    t0, t1 = jnp.array([[0.5, 7.0, -3.0], [7.0, 0.5, -4.0]], dtype)
    return jax.vmap(run), (t0, t1), check


def oscillator(t, y, rate):
    return {"v": -(rate**2) * y["x"], "x": y["v"]}


@case("saved 64", "saved 32", dtype=["float64", "float32"])
def saved(dtype):
    """All of `SaveAt` that is served; times are those of all."""
    order, tol = (16, 1e-13) if dtype == "float64" else (8, 1e-6)
    ts = jnp.linspace(0, 2, 5, dtype=dtype)
    subs = [
        diffrax.SubSaveAt(t0=True, ts=ts, t1=True),
        diffrax.SubSaveAt(steps=1, fn=lambda t, y, args: y["x"] * args),
    ]

    def run(rate):
        zero = jnp.zeros((), dtype)
        found = solve(
            oscillator, {"v": zero + 1, "x": zero}, 2.0, rate, order=order, tol=tol,
            saveat=SaveAt(subs=subs, dense=True), max_steps=64,
        )  # fmt: skip
        return results(found) | {"inside": jax.vmap(found.evaluate)(ts)}

    def check(found):
        t, rate = np.asarray(ts, float), np.asarray(rates, float)[:, None]
        exact = (np.sin(rate * t) / rate).astype(dtype)
        assert_close(found["inside"]["x"], exact, 500)
        assert_close(found["ys"][0]["x"][:, 1:-1], exact, 500)
        for i, steps in enumerate(found["stats"]["num_accepted_steps"]):
            t = np.asarray(found["ts"][1][i, :steps], float)
            assert t[-1] == 2 and np.all(np.isinf(found["ts"][1][i, steps:]))
            exact = np.sin(float(rates[i]) * t).astype(dtype)
            assert_close(found["ys"][1][i, :steps], exact, 500)

    rates = jnp.linspace(1, 4, 3, dtype=dtype)
    return jax.vmap(run), (rates,), check


@case()
def limited():
    """Some have fewer steps than they need."""

    def run(y0, t1):
        saveat = SaveAt(steps=True)
        found = solve(
            lorenz, y0, t1, jnp.array(28.0), order=8, tol=1e-8, max_steps=10,
            throw=False, saveat=saveat,
        )  # fmt: skip
        return results(found)

    def check(found):
        codes = {int(RESULTS.successful._value), int(RESULTS.max_steps_reached._value)}
        assert set(found["result"].tolist()) == codes

    y0, t1 = jnp.array([1.0, 2.0, 3.0]), jnp.linspace(0.05, 2.0, 5)
    return jax.vmap(run, (None, 0)), (y0, t1), check


@case("poles 64", "poles 32", dtype=["float64", "float32"])
def poles(dtype):
    """Poles, and states that are no numbers from the start."""
    tol = 1e-13 if dtype == "float64" else 1e-6

    def run(y0, t1):
        square = lambda t, y, args: y**2  # noqa: E731
        return results(solve(square, y0, t1, tol=tol, throw=False, max_steps=100))

    def check(found):
        start, end = np.asarray(y0, float), np.asarray(t1, float)
        good = np.isfinite(start) & ~(start * end > 1)
        np.testing.assert_array_equal(found["result"] == 0, good)
        exact = start[good] / (1 - start[good] * end[good])
        error = np.abs(found["ys"][good, 0] - exact)
        assert np.all(error <= 100 * tol * exact**2)
        codes = found["result"][~np.isfinite(start)]
        assert np.all(codes == RESULTS.nonfinite._value)

    nan, inf = np.nan, np.inf
    y0 = jnp.array([1.0, 1.0, 1.0, -1.0, nan, inf, -inf, 0.0], dtype)
    t1 = jnp.array([0.5, 0.9, 1.5, 2.5, 1.0, 1.0, 1.0, 1.0], dtype)
    return jax.vmap(run), (y0, t1), check


@case("roots 64", "roots 32", dtype=["float64", "float32"])
def roots(dtype):
    """A field that is no number from a time on, or by an argument."""
    tol = 1e-10 if dtype == "float64" else 1e-4

    def run(t1, factor):
        field = lambda t, y, factor: factor * jnp.sqrt(1 - t) + 0 * y  # noqa: E731
        y0, nothing = jnp.zeros((), dtype), np.finfo(dtype).eps
        found = solve(
            field, y0, t1, factor, tol=tol, throw=False, max_steps=400,
            saveat=SaveAt(ts=t1 * jnp.array([0, 0.5, 1 - nothing], dtype)),
        )  # fmt: skip
        return results(found)

    def check(found):
        good = np.array([True, True, False, False, False])
        np.testing.assert_array_equal(found["result"] == 0, good)
        t = found["ts"][good].astype(float)
        exact = np.asarray(factor, float)[good, None] * 2 / 3 * (1 - (1 - t) ** 1.5)
        np.testing.assert_allclose(found["ys"][good], exact, atol=10 * tol)
        # What was asked for before the field ends is there, and nothing after.
        assert np.all(np.isfinite(found["ys"][2, :2]))
        assert np.all(np.isinf(found["ys"][2:, 2]))

    t1 = jnp.array([0.5, 0.9, 1.5, 0.5, 0.5], dtype)
    factor = jnp.array([1.0, -2.0, 1.0, np.nan, np.inf], dtype)
    return jax.vmap(run), (t1, factor), check


@case(
    "large 64", "large 32", with_functions=True,
    dtype=["float64", "float32"], last=[300, 38],
)  # fmt: skip
def large(dtype, last):
    """Angles that are reduced by many digits of pi: of a state, and of an argument."""

    def field(t, y, angle):
        return jnp.stack([0 * y[0], jnp.cos(y[0]) * y[1], jnp.sin(angle) * y[2]])

    def run(angle):
        y0 = jnp.stack([angle, jnp.ones_like(angle), jnp.ones_like(angle)])
        tol = 1e-13 if dtype == "float64" else 1e-6
        return results(solve(field, y0, 1.0, angle, tol=tol))

    def check(found):
        with mpmath.workdps(400):
            for angle, ys in zip(np.asarray(angles, float), found["ys"]):
                slopes = mpmath.cos(float(angle)), mpmath.sin(float(angle))
                exact = np.array([angle, *(float(mpmath.exp(x)) for x in slopes)])
                eps = np.finfo(dtype).eps
                np.testing.assert_allclose(ys[0], exact, rtol=50 * eps)

    angles = [1.0, 1e4, -2e5, 3e9, -1e10, 1.7e15, 1e22, 10.0**last]
    angles = jnp.array(angles, dtype)
    return jax.vmap(run), (angles,), check


@case("loop", "loop with functions", has_time=[False, True])
def looped(has_time):
    """A field with so many products that its series is a loop over the orders."""

    def field(t, y, args):
        slope = y @ y
        return slope * jnp.cos(t) if has_time else slope

    def run(y0):
        return results(solve(field, y0, 0.5, order=12))

    def check(found):
        t = np.sin(0.5) if has_time else 0.5
        exact = np.linalg.solve(np.eye(4) - t * np.asarray(y0), np.asarray(y0))
        np.testing.assert_allclose(found["ys"][:, 0], exact, rtol=1e-11)

    y0 = jax.random.uniform(jax.random.key(0), (2, 4, 4)) / 2
    return jax.vmap(run), (y0,), check


# -- the tests


@pytest.mark.parametrize("name", CASES)
def test_solves(gpu, name, request):
    if name in WITH_FUNCTIONS:
        request.getfixturevalue("libdevice")
    run, args, check = CASES[name]()
    found, machine = gpu(run, *args)
    found = jax.tree.map(np.asarray, found)
    check(found)
    assert machine.threads >= len(found["result"])
    # The CPU makes the same steps, by other code of LLVM and with other functions.
    expected = jax.jit(run)(*args)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    paths = jax.tree.leaves_with_path(expected)
    for (path, e), x in zip(paths, jax.tree.leaves(found)):
        e, finite = np.asarray(e), np.isfinite(e)
        numbers = [np.where(finite, 0, z) for z in (x, e)]
        np.testing.assert_array_equal(*numbers, err_msg=jax.tree_util.keystr(path))
        ulps = 8 if e.dtype.kind == "f" else 0
        assert_close(np.where(finite, x, 0), np.where(finite, e, 0), ulps)


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="there is no ptxas here")
@pytest.mark.parametrize(
    "architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
)
def test_assembler(gpu, architecture, tmp_path):
    """NVIDIA's own assembler takes kernels for all GPUs of these years."""
    _assemble(gpu, ["lorenz 8", "times 32"], architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ptxas") is None, reason="there is no ptxas here")
def test_assembler_all_kernels(gpu, libdevice, tmp_path):
    _assemble(gpu, list(CASES), "sm_90", tmp_path)


def _assemble(gpu, names, architecture, folder):
    for name in names:
        run, args, _ = CASES[name]()
        _, machine = gpu(run, *args, compiled=False)
        for text in set(machine.kernels.values()):
            (folder / "kernel.ptx").write_text(text)
            command = ["ptxas", f"-arch={architecture}", "kernel.ptx", "-o", "kernel"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if "gpu-name" in done.stderr:
                pytest.skip(f"this ptxas does not know {architecture}")
            assert done.returncode == 0, (name, done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="needs pip install jax-cuda12-plugin jax-cuda12-pjrt; no GPU",
)
def test_compiled_by_xla():
    """XLA takes whole programs with these kernels in them."""
    script = Path(__file__).with_name("cuda_ahead_of_time.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kernels of our own") == 7
