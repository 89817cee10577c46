"""Common subexpressions and dead code."""

from ..._core.protocols import Jaxpr
from .graph import Graph
from .program import read, write


def cse_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    """Returns the same function with every computation in it once, and none in vain."""
    return write(read(jaxpr, Graph.apply, body=cse_jaxpr), jaxpr)
