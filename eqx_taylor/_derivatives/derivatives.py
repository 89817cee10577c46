"""Derivatives along a line: of functions of a number, and in a direction."""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.check import check_integer, describe
from .argument import Argument
from .check import check_function


def derivatives(fun: Callable[..., PyTree], order: int) -> Callable[..., PyTree[Array]]:
    r"""All derivatives of a function of a number, up to some order.

    They are computed in one pass, in $O(K^2)$ work for order $K$.

    **Arguments:**

    - `fun`: a function of a floating-point scalar, and of anything else after it. It
        may be a Module, and may return any PyTree.
    - `order`: the highest order $K \geq 0$.

    **Returns:**

    A function of the same arguments. It returns the PyTree that `fun` returns, with
    $y, y', \ldots, y^{(K)}$, stacked along a new first axis, in the place of every
    array $y$; and `None` in the place of leaves that are not differentiable. These are
    derivatives, and not divided by $k!$; for Taylor coefficients see
    [`eqx_taylor.taylor_polynomial`][].

    **Raises:**

    `TypeError` or `ValueError` for an order that is not a non-negative integer; and,
    when the function returned is called, for an argument that is not a floating-point
    scalar.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import derivatives
        >>> # exp(2 t) and its first four derivatives at t = 0.
        >>> d = derivatives(lambda t: jnp.exp(2 * t), 4)
        >>> print(d(0.0))
        [ 1.  2.  4.  8. 16.]
        >>> # At several points.
        >>> jax.vmap(d)(jnp.linspace(0.0, 1.0, 10)).shape
        (10, 5)
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    order = _checked("derivatives", fun, order)

    @ft.wraps(fun, updated=())
    def all_derivatives(t, /, *args, **kwargs):
        return stacked(_of_number("derivatives", fun, order, t, args, kwargs))

    return all_derivatives


def nth_derivative(fun: Callable[..., PyTree], n: int) -> Callable[..., PyTree[Array]]:
    r"""One derivative of a function of a number; see [`eqx_taylor.derivatives`][].

    **Arguments:**

    - `fun`: a function of a floating-point scalar, and of anything else after it.
    - `n`: which derivative, an integer; 0 is the function itself.

    **Returns:**

    A function of the same arguments. It returns the PyTree that `fun` returns, with the
    n-th derivative, of the same shape, in the place of every array, and `None` in the
    place of leaves that are not differentiable. It is not divided by $n!$, the
    factorial.

    **Raises:**

    As [`eqx_taylor.derivatives`][].

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import nth_derivative
        >>> print(nth_derivative(jnp.sin, 5)(0.3))  # cos(0.3)
        0.9553365
        ```
    """
    n = _checked("nth_derivative", fun, n, name="n")

    @ft.wraps(fun, updated=())
    def derivative(t, /, *args, **kwargs):
        return _of_number("nth_derivative", fun, n, t, args, kwargs)[n]

    return derivative


def _checked(caller: str, fun: Any, order: Any, name: str = "order") -> int:
    if not callable(fun):
        raise TypeError(f"{caller}: `fun` must be callable; got {describe(fun)}.")
    return check_integer(caller, name, order, 0)


def _of_number(caller, fun, order, t, args, kwargs) -> list[PyTree[Array]]:
    check_function(caller, fun, t, *args, **kwargs)
    first = "the first argument of `fun`"
    argument = Argument(caller, lambda t: fun(t, *args, **kwargs), t, name=first)
    if jtu.treedef_is_leaf(argument.treedef) and jnp.shape(t) == ():
        one = jnp.ones_like(argument.arrays[0])
        return argument.along([one], order, factorial_scaled=True)
    raise ValueError(
        f"{caller}: the first argument of `fun` must be a scalar; got "
        f"{describe(t)}. For derivatives with respect to several numbers see "
        "`directional_derivatives` and `partial_derivative`; for the derivatives at "
        "several points use `jax.vmap`."
    )


def directional_derivatives(
    fun: Callable[..., PyTree],
    x: PyTree,
    v: PyTree,
    order: int,
    *args: Any,
    **kwargs: Any,
) -> PyTree[Array]:
    r"""The derivatives of $f(x + t v)$ with respect to $t$ at $t = 0$, to some order.

    **Arguments:**

    - `fun`: a function of a PyTree, and of anything else after it, that returns a
        PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `v`: the direction, a PyTree of the structure and shapes of `x`, with `None` for
        leaves that do not move.
    - `order`: the highest order $K \geq 0$.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.

    **Returns:**

    The PyTree that `fun` returns, with the derivatives of order $0, 1, \ldots, K$,
    stacked along a new first axis, in the place of every array; and `None` in the place
    of leaves that are not differentiable. They are derivatives, and not divided by
    $k!$; for Taylor coefficients see [`eqx_taylor.taylor_polynomial`][].

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
    argument = Argument("directional_derivatives", fun, x, args, kwargs)
    v = argument.direction(v)
    return stacked(argument.along(v, order, factorial_scaled=True))


def stacked(terms: list[PyTree]) -> PyTree[Array]:
    return jtu.tree_map(lambda *leaves: jnp.stack(leaves), *terms)
