"""Conversion of functions of arbitrary PyTrees to jaxprs, and of their outputs back."""

import abc
from collections.abc import Callable
from typing import (
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    overload,
    ParamSpec,
    TYPE_CHECKING,
    TypeVar,
)

import equinox as eqx
import jax.tree_util as jtu
import numpy as np

from .._core.check import UNTRACEABLE, untraceable
from .._core.jax import trace
from .._core.protocols import Jaxpr


def is_traced(x: Any) -> bool:
    """Returns whether `x` is an array, of JAX or NumPy, and so an input of the program.
    Everything else is a part of the program."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind in "biufc"
    return eqx.is_array(x)


class Traced(NamedTuple):
    jaxpr: Jaxpr
    # The arrays at which to evaluate the jaxpr, and the function that restores the
    # PyTree of its outputs.
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


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Self = TypeVar("_Self")
_Rest = ParamSpec("_Rest")


class Wrapper(Generic[_P, _T], abc.ABC):
    """A function that traces another function at every call. It has the name, the
    documentation and the signature of that function, and can be a method of a class."""

    # Any object: while PyTrees are processed, this may not be a function.
    fun: Any

    def __post_init__(self) -> None:
        # An attribute of the object takes precedence over the docstring of its class.
        object.__setattr__(self, "__doc__", getattr(self.fun, "__doc__", None))

    @abc.abstractmethod
    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...

    @property
    def __wrapped__(self) -> Callable[_P, _T]:
        return self.fun

    @property
    def __name__(self) -> str:
        return getattr(self.fun, "__name__", type(self.fun).__name__)

    def as_call(self, caller: str, *options: str) -> str:
        """Writes this as the call that made it, with only the name of the function."""
        name = getattr(self.fun, "__qualname__", type(self.fun).__name__)
        return f"{caller}({', '.join([name, *options])})"

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: Any) -> "Wrapper[_P, _T]": ...

        @overload
        def __get__(
            self: "Wrapper[Concatenate[_Self, _Rest], _T]",
            instance: _Self,
            owner: Any,
        ) -> Callable[_Rest, _T]: ...

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else eqx.Partial(self, instance)
