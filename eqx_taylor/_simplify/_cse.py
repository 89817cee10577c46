"""Common subexpressions and dead code."""

from ._graph import Graph, Jaxpr
from ._program import read, write


def cse_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    """The same function with every computation in it once, and none in vain."""
    return write(read(jaxpr, Graph.apply, body=cse_jaxpr), jaxpr)
