"""The error of a step of `TaylorSolver`, and whether the series is that of the
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


# The rounding errors of the defect, with room to spare, in units of the last place of
# the step's increment.
_NOISE = 4
# A defect of so many times the last two terms of the polynomial's derivative is not
# what the series leaves out. In the 37 smooth problems of `test_detest.py` and
# `test_taylor_controller.py`, at orders 5, 8 and 12, it is at most 1.7 times as large.
_FOREIGN = 5
# The rounding that there may be, in units of the last place of the state and its
# increment: chosen, and above what a field that cancels two digits makes. A step that
# is taken for one of another field by mistake is as accurate, and costs more.
_ROUNDING = 100


# The result of a solve whose state, or the field on its way, is not finite.
NOT_FINITE: Any = diffrax.RESULTS.nonfinite

# Kinds of steps, as numbers of a floating-point type, which Diffrax asks for.
# The polynomial is the series of the solution.
OF_SERIES = 0
# It is up to the last point inside, but not at the end.
BROKEN_AT_END = 1
# It is not, and the step is one of a Runge--Kutta method.
BY_RUNGE_KUTTA = 2
# There is no slope at the start, and no polynomial.
WITHOUT_SLOPE = 3


class ErrorEstimate(eqx.Module):
    """The error of a step in one leaf of the state; and what
    [`eqx_taylor.TaylorController`][] chooses the next step by.

    Diffrax hands the error of a step, and nothing else, from the solver to the step
    size controller. To every other controller this is an array, the error.

    **Fields:**

    - `error`: the estimate, of the shape of the leaf; real.
    - `last`: coefficients $K - 1$ and $K$ of the series at the end of the step.
    - `unit`: the unit of time of these coefficients; positive.
    - `kind`: the kind of the step; one of the numbers above.
    - `cut`: the length of time after which the step has to end, so that it ends behind
        the first event within it; zero if it need not, and `None` if nobody looks.
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

    - `sizes`: its absolute value.
    - `expected`: the larger of the last two terms of $h p'(t)$. What the series leaves
        out is smaller than that, where it is that of the solution.
    - `increments`, `values`: the absolute values of $h f(t, p(t))$ and of the state.
    """

    sizes: list[Array]
    expected: list[Array]
    increments: list[Array]
    values: list[Array]

    def is_foreign(self) -> Array:
        """Whether the series is not that of the solution at this point; a boolean. It
        is true where there is no slope."""
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

        Where $p = y - \epsilon$, and $\epsilon$ grows like $(t - t_0)^{K + 1}$, the
        defect at the end of the step is $h\epsilon'(t_1) = (K + 1)\,\epsilon(t_1)$.
        """

        def error(size, expected, increment, value):
            # What is below its rounding errors, or adds less to the state than the
            # rounding of the state itself, is not known and must not steer. Adjoints
            # run steps again, in another program, and would come to other steps by it;
            # and no step is short enough to make it smaller. The terms of the series
            # are known there.
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
    """Computes the defect of a polynomial at a part of the step, whose length is `s` in
    the unit of the series. The increment of the field there is `increment`, and the
    state `y`."""
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
        # The last two, as one of them may be zero: think of even functions. Not the
        # slope, which is right whatever its derivatives are.
        last = [
            jnp.abs(c[k]) * (k * part ** (k - 1) * power**k)
            for k in range(max(order - 1, min(order, 2)), order + 1)
        ]
        expected.append(ft.reduce(jnp.maximum, last))
    return Defect(
        sizes, expected, list(map(jnp.abs, increments)), list(map(jnp.abs, values))
    )


def probe_points(number: int) -> list[float]:
    """Returns points between 0 and 1: multiples of the golden ratio, less whole
    numbers. However many they are, they are far from each other and from the ends, and
    nothing that is regular has their period."""
    golden = (math.sqrt(5) - 1) / 2
    return [i * golden % 1 for i in range(1, number + 1)]
