"""Numbers that are known when a program is written, in memory."""

from typing import Any

import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]


def add_table(module: Any, name: str, values: np.ndarray) -> Any:
    """Adds an array of numbers to a module. It is written as bytes, in the order of
    this machine: LLVM would take seconds to read a hundred thousand numbers."""
    data = bytearray(values.tobytes())
    type_ = ir.ArrayType(ir.IntType(8), len(data))
    unique = module.get_unique_name(name)
    table: Any = ir.GlobalVariable(module, type_, unique)  # Without types.
    table.linkage, table.global_constant = "internal", True
    table.initializer = ir.Constant(type_, data)
    table.align = 64
    return table
