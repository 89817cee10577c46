"""What is computed on the device and on the CPU, to be compared."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Check:
    """Something to be computed on both."""

    name: str
    # Returns a list of arrays, which are compared one by one.
    fun: Callable[..., list[Any]]
    # Of a dtype: the arguments.
    args: Callable[[Any], tuple]
    # Relative to the largest entry, whatever the roundings: of solves, as steps differ.
    slack: Callable[[Any], float] = lambda dtype: 0.0
    # Of the results in float64, and of the dtype: the sizes of what roundings are
    # counted in, instead of the largest entry of each array.
    scales: Callable[[list[Any], Any], list[Any]] | None = None
    # Entries that are compared, by dtype.
    where: Callable[[Any], Any] | None = None
    # Whether more may be lost where float32 on the CPU loses more.
    lenient: bool = True
    # How many times the roundings of the tables are allowed.
    times: float = 1.0
