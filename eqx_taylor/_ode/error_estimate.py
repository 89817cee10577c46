"""The error estimate of `TaylorSolver`, and the check that the series is that of the
solution."""

import functools as ft
import math
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Real, Shaped

from .._core.custom_types import PyTree, RealScalarLike
from .._core.polynomial import evaluate_derivative
from .event_watch import wrong_controller


# A bound, with room to spare, of the rounding errors of the defect, in units of the
# last place of the step's increment.
_NOISE = 4
# The ratio of the defect to the last two terms of the polynomial's derivative above
# which the defect is not the truncation error of the series. In the 37 smooth problems
# of `test_detest.py` and `test_taylor_controller.py`, at orders 5, 8 and 12, the ratio
# is at most 1.7.
_FOREIGN = 5
# A bound of rounding errors in units of the last place of the state and its increment.
# Chosen, above the errors of a field in which two digits cancel. If a series is
# rejected by mistake, the step is as accurate, and costs more.
_ROUNDING = 100


# The result of a solve whose state, or whose field within a step, is not finite.
NOT_FINITE: Any = diffrax.RESULTS.nonfinite

# Kinds of steps. They are stored as floating-point numbers, which Diffrax requires.
# The polynomial is the series of the solution.
OF_SERIES = 0
# It is the series of the solution up to the last point inside, but not at the end.
BROKEN_AT_END = 1
# It is not, and the step is made by a Runge--Kutta method.
BY_RUNGE_KUTTA = 2
# There is no slope at the start, and no polynomial.
WITHOUT_SLOPE = 3


class ErrorEstimate(eqx.Module):
    """The error of a step in one leaf of the state, together with the values from which
    [`eqx_taylor.TaylorController`][] chooses the next step.

    Diffrax passes only the error of a step from the solver to the step size controller.
    To every other controller, this object is an array: the error.

    **Fields:**

    - `error`: the estimate, a real array of the shape of the leaf.
    - `last`: coefficients $K - 1$ and $K$ of the series at the end of the step.
    - `unit`: the unit of time of these coefficients, which is positive.
    - `kind`: the kind of the step, one of the constants above.
    - `cut`: the length of time after which the step has to end, so that it ends just
        after the first event within it. It is zero if there is none, and `None` if the
        solver watches for no event.
    """

    error: Real[Array, "*y"]
    last: Shaped[Array, "2 *y"]  # noqa: F821
    unit: RealScalarLike
    kind: RealScalarLike
    cut: RealScalarLike | None = None

    def __jax_array__(self) -> Array:
        if self.cut is not None:
            raise wrong_controller()
        return self.error


def is_estimate(x: Any) -> bool:
    return isinstance(x, ErrorEstimate)


class Defect(eqx.Module):
    r"""The amount by which a polynomial fails to satisfy the equation at a point of the
    step, times the length $h$ of the step: $h\,(f(t, p(t)) - p'(t))$.

    Each field is a list of arrays, one for each leaf of the state.

    **Fields:**

    - `sizes`: the absolute value of the defect.
    - `expected`: the larger of the last two terms of $h p'(t)$. If the series is that
        of the solution, its truncation error is smaller than this.
    - `increments`, `values`: the absolute values of $h f(t, p(t))$ and of the state.
    """

    sizes: list[Array]
    expected: list[Array]
    increments: list[Array]
    values: list[Array]

    def is_foreign(self) -> Array:
        """Returns whether the series is not that of the solution at this point. It is
        true if there is no slope."""
        if not self.sizes:
            return jnp.array(False)

        def expected(last, increment, value):
            eps = _ROUNDING * float(jnp.finfo(last.dtype).eps)
            return last + eps * (increment + value)

        def largest(leaves):
            return jnp.max(
                jnp.stack([jnp.max(x, initial=0).astype(float) for x in leaves])
            )

        most = map(expected, self.expected, self.increments, self.values)
        return ~(largest(self.sizes) <= _FOREIGN * largest(most))

    def errors(self, order: int) -> list[Array]:
        r"""Estimates the local error, to leading order, of a polynomial of this order.

        If $p = y - \epsilon$, and $\epsilon$ grows like $(t - t_0)^{K + 1}$, the defect
        at the end of the step is $h\epsilon'(t_1) = (K + 1)\,\epsilon(t_1)$.
        """

        def error(size, expected, increment, value):
            # A defect below its rounding errors, or below the rounding of the state, is
            # noise, and must not influence the steps: adjoints run steps again in
            # another program, and would take different ones; and shorter steps would
            # not make it smaller. The terms of the series are known in that case.
            eps = float(jnp.finfo(size.dtype).eps)
            noise = eps * jnp.maximum(_NOISE * increment, (order + 1) * value)
            known = jnp.minimum(expected, noise)
            return jnp.where(size <= noise, known, size) / (order + 1)

        return list(map(error, self.sizes, self.expected, self.increments, self.values))


def defect(
    increment: PyTree[Array],
    y: PyTree[Array],
    series: PyTree[Array],
    s: RealScalarLike,
    part: float,
) -> Defect:
    """Computes the defect of a polynomial at a `part` of the step, whose length is `s`
    in the unit of the series. At this point the field's increment is `increment`, and
    the state is `y`."""
    leaves, treedef = jtu.tree_flatten(series)
    increments, values = (
        [jnp.asarray(x) for x in treedef.flatten_up_to(tree)] for tree in (increment, y)
    )
    sizes, expected = [], []
    for c, by_field in zip(leaves, increments):
        by_series = evaluate_derivative(list(c), part * s) / part
        sizes.append(jnp.abs(by_field - by_series))
        order = len(c) - 1
        power = jnp.asarray(s, sizes[-1].dtype)
        # Two terms, as the last one may be zero, as for even functions. The slope does
        # not count: it is correct whatever its derivatives are.
        last = [
            jnp.abs(c[k]) * (k * part ** (k - 1) * power**k)
            for k in range(max(order - 1, min(order, 2)), order + 1)
        ]
        expected.append(ft.reduce(jnp.maximum, last))
    return Defect(
        sizes, expected, list(map(jnp.abs, increments)), list(map(jnp.abs, values))
    )


def probe_points(number: int) -> list[float]:
    """Returns points between 0 and 1: the fractional parts of multiples of the golden
    ratio. However many there are, they are far from each other and from the ends, and
    no periodic field is in phase with them."""
    golden = (math.sqrt(5) - 1) / 2
    return [i * golden % 1 for i in range(1, number + 1)]
