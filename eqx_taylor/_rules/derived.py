"""The rule of every primitive without a rule of its own: its derivative, as a
recurrence.

For `y = p(x)`: `y'(t) = ∂p(x(t)) x'(t)`. The right-hand side is an ordinary JAX
program, which is read as series like any other. If `p(x)` occurs in it (`tanh' = 1 -
tanh²`), the memo resolves it to the series that is being computed. In the same way, a
`custom_jvp` is used at every order.
"""

import contextlib
from collections.abc import Sequence

import jax

from .._core.check import escaped
from .._core.jax import bind, is_differentiable, name_of, trace
from .._core.memo import params_key
from .._core.protocols import JaxprEqn
from .._core.rule import OTHERWISE, register
from .._core.series import CONSTANT, mask, Series, unknown
from .._core.walk import Reach, Walk
from . import refusals
from .define import integrals
from .kinks import piecewise_linear_rule
from .linear import joined_support


@register(OTHERWISE, kind="derived")
def _derived(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    def slope(inner: Walk) -> list[Series]:
        slopes = [inputs[i].derivative for i in moving]
        jaxpr = _derivative(walk, eqn, inputs, moving)
        return inner.interpret(jaxpr, [*inputs, *slopes])

    moving = _moving(eqn, inputs)
    return integrals(walk, eqn, inputs, slope)


@register("custom_jvp_call", kind="derived")
def _custom_jvp(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    if params_key(eqn) in walk.assumed_linear:
        support = joined_support(inputs)
        return [unknown(var.aval, support) for var in eqn.outvars]
    with _escaped_values(eqn):
        if _is_piecewise_linear(walk, eqn, inputs):
            outs = piecewise_linear_rule(walk, eqn, inputs)
        else:
            outs = _derived(walk, eqn, inputs)
    for series in outs:
        series.wrap(_escaped_values(eqn))
    return outs


@contextlib.contextmanager
def _escaped_values(eqn: JaxprEqn):
    """Converts JAX's error about an escaped value to one with the remedy. The value is
    from the function that is traced, and the derivative that uses it is called
    later."""
    try:
        yield
    except jax.errors.UnexpectedTracerError as e:
        raise escaped(name_of(eqn.params["call_jaxpr"])) from e


# JAX's derivatives of these fail, or make equations that fail, if only some of the
# operands have a tangent, as along a line, where `x` is not constant and `x'` is. (The
# second half of the operands of `reduce_window` are the initial values of its sums.)
_OPERANDS_MOVE_TOGETHER = {"pallas_call": 1, "reduce_window": 2}


def _moving(eqn: JaxprEqn, inputs: Sequence[Series]) -> list[int]:
    part = _OPERANDS_MOVE_TOGETHER.get(eqn.primitive.name)
    together = 0 if part is None else len(inputs) // part
    return [
        i
        for i, series in enumerate(inputs)
        if not series.is_constant or i < together and is_differentiable(series.aval)
    ]


def _derivative(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], moving):
    """Traces the derivative, `(x, dx) -> dy`, with `dx` of the operands that are
    `moving` and `dy` of the differentiable outputs."""

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
        return walk.cached(
            ("derivative", tuple(moving)),
            eqn,
            lambda: trace(fun, *avals, *[avals[i] for i in moving]),
        )
    except Exception as e:
        name = eqn.primitive.name
        # Other errors may be the user's, in a `defjvp` for example.
        if not isinstance(e, NotImplementedError) and not refusals.is_refused(name):
            raise
        raise NotImplementedError(
            f"The primitive `{name}` cannot be differentiated as often as the order of "
            f"the jet requires. {refusals.reason(name)} JAX says: "
            f"{str(e) or type(e).__name__} It was applied to differentiated operands: "
            f"{', '.join(str(avals[i]) for i in moving)}. If its derivative does not "
            "matter, wrap these in `jax.lax.stop_gradient`; otherwise define the "
            "derivative of the function that calls it by `jax.custom_jvp`."
        ) from e


def _is_piecewise_linear(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> bool:
    """Returns whether the slope depends on `x` only through coefficient 0 (`relu`).

    The supports show this. For `x = x_0 + x_3 t³`, everything computed from `x` has
    orders 0 and 3, and only results that are linear in `x' = 3 x_3 t²` have order 2
    alone. A derivative that applies the function to `x'` is possible only if the
    function is linear, so this is assumed meanwhile.
    """
    moving = _moving(eqn, inputs)

    def find_out():
        assumed = frozenset([params_key(eqn)])
        probe = Walk(order=6, reach=Reach.NOTHING, assumed_linear=assumed)
        xs = [
            unknown(series.aval, 0b1001 if i in moving else 1)
            for i, series in enumerate(inputs)
        ]
        slopes = [unknown(inputs[i].aval, 0b100) for i in moving]
        every = [unknown(var.aval, mask(6)) for var in eqn.outvars]
        probe.assume_outputs(eqn, xs, every)
        jaxpr = _derivative(walk, eqn, inputs, moving)
        outs = probe.interpret(jaxpr, [*xs, *slopes])
        # Constants are ignored: a rule may return zeros as arrays, and a slope, which
        # is linear, has no other constant.
        return all(series.support & ~CONSTANT in (0, 0b100) for series in outs)

    if walk.assumed_linear:
        return False  # The walk already assumes that another function is linear.
    return walk.cached(("piecewise linear", tuple(moving)), eqn, find_out)
