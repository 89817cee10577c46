"""Linear systems `A(t) x(t) = b(t)` whose matrix is given as a function.

    A_0 x_k = b_k - Σ_{j=1..k} A_j x_{k-j}

One factorisation serves all orders. The sum is coefficient `k` of `A x` for `x_k = 0`:
the product is read with a tentative zero for `x_k`, and everything that depends on it
is retracted when `x_k` is known.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox.internal as eqxi
import jax
import jax.tree_util as jtu

from .._core.drivers import on_trial
from .._core.jax import (
    bind,
    evaluate,
    filled,
    is_jaxpr,
    Jaxpr,
    linear_solve_params,
    trace,
)
from .._core.protocols import JaxprEqn
from .._core.recurrence import outputs
from .._core.rule import otherwise, register
from .._core.series import CONSTANT, primal_values, Series, Tentative
from .._core.terms import sub, Term
from .._core.walk import Walk
from .linear import joined_support


def _solved(
    walk: Walk,
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    b: Sequence[Series],
    product: Jaxpr,
    inverse: Callable[[list[Any], list[Any]], list[Any]],
    is_fixed: bool,
) -> list[Series]:
    """Makes the outputs of `eqn`, the first of which solve `A x = b`.

    `product` is the jaxpr of `(operands, x) -> A x`, and `inverse(operands, r)` is
    `A⁻¹ r`; the operands are those of `eqn`. `is_fixed` says that `A` is constant.
    """
    x_avals = [var.aval for var in eqn.outvars[: len(b)]]
    if is_fixed:
        support = joined_support(b) | CONSTANT
    else:
        support = walk.analytic_support(inputs)
    x = [
        Series(aval, support, lambda k, i=i: outs[i][k], is_known=False, is_kept=True)
        for i, aval in enumerate(x_avals)
    ]
    tentative = Tentative(x)
    # Loops and branches must run again, as they keep coefficients of inner values.
    is_plain = not any(
        is_jaxpr(leaf)
        for inner_eqn in product.eqns
        for leaf in jtu.tree_leaves(inner_eqn.params)
    )

    @ft.cache
    def reading():
        inner = walk.definition_walk(outs[0].key)
        return inner, inner.interpret(product, [*inputs, *x])

    def residual(k):
        """Computes coefficient `k` of `b - A x` for `x_k = 0`."""
        if is_fixed:
            return [series[k] for series in b]
        inner, products = reading()
        images = on_trial(inner, tentative, x, products, k)
        terms = [sub(series[k], image) for series, image in zip(b, images)]
        if is_plain:
            for series, ax in zip(b, products):
                ax.make_known(k, series[k])  # It is known from `A x = b`.
        return terms

    def compute(k):
        terms: list[Term] = [None] * len(eqn.outvars)
        right = residual(k)
        if any(term is not None for term in right):
            right = [
                filled(series.aval) if term is None else term
                for series, term in zip(b, right)
            ]
            terms[: len(b)] = inverse(primal_values(inputs), right)
        return terms

    # The other outputs, such as the number of iterations, are constant.
    rest = [CONSTANT] * len(eqn.outvars[len(b) :])
    outs = outputs(eqn, inputs, [support] * len(b) + rest, compute)
    return outs


# Its other outputs (the number of iterations) are not floating-point numbers.
@register(
    "custom_linear_solve",
    kind="implicit function",
    linear=lambda eqn: slice(linear_solve_params(eqn).num_consts, None),
)
def _custom_linear_solve(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]
) -> list[Series]:
    p = linear_solve_params(eqn)
    consts, b = inputs[: p.num_matvec_consts], inputs[p.num_consts :]

    def product(*args):
        return evaluate(p.matvec, [*args[: len(consts)], *args[len(inputs) :]])

    def inverse(operands, r):
        return bind(eqn, [*operands[: -len(r)], *r])[: len(r)]

    x_avals = [var.aval for var in eqn.outvars[: len(b)]]
    jaxpr = walk.cached(
        "product", eqn, lambda: trace(product, *[s.aval for s in inputs], *x_avals)
    )
    is_fixed = all(series.is_constant for series in consts)
    return _solved(walk, eqn, inputs, b, jaxpr, inverse, is_fixed)


@register("spsolve", kind="implicit function", linear=slice(-1, None))
def _sparse_solve(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    # This imports a good part of SciPy, which takes longer than importing all of this
    # library. A program with a sparse solve has imported it already.
    from jax.experimental import sparse

    data, indices, pointers, b = inputs
    size = b.aval.shape[0]

    def product(data, indices, pointers, b, x):
        matrix = sparse.BCSR((data, indices, pointers), shape=(size, size))
        return [matrix @ x]

    def inverse(operands, r):
        return bind(eqn, [*operands[:-1], *r])

    avals = [series.aval for series in [*inputs, b]]
    jaxpr = walk.cached("product", eqn, lambda: trace(product, *avals))
    return _solved(walk, eqn, inputs, [b], jaxpr, inverse, data.is_constant)


# -- Lineax


@register("linear_solve", kind="implicit function")
def _lineax(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    avals = [series.aval for series in inputs]
    system = walk.cached("system", eqn, lambda: _lineax_system(eqn, avals))
    is_fixed = all(
        series.is_constant for i, series in enumerate(inputs) if i not in system.b
    )
    if not (system.is_regular or is_fixed):
        # The derivative of a pseudoinverse has more terms than that of `A x = b`.
        return otherwise(walk, eqn, inputs)
    b = walk.interpret(system.rhs, inputs)
    return _solved(walk, eqn, inputs, b, system.product, system.inverse, is_fixed)


# `vprim` is a primitive of Equinox under `vmap`.
@register("vprim", kind="implicit function")
def _vmapped(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    primitive, _ = _innermost(eqn)
    rule = _lineax if primitive.name == "linear_solve" else otherwise
    return rule(walk, eqn, inputs)


def _innermost(eqn: JaxprEqn) -> tuple[Any, dict[str, Any]]:
    primitive, params = eqn.primitive, eqn.params
    while primitive.name == "vprim":
        primitive, params = params["prim"], dict(params["params"])
    return primitive, params


class _System(NamedTuple):
    # The positions of `b` among the operands.
    b: list[int]
    # Jaxprs of `operands -> b` and of `(operands, x) -> A x`, batched in the same way.
    rhs: Jaxpr
    product: Jaxpr
    # The function `(operands, r) -> A⁻¹ r`.
    inverse: Callable[[list[Any], list[Any]], list[Any]]
    # Whether `A` is square and of full rank.
    is_regular: bool


def _lineax_system(eqn: JaxprEqn, avals: Sequence[Any]) -> _System:
    """Describes the system of Lineax's equation in terms of its flat operands."""
    primitive, params = _innermost(eqn)

    def within_vmaps(fun, operands, others):
        """Calls `fun(operands, others)` within the `vmap`s of the equation. The others
        are batched along their first axes, like the solution."""

        def call(primitive, params, operands, others):
            if primitive.name != "vprim":
                return fun(operands, others)
            return jax.vmap(
                ft.partial(call, params["prim"], dict(params["params"])),
                in_axes=(list(params["__batch_axes"]), 0),
                axis_size=params["__axis_size"],
                axis_name=params["__axis_name"],
            )(list(operands), list(others))

        return call(eqn.primitive, eqn.params, operands, others)

    def with_trees(fun, operands):
        """Calls `fun` with PyTrees, as Equinox does for its primitives."""
        flatten = {**params, "flatten": jtu.tree_leaves}
        return eqxi.filter_primitive_def(fun)(*operands, **flatten)

    b = with_trees(lambda operator, state, vector, *_: vector, range(len(avals)))
    regular: list[bool] = []

    def matvec(operands, x):
        def mv(operator, state, vector, options, solver, throw):
            is_square = operator.in_size() == operator.out_size()
            regular.append(is_square and solver.assume_full_rank())
            structure = jtu.tree_structure(operator.in_structure())
            return operator.mv(jtu.tree_unflatten(structure, x))

        return with_trees(mv, operands)

    def solve(operands, r):
        operands = list(operands)
        for i, r_i in zip(b, r):
            operands[i] = r_i
        return primitive.bind(*operands, **params)[: len(r)]

    def select(operands, _):
        return [operands[i] for i in b]

    def product(*args):
        return within_vmaps(matvec, args[: len(avals)], args[len(avals) :])

    x_avals = [var.aval for var in eqn.outvars[: len(b)]]
    return _System(
        b,
        trace(lambda *operands: within_vmaps(select, operands, []), *avals),
        trace(product, *avals, *x_avals),
        ft.partial(within_vmaps, solve),
        regular[-1],
    )
