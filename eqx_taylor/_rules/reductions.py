"""Reductions, cumulations and orderings that pick values: linear around a point."""

from .._core.rule import register
from .kinks import define_piecewise_linear, piecewise_linear_rule


define_piecewise_linear(
    "cummax", "cummin", "reduce_max", "reduce_min", "reduce_window_max",
    "reduce_window_min", "select_and_gather_add", "select_and_scatter_add",
    "sort", "top_k", "approx_top_k",
)  # fmt: skip
# Integers say which entries a scatter replaces: it has no kink.
register("scatter", kind="piecewise linear")(piecewise_linear_rule)
