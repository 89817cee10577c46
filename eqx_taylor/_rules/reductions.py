"""Reductions, cumulations and windows. Sums are linear; those that select values are
linear around every point."""

from .kinks import define_piecewise_linear
from .linear import define_linear


define_linear("cumsum", "reduce_sum", "reduce_window_sum", fused=False)
define_piecewise_linear(
    "cummax", "cummin", "reduce_max", "reduce_min", "reduce_window_max",
    "reduce_window_min", "select_and_gather_add", "select_and_scatter_add",
)  # fmt: skip
