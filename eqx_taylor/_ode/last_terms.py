"""The last two coefficients of a series, by which the next step is chosen."""

import jax.numpy as jnp
from jaxtyping import Array

from .ode_jet import unit_near


def last_terms(
    last: list[Array], y: list[Array], unit: Array, order: int
) -> tuple[list[Array], Array]:
    """Returns coefficients `order - 1` and `order`, in a unit of time in which the
    larger one has the size of the state `y`; and this unit. A norm squares them, which
    would overflow in a unit that is much longer than the next step, and underflow in
    one that is much shorter."""

    def largest(xs):
        sizes = [jnp.max(jnp.abs(x), initial=0).astype(unit.dtype) for x in xs]
        return jnp.max(jnp.array(sizes), initial=0)

    # A state of zero has no size.
    size = largest(y)
    size = jnp.where(size > 0, size, 1)
    orders = [order - 1, order] if order > 1 else [1]
    tops = jnp.stack([largest([c[k - order - 1] for c in last]) for k in orders])
    exponents = jnp.array([1 / k for k in orders], unit.dtype)
    factor = unit_near(jnp.min((size / tops) ** exponents))

    def scaled(c):
        power = factor.astype(c.dtype)
        return jnp.stack([c[-2] * power ** (order - 1), c[-1] * power**order])

    return list(map(scaled, last)), unit * factor
