"""Functions that make the programs of derivatives smaller, and measure their size."""

from ._programs.counts import PrimitiveCounts as PrimitiveCounts
from ._programs.inspect import (
    count_primitives as count_primitives,
    plot_primitive_counts as plot_primitive_counts,
)
from ._programs.jarrett import jarrett as jarrett
from ._programs.simplify import cse as cse, simplify as simplify
