"""Values of a field while it is read: arrays of NumPy.

Those of numbers are known now. Those of `Linear` objects depend on the time, the state
or the arguments. A `Given` depends on the arguments alone, and JAX computes it before
the solve.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .atoms import Linear
from .given import Given


def filled(shape: tuple[int, ...], make: Callable[[int], Any]) -> np.ndarray:
    """An array of objects, each made of its place in the flat array."""
    out = np.empty(int(np.prod(shape)), object)
    for i in range(out.size):
        out[i] = make(i)
    return out.reshape(shape)


def as_objects(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array of `Linear`s, also of numbers."""
    x = np.broadcast_to(x, shape)
    if x.dtype == object:
        return x
    flat = np.ravel(x)
    return filled(shape, lambda i: Linear(float(flat[i]), {}))


def is_known(x: Any) -> bool:
    return not isinstance(x, Given) and x.dtype != object


def in_numpy(x: Any) -> Any:
    """Keys of random numbers are arrays of JAX only."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)
