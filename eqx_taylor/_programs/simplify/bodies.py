"""The programs inside equations: in loops, branches and calls.

If operands of such a program are equal, the first replaces the others. The same holds
for the carries of a loop, if they start equal and stay equal in every iteration.
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
# The parameters that change, and for each output the first one that is equal to it.
New = tuple[dict[str, Any], Sequence[int]]


def with_bodies(
    eqn: JaxprEqn, inputs: Sequence[Hashable], body: Body
) -> tuple[JaxprEqn, Sequence[int]]:
    """Returns the equation with `body` applied to its programs, and for each of its
    outputs the position of the first one that is equal to it. Operands are equal if
    their `inputs` are."""
    special = _SPECIAL.get(eqn.primitive.name)
    if special is not None:
        new, same = special(eqn, inputs, body)
        return eqn.replace(params={**eqn.params, **new}), same
    same = range(len(eqn.outvars))
    # The program of a checkpoint or a custom rule is simplified in its place, and
    # shares nothing with the outside: a checkpoint is meant to compute it again, and a
    # custom rule belongs to the whole function.
    call = CALLS.get(eqn.primitive.name)
    if call is None or not call.is_rewritten or not is_jaxpr(eqn.params[call.callee]):
        return eqn, same
    new = {call.callee: with_body(eqn.params[call.callee], body)}
    return eqn.replace(params={**eqn.params, **new}), same


def _firsts(keys: Sequence[Hashable]) -> list[int]:
    """Returns, for each key, the position of the first one that is equal to it."""
    places: dict[Hashable, int] = {}
    return [places.setdefault(key, i) for i, key in enumerate(keys)]


def _twins(eqn: JaxprEqn, inputs: Sequence[Hashable], group: range) -> list[int]:
    """Returns, for each operand of a group, the position in the group of the first one
    that is equal to it."""

    def key(i):
        aval = eqn.invars[i].aval
        # References with equal values are still different references.
        return (inputs[i], aval) if isinstance(aval, ShapedArray) else i

    return _firsts([key(i) for i in group])


def _merged(jaxpr: Jaxpr, first: Sequence[int]) -> Jaxpr:
    """Returns the program with equal inputs replaced by the first of them."""
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
    """Converts positions in groups to positions in the concatenation of the groups."""
    places, start = [], 0
    for group in groups:
        places += [start + i for i in group]
        start += len(group)
    return places


def _steps(
    jaxpr: Jaxpr, body: Body, consts: list[int], carry: list[int], others: list[int]
) -> tuple[Jaxpr, list[int], list[Hashable]]:
    """Applies `body` to the program of an iteration. Returns the result; which of the
    carries that start equal stay equal; and keys of the program's outputs."""
    while True:
        new = with_body(_merged(jaxpr, _after(consts, carry, others)), body)
        results = _results(new)
        left = _firsts(list(zip(carry, results)))
        if left == carry:
            return new, carry, results
        # Some carries do not stay equal, so others that depend on them may not, either.
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

    # `body` must be called inside `shard_map`, where the names of its axes exist.
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
