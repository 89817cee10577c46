"""What `cse`, `simplify` and `jarrett` do to programs of derivatives: equations, the
time to compile and to run, and what reverse mode stores."""

import functools as ft
import gc
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from eqx_taylor import filter_jet
from eqx_taylor._programs.inspect import nested
from eqx_taylor.programs import count_primitives, cse, jarrett, simplify

from ._report import Figure, main, Report
from ._timing import check_equal, compare, Timing, timing_table


ORDERS = [1, 2, 3, 4, 5, 6, 7, 8]
NESTED, CSE, SIMPLIFY, JET = "nested `jvp`", "`cse`", "`simplify`", "`filter_jet`"
REWRITES = {CSE: cse, SIMPLIFY: simplify}
COLOURS = {
    "nested jvp": "tab:gray",
    "as it is": "tab:gray",
    "cse": "tab:orange",
    "no reassociation": "tab:olive",
    "simplify": "tab:blue",
    "filter_jet": "tab:green",
    "jarrett": "tab:purple",
}


def fun(x):
    return 0.3 * jnp.sin(x) * x**10


def total(function, *args) -> int:
    return count_primitives(function, *args).total


# -- the blow-up


def by_jet(order):
    return lambda x: filter_jet(fun, (x,), ([1.0] + [None] * (order - 1),))


def counts_by_order() -> list[dict[str, Any]]:
    methods = {
        NESTED: lambda k: nested(fun, k),
        **{name: lambda k, f=f: f(nested(fun, k)) for name, f in REWRITES.items()},
        JET: by_jet,
    }
    return [
        {"order": k, **{name: total(f(k), 1.1) for name, f in methods.items()}}
        for k in ORDERS
    ]


# -- one constant, two callers


def directional(t):
    """The fourth derivative along `t` at 2."""
    f = fun
    for _ in range(4):
        f = (lambda f: lambda x: jax.jvp(f, (x,), (t,))[1])(f)
    return f(2.0)


def two_callers(x, v):
    def second(x):
        return jax.jvp(lambda x: jax.jvp(fun, (x,), (v,))[1], (x,), (v,))[1]

    def all_three(x):
        return jax.jvp(lambda x: jax.jvp(fun, (x,), (v,)), (x,), (v,))

    return second(x), all_three(x)


def second_order_jet(x, v):
    return filter_jet(fun, (x,), ([v, None],))


# -- programs as people write them


def cases() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    x = jnp.sin(jnp.arange(16.0))
    mlp = eqx.nn.MLP(16, "scalar", 64, 3, activation=jnp.tanh, key=jax.random.key(0))
    gelu = eqx.nn.MLP(
        16, "scalar", 64, 3, activation=jax.nn.gelu, key=jax.random.key(0)
    )

    def scalar(x):
        return jnp.sin(x) * jnp.exp(x**2) / (1 + x) + jnp.log1p(x**4)

    def nth(k):
        f = scalar
        for _ in range(k):
            f = jax.grad(f)
        return f

    def laplacian(x):
        return jnp.trace(jax.hessian(lambda x: gelu(x))(x))

    return {
        "Hessian of a 3-layer tanh MLP": (jax.hessian(lambda x: mlp(x)), (x,)),
        "Laplacian of a 3-layer gelu MLP": (laplacian, (x,)),
        "`grad` of `grad` of a number": (nth(2), (jnp.array(0.6),)),
        "`grad`, four times": (nth(4), (jnp.array(0.6),)),
        "the eighth derivative tower": (nested(fun, 8), (jnp.array(1.1),)),
    }


def timed(seconds: float) -> tuple[list[Figure], list[str], dict[str, list[int]]]:
    figures, tables, equations = [], [], {}
    for name, (function, args) in cases().items():
        rivals = [
            ("`simplify`", simplify(function)),
            ("`simplify`, no reassociation", simplify(function, reassociate=False)),
            ("`cse`", cse(function)),
            ("as it is", function),
        ]
        timings: list[Timing] = compare(rivals, args, seconds, compiles=5)
        for timing in timings[:-1]:
            check_equal(timing.result, timings[-1].result, 1e-11, timing.name)
        ours, theirs = timings[0], timings[-1]
        counts = equations[name] = [total(f, *args) for _, f in rivals]
        named = zip(rivals[:-1], counts)
        listed = ", ".join(f"{count} with {rival}" for (rival, _), count in named)
        tables.append(
            f"**{name}**: {counts[-1]} equations; {listed}.\n\n{timing_table(timings)}"
        )
        equal = Figure(name, "equations", "as it is", counts[0], counts[-1], unit="")
        compiled = Figure(
            name,
            "trace and compile",
            "as it is",
            ours.compile,
            theirs.compile,
            ours_spread=ours.compile_spread,
            theirs_spread=theirs.compile_spread,
        )
        figures += [x._replace(at_most=1.0) for x in (equal, compiled)]
    return figures, tables, equations


# -- where the time goes

STAGES = ["trace", "simplify", "compile the original", "compile the result"]


