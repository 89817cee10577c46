"""The arithmetic of NVIDIA's GPUs, on Python's numbers: a register with a floating-point
number is a `float`, of 32 bits too, and any other one an integer that is not negative."""

import ctypes
import math
import struct
from typing import Any


INFINITY, NAN = math.inf, math.nan
_SMALLEST = {32: 2.0**-126, 64: 2.0**-1022}

# -- bits


def float_of_64(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def float_of_32(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def bits_of_64(x: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def bits_of_32(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0]


def signed(x: int, bits: int) -> int:
    return x - (x >> (bits - 1) << bits)


# -- rounding to 32 bits


def to_float32(x: float) -> float:
    """The nearest number of 32 bits, ties to even.

    The sum, difference, product, quotient and square root of such numbers may be
    rounded to 64 bits first: 53 digits are more than twice 24 (Figueroa, 1995).
    """
    return ctypes.c_float(x).value


def to_float32_by(mode: str, x: float, rest: float) -> float:
    """`x + rest`, where `rest` is below one rounding of `x`."""
    if not math.isfinite(x):
        return to_float32(x)
    if mode == "rn":
        # Rounded to odd the number is on the right side of each tie.
        if rest != 0 and bits_of_64(x) % 2 == 0:
            x = math.nextafter(x, math.copysign(INFINITY, rest))
        return to_float32(x)
    found = to_float32(x)
    above = found > x or (found == x and rest < 0)
    below = found < x or (found == x and rest > 0)
    towards_zero = mode == "rz"
    if above and (mode == "rm" or (towards_zero and found > 0)):
        return _next_32(found, -1)
    if below and (mode == "rp" or (towards_zero and found < 0)):
        return _next_32(found, 1)
    return found


def _next_32(x: float, direction: int) -> float:
    if math.isinf(x):
        return math.copysign(float_of_32(0x7F7FFFFF), x)
    if x == 0:
        return direction * 2.0**-149
    bits = bits_of_32(x)
    return float_of_32(bits + (1 if (x > 0) == (direction > 0) else -1))


def _sum(x: float, y: float) -> tuple[float, float]:
    """A sum, and what is lost by rounding it."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def add_32(mode: str, x: float, y: float) -> float:
    return to_float32_by(mode, *_sum(x, y))


def fma_32(mode: str, x: float, y: float, z: float) -> float:
    return to_float32_by(mode, *_sum(x * y, z))


def int_to_float32(n: int) -> float:
    x = float(n)
    return to_float32_by("rn", x, float(n - int(x)))


# -- 64 bits


def fma_64_exactly(x: float, y: float, z: float) -> float:
    """`x y + z` of rational numbers, whose quotient Python rounds once."""
    if x == 0 or y == 0 or not (math.isfinite(x) and math.isfinite(y)):
        return x * y + z
    if not math.isfinite(z):
        return z
    (a, b), (c, d), (e, f) = (number.as_integer_ratio() for number in (x, y, z))
    above, below = a * c * f + e * b * d, b * d * f
    if above == 0:
        return 0.0
    try:
        return above / below
    except OverflowError:
        return INFINITY if above > 0 else -INFINITY


def _fma_64(x: float, y: float, z: float) -> float:
    try:
        return math.fma(x, y, z)  # pyright: ignore[reportAttributeAccessIssue]
    except (ValueError, OverflowError):
        return fma_64_exactly(x, y, z)


# From Python 3.13.
fma_64 = _fma_64 if hasattr(math, "fma") else fma_64_exactly


def div(x: float, y: float) -> float:
    try:
        return x / y
    except ZeroDivisionError:
        if x == 0 or x != x:
            return NAN
        return math.copysign(INFINITY, x) * math.copysign(1.0, y)


def sqrt(x: float) -> float:
    return NAN if x < 0 else math.sqrt(x)


# Of two numbers of which one is none the other one is returned.


def smaller(x: float, y: float) -> float:
    if x != x or y != y:
        return y if x != x else x
    if x == y:
        return x if math.copysign(1.0, x) < 0 else y
    return x if x < y else y


def larger(x: float, y: float) -> float:
    return -smaller(-x, -y)


# -- conversions

_WHOLE = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


def to_whole(mode: str, x: float) -> float:
    if not math.isfinite(x):
        return x
    return math.copysign(float(_WHOLE[mode](x)), x)


def to_int(mode: str, x: float, kind: str, of: str) -> int:
    bits = int(kind[1:])
    low = -(1 << (bits - 1)) if kind[0] == "s" else 0
    high = low + (1 << bits) - 1
    if x != x:
        return 0 if of == "f32" and bits <= 32 else 1 << (bits - 1)
    if math.isinf(x):
        return high if x > 0 else low
    return min(max(_WHOLE[mode](x), low), high)


def saturated(x: float) -> float:
    return min(max(x, 0.0), 1.0) if x == x else 0.0


def flushed(x: float, bits: int) -> float:
    """With zero for what is smaller than the smallest normal number."""
    return math.copysign(0.0, x) if abs(x) < _SMALLEST[bits] else x


# -- approximations

# The best that the instructions may return: what is built on them must not hang upon
# their errors, of which NVIDIA states bounds only.


def exp2(x: float) -> float:
    try:
        return 2.0**x
    except OverflowError:
        return INFINITY


def log2(x: float) -> float:
    if x == 0:
        return -INFINITY
    return NAN if x < 0 else math.log2(x)


def rsqrt(x: float) -> float:
    return div(1.0, sqrt(x))


def quotient(x: float, y: float) -> float:
    """`div.approx.f32`, for which the reciprocal is formed."""
    if 2.0**126 < abs(y) < INFINITY:
        return NAN if math.isinf(x) else math.copysign(0.0, x) * math.copysign(1.0, y)
    return div(x, y)


def upper_half(x: float) -> float:
    """What instructions for 64 bits read, and write, which are made of those for 32."""
    return float_of_64(bits_of_64(x) >> 32 << 32)


# -- integers


def bit_field(x: int, start: int, length: int) -> int:
    return x >> (start & 255) & ((1 << (length & 255)) - 1)


def funnel(direction: str, low: int, high: int, n: int) -> int:
    """`shf`, which shifts two registers as if they were one, and returns one of them."""
    both = high << 32 | low
    return both << n >> 32 if direction == "l" else both >> n


COMPARISONS: dict[str, Any] = {
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
}
# Of floating-point numbers, of which `ne` alone is true in Python if one is none.
FLOAT_COMPARISONS: dict[str, Any] = COMPARISONS | {
    "ne": "({0} < {1} or {0} > {1})",
    "equ": "not ({0} < {1} or {0} > {1})",
    "neu": "{0} != {1}",
    "ltu": "not {0} >= {1}",
    "leu": "not {0} > {1}",
    "gtu": "not {0} <= {1}",
    "geu": "not {0} < {1}",
    "num": "({0} == {0} and {1} == {1})",
    "nan": "({0} != {0} or {1} != {1})",
}
