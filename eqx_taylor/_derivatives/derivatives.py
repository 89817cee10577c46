"""Derivatives along a line: of functions of a scalar, and in a direction."""

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
    r"""All derivatives of a function of a scalar, up to some order.

    They are computed in one pass, in $O(K^2)$ work for order $K$.

    **Arguments:**

    - `fun`: a function of a floating-point scalar, and of anything else after it. It
        may be a Module, and may return any PyTree.
    - `x`: the point, a scalar.
    - `order`: the highest order $K \geq 0$.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, with $y, y', \ldots, y^{(K)}$, stacked along a new
    first axis, in the place of every array $y$; and `None` in the place of leaves that
    are not differentiable. These are derivatives, and not divided by $k!$; for Taylor
    coefficients see [`eqx_taylor.taylor_polynomial`][]. With `has_aux` a pair of this
    and what else `fun` returns.

    **Raises:**

    `TypeError` or `ValueError` for an order that is not a non-negative integer, and for
    a point that is not a floating-point scalar.

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
    r"""One derivative of a function of a scalar; see [`eqx_taylor.derivatives`][].

    **Arguments:**

    - `fun`: a function of a floating-point scalar, and of anything else after it.
    - `x`: the point, a scalar.
    - `order`: which derivative, an integer; 0 is the function itself.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, with the derivative of this order, of the same shape,
    in the place of every array, and `None` in the place of leaves that are not
    differentiable. It is not divided by a factorial. With `has_aux` a pair of this and
    what else `fun` returns.

    **Raises:**

    As [`eqx_taylor.derivatives`][].

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
        "respect to several numbers see `directional_derivatives` and "
        "`partial_derivative`; for the derivatives at several points use `jax.vmap`."
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
    r"""The derivatives of $f(x + t v)$ with respect to $t$ at $t = 0$, to some order.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `v`: the direction, a PyTree of the structure and shapes of `x`, with `None` for
        leaves that do not move.
    - `order`: the highest order $K \geq 0$.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, with the derivatives of order $0, 1, \ldots, K$,
    stacked along a new first axis, in the place of every array; and `None` in the place
    of leaves that are not differentiable. They are derivatives, and not divided by
    $k!$; for Taylor coefficients see [`eqx_taylor.taylor_polynomial`][]. With `has_aux`
    a pair of this and what else `fun` returns.

    **Raises:**

    `TypeError` or `ValueError` for an order that is not a non-negative integer, for
    integer inputs, and for a direction that does not fit the point.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import directional_derivatives
        >>> x, v = jnp.array([0.1, 0.2]), jnp.array([1.0, -1.0])
        >>> # Of x y along (1, -1): 0.02 + 0.1 t - t^2.
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
