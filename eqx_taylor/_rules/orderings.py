"""Orderings: coefficients 0 are sorted, and the others are permuted in the same way."""

from .kinks import define_piecewise_linear


define_piecewise_linear("sort", "top_k", "approx_top_k")
