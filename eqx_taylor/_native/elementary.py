"""The exponential function and the hyperbolic tangent of vectors, in arithmetic.

LLVM calls the C library for each entry of a vector: the two hidden layers of a network
8-24-24-8 then took as long as half of all else. The approximations are those of Cephes
(Moshier, "Methods and Programs for Mathematical Functions", 1989), to two roundings.
`ops` is the `Arithmetic` of the function that is written.
"""

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]


# exp(x) = 1 + 2 x P(x²) / (Q(x²) - x P(x²)), |x| <= log(2) / 2; highest powers first.
_EXP_P = 1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1
_EXP_Q = (
    3.00198505138664455042e-6,
    2.52448340349684104192e-3,
    2.27265548208155028766e-1,
    2.00000000000000000005e0,
)
# tanh(x) = x + x³ P(x²) / Q(x²), |x| <= 0.625.
_TANH_P = (
    -9.64399179425052238628e-1,
    -9.92877231001918586564e1,
    -1.61468768441708447952e3,
)
_TANH_Q = (
    1.0,
    1.12811678491632931402e2,
    2.23548839060100448583e3,
    4.84406305325125486048e3,
)
# For a number of 8 and of 4 bytes: the bits of the fraction; log(2) in two parts, the
# first of which has so few digits that its multiples are exact; and where the result is
# the smallest normal number, and where it is the largest.
_FORMATS = {
    8: (52, 6.93145751953125e-1, 1.42860682030941723212e-6, -708.396, 709.7827),
    4: (23, 0.693359375, -2.12194440e-4, -87.33, 88.7228),
}


def exp(ops: Any, x: Any) -> Any:
    """What is below the smallest normal number is zero."""
    fraction, log2_high, log2_low, lowest, highest = _FORMATS[ops.bytes]
    builder = ops.builder
    number = lambda value: ops.number(value, x.type)  # noqa: E731
    below = builder.fcmp_ordered("<", x, number(lowest))
    above = builder.fcmp_ordered(">", x, number(highest))
    # What is not a number stays what it is.
    inside = builder.select(below, number(lowest), x)
    inside = builder.select(above, number(highest), inside)
    # The sum with this number has no place for fractions: its last bits are n.
    shift = number(1.5 * 2.0**fraction)
    shifted = ops.fma(inside, number(1 / math.log(2)), shift)
    n = ops.sub(shifted, shift)
    r = ops.fma(n, number(-log2_high), inside)
    r = ops.fma(n, number(-log2_low), r)
    square = ops.mul(r, r)
    p = ops.mul(r, _polynomial(ops, square, _EXP_P))
    q = ops.sub(_polynomial(ops, square, _EXP_Q), p)
    value = ops.fma(number(2.0), ops.div(p, q), number(1.0))
    # Twice 2^(n - 1), of which the exponent is never too large.
    bits = ir.IntType(8 * ops.bytes)
    kind = ir.VectorType(bits, x.type.count)
    bias = 2 ** (8 * ops.bytes - fraction - 2) - 2
    n = builder.add(builder.bitcast(shifted, kind), _each(kind, bias))
    power = builder.bitcast(builder.shl(n, _each(kind, fraction)), x.type)
    value = ops.mul(ops.mul(value, power), number(2.0))
    value = builder.select(below, number(0.0), value)
    return builder.select(above, number(math.inf), value)


def tanh(ops: Any, x: Any) -> Any:
    builder = ops.builder
    number = lambda value: ops.number(value, x.type)  # noqa: E731
    size = ops.call("fabs", x)
    # As in the slope, which needs the same exponential function.
    q = exp(ops, ops.mul(number(-2.0), size))
    large = ops.div(ops.sub(number(1.0), q), ops.add(number(1.0), q))
    large = ops.copysign(large, x)
    square = ops.mul(x, x)
    ratio = ops.div(
        _polynomial(ops, square, _TANH_P), _polynomial(ops, square, _TANH_Q)
    )
    small = ops.fma(ops.mul(x, square), ratio, x)
    is_large = builder.fcmp_ordered(">", size, number(0.625))
    return builder.select(is_large, large, small)


def _polynomial(ops: Any, x: Any, coefficients: Sequence[float]) -> Any:
    total, *rest = (ops.number(c, x.type) for c in coefficients)
    for c in rest:
        total = ops.fma(total, x, c)
    return total


def _each(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
