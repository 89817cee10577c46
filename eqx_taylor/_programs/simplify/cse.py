"""Elimination of common subexpressions and dead code."""

from ..._core.protocols import Jaxpr
from .graph import Graph
from .program import read, write


def cse_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    """Returns the same function, with every computation once, and no unused ones."""
    return write(read(jaxpr, Graph.apply, body=cse_jaxpr), jaxpr)
