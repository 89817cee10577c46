"""What a solve is compiled for, and where its arguments and its memory are."""

from typing import Any, NamedTuple

import llvmlite.ir as ir

from .emit import INDEX, index, POINTER


# The columns of the settings of a solve.
SETTINGS = ("t0", "t1", "sign", "dt0", "rtol", "atol", "dtmax", "safety", "factormax")

# The results of a solve, as numbers.
SUCCESSFUL, MAX_STEPS, NOT_FINITE, DT_MIN = range(4)
# What is counted, as 32-bit integers.
COUNTS = ("result", "steps", "accepted", "rejected", "saved")


class Shape(NamedTuple):
    """What a program is compiled for.

    **Fields:**

    - `n`: the number of entries of the state.
    - `order`: the order of the series.
    - `kind`: `"double"` or `"float"`.
    - `width`: how many solves are made at once.
    - `arguments`, `parameters`, `work`: how many numbers the field has as arguments,
        and the series needs for what it makes of them, and for itself.
    - `shared`: whether the arguments of all solves are the same.
    - `compensated`: as for `TaylorSolver`.
    - `at_times`: whether states are returned at times that are asked for.
    - `rows`: how many coefficients of each step are returned: none, that of order zero,
        which is the state, or all.
    - `entries`: how many entries of a solve that is made alone are in a vector.
    """

    n: int
    order: int
    kind: str
    width: int
    arguments: int
    parameters: int
    work: int
    shared: bool
    compensated: bool
    at_times: bool
    rows: int
    entries: int = 1

    @property
    def chunk(self) -> int:
        """How many entries of the state are looked at at once."""
        if self.width > 1:
            return 1
        return min(self.entries, 1 << (self.n - 1).bit_length())

    @property
    def bytes(self) -> int:
        """The size of a number, or of a vector with one for each lane."""
        return {"double": 8, "float": 4}[self.kind] * self.width

    def places(self) -> tuple[dict[str, int], int]:
        """Where everything is in the memory of a block, and how large that is. All
        begins at multiples of 64 bytes."""
        rows = (self.order + 1) * self.n
        own = 0 if self.shared else 1
        sizes = {
            "c": rows,
            "d": rows,
            "y1": self.n,
            "rest": self.n,
            "new_rest": self.n,
            "increment": self.n,
            "t": 1,
            "arguments": own * self.arguments,
            "parameters": own * self.parameters,
            "work": self.work,
        }
        places, total = {}, 0
        for name, size in sizes.items():
            places[name] = total
            total += _multiple(size, max(1, 64 // self.bytes))
        return places, total


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


class Table(NamedTuple):
    """The arguments of a call: addresses, numbers of entries from one solve to the
    next, and sizes. In memory it is a table of 64-bit integers."""

    y0: Any
    y0_stride: Any
    args: Any
    args_stride: Any
    settings: Any
    settings_stride: Any
    ts: Any
    ts_stride: Any
    y1: Any
    t_end: Any
    counts: Any
    ys: Any
    step_ts: Any
    step_rows: Any
    lanes: Any
    ts_size: Any
    max_steps: Any
    step_size: Any


_ADDRESSES = frozenset(
    "y0 args settings ts y1 t_end counts ys step_ts step_rows".split()
)


def load_table(builder: ir.IRBuilder, pointer: Any) -> Table:
    values = []
    for i, name in enumerate(Table._fields):
        place = builder.gep(pointer, [index(i)], source_etype=INDEX)
        x = builder.load(place, typ=INDEX)
        values.append(builder.inttoptr(x, POINTER) if name in _ADDRESSES else x)
    return Table(*values)
