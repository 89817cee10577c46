"""Products of series, which all rules use."""

from collections.abc import Callable, Iterable
from typing import Any

from jax import lax

from .jax import explicit_sharding
from .order import Order
from .series import Series
from .storage import policy
from .terms import add, scale, Term


def convolve(
    product: Callable[[Any, Any], Any], a: Series, b: Series, k: Any, first: int = 0
) -> Term:
    """Computes coefficient `k` of a product: `Σ_{j=first}^{k} product(a_j, b_{k-j})`.

    Coefficients are normalised by the factorial, so that there are no binomials.
    Products with coefficients that are known to be zero are left out.

    **Arguments:**

    - `product`: a function of two arrays that is linear in each. `jax.lax.mul`, for
        elementwise products, has the fastest implementation.
    - `a`, `b`: the factors, two [`eqx_taylor.rules.Series`][].
    - `k`: the order.
    - `first`: the first coefficient of `a` that is used. With 1, the term with `b_k` is
        left out.

    **Returns:**

    An array of the shape of the product, or `None` for zero.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> aval = jax.ShapeDtypeStruct((), jnp.float32)
        >>> a = rules.Series(aval, 0b11, [jnp.array(1.0), jnp.array(2.0)].__getitem__)
        >>> b = rules.Series(aval, 0b11, [jnp.array(3.0), jnp.array(5.0)].__getitem__)
        >>> # (1 + 2 t) (3 + 5 t) = 3 + 11 t + 10 t^2
        >>> print(*[rules.convolve(jax.lax.mul, a, b, k) for k in range(4)])
        3.0 11.0 10.0 None
        ```
    """
    if isinstance(k, Order):
        return k.loop.convolve(product, a, b, k, first)
    if product is lax.mul:
        total = products(a, b, ((j, k - j, 1) for j in range(first, k + 1)))
        return disjoined(total, a, b)
    total = None
    for j in range(first, k + 1):
        if _meet(a, j, b, k - j):
            a_j, b_kj = a.for_products(j), b.for_products(k - j)
            if a_j is not None and b_kj is not None:
                total = add(total, product(a_j, b_kj))
    return total


def convolve_square(a: Series, k: Any, first: int = 0) -> Term:
    """Computes coefficient `k` of an elementwise square: `Σ_{j=first}^{k-first}
    a_j a_{k-j}`, with each product computed once.

    Coefficients are normalised by the factorial, so that there are no binomials.

    **Arguments:**

    - `a`: an [`eqx_taylor.rules.Series`][].
    - `k`: the order.
    - `first`: the lowest order that is used. With 1, the terms with `a_k` are left out.

    **Returns:**

    An array of the shape of the coefficients, or `None` for zero.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> aval = jax.ShapeDtypeStruct((), jnp.float32)
        >>> a = rules.Series(aval, 0b11, [jnp.array(1.0), jnp.array(2.0)].__getitem__)
        >>> # (1 + 2 t)^2 = 1 + 4 t + 4 t^2
        >>> print(*[rules.convolve_square(a, k) for k in range(4)])
        1.0 4.0 4.0 None
        ```
    """
    if isinstance(k, Order):
        return k.loop.convolve_square(a, k, first)
    total = products(a, a, ((j, k - j, 1) for j in range(first, (k + 1) // 2)))
    total = scale(total, 2)
    if k % 2 == 0 and first <= k // 2:
        total = add(total, products(a, a, [(k // 2, k // 2, 1)]))
    return disjoined(total, a, a)


def convolve_weighted(
    a: Series,
    b: Series,
    k: Any,
    weight: Callable[[Any, Any], Any],
) -> Term:
    """Computes `Σ_{j=1}^{k} weight(j, k) a_j b_{k-j}` elementwise. The axes of the
    result are joined, as in `products`."""
    if isinstance(k, Order):
        return k.loop.convolve(lax.mul, a, b, k, 1, weight)
    weights = ((j, k - j, weight(j, k)) for j in range(1, k + 1))
    return products(a, b, (pair for pair in weights if pair[-1] != 0))


def products(
    a: Series, b: Series, pairs: Iterable[tuple[int, int, float | int]]
) -> Term:
    """Computes `Σ w a_i b_j` for all `(i, j, w)` elementwise. The axes of the result
    are joined.

    Two things make it fast on a CPU, with the thresholds of a `StoragePolicy`. A few
    sums are computed side by side: in a single sum, each addition would wait for the
    one before, which takes nearly all of the time for small arrays. And loops are long:
    the last axes of an array of shape (6, 6, 3), for example, are joined, as otherwise
    the innermost loop would be over three entries.
    """
    shape = _joint_shape(a, b)
    sums: list[Term] = [None] * policy().side_by_side
    n = 0
    for i, j, weight in pairs:
        if not _meet(a, i, b, j):
            continue
        a_i, b_j = a.for_products(i, shape), b.for_products(j, shape)
        if a_i is not None and b_j is not None:
            product = lax.mul(scale(a_i, weight), b_j)
            place = n % len(sums)
            sums[place] = add(sums[place], product)
            n += 1
    while len(sums) > 1:
        sums = [add(*pair) for pair in zip(sums[::2], sums[1::2])]
    return sums[0]


def disjoined(total: Term, a: Series, b: Series) -> Term:
    """Splits the joined axes of a result of `products(a, b, ...)`."""
    shape = _joint_shape(a, b)
    if total is None or shape is None or total.shape == shape:
        return total
    return lax.reshape(policy().store(total), shape)


def _joint_shape(a: Series, b: Series) -> tuple[Any, ...] | None:
    """Returns the shape whose last axes are joined for products of `a` and `b`. It is
    `None` if there is one product at each order; and in a jet, where XLA's own form is
    faster, and takes less memory."""
    if a.is_constant or b.is_constant or a.is_known and b.is_known:
        return None
    if explicit_sharding(a.aval) or explicit_sharding(b.aval):
        return None  # Joining would change the axes along which arrays are sharded.
    return lax.broadcast_shapes(a.aval.shape, b.aval.shape)


def _meet(a: Series, i: int, b: Series, j: int) -> bool:
    """Returns whether neither coefficient is known to be zero. The supports say so
    before coefficients are computed: one that is multiplied by zero may not exist
    yet."""
    return bool(a.support >> i & b.support >> j & 1)
