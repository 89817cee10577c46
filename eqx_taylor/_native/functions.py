"""Elementary functions as atoms: primitives of JAX, each by its differential equation.

A function of what does not move is a parameter, which `prepare` computes.
"""

import math
from collections.abc import Callable

from .atoms import Linear
from .program import Builder


# From the name of a primitive to a function of the builder and its operand.
FUNCTIONS: dict[str, Callable[[Builder, Linear], Linear]] = {}


def _define(name: str):
    def register(fun):
        def of_any(builder: Builder, x: Linear) -> Linear:
            if x.is_constant:
                return builder.constant_function(name, x)
            return fun(builder, x)

        FUNCTIONS[name] = of_any
        return fun

    return register


def _value(atom) -> Linear:
    return Linear(0.0, {atom: 1.0})


def _affine(builder: Builder, constant: float, factor: float, x: Linear) -> Linear:
    return builder.sum([(constant, builder.constant(1)), (factor, x)])


# -- y' = g x'


def _exponential(name: str, factor: float) -> None:
    @_define(name)
    def exponential(builder, x):
        y = builder.integral(name, x, factor)
        y.lagged = (y,)
        return _value(y)


_exponential("exp", 1.0)
_exponential("exp2", math.log(2))


@_define("expm1")
def _expm1(builder, x):
    y = builder.integral("expm1", x)
    y.lagged = (builder.atom_of(FUNCTIONS["exp"](builder, x)),)
    return _value(y)


def _pair(first: str, second: str, sign: float) -> None:
    """Two functions, of which each is the derivative of the other."""

    def both(builder, x):
        s = builder.integral(first, x)
        c = builder.integral(second, x, sign)
        s.lagged, c.lagged = (c,), (s,)
        return _value(s), _value(c)

    _define(first)(lambda builder, x: both(builder, x)[0])
    _define(second)(lambda builder, x: both(builder, x)[1])


_pair("sin", "cos", -1.0)
_pair("sinh", "cosh", 1.0)


def _sigmoid(name: str) -> None:
    @_define(name)
    def sigmoid(builder, x):
        y = builder.integral(name, x)
        y.lagged = (builder.sigmoid_slope(name, x, y),)
        return _value(y)


_sigmoid("tanh")
_sigmoid("logistic")


@_define("softplus")
def _softplus(builder, x):
    y = builder.integral("softplus", x)
    y.lagged = (builder.atom_of(FUNCTIONS["logistic"](builder, x)),)
    return _value(y)


@_define("tan")
def _tan(builder, x):
    y = builder.integral("tan", x)
    slope = _affine(builder, 1.0, 1.0, builder.square(_value(y)))
    y.lagged = (builder.atom_of(slope),)
    return _value(y)


def _error_function(name: str, sign: float) -> None:
    @_define(name)
    def error_function(builder, x):
        y = builder.integral(name, x, sign * 2 / math.sqrt(math.pi))
        slope = FUNCTIONS["exp"](builder, builder.scale(-1.0, builder.square(x)))
        y.lagged = (builder.atom_of(slope),)
        return _value(y)


_error_function("erf", 1.0)
_error_function("erfc", -1.0)


# -- y' = x' / r


@_define("log")
def _log(builder, x):
    return builder.inverse("log", x, x)


@_define("log1p")
def _log1p(builder, x):
    return builder.inverse("log1p", x, _affine(builder, 1.0, 1.0, x))


@_define("log2")
def _log2(builder, x):
    return builder.inverse("log2", x, x, 1 / math.log(2))


def one_minus_square(builder, x):
    """In factors, which do not cancel."""
    below, above = (_affine(builder, 1.0, sign, x) for sign in (-1.0, 1.0))
    return builder.mul(below, above)


def _one_plus_square(builder, x):
    return _affine(builder, 1.0, 1.0, builder.square(x))


@_define("asin")
def _asin(builder, x):
    r = builder.power(one_minus_square(builder, x), 0.5)
    return builder.inverse("asin", x, r)


@_define("acos")
def _acos(builder, x):
    r = builder.power(one_minus_square(builder, x), 0.5)
    return builder.inverse("acos", x, r, -1.0)


@_define("atan")
def _atan(builder, x):
    return builder.inverse("atan", x, _one_plus_square(builder, x))


@_define("asinh")
def _asinh(builder, x):
    r = builder.power(_one_plus_square(builder, x), 0.5)
    return builder.inverse("asinh", x, r)


@_define("acosh")
def _acosh(builder, x):
    factors = [_affine(builder, sign, 1.0, x) for sign in (-1.0, 1.0)]
    return builder.inverse("acosh", x, builder.power(builder.mul(*factors), 0.5))


@_define("atanh")
def _atanh(builder, x):
    return builder.inverse("atanh", x, one_minus_square(builder, x))


# -- roots


@_define("sqrt")
def _sqrt(builder, x):
    return builder.power(x, 0.5)


@_define("rsqrt")
def _rsqrt(builder, x):
    return builder.power(x, -0.5)


@_define("cbrt")
def _cbrt(builder, x):
    return builder.power(x, 1 / 3)


# -- functions of two values


def logaddexp(builder: Builder, x: Linear, y: Linear) -> Linear:
    """`log(exp(x) + exp(y))`, whose own program chooses the larger one."""
    return builder.add(y, FUNCTIONS["softplus"](builder, builder.sub(x, y)))
