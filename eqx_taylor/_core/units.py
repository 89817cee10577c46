"""Powers of two, by which a value is scaled without rounding."""

from typing import Any

import jax.numpy as jnp
from jax import lax


def power_of_two(x: Any) -> Any:
    """Returns a power of two near a positive `x`, whose reciprocal does not
    overflow."""
    x = lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, 0)
    largest = float(jnp.finfo(x.dtype).max) / 8  # Its reciprocal is normal.
    return jnp.clip(x, float(jnp.finfo(x.dtype).tiny), largest)
