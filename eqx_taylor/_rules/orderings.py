"""Orderings: coefficients 0 are sorted, and the others go with them."""

from .kinks import define_piecewise_linear


define_piecewise_linear("sort", "top_k", "approx_top_k")
