"""Loops, branches and checkpoints in collapsed Taylor mode.

The program inside is read as the one around it: some of its values are the same for all
directions, some are there for each, and of some there are sums alone. A loop carries
what is wanted of its values in the end, or in the next turn.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._core.jax import close, scan_params, without_names
from .._core.protocols import Jaxpr, JaxprEqn
from .collapse import (
    demand,
    EACH,
    Node,
    read,
    READERS,
    run,
    SHARED,
    Sums,
    Value,
    Wanted,
)
from .stack import Stack


# The form in which a value is handed over: not at all, as it is, or as sums.
Form = list[Wanted]


def _form(value: Value, wanted: set[Wanted]) -> Form:
    if not wanted:
        return []
    if not value.moves:
        return [SHARED]
    return [EACH] if EACH in wanted else sorted(wanted)


def _take(value: Value, form: Form, sums: Sums) -> list[Any]:
    def one(key):
        if key == SHARED:
            return jnp.asarray(value.shared)
        if key == EACH:
            return value.for_each(sums)
        return jnp.asarray(value.sum(key, sums))

    return [one(key) for key in form]


def _put(value: Value, form: Form, arrays: Sequence[Any]) -> None:
    for key, array in zip(form, arrays):
        if key == SHARED:
            value.shared = array
        elif key == EACH:
            value.each = Stack(array)
        else:
            value.sums[key] = array


def _take_all(values, forms, sums) -> list[list[Any]]:
    return [_take(value, form, sums) for value, form in zip(values, forms)]


def _put_all(values, forms, arrays) -> None:
    for value, form, some in zip(values, forms, arrays):
        _put(value, form, some)


class _Body:
    """A program inside of an equation."""

    def __init__(self, jaxpr: Jaxpr, moves: Sequence[bool]):
        self.program: list[Node] = []
        self.inputs = [Value(one) for one in moves]
        with without_names():
            self.outputs = read(close(jaxpr), self.inputs, self.program)

    def _values(self) -> list[Value]:
        return [*self.inputs, *(x for node in self.program for x in node.outputs)]

    def demand(self, wanted: Sequence[set[Wanted]]) -> list[set[Wanted]]:
        """Returns what is wanted of the inputs, if this is wanted of the outputs."""
        for value in self._values():
            value.wanted = set()
        for value, some in zip(self.outputs, wanted):
            value.wanted |= some
        demand(self.program)
        return [set(value.wanted) for value in self.inputs]

    def call(self, forms, arrays, out_forms, sums) -> list[list[Any]]:
        _put_all(self.inputs, forms, arrays)
        run(self.program, sums)
        results = _take_all(self.outputs, out_forms, sums)
        for value in self._values():  # It may be traced again, by other tracers.
            value.forget()
        return results


class _Scan(Node):
    def __init__(self, eqn: JaxprEqn, inputs: list[Value]):
        self.eqn, self.inputs = eqn, inputs
        self.params = p = scan_params(eqn)
        self.carry = slice(p.num_consts, p.num_consts + p.num_carry)
        moves = [value.moves for value in inputs]
        while True:
            self.body = _Body(p.jaxpr, moves)
            after = [value.moves for value in self.body.outputs]
            grown = [a or b for a, b in zip(moves[self.carry], after)]
            if grown == moves[self.carry]:
                break
            moves[self.carry] = grown
        self.outputs = [Value(one) for one in [*grown, *after[p.num_carry :]]]

    def demand(self) -> None:
        n = self.params.num_carry
        # The body returns what it carries, which may be wanted in the next turn.
        wanted = [set(output.wanted) for output in self.outputs]
        while True:
            of_inputs = self.body.demand(wanted)
            grown = [a | b for a, b in zip(wanted[:n], of_inputs[self.carry])]
            if grown == wanted[:n]:
                break
            wanted[:n] = grown
        of_inputs[self.carry] = grown
        self.forms = list(map(_form, self.body.inputs, of_inputs))
        self.out_forms = list(map(_form, self.outputs, wanted))
        for value, some in zip(self.inputs, of_inputs):
            value.wanted |= some

    def run(self, sums: Sums) -> None:
        p, first = self.params, self.params.num_consts
        last = first + p.num_carry
        arrays = _take_all(self.inputs, self.forms, sums)
        consts, init, xs = arrays[:first], arrays[first:last], arrays[last:]
        xs = _moved(xs, self.forms[last:], 0, 1)

        def body(carry, x):
            everything = [*consts, *carry, *x]
            out = self.body.call(self.forms, everything, self.out_forms, sums)
            return out[: p.num_carry], out[p.num_carry :]

        # `lax.scan` takes no symbolic length (of `jax.export`); it has that of `xs`.
        length = None if any(xs) else p.length
        final, ys = lax.scan(
            body, init, xs, length=length, reverse=p.reverse, unroll=p.unroll
        )
        ys = _moved(ys, self.out_forms[p.num_carry :], 1, 0)
        _put_all(self.outputs, self.out_forms, [*final, *ys])


def _moved(arrays, forms, source: int, destination: int) -> list[list[Any]]:
    """The axis of the directions, of what is there for each, is the second in a loop:
    the first is that of its turns."""
    return [
        [jnp.moveaxis(x, source, destination) for x in some] if form == [EACH] else some
        for some, form in zip(arrays, forms)
    ]


class _Checkpoint(Node):
    def __init__(self, eqn: JaxprEqn, inputs: list[Value]):
        self.eqn, self.inputs = eqn, inputs
        self.body = _Body(eqn.params["jaxpr"], [value.moves for value in inputs])
        self.outputs = [Value(value.moves) for value in self.body.outputs]

    def demand(self) -> None:
        wanted = [output.wanted for output in self.outputs]
        of_inputs = self.body.demand(wanted)
        self.forms = list(map(_form, self.inputs, of_inputs))
        self.out_forms = list(map(_form, self.outputs, wanted))
        for value, some in zip(self.inputs, of_inputs):
            value.wanted |= some

    def run(self, sums: Sums) -> None:
        def call(arrays):
            return self.body.call(self.forms, arrays, self.out_forms, sums)

        policy, prevent_cse = self.eqn.params["policy"], self.eqn.params["prevent_cse"]
        call = jax.checkpoint(call, policy=policy, prevent_cse=prevent_cse)
        arrays = call(_take_all(self.inputs, self.forms, sums))
        _put_all(self.outputs, self.out_forms, arrays)


class _Branches(Node):
    """A `cond` whose choice is the same for all directions."""

    def __init__(self, eqn: JaxprEqn, inputs: list[Value]):
        self.eqn, self.inputs = eqn, inputs
        moves = [value.moves for value in inputs[1:]]
        self.bodies = [_Body(branch, moves) for branch in eqn.params["branches"]]
        self.outputs = [
            Value(any(value.moves for value in values))
            for values in zip(*[body.outputs for body in self.bodies])
        ]

    def demand(self) -> None:
        wanted = [output.wanted for output in self.outputs]
        every = [body.demand(wanted) for body in self.bodies]
        of_inputs = [set().union(*some) for some in zip(*every)]
        self.forms = list(map(_form, self.inputs[1:], of_inputs))
        self.out_forms = list(map(_form, self.outputs, wanted))
        for value, some in zip(self.inputs, [{EACH}, *of_inputs]):
            value.wanted |= some

    def run(self, sums: Sums) -> None:
        def branch(body):
            return lambda arrays: body.call(self.forms, arrays, self.out_forms, sums)

        arrays = lax.switch(
            self.inputs[0].shared,
            [branch(body) for body in self.bodies],
            _take_all(self.inputs[1:], self.forms, sums),
        )
        _put_all(self.outputs, self.out_forms, arrays)


def _branches(eqn: JaxprEqn, inputs: list[Value]) -> _Branches | None:
    # The branches of `platform_dependent` need not compile for this platform.
    if inputs[0].moves or eqn.params.get("branches_platforms") is not None:
        return None
    return _Branches(eqn, inputs)


READERS.update(scan=_Scan, remat2=_Checkpoint, cond=_branches)
