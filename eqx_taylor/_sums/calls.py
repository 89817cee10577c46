"""Loops, branches and checkpoints in collapsed Taylor mode.

The inner program is read like the one around it: some of its values are the same for
all directions, some exist for each direction, and of some there are only sums. A loop
carries what is needed of its values at the end, or in the next iteration. A value that
exists for each direction has a table of the directions on which its entries depend. The
tables of the results are found by tracing the inner program first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._core.jax import close, scan_params, without_names
from .._core.protocols import Jaxpr, JaxprEqn
from .equation import is_zero
from .program import demand, read, READERS, run
from .stack import is_same, nothing, Stack, Table, union, united
from .values import EACH, Node, SHARED, Sums, Value, Wanted


# The form in which a value is passed: not at all, as it is, or as sums.
Form = list[Wanted]


def _form(value: Value, wanted: set[Wanted]) -> Form:
    if not wanted:
        return []
    if not value.moves:
        return [SHARED]
    return [EACH] if EACH in wanted else sorted(wanted)


# For each value that is passed for each direction: the directions on which its entries
# depend. `None` means all directions.
Tables = list[Table | None]


def _stack(value: Value, sums: Sums) -> Stack:
    """Returns a value as a stack over directions. A zero has no directions."""
    if value.moves:
        return value.each
    if sums.is_sparse and is_zero(value):
        zero = jnp.asarray(value.shared)
        return nothing([Stack(zero[None])], zero.shape, zero.dtype)
    return Stack(value.for_each(sums))


def _tables(values, forms, sums) -> Tables:
    return [
        _stack(value, sums).table if form == [EACH] else None
        for value, form in zip(values, forms)
    ]


def _take(value: Value, form: Form, sums: Sums, table: Table | None) -> list[Any]:
    def one(key):
        if key == SHARED:
            return jnp.asarray(value.shared)
        if key == EACH:
            return _stack(value, sums).by(table, sums.count)
        return jnp.asarray(value.sum(key, sums))

    return [one(key) for key in form]


def _put(value: Value, form: Form, arrays: Sequence[Any], table: Table | None) -> None:
    for key, array in zip(form, arrays):
        if key == SHARED:
            value.shared = array
        elif key == EACH:
            value.each = Stack(array, table)
        else:
            value.sums[key] = array


def _take_all(values, forms, sums, tables) -> list[list[Any]]:
    return [_take(*each) for each in zip(values, forms, len(forms) * [sums], tables)]


def _put_all(values, forms, arrays, tables) -> None:
    for value, form, some, table in zip(values, forms, arrays, tables):
        _put(value, form, some, table)


class _Body:
    """A program inside an equation."""

    def __init__(self, jaxpr: Jaxpr, moves: Sequence[bool]):
        self.program: list[Node] = []
        self.inputs = [Value(one) for one in moves]
        with without_names():
            self.outputs = read(close(jaxpr), self.inputs, self.program)

    def _values(self) -> list[Value]:
        return [*self.inputs, *(x for node in self.program for x in node.outputs)]

    def demand(self, wanted: Sequence[set[Wanted]]) -> list[set[Wanted]]:
        """Returns what is needed of the inputs, if `wanted` is needed of the
        outputs."""
        for value in self._values():
            value.wanted = set()
        for value, some in zip(self.outputs, wanted):
            value.wanted |= some
        demand(self.program)
        return [set(value.wanted) for value in self.inputs]

    def call(
        self,
        forms: Sequence[Form],
        arrays: Sequence[Any],
        tables: Tables,
        out_forms: Sequence[Form],
        sums: Sums,
        choose: Callable[[Tables], Tables] = lambda tables: tables,
    ) -> list[list[Any]]:
        """Runs the program. `choose` gets the tables of the results, and returns those
        with which they are passed on."""
        _put_all(self.inputs, forms, arrays, tables)
        run(self.program, sums)
        out_tables = choose(_tables(self.outputs, out_forms, sums))
        results = _take_all(self.outputs, out_forms, sums, out_tables)
        for value in self._values():  # It may be traced again, by other tracers.
            value.forget()
        return results

    def out_tables(self, forms, arrays, tables, out_forms, sums) -> Tables:
        """Returns the tables of the results, without adding to the program."""
        if not sums.is_sparse or all(table is None for table in tables):
            return [None] * len(out_forms)
        found: list[Tables] = []

        def choose(out_tables):
            found.append(out_tables)
            return out_tables

        jax.eval_shape(
            lambda arrays: self.call(forms, arrays, tables, out_forms, sums, choose),
            arrays,
        )
        return found[-1]


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
        # The body returns its carry, which may be needed in the next iteration.
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
        tables = _tables(self.inputs, self.forms, sums)
        tables[last:] = [_of_turn(table, sums.count) for table in tables[last:]]
        of_xs = [t if t is None else np.expand_dims(t, 1) for t in tables[last:]]
        tables[self.carry] = self._carried(tables, of_xs, sums)
        arrays = self._arrays(tables, of_xs, sums)
        consts, init, xs = arrays[:first], arrays[first:last], arrays[last:]
        found: list[Tables] = []

        def choose(out_tables):
            found.append([*tables[self.carry], *out_tables[p.num_carry :]])
            return found[-1]

        def body(carry, x):
            everything = [*consts, *carry, *x]
            out = self.body.call(
                self.forms, everything, tables, self.out_forms, sums, choose
            )
            return out[: p.num_carry], out[p.num_carry :]

        # `lax.scan` takes no symbolic length (of `jax.export`); it has that of `xs`.
        length = None if any(xs) else p.length
        final, ys = lax.scan(
            body, init, xs, length=length, reverse=p.reverse, unroll=p.unroll
        )
        ys = _moved(ys, self.out_forms[p.num_carry :], 1, 0)
        of_ys = [
            t if t is None else np.expand_dims(t, 1) for t in found[-1][p.num_carry :]
        ]
        out_tables = [*found[-1][: p.num_carry], *of_ys]
        _put_all(self.outputs, self.out_forms, [*final, *ys], out_tables)

    def _arrays(self, tables: Tables, of_xs: Tables, sums: Sums) -> list[list[Any]]:
        last = self.params.num_consts + self.params.num_carry
        by = [*tables[:last], *of_xs]
        arrays = _take_all(self.inputs, self.forms, sums, by)
        arrays[last:] = _moved(arrays[last:], self.forms[last:], 0, 1)
        return arrays

    def _carried(self, tables: Tables, of_xs: Tables, sums: Sums) -> Tables:
        """Finds tables of the carry that do not change in an iteration: they grow until
        this is the case."""
        last = self.params.num_consts + self.params.num_carry
        tables = list(tables)
        while True:
            carried = tables[self.carry]
            arrays = self._arrays(tables, of_xs, sums)
            arrays[last:] = [list(map(_first, some)) for some in arrays[last:]]
            after = self.body.out_tables(
                self.forms, arrays, tables, self.out_forms, sums
            )
            grown = [
                union(pair, sums.count) if form == [EACH] else None
                for form, *pair in zip(self.forms[self.carry], carried, after)
            ]
            if all(map(is_same, grown, carried)):
                return grown
            tables[self.carry] = grown


def _first(x: Any) -> Any:
    """Returns the part of an array for the first iteration of a loop. A loop without
    iterations is traced with zeros."""
    return x[0] if x.shape[0] else jnp.zeros(x.shape[1:], x.dtype)


def _of_turn(table: Table | None, count: int) -> Table | None:
    """Returns the table, valid in all iterations, of an array over which a loop
    runs."""
    table = None if table is None else united(table, [0], count)
    return None if table is None else table.squeeze(1)


def _moved(arrays, forms, source: int, destination: int) -> list[list[Any]]:
    """Moves the axis over directions of arrays that have one. In a loop it is the
    second axis, as the first is over iterations."""
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
        tables, found = _tables(self.inputs, self.forms, sums), []

        def choose(out_tables):
            found.append(out_tables)
            return out_tables

        def call(arrays):
            return self.body.call(
                self.forms, arrays, tables, self.out_forms, sums, choose
            )

        policy, prevent_cse = self.eqn.params["policy"], self.eqn.params["prevent_cse"]
        call = jax.checkpoint(call, policy=policy, prevent_cse=prevent_cse)
        arrays = call(_take_all(self.inputs, self.forms, sums, tables))
        _put_all(self.outputs, self.out_forms, arrays, found[-1])


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
        tables = _tables(self.inputs[1:], self.forms, sums)
        arrays = _take_all(self.inputs[1:], self.forms, sums, tables)
        every = [
            body.out_tables(self.forms, arrays, tables, self.out_forms, sums)
            for body in self.bodies
        ]
        out_tables = [
            union(some, sums.count) if form == [EACH] else None
            for form, *some in zip(self.out_forms, *every)
        ]

        def branch(body):
            return lambda arrays: body.call(
                self.forms, arrays, tables, self.out_forms, sums, lambda _: out_tables
            )

        arrays = lax.switch(
            self.inputs[0].shared, [branch(body) for body in self.bodies], arrays
        )
        _put_all(self.outputs, self.out_forms, arrays, out_tables)


def _branches(eqn: JaxprEqn, inputs: list[Value]) -> _Branches | None:
    # The branches of `platform_dependent` may not compile for this platform.
    if inputs[0].moves or eqn.params.get("branches_platforms") is not None:
        return None
    return _Branches(eqn, inputs)


READERS.update(scan=_Scan, remat2=_Checkpoint, cond=_branches)
