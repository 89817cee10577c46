"""The kinds of rules. The files beside this one declare which primitive is of which."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from .._interpreter import (
    FUSED,
    joint,
    OTHERWISE,
    primal_values,
    register,
    Rule,
    rule_key,
    RULES,
    Target,
    Walk,
)
from .._jax import bind, is_differentiable, trace
from .._series import (
    CONSTANT,
    convolve,
    convolve_square,
    product_support,
    scale,
    Series,
    Support,
    Term,
)


def define_linear(
    *targets: Target, operands: slice = slice(None), fused: bool = True
) -> None:
    """Linear in these operands together (all of them by default), the others fixed:
    `y_k = p(x_k)`, one application per nonzero coefficient. `fused` says that these
    cost nothing to repeat."""
    register(*targets)(ft.partial(_linear_rule, operands=operands))
    if fused:
        FUSED.update(map(rule_key, targets))


def _linear_rule(walk: Walk, eqn, inputs, *, operands) -> list[Series]:
    linear = range(len(inputs))[operands]
    if any(i not in linear and not s.is_constant for i, s in enumerate(inputs)):
        return RULES[OTHERWISE](walk, eqn, inputs)

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))
        if all(inputs[i][k] is None for i in linear):
            return [None] * len(eqn.outvars)
        args = [s.dense(k) if i in linear else s[0] for i, s in enumerate(inputs)]
        return bind(eqn, args)

    return _outputs(eqn, joined_support(inputs), compute)


def define_bilinear(
    *targets: Target, operands: tuple[int, int] = (0, 1), symmetric: bool = False
) -> None:
    """A product of two operands, the others fixed: `y_k = Σ_j a_j b_{k-j}`. `symmetric`
    says that the operands commute and are multiplied element by element."""
    rule = ft.partial(_bilinear_rule, operands=operands, symmetric=symmetric)
    register(*targets)(rule)


def _bilinear_rule(walk: Walk, eqn, inputs, *, operands, symmetric) -> list[Series]:
    a, b = (inputs[i] for i in operands)
    if any(not s.is_constant for i, s in enumerate(inputs) if i not in operands):
        return RULES[OTHERWISE](walk, eqn, inputs)

    def product(x, y):
        args = primal_values(inputs)
        for i, value in zip(operands, (x, y)):
            args[i] = value
        return bind(eqn, args)[0]

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))
        if symmetric and a is b:
            term = convolve_square(a, k)
        else:
            term = convolve(lax.mul if symmetric else product, a, b, k)
        return [term, *[None] * (len(eqn.outvars) - 1)]

    # What else it may return is the pattern of a sparse product.
    support = product_support(a.support, b.support, walk.order)
    supports = [support, *[CONSTANT] * (len(eqn.outvars) - 1)]
    return joint([(v.aval, s) for v, s in zip(eqn.outvars, supports)], compute)


def define_piecewise_linear(*targets: Target) -> None:
    """Linear around every point, with a map that depends on the point: `abs`, `max`,
    `sort`. The map is the primitive's own JVP (so that ties and kinks are treated as
    JAX treats them), and is one for all coefficients: `y_k = ∂p(x_0) x_k`."""
    register(*targets)(piecewise_linear_rule)


def piecewise_linear_rule(walk: Walk, eqn, inputs) -> list[Series]:
    moving = [i for i, series in enumerate(inputs) if not series.is_constant]
    kept = [i for i, var in enumerate(eqn.outvars) if is_differentiable(var.aval)]

    @ft.cache
    def linearised():
        def fun(*points):
            args = primal_values(inputs)
            for i, point in zip(moving, points):
                args[i] = point
            outs = bind(eqn, args)
            return [outs[i] for i in kept], outs

        points = [inputs[i][0] for i in moving]
        _, tangent_map, outs = jax.linearize(fun, *points, has_aux=True)
        return tangent_map, outs

    def compute(k):
        tangent_map, outs = linearised()
        if k == 0:
            return outs
        terms: list[Term] = [None] * len(eqn.outvars)
        if any(inputs[i][k] is not None for i in moving):
            tangents = tangent_map(*[inputs[i].dense(k) for i in moving])
            for i, tangent in zip(kept, tangents):
                terms[i] = tangent
        return terms

    return _outputs(eqn, joined_support(inputs) | CONSTANT, compute)


def define_rewrite(target: Target, fun: Callable[..., Any]) -> None:
    """As the series of another expression, of the operands and (by name) the
    primitive's parameters. Coefficient 0 is the primitive's own."""

    @register(target)
    def rule(walk: Walk, eqn, inputs) -> list[Series]:
        params = eqn.params if eqn.primitive.name != "custom_jvp_call" else {}
        return [rewritten(walk, eqn, inputs, ft.partial(fun, **params))]


def rewritten(walk: Walk, eqn, inputs, fun: Callable[..., Any]) -> Series:
    [other] = read(walk, fun, inputs)

    def compute(k):
        return bind(eqn, primal_values(inputs))[0] if k == 0 else other[k]

    return Series(eqn.outvars[0].aval, other.support | CONSTANT, compute)


def define_derivative(target: Target, fun: Callable[..., Any]) -> None:
    """By a differential equation: `y' = fun(y, x..., x'...)`.

    `fun` is an ordinary JAX function. It is read as series with the same memo, so that
    what it has in common with the rest of the program is computed once. An entry here
    is better, in speed or accuracy, than JAX's own JVP rule, which the primitives that
    have no entry are defined by (`derived.py`).
    """
    register(target)(derivative_rule(fun))


def derivative_rule(fun: Callable[..., Any]) -> Rule:
    """The rule of a function with this derivative."""

    def rule(walk: Walk, eqn, inputs) -> list[Series]:
        def slope(inner: Walk) -> list[Series]:
            slopes = [series.derivative for series in inputs]
            return read(inner, fun, [*outs, *inputs, *slopes])

        outs = integrals(walk, eqn, inputs, slope)
        return outs

    return rule


def integrals(
    walk: Walk, eqn, inputs, slope: Callable[[Walk], list[Series]]
) -> list[Series]:
    """The outputs `y` of `eqn`, from the equation `y' = g`: `y_k = g_{k-1} / k`.

    `slope` reads `g` (for each output that can move) in a walk of its own; `g_k` may
    depend on `y_0` to `y_k`.
    """
    kept = [i for i, var in enumerate(eqn.outvars) if is_differentiable(var.aval)]

    @ft.cache
    def right_hand_side():
        inner = walk.inside(outs[0].key)
        g = slope(inner)
        for series in g:
            series.uses += 1
        return inner, g

    def compute(k):
        if k == 0:
            return bind(eqn, primal_values(inputs))
        inner, g = right_hand_side()
        inner.advance(k - 1)
        terms: list[Term] = [None] * len(eqn.outvars)
        for i, g_i in zip(kept, g):
            terms[i] = scale(g_i[k - 1], 1 / k)
        return terms

    outs = _outputs(eqn, walk.analytic_support(inputs), compute)
    return outs


def read(walk: Walk, fun: Callable[..., Any], inputs: Sequence[Series]) -> list[Series]:
    """The series of a JAX expression of one value, or of a tuple of them."""

    def as_list(*args):
        out = fun(*args)
        return list(out) if isinstance(out, tuple) else [out]

    return walk.interpret(trace(as_list, *[s.aval for s in inputs]), inputs)


def joined_support(inputs: Sequence[Series]) -> Support:
    """The support of a sum of series."""
    return ft.reduce(lambda support, series: support | series.support, inputs, 0)


def _outputs(eqn, support: Support, compute) -> list[Series]:
    """The outputs of `eqn`; integers among them have their first coefficient only."""
    types = [
        (var.aval, support if is_differentiable(var.aval) else 1) for var in eqn.outvars
    ]
    return joint(types, compute)
