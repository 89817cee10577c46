"""The size of programs: counts of their primitives, and plots of the counts."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._core.check import describe
from .._derivatives.filter_jet import filter_jet
from .counts import count_jaxpr, PrimitiveCounts
from .filter_trace import filter_trace, is_traced
from .simplify import cse, simplify


def count_primitives(
    fun: Callable[..., Any],
    /,
    *args: Any,
    weigh_loops: bool = False,
    **kwargs: Any,
) -> PrimitiveCounts:
    r"""Counts how often each primitive occurs in the program of a function. This
    program is what JAX traces, lowers and compiles.

    The function is traced, and nothing is computed. Equations inside loops, branches,
    calls and custom rules are counted wherever they are called; a call of `jax.jit`
    itself is not counted.

    **Arguments:**

    - `fun`: a function of arbitrary PyTrees. It may be a Module or a transformed
        function.
    - `*args`, `**kwargs`: its arguments. Arrays, floating-point and complex numbers,
        and `jax.ShapeDtypeStruct`s instead of arrays, are inputs of the program;
        everything else is a part of it.
    - `weigh_loops`: if `True`, equations in the body of a `scan` count once for each
        iteration. The number of iterations of a `while_loop` is unknown, so its body
        counts once.

    **Returns:**

    An [`eqx_taylor.programs.PrimitiveCounts`][], which is a tuple of

    - `counts`: a dictionary from the names of primitives to their numbers of
        occurrences, the most frequent one first;
    - `total`: the sum of these;
    - `flops`: an estimate of the floating-point operations of one evaluation, by the
        rules of XLA: one for each entry of an elementwise function, two for each
        product in a contraction, none for moving data. A `scan` counts with all of its
        iterations, a `while_loop` with one, and a `cond` with its most expensive
        branch.

    **Raises:**

    `TypeError` if `fun` is not callable, or if its Python code depends on the value of
    an array.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor.programs import count_primitives
        >>> counts, total, flops = count_primitives(jax.grad(jnp.sin), 1.0)
        >>> print(counts, total)
        {'cos': 1, 'mul': 1, 'sin': 1} 3
        >>> # Nothing is computed, so shapes are enough.
        >>> matrix = jax.ShapeDtypeStruct((10, 10), jnp.float32)
        >>> count_primitives(jnp.dot, matrix, matrix).flops
        2000.0
        ```
    """
    if not callable(fun):
        raise TypeError(
            f"count_primitives: `fun` must be callable; got {describe(fun)}."
        )
    jaxpr = filter_trace("count_primitives", fun, args, kwargs, _is_input).jaxpr
    return count_jaxpr(jaxpr, weigh_loops)


def _is_input(x: Any) -> bool:
    return isinstance(x, float | complex | jax.ShapeDtypeStruct) or is_traced(x)


def plot_primitive_counts(
    fun: Callable[[Any], Any],
    orders: Sequence[int],
    *,
    x: Any = 1.0,
    ax: Any = None,
) -> Any:
    r"""Plots how the program of a function's derivatives grows with their order.

    For each order $K$ it counts the equations of the value and the first $K$
    derivatives along a straight line: by nested `jax.jvp`, by the same after
    [`eqx_taylor.programs.cse`][] and after [`eqx_taylor.programs.simplify`][], and by
    [`eqx_taylor.filter_jet`][].

    **Arguments:**

    - `fun`: a function of one array, or of a PyTree of arrays.
    - `orders`: the orders $K$, positive integers. The program of nested `jvp` grows
        exponentially, and takes minutes to trace at orders above about ten.
    - `x`: the point, of which only the shapes and dtypes matter. All entries of the
        direction are 1.
    - `ax`: the `matplotlib` axes to draw into; by default those of a new figure.

    **Returns:**

    The axes.

    **Raises:**

    `TypeError` if `fun` is not callable. `ValueError` if the orders are not positive
    integers. `ModuleNotFoundError` if `matplotlib` is not installed; the extra `plot`
    of the package installs it.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor.programs import plot_primitive_counts
        >>> ax = plot_primitive_counts(lambda x: jnp.sin(x) * x**3, range(1, 4))
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('order', 'equations')
        >>> ax.figure.savefig("counts.png")
        ```
    """
    if not callable(fun):
        raise TypeError(
            f"plot_primitive_counts: `fun` must be callable; got {describe(fun)}."
        )
    orders = list(orders)
    whole = all(isinstance(k, int | np.integer) and k >= 1 for k in orders)
    if not orders or not whole:
        raise ValueError(
            "plot_primitive_counts: `orders` must be positive integers, one or more; "
            f"got {orders!r}."
        )
    try:
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "plot_primitive_counts: matplotlib is not installed: "
            "python -m pip install matplotlib"
        ) from e
    counts = counts_by_order(fun, orders, x)
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    for (name, numbers), mark in zip(counts.items(), ["^:", "v--", "o-", "s-."]):
        ax.semilogy(orders, numbers, mark, markersize=5, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("order")
    ax.set_ylabel("equations")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend()
    return ax


def counts_by_order(
    fun: Callable[[Any], Any], orders: Sequence[int], x: Any
) -> dict[str, list[int]]:
    """Returns the total counts for each of the orders, by method."""
    slope = jtu.tree_map(jnp.ones_like, x)

    def by_jet(order):
        return lambda x: filter_jet(fun, (x,), ([slope] + [None] * (order - 1),))

    methods = {
        "nested jvp": lambda order: nested(fun, order),
        "cse": lambda order: cse(nested(fun, order)),
        "simplify": lambda order: simplify(nested(fun, order)),
        "jet": by_jet,
    }
    return {
        name: [count_primitives(method(order), x).total for order in orders]
        for name, method in methods.items()
    }


def nested(fun: Callable[[Any], Any], order: int) -> Callable[[Any], list[Any]]:
    """Returns `x -> [fun(x), fun'(x), ...]`: the value and the derivatives along `x +
    t`, by `jvp` of `jvp` of ..."""

    def extended(tower):
        def longer(x):
            slope = jtu.tree_map(jnp.ones_like, x)
            lower, slopes = jax.jvp(tower, (x,), (slope,))
            return [*lower, slopes[-1]]

        return longer

    def tower(x):
        return [fun(x)]

    for _ in range(order):
        tower = extended(tower)
    return tower
