"""Ways from the recurrences of a field to machine code: XLA, llvmlite, numba and NVIDIA
Warp, on Lorenz, the outer Solar System by pairs, and a small MLP.

`python -m benchmarks.native_ways` prints what the choice of llvmlite rests on. It needs
llvmlite; numba and `warp-lang` are compared if they are installed.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from eqx_taylor import _outer_solar_system as solar_system, TaylorSolver

from ._heyoka import EPS, lorenz, solar_systems, Time, timed
from ._report import main, Report
from ._timing import warm_up
from .native import compiled, solve
from .work_precision import take_turns


TITLE = "Ways to machine code"
TEXT = """
The same scalar program in the last three columns; numba's and Warp's are Python source
with a loop over orders and a loop for each sum of products (`_scalar_python.py`), and
choose their steps by the coefficients alone, without a look at the defect. Run time is
that of a step; compile time, in parentheses, is from the Python function to the first
result of an executable. On CPUs Warp compiles by Clang, and has one thread. The MLP has
more series than numba compiles in a minute.
"""
# Programs with more series are left out for numba and Warp.
MOST_SERIES = 220

_NUMBA = """
import numba
from math import exp, log, sqrt, tanh
F, ARRAY = float, None
"""
_WARP = """
import warp as wp
wp.set_module_options({"max_unroll": 1})
F, ARRAY = wp.float64, wp.array(dtype=wp.float64)
exp, log, sqrt, tanh, min, max, abs, pow = (
    wp.exp, wp.log, wp.sqrt, wp.tanh, wp.min, wp.max, wp.abs, wp.pow
)
"""


def _module(name: str, text: str, folder: str) -> Any:
    """Imports Python source: Warp reads the file again."""
    pathlib.Path(folder, f"{name}.py").write_text(text)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def by_numba(
    text: str, size: int, y0: np.ndarray, ends: np.ndarray, folder: str, i: int
):
    import numba  # pyright: ignore[reportMissingImports]

    text = text.replace("def ", "@numba.njit(fastmath={'contract'})\ndef ")
    module = _module(f"by_numba_{i}", _NUMBA + text.replace(": ARRAY", ""), folder)
    del numba
    c, out = np.zeros(size), np.zeros(len(y0) + 1)
    return lambda: module.solve(y0, ends, c, out), out


def by_warp(
    text: str, size: int, y0: np.ndarray, ends: np.ndarray, folder: str, i: int
):
    import warp as wp  # pyright: ignore[reportMissingImports]

    wp.config.quiet, wp.config.kernel_cache_dir = True, folder
    text = text.replace("def series", "@wp.func\ndef series")
    text = text.replace("def solve", "@wp.kernel(enable_backward=False)\ndef solve")
    module = _module(f"by_warp_{i}", _WARP + text, folder)
    arrays = [
        wp.array(x, dtype=wp.float64, device="cpu")
        for x in (y0, ends, np.zeros(size), np.zeros(len(y0) + 1))
    ]
    launch = lambda: wp.launch(module.solve, 1, inputs=arrays, device="cpu")  # noqa: E731
    return launch, arrays[-1]


def _fields() -> list[tuple[str, Callable[..., Any], Any, float, float, float, int]]:
    """Name, field, state, end, tolerances, order."""
    system, *_ = solar_systems(1.0, 1.0)
    years = 100 * solar_system.DAYS_PER_YEAR
    net = eqx.nn.MLP(8, 8, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    y0 = jax.random.normal(jax.random.key(1), (8,))
    atol = system.problem.atol_per_rtol * EPS
    chaos = lorenz(1.0).problem
    rows = [
        ("Lorenz", chaos.field, chaos.y0, 50.0, EPS, EPS),
        (system.name, system.problem.field, system.problem.y0, years, EPS, atol),
        ("MLP 8-24-24-8", lambda t, y, args: net(y), y0, 100.0, 1e-9, 1e-9),
    ]
    return [
        (*row, TaylorSolver(rtol=row[-2], atol=row[-1]).taylor_order)  # pyright: ignore
        for row in rows
    ]


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    os.environ["EQX_TAYLOR_CACHE_DIR"] = ""
    if importlib.util.find_spec("llvmlite") is None:
        return Report(TITLE, "**fails**: llvmlite is not installed.", [])
    from eqx_taylor._native.scalarise import scalar_program

    warm_up()
    ways = ["in XLA", "llvmlite"]
    others = {"numba": by_numba, "warp": by_warp}
    others = {
        k: f for k, f in others.items() if importlib.util.find_spec(k) is not None
    }
    ways += others
    head = [f"| | {' | '.join(ways)} |", "|---|" + "---:|" * len(ways)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, field, y0, t1, rtol, atol, order) in enumerate(_fields()):
            forward = diffrax.ForwardMode()
            of = lambda *adjoint: (  # noqa: E731
                lambda y0: solve(field, y0, t1, rtol, atol, *adjoint)
            )
            leaves, treedef = jtu.tree_flatten(y0)

            def flat(t, *leaves, field=field, treedef=treedef):
                return jtu.tree_leaves(
                    field(t, jtu.tree_unflatten(treedef, leaves), None)
                )

            jaxpr = jax.make_jaxpr(flat)(jnp.array(0.0), *leaves)
            program = scalar_program(jaxpr, len(leaves))
            text, size = source_of(program, order)
            start = np.concatenate([np.ravel(x) for x in leaves])
            runs, compile_times, steps = [], [], []
            for adjoint in ([forward], []):
                executable, time = compiled(of(*adjoint), y0)
                expected, number = executable(y0)
                runs.append(lambda f=executable, y=y0: f(y))
                compile_times.append(time)
                steps.append(int(number))
            is_small = len(program.atoms) <= MOST_SERIES
            for way in others.values() if is_small else ():
                ends = np.array([t1, rtol, atol])
                launch, out = way(text, size, start, ends, folder, i)
                _, time = timed(launch)
                out = np.asarray(out.numpy() if hasattr(out, "numpy") else out)
                runs.append(launch)
                compile_times.append(time)
                steps.append(int(out[-1]))
                if name != "Lorenz":  # Which is chaotic.
                    exact = np.concatenate(
                        [np.ravel(x) for x in jtu.tree_leaves(expected)]
                    )
                    np.testing.assert_allclose(out[:-1], exact, rtol=1e-6, atol=1e-6)
            times = [Time.of(taken).median for taken in take_turns(runs, seconds)]
            cells = [
                f"{1e6 * time / n:.3g} µs ({taken:.2g} s)"
                for time, n, taken in zip(times, steps, compile_times)
            ]
            cells += ["-"] * (len(ways) - len(cells))
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return Report(TITLE, TEXT + "\n" + "\n".join([*head, *rows]), [])


def source_of(program: Any, order: int) -> tuple[str, int]:
    from ._scalar_python import source

    return source(program, order)


if __name__ == "__main__":
    main(run)
