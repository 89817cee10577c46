"""Powers whose exponent is known at run time only, or depends on the state; and the
angle of two values."""

from .atoms import Atom, Coefficient, Linear
from .choices import select
from .functions import FUNCTIONS
from .program import Builder


def any_power(builder: Builder, x: Linear, y: Linear) -> Linear:
    """`x` to the power of `y`."""
    if not y.is_constant:
        return _exponential(builder, x, y) if x.is_constant else _both(builder, x, y)
    if isinstance(y.constant, float):
        return builder.power(x, y.constant)
    if x.is_constant:
        return Linear(builder.parameter("pow", (x.constant, y.constant)), {})
    return _variable_power(builder, x, y.constant)


def _value(atom: Atom) -> Linear:
    return Linear(0.0, {atom: 1.0})


def _constant_atom(builder: Builder, x: Coefficient) -> Atom:
    """A series of which coefficient 0 is this number, and which has no other."""
    return builder.atom_of(Linear(x, {}))


# x y' = p x' y  =>
#     k x_0 y_k = p Σ_{j=1..k} j x_j y_{k-j} - Σ_{j=1..k-1} x_j (k-j) y_{k-j}
def _variable_power(builder: Builder, x: Linear, p: Coefficient) -> Linear:
    base = builder.atom_of(x)
    operands = (
        base,
        builder.times_order(base),
        _constant_atom(builder, p),
        builder.atom_of(_integer_power(builder, x, p)),
    )
    y = builder.atom("variable_power", operands)
    y.lagged = (builder.times_order(y),)
    return _value(y)


# Bits of an exponent that is an integer. With an order above 63 higher powers of a base
# that is zero have coefficients, too.
BITS = 6


def _integer_power(builder: Builder, x: Linear, p: Coefficient) -> Linear:
    """`x` to the power of an integer from 0 to 63 that is known at run time: where the
    base is zero, the recurrence would divide by it. For other exponents it is NaN."""
    one = builder.constant(1)
    total, square = one, x
    for i in range(BITS):
        if i > 0:
            square = builder.square(square)
        bit = builder.parameter("bit", (p,), i)
        total = builder.mul(total, select(builder, bit, square, one))
    # A factor, for a constant has no coefficients but the first.
    return builder.scale(builder.parameter("one_if_bits", (p,), BITS), total)


# y = b^v, y' = log(b) v' y  =>  y_k = log(b)/k Σ_{j=1..k} j v_j y_{k-j}
def _exponential(builder: Builder, x: Linear, y: Linear) -> Linear:
    b = x.constant
    if b == 2.0:
        return FUNCTIONS["exp2"](builder, y)
    exponent = builder.atom_of(y)
    operands = (
        exponent,
        builder.times_order(exponent),
        _constant_atom(builder, b),
        _constant_atom(builder, builder.parameter("log_unless_zero", (b,))),
    )
    return _value(builder.atom("exponential", operands))


# y = exp(w), w = v log(x)  =>  y_k = 1/k Σ_{j=1..k} j w_j y_{k-j}; y_0 is of `pow`, as
# that of exp(w) has an error of w roundings.
def _both(builder: Builder, x: Linear, v: Linear) -> Linear:
    w = builder.mul(v, FUNCTIONS["log"](builder, x))
    slope = builder.times_order(builder.atom_of(w))
    operands = (builder.atom_of(x), builder.atom_of(v), slope)
    return _value(builder.atom("power_of_both", operands))


# (x² + y²) a' = y' x - x' y for a = atan2(y, x)
def atan2(builder: Builder, y: Linear, x: Linear) -> Linear:
    if x.is_constant and y.is_constant:
        return Linear(builder.parameter("atan2", (y.constant, x.constant)), {})

    def slope(z: Linear) -> Linear:
        if z.is_constant:
            return builder.constant(0)
        return _value(builder.times_order(builder.atom_of(z)))

    products = builder.mul(slope(y), x), builder.mul(slope(x), y)
    square = builder.add(builder.square(x), builder.square(y))
    total = builder.div(builder.sub(*products), square)
    operands = (builder.atom_of(total), builder.atom_of(y), builder.atom_of(x))
    return _value(builder.atom("integrated", operands, "atan2"))
