"""Orderings: their order is that of the first coefficients."""

from .kinks import define_piecewise_linear


define_piecewise_linear("sort", "top_k", "approx_top_k")
