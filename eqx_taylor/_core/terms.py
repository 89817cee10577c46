"""Coefficients of series: arrays, or `None` for one that is known to be zero."""

from typing import Any

from jax import lax

from .order import Table


# A coefficient. `None` means that it is known to be zero.
Term = Any


def scale(term: Term, factor: Any) -> Term:
    """Computes `factor * term`, where the term may be known to be zero.

    **Arguments:**

    - `term`: a coefficient; an array, or `None` for zero.
    - `factor`: a Python number.

    **Returns:**

    An array of the shape and dtype of the coefficient, or `None`.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> print(rules.scale(jnp.array([1.0, 2.0]), 3), rules.scale(None, 3))
        [3. 6.] None
        ```
    """
    if term is None:
        return term
    if isinstance(factor, Table):
        return lax.mul(term, lax.broadcast(factor.scalar(term.dtype), term.shape))
    if factor == 1:
        return term
    if factor == -1:
        return lax.neg(term)
    return term * float(factor)


def add(a: Term, b: Term) -> Term:
    """Computes `a + b`, where either may be known to be zero.

    **Arguments:**

    - `a`, `b`: coefficients of the same shape and dtype: arrays, or `None` for zero.

    **Returns:**

    An array of their shape, or `None` if both are `None`.

    **Raises:**

    `TypeError`, by `jax.lax.add`, for arrays that differ in shape or dtype.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> a, b = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
        >>> print(rules.add(a, b), rules.add(None, b), rules.add(None, None))
        [4. 6.] [3. 4.] None
        ```
    """
    if a is None:
        return b
    if b is None:
        return a
    return lax.add(a, b)


def sub(a: Term, b: Term) -> Term:
    """Computes `a - b`, where either may be known to be zero.

    **Arguments:**

    - `a`, `b`: coefficients of the same shape and dtype: arrays, or `None` for zero.

    **Returns:**

    An array of their shape, or `None` if both are `None`.

    **Raises:**

    `TypeError`, by `jax.lax.sub`, for arrays that differ in shape or dtype.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> a, b = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
        >>> print(rules.sub(a, b), rules.sub(None, b), rules.sub(None, None))
        [-2. -2.] [-3. -4.] None
        ```
    """
    if b is None:
        return a
    if a is None:
        return lax.neg(b)
    return lax.sub(a, b)


def over(a: Term, divisor: Any) -> Term:
    """Computes `a / divisor`, where `a` may be known to be zero.

    **Arguments:**

    - `a`: a coefficient; an array, or `None` for zero.
    - `divisor`: an array of its shape and dtype.

    **Returns:**

    An array of their shape, or `None` if `a` is `None`.

    **Raises:**

    `TypeError`, by `jax.lax.div`, for arrays that differ in shape or dtype.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> a, b = jnp.array([1.0, 2.0]), jnp.array([4.0, 4.0])
        >>> print(rules.over(a, b), rules.over(None, b))
        [0.25 0.5 ] None
        ```
    """
    return None if a is None else lax.div(a, divisor)
