"""Rules for primitives and functions of one's own."""

from ._interpreter import register as register, Walk as Walk
from ._jax import bind as bind
from ._rules._define import (
    define_bilinear as define_bilinear,
    define_derivative as define_derivative,
    define_linear as define_linear,
    define_rewrite as define_rewrite,
)
from ._rules._kinks import define_piecewise_linear as define_piecewise_linear
from ._series import (
    convolve as convolve,
    convolve_square as convolve_square,
    Series as Series,
)
from ._terms import (
    add as add,
    scale as scale,
    sub as sub,
)
