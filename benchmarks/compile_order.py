"""How compile time grows with the order: a jet, the Taylor coefficients of an ODE's
solution, and a whole solve, at order 20 against order 5."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import filter_jet, ode_jet, TaylorController, TaylorSolver

from ._report import Figure, main, Report
from ._timing import compile_once, spread, warm_up


LOW, HIGH, AT_MOST = 5, 20, 3.0
# Between them only for the table.
ORDERS = [LOW, 10, 15, HIGH]
TURNS = 3


def programs(net) -> dict[str, Callable[[int], Callable]]:
    """From the order to a function of a state."""

    def field(t, y, args):
        return net(y)

    def jet(order):
        return lambda y: filter_jet(net, (y,), ([y] + [None] * (order - 1),))

    def coefficients(order):
        return lambda y: ode_jet(field, 0.0, y, order=order)

    def solve(order):
        def solution(y):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field),  # pyright: ignore[reportArgumentType]
                TaylorSolver(order=order),
                t0=0.0,
                t1=1.0,
                dt0=None,
                y0=y,
                stepsize_controller=TaylorController(rtol=1e-9, atol=1e-9),
                adjoint=diffrax.ForwardMode(),
            ).ys

        return solution

    return {"`filter_jet`": jet, "`ode_jet`": coefficients, "`diffeqsolve`": solve}


def run(seconds: float) -> Report:
    # Compilations are counted, not timed for so long.
    del seconds
    jax.config.update("jax_enable_x64", True)
    net = eqx.nn.MLP(64, 64, 256, 2, activation=jnp.tanh, key=jax.random.key(0))
    y = jnp.linspace(-1, 1, 64)
    warm_up((y,))
    lines = [
        "| | " + " | ".join(f"order {order}" for order in ORDERS) + " |",
        "|---|" + "---:|" * len(ORDERS),
    ]
    figures, data = [], {}
    for name, program in programs(net).items():
        times: dict[int, list[float]] = {order: [] for order in ORDERS}
        for turn in range(TURNS):
            # Only those of the target are measured more than once.
            for order in ORDERS if turn == 0 else (LOW, HIGH):
                times[order].append(compile_once(program(order), (y,))[1])
        cells = " | ".join(f"{np.median(times[order]):.2f} s" for order in ORDERS)
        lines.append(f"| {name} | {cells} |")
        print(lines[-1], flush=True)
        figures.append(
            Figure(
                f"{name} of an MLP field 64-256-256-64, order {HIGH}",
                "trace + compile",
                f"itself at order {LOW}",
                float(np.median(times[HIGH])),
                float(np.median(times[LOW])),
                ours_spread=spread(times[HIGH]),
                theirs_spread=spread(times[LOW]),
                at_most=AT_MOST,
            )
        )
        data[name] = {str(order): times[order] for order in ORDERS}
    table = "\n".join(lines)
    text = f"""
The table has the time to trace, lower and compile a jet of a tanh MLP 64-256-256-64 in
float64, the coefficients of the solution of an ODE with this MLP as its field, and a
`diffeqsolve` with `TaylorSolver` and `TaylorController`. The caches of JAX are emptied
before each compilation; orders {LOW} and {HIGH} take turns, {TURNS} of each.

{table}
"""
    return Report("Compile time and order", text, figures, data)


if __name__ == "__main__":
    main(run)
