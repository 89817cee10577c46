"""Orders that are known only at run time: those of a loop over orders.

In the body of such a loop an order is an `Order`. A rule may compute with it as with an
integer. The result is a table with one number for each pass of the loop, from which the
program takes one at run time. A result that is the same in all passes is a Python
number. Python cannot branch by other results, or count up to them: this raises
`Unrollable`, and the program is written order by order, without a loop.
"""

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Any


class Unrollable(Exception):
    """A program cannot be written as a loop over orders, because the rule of
    `primitive`, or of a function of this name, cannot."""

    def __init__(self, reason: str, primitive: str | None = None):
        super().__init__(reason)
        self.primitive = primitive


class TooEarly(Unrollable):
    """The first passes of a loop differ from the others: `passes` of them have to be
    computed before the loop."""

    def __init__(self, passes: int, reason: str):
        super().__init__(reason)
        self.passes = passes


def outside(loop: Any) -> Any:
    """Returns a context for computations before a loop over orders, even while the body
    of the loop is read. `loop` is `None` if there is no loop."""
    return contextlib.nullcontext() if loop is None else loop.outside()


def tabulated(fun: Callable[[int], Any], k: Any) -> Any:
    """Returns `fun(k)`. In a loop over orders, this is a table of the results of `fun`
    for each order."""
    return k.tabulated(fun) if isinstance(k, Table) else fun(k)


class Table:
    """A number, for each pass of a loop over orders."""

    # Operators of NumPy's arrays defer to those of this class.
    __array_ufunc__ = None

    __slots__ = ("loop", "values")

    def __init__(self, loop: Any, values: Sequence[Any]):
        self.loop = loop
        self.values = tuple(values)

    def scalar(self, dtype: Any) -> Any:
        """Returns the number of this pass, as an array."""
        return self.loop.scalar(self.values, dtype)

    def _combined(self, fun: Callable[[Any, Any], Any], other: Any) -> Any:
        if isinstance(other, Table):
            pairs = zip(self.values, other.values)
        elif isinstance(other, bool | int | float | complex):
            pairs = ((value, other) for value in self.values)
        elif hasattr(other, "dtype"):
            return fun(self.scalar(other.dtype), other)
        else:
            return NotImplemented
        return self._collected([fun(*pair) for pair in pairs])

    def _collected(self, values: Sequence[Any]) -> Any:
        first = values[0]
        if all(type(x) is type(first) and x == first for x in values):
            return first
        return Table(self.loop, values)

    def _compared(self, fun: Callable[[Any, Any], Any], other: Any) -> Any:
        return self._combined(fun, other)

    def tabulated(self, fun: Callable[[Any], Any]) -> Any:
        return self._collected([fun(value) for value in self.values])

    def __bool__(self) -> bool:
        raise Unrollable("it branches on the order in Python")

    def _refuse(self, *args: Any) -> Any:
        raise Unrollable("it uses the order as a Python number, or as an array")

    __index__ = __int__ = __float__ = __complex__ = __iter__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __jax_array__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = _refuse

    def __hash__(self) -> int:
        return hash(self.values)

    def __neg__(self):
        return self._collected([-x for x in self.values])

    def __abs__(self):
        return self._collected([abs(x) for x in self.values])


def _operator(name: str, fun: Callable[[Any, Any], Any], reverse: bool = False):
    if reverse:
        setattr(Table, name, lambda self, x: self._combined(lambda a, b: fun(b, a), x))
    else:
        setattr(Table, name, lambda self, x: self._combined(fun, x))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _operator(f"__{_name}__", getattr(operator, _name))
    _operator(f"__r{_name}__", getattr(operator, _name), reverse=True)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(
        Table,
        f"__{_name}__",
        lambda self, x, fun=getattr(operator, _name): self._compared(fun, x),
    )


class Order(Table):
    """The order of a pass plus `offset`.

    - `skips_zero`: whether comparisons ignore that it is 0 in the first pass. This is
        for recurrences that are the same there.
    """

    __slots__ = ("offset", "skips_zero")

    def __init__(self, loop: Any, offset: int, skips_zero: bool = False):
        super().__init__(loop, [k + offset for k in loop.passes])
        self.offset = offset
        self.skips_zero = skips_zero

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return Order(self.loop, self.offset + other)
        return self._combined(operator.add, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Order):
            return self.offset - other.offset
        if type(other) is int:
            return Order(self.loop, self.offset - other)
        return self._combined(operator.sub, other)

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __hash__(self) -> int:
        return hash(("order", self.offset))

    def _compared(self, fun: Callable[[Any, Any], Any], other: Any) -> Any:
        if isinstance(other, Order):
            return fun(self.offset, other.offset)
        found = self._combined(fun, other)
        if self.skips_zero and isinstance(found, Table):
            pairs = zip(self.values, found.values)
            return self._collected([x for value, x in pairs if value != 0])
        return found
