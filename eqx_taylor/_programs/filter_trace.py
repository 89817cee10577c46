"""Functions of arbitrary PyTrees are made jaxprs here, and outputs PyTrees again."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.tree_util as jtu
import numpy as np

from .._core.check import UNTRACEABLE, untraceable
from .._core.jax import trace
from .._core.protocols import Jaxpr


def is_traced(x: Any) -> bool:
    """Whether `x` is an array, NumPy's included. All else is a part of the program."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind in "biufc"
    return eqx.is_array(x)


class Traced(NamedTuple):
    jaxpr: Jaxpr
    # The arrays that the jaxpr is to be evaluated at, and what to make of its outputs.
    leaves: list[Any]
    restored: Callable[[list[Any]], Any]


def filter_trace(
    caller: str,
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_input: Callable[[Any], bool] = is_traced,
) -> Traced:
    """Traces `fun`, a PyTree itself, for these arguments."""
    arrays, static = eqx.partition((fun, args, kwargs), is_input)
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
        raise untraceable(caller, "`fun`", e) from e
    out_tree, out_static = outs[-1]

    def restored(out_leaves):
        return eqx.combine(jtu.tree_unflatten(out_tree, out_leaves), out_static)

    return Traced(jaxpr, leaves, restored)


class Wrapper(abc.ABC):
    """A function that looks like another one, which it traces anew with every call: it
    has that one's name, and is a method in a class."""

    # Anything: PyTrees are made of other things than functions on the way.
    fun: Any

    @abc.abstractmethod
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def __wrapped__(self):
        return self.fun

    @property
    def __name__(self):
        return getattr(self.fun, "__name__", type(self.fun).__name__)

    def __get__(self, instance, owner):
        return self if instance is None else eqx.Partial(self, instance)
