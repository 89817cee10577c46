"""Rules for your own primitives and functions."""

from ._core.convolution import convolve as convolve, convolve_square as convolve_square
from ._core.jax import bind as bind
from ._core.rule import register as register
from ._core.series import Series as Series
from ._core.terms import add as add, over as over, scale as scale, sub as sub
from ._core.walk import Walk as Walk
from ._rules.define import (
    define_derivative as define_derivative,
    define_recurrence as define_recurrence,
    define_rewrite as define_rewrite,
)
from ._rules.jet_rules import define_jet_rule as define_jet_rule
from ._rules.kinks import define_piecewise_linear as define_piecewise_linear
from ._rules.linear import (
    define_bilinear as define_bilinear,
    define_linear as define_linear,
)
