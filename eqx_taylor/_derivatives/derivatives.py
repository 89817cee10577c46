"""Derivatives along a line: of functions of a scalar, and in one direction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
from jax.typing import ArrayLike
from jaxtyping import Array

from .._core.check import check_integer, describe
from .._core.custom_types import PyTree
from .argument import Argument
from .old_forms import takes_old_form


# The result of a function. Its derivatives have the same type, with other arrays, and
# with `None` in place of leaves that are not differentiable.
_T = TypeVar("_T")


@takes_old_form("order")
def derivatives(
    fun: Callable[..., _T],
    x: ArrayLike,
    order: int,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes all derivatives of a function of a scalar, up to some order.

    They come from one pass, which takes $O(K^2)$ work for order $K$.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)` with a floating-point
        scalar `x`. It may be a Module, and may return any PyTree.
    - `x`: the point, a scalar.
    - `order`: the highest order $K \geq 0$.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns. In place of every array $y$ it has $y, y', \ldots,
    y^{(K)}$, stacked along a new first axis; leaves that are not differentiable are
    replaced by `None`. These are derivatives: they are not divided by $k!$. For Taylor
    coefficients see [`eqx_taylor.taylor_polynomial`][]. With `has_aux=True`, a pair of
    this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if the order is not a non-negative integer, or the point
    is not a floating-point scalar.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import derivatives
        >>> # exp(2 t) and its first four derivatives at t = 0.
        >>> print(derivatives(lambda t: jnp.exp(2 * t), 0.0, 4))
        [ 1.  2.  4.  8. 16.]
        >>> # At several points.
        >>> ts = jnp.linspace(0.0, 1.0, 10)
        >>> jax.vmap(lambda t: derivatives(jnp.sin, t, 4))(ts).shape
        (10, 5)
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    terms, argument = _of_scalar("derivatives", fun, order, x, args, kwargs, has_aux)
    return argument.with_aux(stacked(terms))


@takes_old_form("n")
def nth_derivative(
    fun: Callable[..., _T],
    x: ArrayLike,
    order: int,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes one derivative of a function of a scalar. For all derivatives up to an
    order, see [`eqx_taylor.derivatives`][].

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)` with a floating-point
        scalar `x`. It may be a Module, and may return any PyTree.
    - `x`: the point, a scalar.
    - `order`: the order of the derivative, a non-negative integer. Order 0 is the value
        of the function.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, in which each array is replaced by its derivative of
    this order, of the same shape, and each leaf that is not differentiable by `None`.
    The derivative is not divided by a factorial. With `has_aux=True`, a pair of this
    PyTree and `aux`.

    **Raises:**

    The same errors as [`eqx_taylor.derivatives`][].

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import nth_derivative
        >>> print(nth_derivative(jnp.sin, 0.3, 5))  # cos(0.3)
        0.9553365
        ```
    """
    terms, argument = _of_scalar("nth_derivative", fun, order, x, args, kwargs, has_aux)
    return argument.with_aux(terms[-1])


def _of_scalar(
    caller: str,
    fun: Any,
    order: Any,
    x: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    has_aux: bool,
) -> tuple[list[PyTree[Array]], Argument]:
    if not callable(fun):
        raise TypeError(f"{caller}: `fun` must be callable; got {describe(fun)}.")
    order = check_integer(caller, "order", order, 0)
    argument = Argument(caller, fun, x, args, kwargs, has_aux=has_aux)
    if jtu.treedef_is_leaf(argument.treedef) and jnp.shape(x) == ():
        one = jnp.ones_like(argument.arrays[0])
        return argument.along([one], order, factorial_scaled=True), argument
    raise ValueError(
        f"{caller}: `x` must be a scalar; got {describe(x)}. For derivatives with "
        "respect to several inputs use `directional_derivatives` or "
        "`partial_derivative`; for derivatives at several points use `jax.vmap`."
    )


def directional_derivatives(
    fun: Callable[..., _T],
    x: PyTree,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes the derivatives of $f(x + t v)$ with respect to $t$ at $t = 0$, up to
    some order.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `v`: the direction, a PyTree of the structure and shapes of `x`, with `None` in
        place of leaves that are constant.
    - `order`: the highest order $K \geq 0$.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns. In place of every array it has the derivatives of
    order $0, 1, \ldots, K$, stacked along a new first axis; leaves that are not
    differentiable are replaced by `None`. These are derivatives: they are not divided
    by $k!$. For Taylor coefficients see [`eqx_taylor.taylor_polynomial`][]. With
    `has_aux=True`, a pair of this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if the order is not a non-negative integer, if `x` has
    integers, or if the direction does not fit the point.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import directional_derivatives
        >>> x, v = jnp.array([0.1, 0.2]), jnp.array([1.0, -1.0])
        >>> # Along (1, -1), x y is 0.02 + 0.1 t - t^2.
        >>> print(directional_derivatives(lambda x: x[0] * x[1], x, v, 3))
        [ 0.02  0.1  -2.    0.  ]
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    order = check_integer("directional_derivatives", "order", order, 0)
    caller = "directional_derivatives"
    argument = Argument(caller, fun, x, args, kwargs, has_aux=has_aux)
    v = argument.direction(v)
    terms = argument.along(v, order, factorial_scaled=True)
    return argument.with_aux(stacked(terms))


def stacked(terms: list[PyTree]) -> PyTree[Array]:
    return jtu.tree_map(lambda *leaves: jnp.stack(leaves), *terms)
