"""Series of solutions as machine code, beside whole steps of heyoka and the series that
XLA makes. Needs `pip install ".[benchmarks,native]"`.

The time of a series is that of one call, the shortest of several rounds; that of a step
of heyoka, of a solve. Coefficients are compared with those of `ode_jet`.
"""

import ctypes
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import llvmlite.binding as llvm  # pyright: ignore[reportMissingImports]
import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]

from eqx_taylor import ode_jet
from eqx_taylor._native.loops import loop
from eqx_taylor._native.scalarise import scalar_program
from eqx_taylor._native.series import series_function

from . import problems
from ._heyoka import EPS, equations, heyoka, solar_systems, to_heyoka
from ._timing import print_machine


ROUNDS = 30


class Case(NamedTuple):
    name: str
    field: Callable[[Any, Any, Any], Any]
    y0: Any
    args: Any
    order: int


def cases() -> list[Case]:
    """The problems, each with the order for its tolerance."""
    net = eqx.nn.MLP(8, 8, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    weights, static = eqx.partition(net, eqx.is_array)
    lorenz = problems.lorenz()
    found = [Case(lorenz.name, lorenz.field, lorenz.y0, None, 20)]
    for system in solar_systems(1.0, 1.0):
        problem = system.problem
        found.append(Case(system.name, problem.field, problem.y0, None, 20))

    def neural(t, y, args):
        return eqx.combine(args, static)(y)

    y0 = jnp.linspace(-1, 1, 8)
    found.append(Case("MLP 8-24-24-8, weights as `args`", neural, y0, weights, 12))
    constant = lambda t, y, args: net(y)  # noqa: E731
    found.append(Case("MLP 8-24-24-8, constant weights", constant, y0, None, 12))
    return found


class Compiled:
    """A series, and how long it took to make it."""

    def __init__(self, case: Case, unroll: bool):
        start = time.perf_counter()
        leaves, treedef = jax.tree.flatten(case.y0)
        args, args_treedef = jax.tree.flatten(case.args)
        n = len(leaves)

        def flat(t, *rest):
            y = jax.tree.unflatten(treedef, rest[:n])
            inner = jax.tree.unflatten(args_treedef, rest[n:])
            return jax.tree.leaves(case.field(t, y, inner))

        program = scalar_program(jax.make_jaxpr(flat)(0.0, *leaves, *args), n)
        traced = time.perf_counter()
        module = ir.Module("series")
        code = series_function(module, program, order=case.order, unroll=unroll)
        code.series.attributes.add("noinline")
        _add_repeat(module, code.series)
        text = str(module)
        written = time.perf_counter()
        self._engine = _compiled(text)
        done = time.perf_counter()
        self.times = traced - start, written - traced, done - written
        self._shape = case.order + 1, program.size
        y0 = [np.ravel(np.asarray(x)) for x in leaves]
        self._found = _aligned(self._shape[0] * self._shape[1])
        self._arrays = [
            _aligned(1),
            _aligned(program.size, np.concatenate(y0)),
            _aligned(code.parameters),
            self._found,
            _aligned(code.work),
        ]
        numbers = np.asarray(program.givens.arguments(args, program.dtype))
        given = _aligned(program.arguments, numbers)
        self._call(code.prepare.name, given, self._arrays[2])

    def _call(self, name: str, *arrays: np.ndarray, count: int | None = None) -> None:
        kinds: list[Any] = [ctypes.c_void_p] * len(arrays)
        values = [x.ctypes.data for x in arrays]
        if count is not None:
            kinds, values = [ctypes.c_int64, *kinds], [count, *values]
        address = self._engine.get_function_address(name)
        ctypes.CFUNCTYPE(None, *kinds)(address)(*values)

    def run(self, count: int) -> None:
        self._call("repeat", *self._arrays, count=count)

    @property
    def coefficients(self) -> np.ndarray:
        return self._found.reshape(self._shape).copy()


def _add_repeat(module: Any, series: Any) -> None:
    """Adds a function that calls a series so many times."""
    integer = ir.IntType(64)
    kinds = [integer, *[ir.PointerType()] * 5]
    repeat = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "repeat")
    builder = ir.IRBuilder(repeat.append_basic_block("entry"))
    with loop(builder, ir.Constant(integer, 0), repeat.args[0]):
        builder.call(series, repeat.args[1:])
    builder.ret_void()


