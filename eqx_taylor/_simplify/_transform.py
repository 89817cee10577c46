"""From functions of PyTrees to jaxprs and back."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
import numpy as np

from .._check import describe, untraceable, UNTRACEABLE
from .._jax import evaluate, trace
from ._graph import Jaxpr


def is_traced(x: Any) -> bool:
    """Arrays; a number of Python's is a part of the program."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind in "biufc"
    return eqx.is_array(x)


class Rewritten(eqx.Module):
    """A function whose program is rewritten whenever it is called."""

    fun: Callable[..., Any]
    rewrite: Callable[[Jaxpr], Jaxpr] = eqx.field(static=True)
    caller: str = eqx.field(static=True)

    @property
    def __wrapped__(self):
        return self.fun

    def __call__(self, /, *args, **kwargs):
        arrays, static = eqx.partition((self.fun, args, kwargs), is_traced)
        leaves, treedef = jtu.tree_flatten(arrays)
        outs: list[Any] = []

        def flat_fun(*leaves):
            arrays = jtu.tree_unflatten(treedef, leaves)
            fun, args, kwargs = eqx.combine(arrays, static)
            out, out_static = eqx.partition(fun(*args, **kwargs), is_traced)
            out_leaves, out_tree = jtu.tree_flatten(out)
            outs.append((out_tree, out_static))
            return out_leaves

        try:
            jaxpr = trace(flat_fun, *leaves)
        except UNTRACEABLE as e:
            raise untraceable(self.caller, "`fun`", e) from e
        out_tree, out_static = outs[-1]
        out_leaves = evaluate(self.rewrite(jaxpr), leaves)
        return eqx.combine(jtu.tree_unflatten(out_tree, out_leaves), out_static)

    def __get__(self, instance, owner):
        return self if instance is None else eqx.Partial(self, instance)


def rewritten(caller: str, fun: Any, rewrite: Callable[[Jaxpr], Jaxpr]) -> Callable:
    if not callable(fun):
        raise TypeError(f"{caller}: `fun` must be callable; got {describe(fun)}.")
    return eqx.module_update_wrapper(Rewritten(fun, rewrite, caller))
