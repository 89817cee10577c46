"""The number of equations in the jaxpr of a jet, against `jax.experimental.jet` and
nested `jvp`, for orders 1 to 20 of `0.3 sin(t) t^10`."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.jet import jet as jax_jet

import eqx_taylor

from ._report import Figure, main, Report


ORDERS = [1, 2, 3, 4, 6, 8, 10, 12, 16, 20]
OURS, JAX_JET, NESTED = "eqx_taylor.filter_jet", "jax.experimental.jet", "nested jvp"


def fun(t):
    return 0.3 * jnp.sin(t) * t**10


def by_filter_jet(t, order):
    return eqx_taylor.filter_jet(fun, (t,), ([1.0] + [None] * (order - 1),))


def by_jax_jet(t, order):
    return jax_jet(fun, (t,), ([1.0] + [0.0] * (order - 1),))


def by_nested_jvp(t, order):
    derivatives, f = [fun(t)], fun
    for _ in range(order):
        f = (lambda f: lambda t: jax.jvp(f, (t,), (1.0,))[1])(f)
        derivatives.append(f(t))
    return derivatives


def count(jaxpr) -> int:
    """Equations, those of inner jaxprs in the place of the call."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [value for value in eqn.params.values() if hasattr(value, "jaxpr")]
        total += sum(count(x.jaxpr) for x in inner) if inner else 1
    return total


def equations(method, order) -> int:
    return count(jax.make_jaxpr(lambda t: method(t, order))(1.1).jaxpr)


def run(seconds: float) -> Report:
    # Nothing is timed here.
    del seconds
    rows = []
    for order in ORDERS:
        row: dict[str, Any] = {
            "order": order,
            OURS: equations(by_filter_jet, order),
            JAX_JET: equations(by_jax_jet, order),
        }
        # Nested `jvp` triples with every order.
        row[NESTED] = equations(by_nested_jvp, order) if order <= 8 else None
        rows.append(row)
    lines = [
        f"| order | `{OURS}` | `{JAX_JET}` | {NESTED} |",
        "|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = ("-" if value is None else str(value) for value in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    text = f"""
The table counts equations in the jaxpr of the value and the derivatives of
`0.3 * sin(t) * t**10`, including those inside calls. Each of them has to be traced,
lowered and compiled.

{table}
"""
    last = rows[-1]
    figure = Figure(
        f"jet of order {last['order']} of `0.3 sin(t) t^10`",
        "equations",
        f"`{JAX_JET}`",
        last[OURS],
        last[JAX_JET],
        unit="",
    )
    return Report("The number of equations", text, [figure], rows)


def plot(data: Any, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, mark in [(OURS, "o-"), (JAX_JET, "s--"), (NESTED, "^:")]:
        rows = [row for row in data if row[name] is not None]
        ax.loglog(
            [row["order"] for row in rows],
            [row[name] for row in rows],
            mark,
            markersize=5,
            label=name,
        )
    ax.set_xticks(ORDERS, [str(order) for order in ORDERS])
    ax.minorticks_off()
    ax.set_xlabel("order")
    ax.set_ylabel("equations")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize=9)
    # Without the version of matplotlib in the file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(run)
