"""The programs that equations run: in loops, branches and calls.

What such a program is given twice it has once: of operands that are equal the first
stands for all, and so it does of what a loop carries, where it starts equal and every
turn leaves it equal.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jax.core import ShapedArray

from ..._core.jax import (
    close,
    evaluate,
    is_jaxpr,
    is_literal,
    scan_params,
    shard_map_like,
    trace,
    while_params,
    with_body,
)
from ..._core.memo import constant_key
from ..._core.primitives import CALLS
from ..._core.protocols import Jaxpr, JaxprEqn


Body = Callable[[Jaxpr], Jaxpr]
# Parameters that become others, and for each output the first that is equal to it.
New = tuple[dict[str, Any], Sequence[int]]


def with_bodies(
    eqn: JaxprEqn, inputs: Sequence[Hashable], body: Body
) -> tuple[JaxprEqn, Sequence[int]]:
    """Returns the equation with what `body` makes of its programs; and for each of its
    outputs the place of the first one that is equal to it. Operands whose `inputs` are
    equal are equal."""
    special = _SPECIAL.get(eqn.primitive.name)
    if special is not None:
        new, same = special(eqn, inputs, body)
        return eqn.replace(params={**eqn.params, **new}), same
    same = range(len(eqn.outvars))
    # What a checkpoint or a custom rule guards is simplified in its place, and shared
    # with nothing outside: to compute it again is what the one is for, and the other
    # belongs to the function as a whole.
    call = CALLS.get(eqn.primitive.name)
    if call is None or not call.is_rewritten or not is_jaxpr(eqn.params[call.callee]):
        return eqn, same
    new = {call.callee: with_body(eqn.params[call.callee], body)}
    return eqn.replace(params={**eqn.params, **new}), same


def _firsts(keys: Sequence[Hashable]) -> list[int]:
    """Returns for each key the place of the first that is equal to it."""
    places: dict[Hashable, int] = {}
    return [places.setdefault(key, i) for i, key in enumerate(keys)]


def _twins(eqn: JaxprEqn, inputs: Sequence[Hashable], group: range) -> list[int]:
    """Returns for each operand of a group the place, in the group, of the first that is
    equal to it."""

    def key(i):
        aval = eqn.invars[i].aval
        # References are not what they hold.
        return (inputs[i], aval) if isinstance(aval, ShapedArray) else i

    return _firsts([key(i) for i in group])


def _merged(jaxpr: Jaxpr, first: Sequence[int]) -> Jaxpr:
    """Returns the program with the first of equal inputs in the place of the others."""
    types = close(jaxpr).in_avals
    distinct = list(first) == list(range(len(first)))
    if distinct or not all(isinstance(aval, ShapedArray) for aval in types):
        return jaxpr

    def merged(closed):
        def program(*args):
            return evaluate(closed, [args[i] for i in first])

        return trace(program, *types)

    return with_body(jaxpr, merged)


def _results(jaxpr: Jaxpr) -> list[Hashable]:
    """Returns keys of the outputs, which are equal for equal outputs."""
    outs = close(jaxpr).jaxpr.outvars
    return [constant_key(x.aval, x.val) if is_literal(x) else x for x in outs]


def _after(*groups: Sequence[int]) -> list[int]:
    """Converts places in groups to places in all of the groups, one after another."""
    places, start = [], 0
    for group in groups:
        places += [start + i for i in group]
        start += len(group)
    return places


def _steps(
    jaxpr: Jaxpr, body: Body, consts: list[int], carry: list[int], others: list[int]
) -> tuple[Jaxpr, list[int], list[Hashable]]:
    """Returns what `body` makes of the program of a turn; which carries are equal, of
    those that start so; and keys of what the turn returns."""
    while True:
        new = with_body(_merged(jaxpr, _after(consts, carry, others)), body)
        results = _results(new)
        left = _firsts(list(zip(carry, results)))
        if left == carry:
            return new, carry, results
        # They part, and those that were made of them may.
        carry = left


def _scan(eqn: JaxprEqn, inputs: Sequence[Hashable], body: Body) -> New:
    params = scan_params(eqn)
    begin, end = params.num_consts, params.num_consts + params.num_carry
    groups = range(begin), range(begin, end), range(end, len(inputs))
    jaxpr, carry, results = _steps(
        eqn.params["jaxpr"], body, *[_twins(eqn, inputs, group) for group in groups]
    )
    return {"jaxpr": jaxpr}, _after(carry, _firsts(results[len(carry) :]))


def _while(eqn: JaxprEqn, inputs: Sequence[Hashable], body: Body) -> New:
    p = while_params(eqn)
    begin, end = p.num_cond_consts, p.num_cond_consts + p.num_body_consts
    groups = range(begin), range(begin, end), range(end, len(inputs))
    ahead, consts, carry = [_twins(eqn, inputs, group) for group in groups]
    jaxpr, carry, _ = _steps(eqn.params["body_jaxpr"], body, consts, carry, [])
    test = with_body(_merged(eqn.params["cond_jaxpr"], _after(ahead, carry)), body)
    return {"body_jaxpr": jaxpr, "cond_jaxpr": test}, carry


def _cond(eqn: JaxprEqn, inputs: Sequence[Hashable], body: Body) -> New:
    first = _twins(eqn, inputs, range(1, len(inputs)))
    branches = [with_body(_merged(x, first), body) for x in eqn.params["branches"]]
    results = zip(*map(_results, branches))
    return {"branches": tuple(branches)}, _firsts(list(results))


def _shard_map(eqn: JaxprEqn, inputs: Sequence[Hashable], body: Body) -> New:
    params, same = eqn.params, range(len(eqn.outvars))
    if not all(isinstance(atom.aval, ShapedArray) for atom in eqn.invars):
        return {}, same

    # It is called where its axes have their names.
    def mapped(*args):
        return evaluate(body(close(params["jaxpr"])), args)

    program = shard_map_like(eqn)(
        mapped,
        in_specs=params["in_specs"],
        out_specs=list(params["out_specs"]),
    )
    with eqn.ctx.manager:
        found = trace(program, *[atom.aval for atom in eqn.invars])
    if len(found.jaxpr.eqns) != 1 or len(found.consts) > 0:
        return {}, same
    [new] = found.jaxpr.eqns
    if list(new.invars) != list(found.jaxpr.invars):
        return {}, same
    return {"jaxpr": new.params["jaxpr"]}, same


_SPECIAL = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}