def stages() -> str:
    """A table of milliseconds: up to a jaxpr, and from there to an executable."""
    lines = [f"| | {' | '.join(STAGES)} |", "|---" + "|---:" * len(STAGES) + "|"]
    for name, (function, args) in cases().items():
        short = simplify(function)
        jaxprs = [jax.make_jaxpr(f)(*args) for f in (function, short)]
        tasks = [
            lambda: jax.make_jaxpr(function)(*args),  # noqa: B023
            lambda: jax.make_jaxpr(short)(*args),  # noqa: B023
            *[
                lambda f=jex.jaxpr_as_fun(x): jax.jit(f).lower(*args).compile()  # noqa: B023
                for x in jaxprs
            ],
        ]
        trace, traced, before, after = medians(tasks, turns=5)
        row = [trace, traced - trace, before, after]
        cells = " | ".join(f"{1e3 * x:.3g}" for x in row)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def medians(tasks: Sequence[Callable[[], Any]], turns: int) -> list[float]:
    """The seconds that each takes, in turns, with nothing known from before."""
    times: list[list[float]] = [[] for _ in tasks]
    for _ in range(turns):
        for task, taken in zip(tasks, times):
            jax.clear_caches()
            gc.collect()
            start = time.perf_counter()
            task()
            taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in times]


# -- what is stored


def stored(function, *args) -> int:
    """Bytes that reverse mode keeps between the two passes."""
    pullback = jax.eval_shape(lambda *args: jax.vjp(function, *args)[1], *args)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))


def chain(length, x):
    for i in range(length):
        x = jnp.sin(x) if i % 2 else jnp.tanh(x) * x
    return x


def memory() -> list[Figure]:
    x = jnp.ones((128, 256))
    functions = {
        "a chain of 20 operations": ft.partial(chain, 20),
        "`jax.nn.gelu`": jax.nn.gelu,
        "`jax.nn.silu`": jax.nn.silu,
        "`jax.nn.mish`": jax.nn.mish,
    }
    return [
        Figure(name, "stored", "as it is", stored(jarrett(f), x), stored(f, x), "bytes")
        for name, f in functions.items()
    ]


# -- all of it


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    rows = counts_by_order()
    names = [NESTED, CSE, SIMPLIFY, JET]
    lines = [f"| order | {' | '.join(names)} |", "|---:|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(map(str, row.values()))} |" for row in rows]
    one = count_primitives(simplify(directional), 1.0).counts
    callers = total(simplify(two_callers), 1.1, 0.7)
    jet = total(second_order_jet, 1.1, 0.7)
    figures, tables, equations = timed(seconds)
    text = [
        "The table counts equations of the value and all derivatives of "
        "`0.3 * sin(x) * x**10` up to an order:",
        "\n".join(lines),
        f"The fourth derivative along `t` at 2 has {total(directional, 1.0)} "
        f"equations, simplified {one}. Second derivatives taken by two callers have "
        f"{total(two_callers, 1.1, 0.7)} equations, simplified {callers}; the jet of "
        f"order 2 has {jet}.",
        *tables,
        "This table has the milliseconds to trace a program, to simplify it, and to "
        "compile both it and its simplification:",
        stages(),
    ]
    last = rows[-1]
    stored_by = memory()
    figures = [
        Figure("order 8", "equations", NESTED, last[SIMPLIFY], last[NESTED], unit=""),
        Figure("two callers", "equations", "the jet", callers, jet, "", at_most=1.0),
        *figures,
        *stored_by,
    ]
    data = dict(
        orders=rows,
        equations=equations,
        stored={f.work: [f.ours, f.theirs] for f in stored_by},
    )
    title = "Simplified programs of derivatives"
    return Report(title, "\n\n".join(text), figures, data)


def plot(data: Any, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    by_order, by_case, by_function = axes
    for name, mark in [(NESTED, "^:"), (CSE, "v--"), (JET, "s-."), (SIMPLIFY, "o-")]:
        by_order.semilogy(
            [row["order"] for row in data["orders"]],
            [row[name] for row in data["orders"]],
            mark,
            markersize=5,
            color=COLOURS[name.replace("`", "")],
            label=name.replace("`", ""),
        )
    by_order.set_xlabel("order")
    by_order.set_title("equations, 0.3 sin(x) x^10", fontsize=10)

    labels = ["simplify", "no reassociation", "cse", "as it is"]
    _bars(by_case, data["equations"], labels)
    by_case.set_xscale("log")
    by_case.set_xlim(left=10)
    by_case.set_title("equations", fontsize=10)
    kib = {name: [n / 1024 for n in both] for name, both in data["stored"].items()}
    _bars(by_function, kib, ["jarrett", "as it is"])
    by_function.set_title("KiB stored for reverse mode, 128 x 256", fontsize=10)
    for ax, place in zip(axes, ("upper left", "upper right", "lower right")):
        ax.grid(True, which="major", alpha=0.3)
        ax.legend(fontsize=8, loc=place)
    # Without the version of matplotlib in the file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _bars(ax, groups, labels) -> None:
    height = 0.8 / len(labels)
    for i, label in enumerate(labels):
        places = [place + i * height for place in range(len(groups))]
        lengths = [values[i] for values in groups.values()]
        ax.barh(places, lengths, height, label=label, color=COLOURS[label])
    centres = [place + 0.4 - height / 2 for place in range(len(groups))]
    names = [name.replace("`", "").replace(" of a ", "\nof a ") for name in groups]
    ax.set_yticks(centres, names, fontsize=7)
    ax.invert_yaxis()


if __name__ == "__main__":
    main(run)
