"""Jets of orders 1 to 16 of six functions, against the faster of
`jax.experimental.jet` and nested `jvp`."""

import pathlib
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg

from eqx_taylor._programs.inspect import nested

from ._report import Figure, main, quantity, Report
from ._timing import check_equal, compare, Timing
from .jet_mlp import by_filter_jet, by_jax_jet, problem as mlp_problem


ORDERS = [1, 2, 3, 4, 6, 8, 12, 16]
OURS, JAX_JET, NESTED = "ours", "jax.experimental.jet", "nested jvp"
# Nested `jvp` doubles with every order, in what is traced as in what is run. An order
# is tried if the compile time of the order before, doubled so often, is below this.
NESTED_SECONDS = 15.0
# Of run times, from this order on and below.
HIGH, AT_MOST_HIGH, AT_MOST_LOW = 6, 0.5, 1.0


def by_nested_jvp(fun, x, v, order):
    y, *derivatives = nested(lambda t: fun(x + t * v), order)(jnp.zeros((), x.dtype))
    return y, derivatives


class Case(NamedTuple):
    name: str
    what: str
    fun: Callable
    x: jax.Array
    v: jax.Array
    # Rounding errors, relative to the largest number of a derivative.
    at_most: float


# Orders of 16 multiply roundings.
FLOAT32, FLOAT64 = 1e-2, 1e-9


def _line(shape, dtype):
    x_key, v_key = jax.random.split(jax.random.key(1))
    return (
        jax.random.normal(x_key, shape, dtype),
        jax.random.normal(v_key, shape, dtype),
    )


def seed() -> Case:
    t = jnp.linspace(0.5, 1.5, 4096, dtype=jnp.float64)
    return Case(
        "seed function",
        "`0.3 * sin(t) * t**10` at 4096 times, float64 (at one, all that can be "
        "measured is the call)",
        lambda t: 0.3 * jnp.sin(t) * t**10,
        t,
        jnp.ones_like(t),
        FLOAT64,
    )


def mlp() -> Case:
    net, x, v = mlp_problem()
    what = "64-256-256-256-64, tanh, batch 128, float32"
    return Case("MLP", what, net, x, v, FLOAT32)


def cnn() -> Case:
    a, b, c = jax.random.split(jax.random.key(2), 3)
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 16, 3, key=a, dtype=jnp.float32),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Conv2d(16, 32, 3, key=b, dtype=jnp.float32),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(32 * 2 * 2, 10, key=c, dtype=jnp.float32),
        ]
    )
    what = (
        "two 3x3 convolutions to 16 and 32 channels, tanh, average pooling, a linear "
        "layer; 16 images of 3x16x16, float32"
    )
    return Case(
        "CNN", what, jax.vmap(net), *_line((16, 3, 16, 16), jnp.float32), FLOAT32
    )


def rnn() -> Case:
    cell = eqx.nn.GRUCell(16, 32, key=jax.random.key(3), dtype=jnp.float32)

    def last_state(xs):
        h = jnp.zeros(32, xs.dtype)
        return jax.lax.scan(lambda h, x: (cell(x, h), None), h, xs)[0]

    what = "30 steps of a `GRUCell` 16-32 by `lax.scan`, batch 32, float32"
    line = _line((32, 30, 16), jnp.float32)
    return Case("RNN", what, jax.vmap(last_state), *line, FLOAT32)


def attention() -> Case:
    layer = eqx.nn.MultiheadAttention(
        4, 32, key=jax.random.key(4), dtype=jnp.float32, inference=True
    )
    what = "`MultiheadAttention` of 32 tokens of 32 numbers, 4 heads, batch 8, float32"
    line = _line((8, 32, 32), jnp.float32)
    return Case("attention", what, jax.vmap(lambda x: layer(x, x, x)), *line, FLOAT32)


def cholesky() -> Case:
    def solve(x):
        a = x @ x.T + 8 * jnp.eye(8, dtype=x.dtype)
        factor = jax.scipy.linalg.cho_factor(a, lower=True)
        return jax.scipy.linalg.cho_solve(factor, jnp.arange(1, 9, dtype=x.dtype))

    what = "`cho_factor` and `cho_solve` of 64 matrices of 8x8, float64"
    line = _line((64, 8, 8), jnp.float64)
    return Case("Cholesky solve", what, jax.vmap(solve), *line, FLOAT64)


