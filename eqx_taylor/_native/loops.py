"""Loops in LLVM's language."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]


class loop:
    """A loop over integers, as a context in which its body is written. Values that
    change are stored in `carried`, in the order of their first ones."""

    def __init__(
        self, builder: Any, start: Any, stop: Any, carried: Sequence[Any] = ()
    ):
        self.builder = builder
        integer = ir.IntType(64)
        if isinstance(stop, int):
            stop = ir.Constant(integer, stop)
        self.start, self.stop = start, stop
        self.first = list(carried)

    def __enter__(self) -> Any:
        builder = self.builder
        before = builder.block
        self._body = builder.append_basic_block("body")
        self._after = builder.append_basic_block("after")
        enters = builder.icmp_signed("<", self.start, self.stop)
        builder.cbranch(enters, self._body, self._after)
        self._before = before
        builder.position_at_end(self._body)
        self._index = builder.phi(ir.IntType(64))
        self._index.add_incoming(self.start, before)
        self._phis = []
        for x in self.first:
            phi = builder.phi(x.type)
            phi.add_incoming(x, before)
            self._phis.append(phi)
        self.carried = list(self._phis)
        return (self._index, self) if self.first else self._index

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            return
        builder = self.builder
        end = builder.block
        after = builder.add(self._index, ir.Constant(ir.IntType(64), 1), flags=["nsw"])
        self._index.add_incoming(after, end)
        for phi, x in zip(self._phis, self.carried):
            phi.add_incoming(x, end)
        goes_on = builder.icmp_signed("<", after, self.stop)
        builder.cbranch(goes_on, self._body, self._after)
        builder.position_at_end(self._after)
        results = []
        for first, x in zip(self.first, self.carried):
            phi = builder.phi(first.type)
            phi.add_incoming(first, self._before)
            phi.add_incoming(x, end)
            results.append(phi)
        self.results = results


@contextmanager
def repeating(builder: Any, condition: Callable[[], Any]) -> Iterator[None]:
    """A loop that goes on while a condition holds, which is computed before each
    pass."""
    function = builder.function
    head, body, end = (
        function.append_basic_block(name) for name in ("while", "body", "end")
    )
    builder.branch(head)
    builder.position_at_end(head)
    builder.cbranch(condition(), body, end)
    builder.position_at_end(body)
    yield
    builder.branch(head)
    builder.position_at_end(end)
