"""Kinks: functions that are linear around every point, by a map that depends on it."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._core.decisions import is_kink
from .._core.jax import bind, is_differentiable
from .._core.protocols import JaxprEqn
from .._core.recurrence import Recurrence
from .._core.rule import register, Target
from .._core.series import ahead_values, CONSTANT, primal_values, Series
from .._core.terms import Term
from .._core.walk import Walk
from .linear import joined_support


def define_piecewise_linear(*targets: Target) -> None:
    """Declares that targets are linear around every point, with a linear map that
    depends on the point: `abs`, `max`, `sort`.

    The linear map is the JVP, so that ties and kinks are treated as in JAX. It is the
    same for all coefficients: `y_k = ∂p(x_0) x_k`.

    **Arguments:**

    - `targets`: one or more targets. A target is a `jax.extend.core.Primitive`, the
        name of one, or a function with a `jax.custom_jvp` whose `defjvp` has been
        called.

    **Returns:**

    `None`. The rule applies to everything that is traced afterwards.

    **Raises:**

    `TypeError` if a target is none of these. `ValueError` if the `defjvp` of a function
    has not been called, or if no primitive has the name.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def clamp(x):
        ...     return jnp.clip(x, -1.0, 1.0)
        >>> @clamp.defjvp
        ... def _(primals, tangents):
        ...     (x,), (dx,) = primals, tangents
        ...     return clamp(x), jnp.where(abs(x) < 1, dx, 0.0)
        >>> rules.define_piecewise_linear(clamp)
        >>> x, v = jnp.array([0.5, 2.0]), jnp.array([1.0, 1.0])
        >>> y, (first, second) = filter_jet(clamp, (x,), ([v, 3 * v],))
        >>> print(y, first, second)
        [0.5 1. ] [1. 0.] [3. 0.]
        ```
    """
    register(*targets, kind="piecewise linear", is_kink=True)(piecewise_linear_rule)


def piecewise_linear_rule(
    walk: Walk,
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    value: Callable[[list[Any], list[Any]], list[Any]] | None = None,
) -> list[Series]:
    """Reads functions that are linear around every point.

    In the series of a solution, the linear map is that of a point ahead. The values are
    those at the point itself, by the formula of the side ahead. A maximum has the same
    value from both sides. For functions that do not, `value` computes it from the
    operands here and ahead.
    """
    moving = [i for i, series in enumerate(inputs) if not series.is_constant]
    kept = [i for i, var in enumerate(eqn.outvars) if is_differentiable(var.aval)]
    looks_ahead = any(series.moves_ahead for series in inputs)
    looks_ahead = looks_ahead and walk.decides_ahead and _decides(eqn)
    # Several outputs are selected alike, or say how others were selected: their values
    # are also those of the map ahead.
    picks = len(eqn.outvars) > 1 and eqn.primitive.name != "custom_jvp_call"
    operands = ahead_values if looks_ahead else primal_values

    @ft.cache
    def linearised(*which):
        with walk.outside():
            return linearised_now(*which)

    def linearised_now(*which):
        point = operands(inputs)

        def fun(*points):
            args = list(point)
            for i, x in zip(which, points):
                args[i] = x
            shape = eqn.outvars[0].aval.shape
            # JAX cannot differentiate `clamp` with respect to scalar bounds.
            if eqn.primitive.name == "clamp" and any(
                jnp.shape(args[i]) != shape for i in which
            ):
                args = [jnp.broadcast_to(x, shape) for x in args]
            outs = bind(eqn, args)
            return [outs[i] for i in kept], outs

        points = [point[i] for i in which]
        _, tangent_map, outs = jax.linearize(fun, *points, has_aux=True)
        return tangent_map, outs

    def first():
        if not looks_ahead:
            return linearised(*moving)[1]
        if value is not None:
            return value(primal_values(inputs), ahead_values(inputs))
        # The map is of all operands, so that gradients are those of the side ahead.
        every = [i for i, s in enumerate(inputs) if is_differentiable(s.aval)]
        tangent_map, outs = linearised(*every)
        here = [inputs[i].dense(0) for i in every]
        if picks:
            for i, x in zip(kept, tangent_map(*here)):
                outs[i] = x
            return outs
        # The map multiplies entries that are not selected by zero. They may be
        # infinite.
        values = tangent_map(*[jnp.where(lax.is_finite(x), x, 0) for x in here])
        exact = bind(eqn, primal_values(inputs))
        for i, x in zip(kept, values):
            outs[i] = _sloped(exact[i], x)
        return outs

    def compute(k):
        terms: list[Term] = [None] * len(eqn.outvars)
        if any(inputs[i][k] is not None for i in moving):
            tangent_map, _ = linearised(*moving)
            tangents = tangent_map(*[inputs[i].dense(k) for i in moving])
            for i, tangent in zip(kept, tangents):
                terms[i] = tangent
        return terms

    support = joined_support(inputs) | CONSTANT
    types = [
        (var.aval, support if i in kept else CONSTANT)
        for i, var in enumerate(eqn.outvars)
    ]
    return Recurrence(types, first, compute).outs


def _sloped(exact, sloped):
    """Combines the value of `exact` with the derivative of `sloped`."""
    rest = lax.stop_gradient(exact - sloped)
    return jnp.where(exact == sloped, sloped, sloped + rest)


def _decides(eqn: JaxprEqn) -> bool:
    return is_kink(eqn) or eqn.primitive.name == "custom_jvp_call"
