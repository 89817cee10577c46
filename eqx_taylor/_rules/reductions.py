"""Reductions, cumulations and orderings that pick values: linear around a point."""

from .._core.decisions import KINKS
from .kinks import define_piecewise_linear


define_piecewise_linear(
    "cummax", "cummin", "reduce_max", "reduce_min", "reduce_window_max",
    "reduce_window_min", "scatter", "select_and_gather_add", "select_and_scatter_add",
    "sort", "top_k", "approx_top_k",
)  # fmt: skip
# Which entries it replaces is said by integers.
KINKS.discard("scatter")