def _compiled(text: str) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
    )
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _aligned(size: int, values: Any = ()) -> np.ndarray:
    raw = np.zeros(8 * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + 8 * size].view(np.float64)
    out[: len(values)] = values
    return out


def shortest(run: Callable[[int], None], seconds: float = 0.002) -> float:
    """The time of one of many calls, in seconds."""

    def taken(count: int) -> float:
        start = time.perf_counter()
        run(count)
        return time.perf_counter() - start

    count = 1
    # More than once, as something else may run meanwhile.
    while min(taken(count) for _ in range(5)) < seconds:
        count *= 2
    return min(taken(count) for _ in range(ROUNDS)) / count


def of_heyoka(problem: problems.Problem, compact: bool) -> tuple[float, float]:
    """The time of a step, and that of the compilation."""
    module = heyoka()
    start = time.perf_counter()
    state = to_heyoka(problem.y0)
    integrator = module.taylor_adaptive(
        equations(module, problem), state, tol=EPS, compact_mode=compact
    )
    compiled = time.perf_counter() - start
    t1 = problem.t1
    times = []
    for _ in range(ROUNDS):
        integrator.time = 0.0
        integrator.state[:] = state
        start = time.perf_counter()
        outcome = integrator.propagate_until(t1)
        times.append((time.perf_counter() - start) / outcome[3])
    return min(times), compiled


def by_xla(case: Case) -> tuple[np.ndarray, float, float]:
    """The coefficients, the time of a call among many in a loop, and of compilation."""

    def once(y):
        found = ode_jet(case.field, 0.0, y, case.args, order=case.order, unroll=True)
        return found, jax.tree.map(lambda c, y: y + 0 * c[-1], found, y)

    def many(n, y):
        return jax.lax.fori_loop(0, n, lambda _, y: once(y)[1], y)

    compiled = jax.jit(many).lower(1, case.y0)
    start = time.perf_counter()
    compiled = compiled.compile()
    taken = time.perf_counter() - start
    run = lambda n: jax.block_until_ready(compiled(n, case.y0))  # noqa: E731
    found = jax.tree.leaves(jax.jit(once)(case.y0)[0])
    flat = [np.asarray(c).reshape(case.order + 1, -1) for c in found]
    # Longer, as a call from Python takes some ten microseconds.
    return np.concatenate(flat, axis=1), shortest(run, 0.05), taken


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    print_machine()
    print("\n| | µs | trace, s | write, s | LLVM or XLA, s | difference |")
    print("|---|---:|---:|---:|---:|---:|")
    for case in cases():
        expected, taken, compiled = by_xla(case)
        size = np.max(np.abs(expected), axis=1, keepdims=True)
        for unroll in (True, False):
            made = Compiled(case, unroll)
            time_ = shortest(made.run)
            error = np.max(np.abs(made.coefficients - expected) / size)
            form = "unrolled" if unroll else "loop"
            columns = " | ".join(f"{x:.3f}" for x in (1e6 * time_, *made.times))
            print(f"| {case.name}, {form} | {columns} | {error:.1e} |", flush=True)
        print(f"| {case.name}, XLA | {1e6 * taken:.3f} | | | {compiled:.3f} | |")
    if heyoka() is None:
        return
    print("\n| a step of heyoka | µs | compile, s |")
    print("|---|---:|---:|")
    for problem in (problems.lorenz(), problems.outer_solar_system()):
        for compact in (False, True):
            step, compiled = of_heyoka(problem, compact)
            form = "compact" if compact else "default"
            print(f"| {problem.name}, {form} | {1e6 * step:.3f} | {compiled:.3f} |")


if __name__ == "__main__":
    main()
