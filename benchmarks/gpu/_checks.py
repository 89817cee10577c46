"""Steps that compare values on the device with the same on the CPU.

In float64 the device is compared with the CPU. In float32 both are compared with
float64 on the CPU, at the same points: so it is known of an error whether the device
makes it or float32 does. As in the accuracy tables, `50 (K + 1)` roundings of the
largest term are allowed in jets of order `K`.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eqx_taylor

from . import _programs
from ._check import Check
from ._functions import accuracy_cases
from ._record import Line
from ._steps import Context, first_line, Sizes, Step


# A result may lose so many times what float32 loses on the CPU, where more is lost
# than the tables allow: other instructions, the same formula. Chosen.
ALIKE = 4
# Functions that are sums of terms much larger than they are: the tables measure them by
# these terms, and we by what we see. Chosen: igamma(30, x) differs by twice the
# allowance between a CPU and itself with other options of the compiler.
_SUMS = 10.0
# For the reference speed is nothing, and half of the time would go into LLVM.
_QUICKLY = dict(
    xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True
)


# -- both devices


def _compile(lowered: Any, is_reference: bool) -> Any:
    if is_reference:
        try:
            return lowered.compile(compiler_options=_QUICKLY)
        # Options come and go with versions of XLA.
        except Exception:
            pass
    return lowered.compile()


def evaluate(checks: Sequence[Check], context: Context) -> dict[str, list[Any]]:
    """Results by where they come from: `device64`, `device32`, `cpu64`, `cpu32`, and
    `exact32`, which is float64 on the CPU at the points of float32."""
    places = {"device": context.device, "cpu": context.cpu}
    if context.device == context.cpu:
        del places["cpu"]

    def fun(args):
        return [check.fun(*a) for check, a in zip(checks, args)]

    arguments = {
        64: [check.args(jnp.float64) for check in checks],
        32: [check.args(jnp.float32) for check in checks],
    }
    lowered = {
        (place, bits): jax.jit(fun).lower(jax.device_put(args, device))
        for place, device in places.items()
        for bits, args in arguments.items()
    }
    # Compilers run in parallel, which on a machine with a GPU there are cores for.
    with ThreadPoolExecutor() as pool:
        futures = {
            key: pool.submit(_compile, program, key[0] == "cpu")
            for key, program in lowered.items()
        }
        executables = {key: future.result() for key, future in futures.items()}

    def results(place, bits, args):
        if place not in places:
            place = "device"
        args = jax.device_put(args, places[place])
        return jax.device_get(executables[place, bits](args))

    wide = jax.tree.map(_widened, arguments[32])
    return {
        "device64": results("device", 64, arguments[64]),
        "device32": results("device", 32, arguments[32]),
        "cpu64": results("cpu", 64, arguments[64]),
        "cpu32": results("cpu", 32, arguments[32]),
        "exact32": results("cpu", 64, wide),
    }


def _widened(x: Any) -> Any:
    wider = {"float32": "float64", "complex64": "complex128"}
    return np.asarray(x).astype(wider.get(np.asarray(x).dtype.name, x.dtype))


# -- what is wrong


def _roundings(a: Any, b: Any, scale: Any, bits: int) -> Any:
    """Of each entry: the difference in roundings of `scale`."""
    info = np.finfo(np.float64 if bits == 64 else np.float32)
    a, b = np.asarray(a, np.complex128), np.asarray(b, np.complex128)
    with np.errstate(all="ignore"):
        difference = np.abs(a - b)
        # A NaN, or an infinity where the other is finite.
        difference = np.where(np.isfinite(difference), difference, np.inf)
        found = difference / (float(info.eps) * scale + float(info.tiny))
    # What the reference itself does not have is not compared.
    return np.where(np.isfinite(b) & np.isfinite(scale), found, 0.0)


def judged(check: Check, results: dict[str, Any], allowed: float) -> list[Line]:
    """Of each dtype at most one line: the worst entry, if it is wrong."""
    found = []
    loss: list[float] = []
    for bits in (32, 64):
        exact = results["exact32" if bits == 32 else "cpu64"]
        sizes = check.scales or _largest
        dtype = np.float32 if bits == 32 else np.float64
        slack = check.slack(dtype) / float(np.finfo(dtype).eps)
        mask = None if check.where is None else check.where(dtype)
        worst: Line = {}
        for k, (a, c, b, scale) in enumerate(
            zip(
                results[f"device{bits}"],
                results[f"cpu{bits}"],
                exact,
                sizes(exact, dtype),
            )
        ):
            own, cpus = (_roundings(x, b, scale, bits) for x in (a, c))
            if mask is not None:
                own, cpus = (np.where(mask[k], x, 0.0) for x in (own, cpus))
            own, cpus = float(np.max(own)), float(np.max(cpus))
            if bits == 32:
                loss.append(cpus)
            bound = max(allowed * check.times, slack)
            if bits == 64 and check.lenient and np.isfinite(loss[k]):
                bound = max(bound, ALIKE * loss[k])
            if not own <= bound and own / bound > worst.get("ratio", 0.0):
                worst = dict(
                    name=f"{check.name}, float{bits}",
                    number=k,
                    roundings=own,
                    allowed=bound,
                    on_cpu=cpus,
                    ratio=own / bound,
                    # It is float32 that does not do, and not the device.
                    alike=bits == 32 and own <= ALIKE * cpus,
                )
        if worst:
            found.append(worst)
    return found


def _largest(results: Sequence[Any], dtype: Any) -> list[Any]:
    del dtype
    return [np.max(np.abs(np.asarray(x))) for x in results]


# -- elementwise functions


def _power_of_two(x: float) -> float:
    return float(2.0 ** np.floor(np.log2(x))) if x > 1e-308 else 2.0**-1022


def elementwise(case: Any, order: int, is_complex: bool) -> Check:
    points = {64: np.array(case.points, complex if is_complex else float)}
    info = np.finfo(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        narrow = points[64].astype(np.complex64 if is_complex else np.float32)
    # Those that float32 has, and that are not on a singularity by their rounding.
    size = np.abs(points[64])
    fits = (size == 0) | ((size > 100 * info.tiny) & (size < info.max / 100))
    fits &= [bool(f) and case.unit(x.item()) > 1e-30 for f, x in zip(fits, narrow)]
    # All shapes stay the same, so that one program does for both.
    narrow[~fits] = narrow[fits][0] if fits.any() else 1.0
    points[32] = narrow

    def args(dtype):
        x = points[64 if dtype == jnp.float64 else 32]
        units = np.array([_power_of_two(case.unit(p.item())) for p in x], x.dtype)
        return jnp.asarray(x), jnp.asarray(units)

    def fun(x, units):
        value, terms = eqx_taylor.filter_jet(
            case.fun, (x,), ([units] + [None] * (order - 1),), factorial_scaled=False
        )
        return [value, *terms]

    def scales(results, dtype):
        sizes = [np.abs(np.asarray(r)) for r in results]
        with np.errstate(all="ignore"):
            inner = [
                np.maximum(b, np.sqrt(a) * np.sqrt(c))
                for a, b, c in zip(sizes, sizes[1:], sizes[2:])
            ]
            if len(inner) > 1:
                # There is no coefficient behind the last: as the ones before go on.
                last = np.where(inner[-2] > 0, inner[-1] * (inner[-1] / inner[-2]), 0.0)
                inner.append(np.fmax(sizes[-1], last))
            else:
                inner.append(np.maximum(sizes[-1], inner[-1] if inner else 0.0))
            found = [sizes[0], *inner]
            # What overflows, or what terms do that it is made of, is not compared.
            total, kept = np.zeros_like(sizes[0]), []
            for s in found:
                total = np.maximum(total, s)
                kept.append(np.where(total * 1e3 < np.finfo(dtype).max, s, np.inf))
        return kept

    def where(dtype):
        mask = np.ones(len(fits), bool) if dtype == np.float64 else fits
        return [mask] * (order + 1)

    return Check(
        case.name + (", complex" if is_complex else ""),
        fun,
        args,
        scales=scales,
        where=where,
        lenient=case.sizes is not None,
        times=1.0 if case.sizes is None else _SUMS,
    )


# -- steps


def _groups(cases: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for i in range(0, len(cases), most):
        yield cases[i : i + most]


def _step(name: str, checks: Callable[[Context], list[Check]], guess: float) -> Step:
    def run(context: Context) -> Iterator[Line]:
        order = context.sizes.check_order
        allowed = 50.0 * (order + 1)
        listed = checks(context)
        wrong: list[Line] = []
        broken: list[Line] = []
        try:
            parts = [(listed, evaluate(listed, context))]
        except Exception as e:
            context.note(f"one by one, as together: {first_line(e)}")
            parts = []
            for check in listed:
                try:
                    parts.append(([check], evaluate([check], context)))
                except Exception as e:
                    why = f"{type(e).__name__}: {first_line(e)}"
                    broken.append(dict(name=check.name, why=why))
        for some, results in parts:
            for i, check in enumerate(some):
                own = {place: found[i] for place, found in results.items()}
                wrong += judged(check, own, allowed)
        yield dict(
            who=name,
            work=f"order {order}",
            number=len(listed),
            wrong=[line for line in wrong if not line["alike"]],
            alike=[line for line in wrong if line["alike"]],
            broken=broken,
            worst=max((w["ratio"] for w in wrong if not w["alike"]), default=0.0),
        )

    return Step("right", name, run, guess, wave=0, at_most=120.0)


# Functions of one program. More than that take the compiler too long at once.
TOGETHER = 28


def _functions_step(kind: str, group: Sequence[Any]) -> Step:
    def checks(context: Context) -> list[Check]:
        order, is_complex = context.sizes.check_order, kind == "complex"
        return [elementwise(case, order, is_complex) for case in group]

    names = f"{group[0].name} to {group[-1].name}"
    return _step(f"{kind} functions, {names}", checks, 15.0)


def right(sizes: Sizes) -> Iterator[Step]:
    # What solvers need is the most telling, and the quickest.
    for name, checks in _programs.groups().items():
        yield _step(name, lambda context, c=checks: c(context.sizes), 15.0)
    for kind, cases in zip(("real", "complex"), accuracy_cases()):
        for group in _groups(cases[:: sizes.functions_of], TOGETHER):
            yield _functions_step(kind, group)
