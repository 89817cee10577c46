"""Loops and branches.

If the inputs are known, one loop carries all coefficients of everything that is not
constant. If each coefficient depends on the one before it (in the vector field of an
ODE), the loop runs once for each order, each time for one more coefficient. The lower
coefficients of inner values are kept from order to order, stacked over the iterations.
A `while_loop` cannot keep them, since its number of iterations is not known: it starts
again from coefficient 0, at a cost of O(K³) instead of O(K²) in all.

Predicates, indices and the number of iterations depend only on coefficient 0.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax import lax

from .._core.history import Entries, History
from .._core.jax import close, evaluate, filled, scan_params, while_params
from .._core.protocols import JaxprEqn
from .._core.recurrence import Recurrence
from .._core.rule import register
from .._core.series import CONSTANT, given, primal_values, Series, Support
from .._core.walk import Walk
from .pack import copies, look_ahead, looking_ahead, pack, unpack


def _supports(inputs: Sequence[Series]) -> list[Support]:
    return [series.support for series in inputs]


def _avals(variables) -> list[Any]:
    return [var.aval for var in variables]


def _loop_supports(
    one_turn: Callable[[list[Support]], list[Support]], carry: list[Support]
) -> tuple[list[Support], list[Support]]:
    """Finds the supports of the carry, and of the results of the body, at which another
    iteration adds no order. The first results of `one_turn` are the next carry."""
    while True:
        outs = one_turn(carry)
        grown = [before | after for before, after in zip(carry, outs)]
        if grown == carry:
            return carry, outs
        carry = grown


class _Kept:
    """A store of coefficients between the runs of a loop or branch. If the walk is
    itself inside one, they are in its own history, otherwise here."""

    def __init__(self, walk: Walk):
        self.walk = walk
        self.entries: Entries = {}
        # The order of the run that computed each entry.
        self.runs: dict[tuple[str, int], int] = {}

    def load(self, place: str, k: int) -> Entries:
        """Returns the entries of the runs for orders below `k`. There may have been a
        run for order `k` itself, whose coefficient has been retracted since. Its
        entries of lower orders (of a slope, `x'_{k-1} = k x_k`) are wrong as well."""
        history = self.walk.history
        entries = self.entries if history is None else history.inner(place)
        return {
            key: entry
            for key, entry in entries.items()
            if key[1] < k and self.runs.get(key, -1) < k
        }

    def save(self, place: str, k: int, fresh: Entries) -> None:
        self.runs.update(dict.fromkeys(fresh, k))
        if self.walk.history is None:
            self.entries = {**self.entries, **fresh}
        else:
            self.walk.history.file(place, fresh)


# -- scan


@register("scan", kind="control flow")
def _scan(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    p = scan_params(eqn)
    consts = inputs[: p.num_consts]
    init = inputs[p.num_consts : p.num_consts + p.num_carry]
    xs = inputs[p.num_consts + p.num_carry :]
    body_avals = _avals(p.jaxpr.jaxpr.invars)
    carry_avals = body_avals[p.num_consts : p.num_consts + p.num_carry]
    x_avals = body_avals[p.num_consts + p.num_carry :]
    x_supports = _supports(xs)

    def one_turn(carry):
        return walk.output_supports(p.jaxpr, [*_supports(consts), *carry, *x_supports])

    carry_supports, body_supports = _loop_supports(one_turn, _supports(init))
    supports = [*carry_supports, *body_supports[p.num_carry :]]
    # `lax.scan` takes no symbolic length (of `jax.export`); it has that of `xs`.
    length = p.length if len(xs) == 0 else None
    loop = ft.partial(lax.scan, length=length, reverse=p.reverse, unroll=p.unroll)
    # The carry includes values ahead if the body has decisions that depend on them.
    decides = len(looking_ahead(walk, inputs, [p.jaxpr])) > 0
    consts_ahead, xs_ahead = (
        [i for i, series in enumerate(group) if decides and series.moves_ahead]
        for group in (consts, xs)
    )
    carry_ahead = [
        i
        for i, support in enumerate(carry_supports)
        if decides and (support > CONSTANT or init[i].moves_ahead)
    ]

    def all_orders():
        stop = walk.stop
        outer = copies(consts, stop, consts_ahead)

        def body(carry_arrays, x_arrays):
            carry_arrays, carried_ahead = carry_arrays
            carry = unpack(carry_avals, carry_supports, stop, carry_arrays)
            look_ahead(carry, carry_ahead, carried_ahead)
            x = unpack(x_avals, x_supports, stop, x_arrays, xs_ahead)
            outs = walk.body_walk(stop).interpret(p.jaxpr, [*outer, *carry, *x])
            arrays = pack(outs, supports, stop)
            split = len(carry_arrays)
            carried_ahead = [outs[i].ahead for i in carry_ahead]
            return (arrays[:split], carried_ahead), arrays[split:]

        first = pack(init, carry_supports, stop), [init[i].ahead for i in carry_ahead]
        (final, _), ys = loop(body, first, pack(xs, x_supports, stop, xs_ahead))
        return unpack(_avals(eqn.outvars), supports, stop, [*final, *ys])

    kept = _Kept(walk)

    def one_order(k):
        outer = copies(consts, k, consts_ahead)
        moving = [i for i, support in enumerate(carry_supports) if support >> k & 1]
        returned = [i for i, support in enumerate(supports) if support >> k & 1]

        # Later orders find the values ahead among the entries that are kept.
        first_ahead = carry_ahead if k == 0 else []

        def body(carry_k, from_outside):
            x_arrays, stored = from_outside
            carry_k, carried_ahead = carry_k
            now = {(f"carry{i}", k): term for i, term in zip(moving, carry_k)}
            now |= {(f"ahead{i}", 0): x for i, x in zip(first_ahead, carried_ahead)}
            carried = {**stored, **now}
            carry = [
                given(
                    aval,
                    [
                        carried[f"carry{i}", j] if support >> j & 1 else None
                        for j in range(k + 1)
                    ],
                    support,
                )
                for i, (aval, support) in enumerate(zip(carry_avals, carry_supports))
            ]
            look_ahead(
                carry, carry_ahead, [carried[f"ahead{i}", 0] for i in carry_ahead]
            )
            x = unpack(x_avals, x_supports, k, x_arrays, xs_ahead)
            history = History(stored)
            here = walk.body_walk(k, history, effects=k == 0)
            outs = here.interpret(p.jaxpr, [*outer, *carry, *x])
            terms = [outs[i].dense(k) for i in returned]
            split = len(carry_k)
            carried_ahead = [outs[i].ahead for i in first_ahead]
            kept_here = {**now, **history.fresh}
            return (terms[:split], carried_ahead), (terms[split:], kept_here)

        first = (
            [init[i].dense(k) for i in moving],
            [init[i].ahead for i in first_ahead],
        )
        key = outs[0].key
        (final, _), (ys, fresh) = loop(
            body, first, (pack(xs, x_supports, k, xs_ahead), kept.load(key, k))
        )
        kept.save(key, k, fresh)
        terms = dict(zip(returned, [*final, *ys]))
        return [terms.get(i) for i in range(len(supports))]

    outs = _outputs(walk, eqn, inputs, supports, all_orders, one_order)
    return outs


def _outputs(
    walk, eqn: JaxprEqn, inputs: Sequence[Series], supports, all_orders, one_order
) -> list[Series]:
    if len(supports) == 0:
        return []  # The walk runs the loop for its effects, on primal values.
    if walk.takes_all_orders(inputs):
        return all_orders()
    types = list(zip(_avals(eqn.outvars), supports))
    return Recurrence(types, lambda: one_order(0), one_order).outs


# -- while_loop


@register("while", kind="control flow")
def _while(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    p = while_params(eqn)
    split = p.num_cond_consts
    cond_consts, inputs = inputs[:split], inputs[split:]
    consts, init = inputs[: p.num_body_consts], inputs[p.num_body_consts :]
    avals = _avals(eqn.outvars)

    def one_turn(carry):
        return walk.output_supports(p.body, [*_supports(consts), *carry])

    supports, _ = _loop_supports(one_turn, _supports(init))
    # Under `vmap` the predicate has axes, and the loop continues while any entry is
    # true.
    is_batched = len(p.cond.out_avals[0].shape) > 0

    def up_to(stop, effects):
        outer = copies(consts, stop)
        cond_outer = primal_values(cond_consts)

        def predicate(arrays):
            carry = unpack(avals, supports, stop, arrays)
            return evaluate(p.cond, [*cond_outer, *primal_values(carry)])[0]

        def body(arrays):
            carry = unpack(avals, supports, stop, arrays)
            here = walk.body_walk(stop, effects=effects)
            outs = here.interpret(p.body, [*outer, *carry])
            new = pack(outs, supports, stop)
            return _where(predicate(arrays), new, arrays) if is_batched else new

        def cond(arrays):
            return jnp.any(predicate(arrays))

        final = lax.while_loop(cond, body, pack(init, supports, stop))
        return unpack(avals, supports, stop, final)

    return _outputs(
        walk,
        eqn,
        [*consts, *init],
        supports,
        lambda: up_to(walk.stop, True),
        lambda k: [series[k] for series in up_to(k, k == 0)],
    )


def _where(predicate, new: list[Any], old: list[Any]) -> list[Any]:
    """Selects by a predicate whose axes are the first ones of all arrays."""
    return [
        jnp.where(lax.expand_dims(predicate, range(predicate.ndim, x.ndim)), x, y)
        for x, y in zip(new, old)
    ]


# -- cond, switch


@register("cond", kind="control flow")
def _cond(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    index, operands = inputs[0], inputs[1:]
    branches = [close(branch) for branch in eqn.params["branches"]]
    avals = [series.aval for series in operands]
    in_supports = _supports(operands)
    choose = ft.partial(_choose, eqn, index)
    ahead = looking_ahead(walk, operands, branches)
    supports = [0] * len(eqn.outvars)
    for branch in branches:
        each = walk.output_supports(branch, in_supports)
        supports = [joined | support for joined, support in zip(supports, each)]

    def all_orders():
        stop = walk.stop

        def run(branch, arrays):
            operands = unpack(avals, in_supports, stop, arrays, ahead)
            outs = walk.body_walk(stop).interpret(branch, operands)
            return pack(outs, supports, stop)

        arrays = choose(
            [ft.partial(run, branch) for branch in branches],
            pack(operands, in_supports, stop, ahead),
        )
        return unpack(_avals(eqn.outvars), supports, stop, arrays)

    kept = _Kept(walk)

    def one_order(k):
        returned = [i for i, support in enumerate(supports) if support >> k & 1]

        def run(number, arrays, stored):
            operands = unpack(avals, in_supports, k, arrays, ahead)
            history = History(stored, prefix=f"branch{number}/")
            here = walk.body_walk(k, history, effects=k == 0)
            outs = here.interpret(branches[number], operands)
            return [outs[i].dense(k) for i in returned], history.fresh

        key = outs[0].key
        args = (pack(operands, in_supports, k, ahead), kept.load(key, k))
        # Branches are traced once, and evaluated in the switch, as they may be nested.
        traced = [
            jax.make_jaxpr(ft.partial(run, number), return_shape=True)(*args)
            for number in range(len(branches))
        ]
        # Every branch returns the entries of all of them: its own, and zeros.
        fresh_types = {}
        for jaxpr, returned_types in traced:
            # The types in the jaxpr are more precise than those that JAX returns.
            structure = jtu.tree_structure(returned_types)
            _, types = jtu.tree_unflatten(structure, jaxpr.out_avals)
            fresh_types |= types

        def padded(number, leaves):
            jaxpr, types = traced[number]
            flat = evaluate(jaxpr, leaves)
            terms, fresh = jtu.tree_unflatten(jtu.tree_structure(types), flat)
            for name, kind in fresh_types.items():
                if name not in fresh:
                    fresh[name] = filled(kind)
            return terms, fresh

        terms, fresh = choose(
            [ft.partial(padded, number) for number in range(len(branches))],
            jtu.tree_leaves(args),
        )
        kept.save(key, k, fresh)
        found = dict(zip(returned, terms))
        return [found.get(i) for i in range(len(supports))]

    outs = _outputs(walk, eqn, operands, supports, all_orders, one_order)
    return outs


def _choose(
    eqn: JaxprEqn, index: Series, functions: Sequence[Callable], arrays: list[Any]
):
    """Applies one of the functions, as `eqn` applies one of its branches."""
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return lax.switch(index[0], functions, arrays)
    # Branches of `platform_dependent` need not compile on other platforms.
    default, of_platform = None, {}
    for names, function in zip(platforms, functions):
        if names:
            of_platform |= dict.fromkeys(names, function)
        else:
            default = function
    return lax.platform_dependent(arrays, default=default, **of_platform)