CASES = [seed, mlp, cnn, rnn, attention, cholesky]


class Cell(NamedTuple):
    """Of one function at one order."""

    order: int
    timings: dict[str, Timing]
    # Those that raised an exception, or were not tried: why.
    without: dict[str, str]
    error: float

    @property
    def peer(self) -> Timing | None:
        """The faster of those that work."""
        peers = [t for name, t in self.timings.items() if name != OURS]
        return min(peers, key=lambda t: t.run, default=None)

    @property
    def ratio(self) -> float | None:
        peer = self.peer
        return None if peer is None else self.timings[OURS].run / peer.run

    @property
    def at_most(self) -> float:
        return AT_MOST_HIGH if self.order >= HIGH else AT_MOST_LOW


def measure(case: Case, seconds: float, orders=ORDERS) -> list[Cell]:
    cells: list[Cell] = []
    for order in orders:
        rivals: list[tuple[str, Callable]] = []
        without: dict[str, str] = {}
        for name, method in [
            (OURS, by_filter_jet),
            (JAX_JET, by_jax_jet),
            (NESTED, by_nested_jvp),
        ]:
            if name == NESTED and cells:
                before = cells[-1].timings.get(NESTED)
                doubled = 2 ** (order - cells[-1].order)
                if before is None or before.compile * doubled > NESTED_SECONDS:
                    without[NESTED] = "not tried"
                    continue
            rivals.append(
                (name, lambda x, v, method=method: method(case.fun, x, v, order))
            )
        timings = compare(rivals, (case.x, case.v), seconds, failures=without)
        found = {t.name: t for t in timings}
        if OURS not in found:
            raise RuntimeError(f"{case.name}, order {order}: {without[OURS]}")
        error = max(
            [
                check_equal(
                    found[OURS].result, t.result, case.at_most, f"{case.name}, {t.name}"
                )
                for name, t in found.items()
                if name != OURS
            ],
            default=float("nan"),
        )
        # The results are not needed any more.
        found = {name: t._replace(result=None) for name, t in found.items()}
        cells.append(Cell(order, found, without, error))
        times = ", ".join(
            f"{name} {quantity(t.run, 's')} ({quantity(t.compile, 's')})"
            for name, t in found.items()
        )
        print(f"{case.name}, order {order}: {times}", flush=True)
    return cells


def figures(case: Case, cells: list[Cell]) -> list[Figure]:
    """The worst of the low orders, and of the high ones."""
    worst = []
    for name, part in [
        (f"orders below {HIGH}", [c for c in cells if c.order < HIGH]),
        (f"orders from {HIGH} on", [c for c in cells if c.order >= HIGH]),
    ]:
        measured = [c for c in part if c.ratio is not None]
        if not measured:
            continue
        cell = max(measured, key=lambda c: c.ratio or 0)
        peer = cell.peer
        assert peer is not None
        ours = cell.timings[OURS]
        worst.append(
            Figure(
                f"jet of {case.name}, {name} (the worst: {cell.order})",
                "run",
                peer.name,
                ours.run,
                peer.run,
                ours_spread=ours.spread,
                theirs_spread=peer.spread,
                at_most=cell.at_most,
            )
        )
    return worst


def table(rows: dict[str, list[Cell]]) -> str:
    lines = [
        "| order | " + " | ".join(map(str, ORDERS)) + " |",
        "|---|" + "---:|" * len(ORDERS),
    ]
    for name, cells in rows.items():
        texts = {}
        for cell in cells:
            ratio, peer = cell.ratio, cell.peer
            if ratio is None or peer is None:
                continue
            text = f"{ratio:.2f}"
            text = f"**{text}**" if ratio > cell.at_most else text
            texts[cell.order] = text + ("ʲ" if peer.name == JAX_JET else "ⁿ")
        line = " | ".join(texts.get(order, "-") for order in ORDERS)
        lines.append(f"| {name} | {line} |")
    return "\n".join(lines)


