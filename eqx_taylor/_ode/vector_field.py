"""Vector fields: functions as terms of Diffrax, and checks of their results."""

import inspect
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .._core.check import dtype_kind
from .check import check_term


def as_ode_term(caller: str, vector_field: Any) -> diffrax.AbstractTerm:
    """Converts a function to a term that checks its results. Other terms are returned
    unchanged."""
    if type(vector_field) is diffrax.ODETerm:
        vector_field = vector_field.vector_field
    if isinstance(vector_field, diffrax.AbstractTerm):
        check_term(caller, vector_field)
        return vector_field
    if not callable(vector_field):
        raise TypeError(
            f"{caller}: `vector_field` must be a function `f(t, y, args)` or a "
            f"`diffrax.ODETerm`; got {vector_field!r}."
        )
    try:
        inspect.signature(vector_field).bind(None, None, None)
    except TypeError as e:
        raise TypeError(
            f"{caller}: `vector_field` must be a function `f(t, y, args)`; {e}."
        ) from e
    except ValueError:
        pass  # Some built-in functions have no signature.
    return diffrax.ODETerm(CheckedVectorField(caller, vector_field))


class CheckedVectorField(eqx.Module):
    """A vector field that checks its results."""

    caller: str = eqx.field(static=True)
    vector_field: Callable[..., Any]

    def __call__(self, t, y, args):
        out = self.vector_field(t, y, args)
        if jtu.tree_structure(out) != jtu.tree_structure(y):
            raise ValueError(
                f"{self.caller}: `vector_field` must return a PyTree of the structure "
                f"of `y0`.\ny0: {eqx.tree_pformat(y)}\n"
                f"returned: {eqx.tree_pformat(out)}"
            )
        for (path, leaf), slope in zip(
            jtu.tree_leaves_with_path(y), jtu.tree_leaves(out)
        ):
            try:
                fits = jnp.broadcast_shapes(jnp.shape(slope), leaf.shape) == leaf.shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(
                    f"{self.caller}: `vector_field` returned shape {jnp.shape(slope)} "
                    f"for y0{jtu.keystr(path)}, which has shape {leaf.shape}. Return a "
                    "derivative of the same shape."
                )
        return out


def as_slope(path: Any, slope: Any, leaf: Array) -> Array:
    """Converts the vector field's result for a leaf to the dtype of that leaf."""
    slope = jnp.asarray(slope)
    if dtype_kind(slope.dtype) > dtype_kind(leaf.dtype):
        raise TypeError(
            f"The vector field is complex for y0{jtu.keystr(path)}, which has dtype "
            f"{leaf.dtype}: the solution is not real. Make the state complex: `y0 + "
            "0j`."
        )
    return slope.astype(leaf.dtype)
