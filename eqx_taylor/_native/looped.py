"""Series whose orders are computed by a loop: the code does not grow with the order,
and is compiled soon."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .arithmetic import Arithmetic
from .groups import Array, Group, Slice
from .loops import loop
from .memory import as_value, INTEGER, one, plus
from .recurrences import FIRST, NEXT
from .step import StepInMemory
from .sums import SumsInMemory


# With more groups than this, equal ones share a function. LLVM takes time with the
# square of the number of loops in a function: 27 s for 160 groups, and 7 s for 80. A
# call takes some nanoseconds, in each order.
_MOST_GROUPS = 16


class Looped(SumsInMemory):
    """Writes a series as a loop over orders."""

    def write(self) -> None:
        ops = self.ops
        self.allocate()
        count = sum(g.sums is None and g.kind != "time" for g in self.plan.groups)
        self._has_functions = count > _MOST_GROUPS
        self._functions: dict[Any, Any] = {}
        self.point_at(0)
        self._copy_state()
        self._write_order(0, 1)
        self._stop = self.order if self.needed is None else self.needed
        with loop(ops.builder, ir.Constant(INTEGER, 1), self._stop) as k:
            after = ops.builder.add(k, one(k))
            self.point_at(k)
            self.pointers[self.plan.state, after] = self.address(self.plan.state, after)
            self._write_order(k, after)
        self._return_state()

    # -- orders

    def _write_order(self, k: Any, after: Any) -> None:
        for group in self.plan.groups:
            if group.kind == "time":
                self._write_time(group, k)
            elif group.sums is not None:
                self.write_sums(group.sums, group.array, k, k, 0, None)
            elif self._has_functions and not isinstance(k, int):
                self._call_group(group, k)
            else:
                self._write_group(group, k)
        for start, sums in self.plan.slopes:
            scale = None if isinstance(k, int) else 1
            self.write_sums(sums, self.plan.state, k, after, start, scale)

    def _write_time(self, group: Group, k: Any) -> None:
        ops = self.ops
        if isinstance(k, int):
            value = self.t
        else:
            is_first = ops.builder.icmp_signed("==", k, one(k))
            slope, zero = (ops.number(x, ops.entry) for x in (1.0, 0.0))
            value = ops.builder.select(is_first, slope, zero)
        self.store(group.array, k, 0, value)

    def _write_group(self, group: Group, k: Any) -> None:
        rule = FIRST[group.kind] if isinstance(k, int) else NEXT[group.kind]
        chunks = group.array.chunks
        for start, length in self.blocks(chunks):
            with start as first:
                block = [plus(self.ops.builder, first, i) for i in range(length)]
                values = rule(StepInMemory(self, group, k, block))
                for chunk, value in zip(block, values, strict=True):
                    self.store(group.array, k, chunk, value)

    # -- functions of equal groups

    def _call_group(self, group: Group, k: Any) -> None:
        """Calls a function which computes an order of groups like this one, of which it
        is told where their arrays are."""
        slices = [Slice(group.array), *group.operands, *group.lagged]
        shapes = tuple((x.array.width, x.array.padded) for x in slices)
        key = group.kind, group.attribute, group.array.chunks, shapes
        if key not in self._functions:
            self._functions[key] = self._function_of(group, slices)
        starts = [
            self.ops.at(self.row(x.array, 0), x.start * x.array.width, self.ops.entry)
            for x in slices
        ]
        self.ops.builder.call(self._functions[key], [k, *starts])

    def _function_of(self, group: Group, slices: Sequence[Slice]) -> Any:
        module = self.ops.builder.module
        kinds = [INTEGER, *[ir.PointerType()] * len(slices)]
        name = module.get_unique_name(f"{group.kind}_group")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        k, *starts = function.args
        arrays = [Array(x.array.padded, x.array.width) for x in slices]
        arrays[0] = Array(group.array.count, group.array.width)
        first = len(group.operands) + 1
        alike = dataclasses.replace(
            group,
            array=arrays[0],
            operands=[*map(Slice, arrays[1:first])],
            lagged=[*map(Slice, arrays[first:])],
        )
        outside = self.ops, self.starts, self.pointers
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.ops = Arithmetic(builder, self.program.dtype, self.ops.lanes)
        self.starts, self.pointers = dict(zip(arrays, starts)), {}
        for array in arrays:
            for order in (0, k):
                self.pointers[array, order] = self.address(array, order)
        self._write_group(alike, k)
        self.ops.builder.ret_void()
        self.ops, self.starts, self.pointers = outside
        return function

    # -- the state

    def _copy_state(self) -> None:
        ops, builder, state = self.ops, self.ops.builder, self.plan.state
        row, last = self.row(state, 0), as_value(state.count - 1)
        # The last entry is repeated up to the end of the chunk.
        with loop(builder, as_value(0), state.padded) as i:
            source = builder.select(builder.icmp_signed("<", i, last), i, last)
            x = ops.load(ops.at(self.y, source, ops.entry), ops.entry)
            ops.store(x, ops.at(row, i, ops.entry))

    def _return_state(self) -> None:
        ops, state = self.ops, self.plan.state
        with loop(ops.builder, as_value(0), plus(ops.builder, self._stop, 1)) as k:
            row = self.address(state, k)
            place = ops.builder.mul(k, as_value(state.count))
            target = ops.at(self.coefficients, place, ops.entry)
            with loop(ops.builder, as_value(0), state.count) as i:
                x = ops.load(ops.at(row, i, ops.entry), ops.entry)
                ops.store(x, ops.at(target, i, ops.entry))
