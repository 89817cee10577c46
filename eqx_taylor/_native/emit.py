"""LLVM's instructions for numbers that are scalars, or vectors with a lane for each
solve."""

import math
import struct
from typing import Any

import llvmlite.ir as ir

from .arithmetic import Operations


POINTER = ir.PointerType()
INDEX = ir.IntType(64)
BOOLEAN = ir.IntType(1)

# Bits of the mantissa, and the bias of the exponent.
_FORMATS = {"double": (52, 1023), "float": (23, 127)}


class Numbers(Operations):
    """The instructions for one type of numbers.

    **Arguments:**

    - `builder`: where instructions are appended.
    - `kind`: `"double"` or `"float"`.
    - `width`: the number of lanes; with 1 the numbers are scalars.
    """

    def __init__(self, builder: ir.IRBuilder, kind: str, width: int):
        super().__init__(builder)
        self.kind, self.width = kind, width
        self.scalar: Any = ir.DoubleType() if kind == "double" else ir.FloatType()
        self.bits = 64 if kind == "double" else 32
        self.size = self.bits // 8
        self.type = self.vector_of(self.scalar)
        self.eps = 2.0 ** -_FORMATS[kind][0]

    def vector_of(self, scalar: Any) -> Any:
        return scalar if self.width == 1 else ir.VectorType(scalar, self.width)

    def scalars(self, builder: ir.IRBuilder | None = None) -> "Numbers":
        """The same numbers, one at a time."""
        return Numbers(builder or self.builder, self.kind, 1)

    def constant(self, x: float | int) -> Any:
        x = float(x)
        if self.kind == "float" and math.isfinite(x):
            x = struct.unpack("f", struct.pack("f", x))[0]
        return self._splat(self.scalar, x)

    def _splat(self, scalar: Any, x: Any) -> Any:
        if self.width == 1:
            return ir.Constant(scalar, x)
        return ir.Constant(self.vector_of(scalar), [x] * self.width)

    def integer(self, x: int) -> Any:
        """An integer of the same number of bits."""
        return self._splat(ir.IntType(self.bits), x)

    def flag(self, x: bool) -> Any:
        return self._splat(BOOLEAN, int(x))

    # Memory.

    def at(self, pointer: Any, index: Any) -> Any:
        if isinstance(index, int):
            index = ir.Constant(INDEX, index)
        return self.builder.gep(pointer, [index], source_etype=self.type)

    def load(self, pointer: Any, index: Any = 0) -> Any:
        align = self.size * self.width
        return self.builder.load(self.at(pointer, index), typ=self.type, align=align)

    def store(self, x: Any, pointer: Any, index: Any = 0) -> None:
        self.builder.store(x, self.at(pointer, index), align=self.size * self.width)

    def variable(self, x: Any) -> "Variable":
        return Variable(self, x)

    # Arithmetic.

    def absolute(self, x: Any) -> Any:
        return self._intrinsic("fabs", x)

    def larger(self, x: Any, y: Any) -> Any:
        """The larger one; `y` if either is not a number."""
        return self.select(self.compare(">", x, y), x, y)

    def smaller(self, x: Any, y: Any) -> Any:
        """The smaller one; `y` if either is not a number."""
        return self.select(self.compare("<", x, y), x, y)

    def power(self, x: Any, n: int) -> Any:
        """Computes `x**n` by products, for `n` from 0."""
        total = None
        while n > 0:
            if n % 2:
                total = x if total is None else self.mul(total, x)
            x, n = self.mul(x, x), n // 2
        return self.constant(1.0) if total is None else total

    def compare(self, how: str, x: Any, y: Any) -> Any:
        return self.builder.fcmp_ordered(how, x, y)

    def is_finite(self, x: Any) -> Any:
        return self.compare("<", self.absolute(x), self.constant(math.inf))

    def select(self, condition: Any, x: Any, y: Any) -> Any:
        return self.builder.select(condition, x, y)

    # Flags.

    def both(self, x: Any, y: Any) -> Any:
        return self.builder.and_(x, y)

    def either(self, x: Any, y: Any) -> Any:
        return self.builder.or_(x, y)

    def negate(self, x: Any) -> Any:
        return self.builder.xor(x, self.flag(True))

    def any(self, flags: Any) -> Any:
        """Whether a flag is set in any lane; a single flag."""
        if self.width == 1:
            return flags
        packed = ir.IntType(self.width)
        packed, zero = self.builder.bitcast(flags, packed), ir.Constant(packed, 0)
        return self.builder.icmp_unsigned("!=", packed, zero)

    def joined(self, lanes: list[Any]) -> Any:
        if self.width == 1:
            return lanes[0]
        vector = ir.Constant(ir.VectorType(lanes[0].type, self.width), ir.Undefined)
        for i, lane in enumerate(lanes):
            index = ir.Constant(ir.IntType(32), i)
            vector = self.builder.insert_element(vector, lane, index)
        return vector

    # Logarithms and exponentials, to 5 digits: lengths of steps need no more, and they
    # are the same on all machines, for all lanes at once, without a call.

    def log2(self, x: Any) -> Any:
        r"""Computes $\log_2 x$. Of zero it is that of a number below the least one."""
        mantissa, bias = _FORMATS[self.kind]
        b = self.builder
        bits = b.bitcast(x, self.vector_of(ir.IntType(self.bits)))
        # x = m 2^e, with m from sqrt(1/2) to sqrt(2)
        half = int(2**mantissa * (math.sqrt(0.5) * 2 - 1))
        offset = self.integer(((bias - 1) << mantissa) + half)
        shifted = b.sub(bits, offset)
        exponent = b.ashr(shifted, self.integer(mantissa))
        m = b.sub(bits, b.shl(exponent, self.integer(mantissa)))
        m = b.bitcast(m, self.type)
        exponent = b.sitofp(exponent, self.type)
        # log m = 2 (z + z^3/3 + z^5/5 + ...) with z = (m - 1)/(m + 1), below 0.172
        one = self.constant(1.0)
        z = self.div(self.sub(m, one), self.add(m, one))
        square, total = self.mul(z, z), self.constant(1 / 5)
        for k in (3, 1):
            total = self.fma(total, square, self.constant(1 / k))
        factor = self.constant(2 / math.log(2))
        return self.fma(self.mul(z, factor), total, exponent)

    def exp2(self, x: Any) -> Any:
        r"""Computes $2^x$, for exponents that are clipped to what numbers can have."""
        mantissa, bias = _FORMATS[self.kind]
        b = self.builder
        largest = self.constant(bias - 1.0)
        x = self.smaller(x, largest)
        x = self.larger(x, self.constant(1.0 - bias))
        whole = self._intrinsic("rint", x)
        rest = self.mul(self.sub(x, whole), self.constant(math.log(2)))
        total = self.constant(1 / math.factorial(5))
        for k in range(4, -1, -1):
            term = self.constant(1 / math.factorial(k))
            total = self.fma(total, rest, term)
        whole = b.fptosi(whole, self.vector_of(ir.IntType(self.bits)))
        bits = b.shl(b.add(whole, self.integer(bias)), self.integer(mantissa))
        return self.mul(total, b.bitcast(bits, self.type))


class Variable:
    """A number that changes, in memory that LLVM replaces by registers."""

    def __init__(self, numbers: Numbers, x: Any):
        self.builder, self.type = numbers.builder, x.type
        with self.builder.goto_entry_block():
            self.pointer = self.builder.alloca(self.type)
        # llvmlite's is a pointer to this type only, and LLVM's to any.
        self.pointer.type = POINTER
        self.set(x)

    def set(self, x: Any) -> None:
        self.builder.store(x, self.pointer)

    def get(self) -> Any:
        return self.builder.load(self.pointer, typ=self.type)


def index(i: int) -> Any:
    return ir.Constant(INDEX, i)