def times(rows: dict[str, list[Cell]]) -> str:
    lines = [
        "| | order | " + " | | ".join([OURS, JAX_JET, NESTED]) + " | |",
        "|---|---:|" + "---:|" * 6,
    ]
    for name, cells in rows.items():
        for cell in cells:
            line = f"| {name} | {cell.order} |"
            for rival in (OURS, JAX_JET, NESTED):
                t = cell.timings.get(rival)
                if t is None:
                    line += " | |"
                else:
                    line += f" {quantity(t.run, 's')} | {quantity(t.compile, 's')} |"
            lines.append(line)
    return "\n".join(lines)


def missing(rows: dict[str, list[Cell]]) -> str:
    """Which peers do not work on what, and why."""
    lines = []
    for name, cells in rows.items():
        reasons: dict[tuple[str, str], list[int]] = {}
        for cell in cells:
            for rival, reason in cell.without.items():
                reasons.setdefault((rival, reason), []).append(cell.order)
        for (rival, reason), orders in reasons.items():
            if orders == ORDERS:
                where = "at every order"
            elif orders == ORDERS[-len(orders) :]:
                where = f"from order {orders[0]} on"
            else:
                where = "at order " + ", ".join(map(str, orders))
            verb = "is" if reason == "not tried" else "fails:"
            lines.append(f"- {name}: {rival} {verb} {reason}, {where}.")
    return "\n".join(lines)


def run(seconds: float) -> Report:
    jax.config.update("jax_enable_x64", True)
    rows: dict[str, list[Cell]] = {}
    cases = [make() for make in CASES]
    found = []
    for case in cases:
        rows[case.name] = measure(case, seconds)
        found += figures(case, rows[case.name])
    what = "\n".join(f"- {case.name}: {case.what}." for case in cases)
    errors = {
        name: max(c.error for c in cells if c.error == c.error)
        for name, cells in rows.items()
    }
    worst = "; ".join(f"{name} {error:.0e}" for name, error in errors.items())
    text = f"""
The value and the derivatives along a line are computed by `filter_jet`, by
`jax.experimental.jet` and by nested `jvp`. The functions are:

{what}

The table has run times relative to that of the faster peer, which is
`jax.experimental.jet` (ʲ) or nested `jvp` (ⁿ). The targets are at most
{AT_MOST_LOW:g}, and {AT_MOST_HIGH:g} from order {HIGH} on:

{table(rows)}

"-" means that no peer works. The compile time of nested `jvp` doubles with every order:
an order is tried if the compile time extrapolated from the last one is below
{NESTED_SECONDS:g} s.

{missing(rows)}

The largest relative differences from the peers' results: {worst}. At order 1, and
wherever else XLA makes the same program of both, the ratio is 1 up to the spread of the
measurement.

??? note "All times: run, and trace + compile"

{textwrap.indent(times(rows), "    ")}
"""
    data = {
        name: [
            dict(
                order=cell.order,
                ratio=cell.ratio,
                peer=None if cell.peer is None else cell.peer.name,
                without=cell.without,
                times={
                    rival: dict(run=t.run, spread=t.spread, compile=t.compile)
                    for rival, t in cell.timings.items()
                },
            )
            for cell in cells
        ]
        for name, cells in rows.items()
    }
    return Report("Jets of orders 1 to 16", text, found, data)


def plot(data: Any, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, cells), mark in zip(data.items(), "os^vDx"):
        cells = [cell for cell in cells if cell["ratio"] is not None]
        ax.plot(
            [cell["order"] for cell in cells],
            [cell["ratio"] for cell in cells],
            mark + "-",
            markersize=5,
            label=name,
        )
    first, last = ORDERS[0], ORDERS[-1]
    ax.plot(
        [first, HIGH, HIGH, last],
        [AT_MOST_LOW, AT_MOST_LOW, AT_MOST_HIGH, AT_MOST_HIGH],
        "k:",
        label="at most",
    )
    ax.set_yscale("log")
    ax.set_xticks(ORDERS)
    ax.set_xlabel("order")
    ax.set_ylabel("run time, relative to the faster peer")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize=9)
    # Without the version of matplotlib in the file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(run, seconds=1)
