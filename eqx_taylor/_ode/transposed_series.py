"""The series of a solution, with a reverse mode that is a series itself.

The coefficients of a solution are `c_{k+1} = F_k / (k + 1)`, where `F_k` is coefficient
`k` of the vector field along it. The derivative of `F_k` with respect to `c_j` depends
only on `k - j`: it is coefficient `k - j` of the field's Jacobian `J` along the
solution (Griewank and Walther, Evaluating Derivatives, section 13). So the cotangents
`l_k` of `c_k` satisfy

    l_K = w_K,  l_j = w_j + Σ_{k=j}^{K-1} (J_{k-j})ᵀ l_{k+1} / (k + 1),

where `w` are the cotangents from outside. With `n_m = l_{K-m} / (K - m)` the sum is
coefficient `K - 1 - j` of the product `Jᵀ n` of two series, which is the `vjp` of the
field applied to `n`:

    n_{m+1} = (w_{K-1-m} + (Jᵀ n)_m) / (K - 1 - m),  l_0 = w_0 + (Jᵀ n)_{K-1}.

This is one more recurrence of the kind that defines a solution, and both are computed
together, order by order. If the field also depends on `p`, the cotangent of `p` is
coefficient `K - 1` of `(dF/dp)ᵀ n`. The result equals that of differentiating each
product of the recurrences, up to rounding. The program has fewer operations, and takes
less time to trace and to compile.
"""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.custom_types import Args, RealScalarLike, Y
from .._core.drivers import order_by_order
from .._core.jax import (
    can_move,
    close,
    evaluate,
    live_equations,
    trace,
    varying_axes,
    with_constants,
)
from .._core.primitives import callee, CALLS
from .._core.protocols import Jaxpr
from .._core.rule import RULES, target_key
from .._core.series import given, mask, unknown
from .._core.terms import add, scale, Term
from .._core.walk import Walk
from .ode_jet import expand, read_field, series_of
from .unroll import is_unrolled, lift


# The kinds of rules that a transposed series may use: those of operations whose
# derivatives consist of such operations, too. Other rules make decisions, or read a
# program as a whole, once for each order; for these the recurrences are differentiated.
_KINDS = {
    "differential equation",
    "linear",
    "product",
    "recurrence",
    "rewrite",
    "zero",
}


def series_with_transpose(
    term: diffrax.AbstractTerm,
    t0: RealScalarLike,
    unit: RealScalarLike,
    y0: Y,
    args: Args,
    order: int,
    caller: str,
    unroll: bool | None,
) -> PyTree[Array]:
    """Computes the stacked coefficients of `solution_series`. If the field allows it,
    reverse mode uses the transposed series. Forward mode then works only over reverse
    mode."""
    field = read_field(term, t0, unit, y0, args, caller)
    jaxpr = field.jaxpr
    is_alike = is_unrolled(caller, unroll, jaxpr, order) and _has_transpose(jaxpr)
    if not is_alike:
        return series_of(field, order, caller, unroll).stacked()
    time, *leaves = field.point
    inputs = time, leaves, list(jaxpr.consts)
    stacked = _series(inputs, field.dt, jaxpr, order)
    return jtu.tree_unflatten(field.treedef, stacked)


def _has_transpose(jaxpr: Jaxpr) -> bool:
    """Returns whether the equations of a program, and their derivatives, can be read as
    series in the transposed program, too."""
    avals = [*jaxpr.in_avals, *jaxpr.out_avals, *map(jax.typeof, jaxpr.consts)]
    if any(map(varying_axes, avals)) or Walk(1).decisions(jaxpr):
        return False
    return _is_plain(jaxpr)


def _is_plain(jaxpr: Jaxpr) -> bool:
    for eqn in live_equations(jaxpr):
        name = eqn.primitive.name
        if eqn.effects:
            return False
        rule = RULES.get(target_key(eqn)) or RULES.get(name)
        if rule is not None and rule.kind in _KINDS or not can_move(eqn):
            continue
        is_call = name in CALLS and CALLS[name].is_read_in_place
        # Users define the reverse mode of these functions, which may be anything.
        if not is_call or name in ("custom_jvp_call", "custom_vjp_call"):
            return False
        if not _is_plain(close(callee(eqn))):
            return False
    return True


