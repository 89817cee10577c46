"""The rule of every primitive that has none: its own derivative, as a recurrence.

For `y = p(x)`: `y'(t) = ∂p(x(t)) x'(t)`. The right-hand side is an ordinary JAX
program, and it is read as series like any other. Where `p(x)` occurs in it (`tanh' = 1
- tanh²`) the memo resolves it to the series that is being computed. This is also how a
`custom_jvp` is honoured, at every order.
"""

import jax

from .._interpreter import OTHERWISE, register, Walk
from .._jax import bind, is_differentiable, trace
from .._memo import params_key
from .._series import CONSTANT, mask, Series, unknown
from . import coverage
from ._define import integrals, joined_support
from ._kinks import piecewise_linear_rule


@register(OTHERWISE)
def _derived(walk: Walk, eqn, inputs) -> list[Series]:
    def slope(inner: Walk) -> list[Series]:
        slopes = [inputs[i].derivative for i in moving]
        jaxpr = _derivative(walk, eqn, inputs, moving)
        return inner.interpret(jaxpr, [*inputs, *slopes])

    moving = _moving(inputs)
    return integrals(walk, eqn, inputs, slope)


@register("custom_jvp_call")
def _custom_jvp(walk: Walk, eqn, inputs) -> list[Series]:
    if params_key(eqn) in walk.supposed_linear:
        support = joined_support(inputs)
        return [unknown(var.aval, support) for var in eqn.outvars]
    if _is_piecewise_linear(walk, eqn, inputs):
        return piecewise_linear_rule(walk, eqn, inputs)
    return _derived(walk, eqn, inputs)


def _moving(inputs) -> list[int]:
    return [i for i, series in enumerate(inputs) if not series.is_constant]


def _derivative(walk: Walk, eqn, inputs, moving):
    """The jaxpr of `(x, dx of those that move) -> dy of those that can`."""

    def fun(*args):
        primals, tangents = args[: len(inputs)], args[len(inputs) :]

        def primal_fun(*points):
            operands = list(primals)
            for i, point in zip(moving, points):
                operands[i] = point
            outs = bind(eqn, operands)
            return [
                out
                for out, var in zip(outs, eqn.outvars)
                if is_differentiable(var.aval)
            ]

        points = tuple(primals[i] for i in moving)
        return jax.jvp(primal_fun, points, tuple(tangents))[1]

    avals = [series.aval for series in inputs]
    try:
        return walk.fact(
            ("derivative", tuple(moving)),
            eqn,
            lambda: trace(fun, *avals, *[avals[i] for i in moving]),
        )
    except Exception as e:
        name = eqn.primitive.name
        # What others raise may be the user's own error, in a `defjvp` for one.
        if not isinstance(e, NotImplementedError) and not coverage.is_refused(name):
            raise
        raise NotImplementedError(
            f"The primitive `{name}` cannot be differentiated as often as the order of "
            f"the jet requires. {coverage.reason(name)} JAX says: "
            f"{str(e) or type(e).__name__} It was applied to operands that move: "
            f"{', '.join(str(avals[i]) for i in moving)}. If its slope does not "
            "matter, wrap these in `jax.lax.stop_gradient`; else define the derivative "
            "of the function that calls it by `jax.custom_jvp`."
        ) from e


def _is_piecewise_linear(walk: Walk, eqn, inputs) -> bool:
    """Whether the slope depends on `x` through its first coefficient only (`relu`).

    Asked of the supports: with `x = x_0 + x_3 t³`, and orders 0 and 3 for anything
    that is computed from it, `x' = 3 x_3 t²` alone keeps order 2 as its only one. A
    rule that applies the function to `x'` can do so only if the function is linear, and
    this is supposed meanwhile.
    """
    moving = _moving(inputs)

    def find_out():
        probe = Walk(order=6, abstract=True)
        probe.supposed_linear = frozenset([params_key(eqn)])
        xs = [
            unknown(series.aval, 0b1001 if i in moving else 1)
            for i, series in enumerate(inputs)
        ]
        slopes = [unknown(inputs[i].aval, 0b100) for i in moving]
        probe.suppose(eqn, xs, [unknown(var.aval, mask(6)) for var in eqn.outvars])
        jaxpr = _derivative(walk, eqn, inputs, moving)
        outs = probe.interpret(jaxpr, [*xs, *slopes])
        # A zero that a rule writes out is a constant; a slope has none, being linear.
        return all(series.support & ~CONSTANT in (0, 0b100) for series in outs)

    if walk.supposed_linear:
        return False  # Of another function; one question at a time.
    return walk.fact(("piecewise linear", tuple(moving)), eqn, find_out)