@eqx.filter_custom_vjp
def _series(inputs: Any, dt: Array, field: Any, order: int) -> list[Array]:
    return _by_products(inputs, dt, field, order)


@_series.def_fwd
def _forward(
    perturbed: Any, inputs: Any, dt: Array, field: Any, order: int
) -> tuple[list[Array], None]:
    # Not by `_series`, which has no forward mode.
    del perturbed
    return _by_products(inputs, dt, field, order), None


@_series.def_bwd
def _backward(
    residuals: None,
    out_bars: Any,
    perturbed: Any,
    inputs: Any,
    dt: Array,
    field: Any,
    order: int,
) -> Any:
    del residuals
    moving = eqx.filter(eqx.filter(inputs, eqx.is_inexact_array), perturbed)
    time_moves, _, consts_move = moving
    time, leaves, consts = inputs
    bars = [[None] * (order + 1) if bar is None else list(bar) for bar in out_bars]
    firsts = [
        jnp.zeros_like(y) if bar[order] is None else scale(bar[order], 1 / order)
        for y, bar in zip(leaves, bars)
    ]

    def both(t: Array, *values: Array) -> tuple[Any, Any, Any]:
        """Returns the field, the cotangents of the state, and those of everything else
        on which the field depends."""
        y, n = list(values[: len(leaves)]), list(values[len(leaves) :])

        def slopes(y: list[Array], rest: Any) -> list[Array]:
            at, consts_at = eqx.combine(rest, (t, consts))
            return evaluate(with_constants(field, consts_at), [at, *y])

        rest = None if time_moves is None else t, consts_move
        out, pull = jax.vjp(slopes, y, rest)
        y_bars, rest_bars = pull(n)
        return out, y_bars, rest_bars

    def recurrences(*values: Array) -> list[Array]:
        out, y_bars, _ = both(*values)
        return [*out, *y_bars]

    point = [time, *leaves, *firsts]
    # The cotangents of everything else are needed only once, at the end. They have a
    # program of their own, so that their other coefficients are not computed.
    of_rest = eqx.filter_eval_shape(lambda: both(*point)[2])
    program = trace(recurrences, *point)
    last = trace(lambda *values: jtu.tree_leaves(both(*values)[2]), *point)
    if not (_is_plain(program) and _is_plain(last)):

        def series(moving: Any) -> list[Array]:
            return _by_products(eqx.combine(moving, inputs), dt, field, order)

        outs, pull = jax.vjp(series, moving)
        bars = [jnp.zeros_like(x) if b is None else b for x, b in zip(outs, out_bars)]
        return pull(bars)[0]
    walk = Walk(order)
    with jax.named_scope("ode_jet"):
        variables = program.jaxpr.invars
        t = given(variables[0].aval, [time, dt])
        unknowns = [
            unknown(var.aval, mask(order), [x])
            for var, x in zip(variables[1:], point[1:])
        ]
        images = walk.interpret(program, [t, *unknowns])
        lifts = [lift] * len(leaves) + [_transposed_lift(bar, order) for bar in bars]
        order_by_order(walk, unknowns, images, lifts)
        y_bars = [n.dense(order) for n in unknowns[len(leaves) :]]
        images = walk.interpret(last, [t, *unknowns])
        rest = [image.dense(order - 1) for image in images]
    t_bar, consts_bar = jtu.tree_unflatten(jtu.tree_structure(of_rest), rest)
    return t_bar, y_bars, consts_bar


def _transposed_lift(bars: Sequence[Term], order: int) -> Any:
    def transposed_lift(m: int, term: Term) -> Term:
        left = order - 1 - m
        total = add(bars[left], term)
        return scale(total, 1 / left) if left > 1 else total

    return transposed_lift


def _by_products(inputs: Any, dt: Array, field: Any, order: int) -> list[Array]:
    """Computes the series by its recurrences, which JAX differentiates product by
    product."""
    time, leaves, consts = inputs
    with jax.named_scope("ode_jet"):
        jaxpr = with_constants(field, consts)
        terms = expand(Walk(order), jaxpr, [time, *leaves], dt)
        return [jnp.stack(c) for c in terms]
