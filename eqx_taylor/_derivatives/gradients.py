"""Reverse mode over Taylor mode: derivatives of gradients along a direction."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .._core.check import check_integer, describe, UNTRACEABLE, untraceable
from .._core.custom_types import PyTree
from .._core.jax import as_type, filled, joint_axes, vary, varying_axes
from .argument import Argument
from .filter_jet import jet_of_trees
from .mixed_partials import tensors


# The point, or the result of a function. Its derivatives have the same type, with other
# arrays, and with `None` in place of leaves that are not differentiable.
_T = TypeVar("_T")
# The second part of what a function returns, with `has_aux=True`.
_Aux = TypeVar("_Aux")


@overload
def hvp(
    fun: Callable[..., Any],
    x: _T,
    v: PyTree,
    *args: Any,
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> _T: ...


@overload
def hvp(
    fun: Callable[..., Any],
    x: _T,
    v: PyTree,
    *args: Any,
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[_T, PyTree]: ...


def hvp(
    fun: Callable[..., Any],
    x: PyTree,
    v: PyTree,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> PyTree:
    r"""Computes the product of the Hessian of a scalar function with a vector. It takes
    reverse mode over a jet of order 1, and costs as much as a few gradients.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a real scalar.
    - `x`: the point, a PyTree. `fun` is differentiated with respect to its
        floating-point arrays, and to Python floats for which `v` has an entry that is
        not `None`. All other leaves are constant.
    - `v`: the vector, a PyTree of the structure and shapes of `x`. `None` in place of a
        leaf means zero.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    $\nabla^2 f(x)\, v$, a PyTree of the structure and shapes of `x`, with `None` in
    place of leaves that are constant. With `has_aux=True`, a pair of this PyTree and
    `aux`.

    **Raises:**

    `TypeError` or `ValueError` if `fun` does not return a real scalar, if `x` is
    complex or has no floating-point array, or if `v` does not fit the point.

    !!! example

        ```pycon
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import hvp
        >>> # The Hessian of x^2 y is [[2 y, 2 x], [2 x, 0]].
        >>> x, v = jnp.array([2.0, 3.0]), jnp.array([1.0, 0.0])
        >>> print(hvp(lambda x: x[0] ** 2 * x[1], x, v))
        [6. 4.]
        >>> # The point may be a model: only its arrays are differentiated.
        >>> mlp = eqx.nn.MLP(3, "scalar", 32, 2, jnp.tanh, key=jax.random.key(0))
        >>> loss = lambda mlp: mlp(jnp.ones(3)) ** 2
        >>> product = hvp(loss, mlp, eqx.filter_grad(loss)(mlp))
        >>> product.layers[0].weight.shape
        (32, 3)
        ```

    **Reference:** [Pearlmutter (1994)][pearlmutter1994fast].
    """
    argument = Argument("hvp", fun, x, args, kwargs, real=True, has_aux=has_aux, v=v)
    terms = _gradient_coefficients(argument, argument.direction(v), 1)
    product = argument.replaced([leaf[1] for leaf in terms], otherwise=None)
    return argument.with_aux(product)


@overload
def directional_gradients(
    fun: Callable[..., Any],
    x: _T,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> _T: ...


@overload
def directional_gradients(
    fun: Callable[..., Any],
    x: _T,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[_T, PyTree]: ...


def directional_gradients(
    fun: Callable[..., Any],
    x: PyTree,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> PyTree:
    r"""Computes the gradient of a scalar function, and its derivatives along a
    direction: those of $\nabla f(x + t v)$ with respect to $t$ at $t = 0$.

    All of them come from one pass of reverse mode over one jet. If $f_K$ is the
    highest Taylor coefficient of $f(x_0 + x_1 t + \cdots + x_K t^K)$, then
    $\partial f_K / \partial x_j$ is coefficient $K - j$ of the gradient, for every $j$.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a real scalar.
    - `x`: the point, a PyTree. `fun` is differentiated with respect to its
        floating-point arrays, and to Python floats for which `v` has an entry that is
        not `None`. All other leaves are constant.
    - `v`: the direction, a PyTree of the structure and shapes of `x`. `None` in place
        of a leaf means zero.
    - `order`: the highest order $K \geq 0$. Order 0 is the gradient, order 1 adds the
        product of the Hessian with `v`, and so on.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    A PyTree of the structure of `x`. In place of every array it has the derivatives of
    order $0, \ldots, K$ of the gradient, stacked along a new first axis; leaves that
    are constant are replaced by `None`. These are derivatives: they are not divided by
    $k!$. With `has_aux=True`, a pair of this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if `fun` does not return a real scalar, if `x` is
    complex or has no floating-point array, if the order is not a non-negative integer,
    or if the direction does not fit the point.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import directional_gradients
        >>> x, v = jnp.array([2.0, 3.0]), jnp.array([1.0, 0.0])
        >>> # The gradient of x^2 y is (2 x y, x^2); along x it is (6 x, x^2).
        >>> g, hv, d2g = directional_gradients(lambda x: x[0] ** 2 * x[1], x, v, 2)
        >>> print(g, hv, d2g)
        [12.  4.] [6. 4.] [0. 2.]
        ```

    **Reference:** [Christianson (1992)][christianson1992reverse].
    """
    order = check_integer("directional_gradients", "order", order, 0)
    caller = "directional_gradients"
    argument = Argument(caller, fun, x, args, kwargs, real=True, has_aux=has_aux, v=v)
    terms = _gradient_coefficients(argument, argument.direction(v), order)
    gradients = [
        jnp.stack([c * float(math.factorial(k)) for k, c in enumerate(leaf)])
        for leaf in terms
    ]
    found = argument.replaced(gradients, otherwise=None)
    return argument.with_aux(found)


def _gradient_coefficients(
    argument: Argument, v: list[Any], order: int
) -> list[list[Array]]:
    """Computes, for each differentiated array, the Taylor coefficients of the gradient
    along `v`."""
    if order == 0:
        try:
            gradient = jax.grad(lambda arrays: _scalar(argument, arrays))(
                argument.arrays
            )
        except UNTRACEABLE as e:
            raise untraceable(argument.caller, "`fun`", e) from e
        return [[leaf] for leaf in gradient]

    def top(*terms):
        """Returns the highest coefficient of `f(Σ_j terms[j] t^j)`."""
        point, *series = terms
        trees = [argument.replaced(term, otherwise=None) for term in series]
        return jet_of_trees(
            argument.caller,
            lambda x: _scalar(argument, x, is_tree=True),
            (argument.replaced(point),),
            (trees,),
            False,
            {},
        )[1][-1]

    # If the direction differs between the devices of a `shard_map` and the point does
    # not, the point is made to vary as well. Otherwise JAX would add up its gradients
    # over the devices.
    axes = frozenset().union(
        *[
            varying_axes(jax.typeof(part)) - varying_axes(jax.typeof(array))
            for array, part in zip(argument.arrays, v)
            if part is not None
        ]
    )
    point = [vary(array, axes) for array in argument.arrays]
    zero = [filled(jax.typeof(array)) for array in point]
    first = [z if part is None else vary(part, axes) for part, z in zip(v, zero)]
    points = [point, first, *[zero] * (order - 1)]
    slopes = jax.grad(top, argnums=tuple(range(order + 1)))(*points)
    return [list(leaf) for leaf in zip(*slopes[::-1])]


def _scalar(argument: Argument, x: Any, is_tree: bool = False) -> Array:
    """Returns the value of the function, which must be a real scalar."""
    y = argument.differentiated(x if is_tree else argument.replaced(x))
    is_number = isinstance(y, float | jax.Array) and jnp.shape(y) == ()
    if not is_number or not jnp.issubdtype(jnp.result_type(y), jnp.floating):
        raise TypeError(
            f"{argument.caller}: `fun` must return a real scalar, whose gradient is "
            f"taken; got {describe(y)}. For other functions use "
            "`value_jacobian_hessian` or `directional_derivatives`."
        )
    return jnp.asarray(y)


@overload
def value_jacobian_hessian(
    fun: Callable[..., _T],
    x: PyTree,
    *args: Any,
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> tuple[_T, PyTree, PyTree]: ...


@overload
def value_jacobian_hessian(
    fun: Callable[..., tuple[_T, _Aux]],
    x: PyTree,
    *args: Any,
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[tuple[_T, PyTree, PyTree], _Aux]: ...


def value_jacobian_hessian(
    fun: Callable[..., PyTree],
    x: PyTree,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    r"""Computes the value of a function, its Jacobian and its Hessian in one call.

    If the output of a real function has at most half as many entries as its input, it
    is differentiated by reverse mode over jets of order 1; otherwise by jets of order 2
    alone (see [`eqx_taylor.derivative_tensor`][]). The Hessian is symmetric to the last
    bit.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    `(value, jacobian, hessian)`: what `fun`, `jax.jacobian(fun)` and
    `jax.hessian(fun)` return. If `x` is an array, each array of the Jacobian has the
    axes of an array of the value, followed by those of `x`; in the Hessian the axes of
    `x` come twice. If `x` is a PyTree, the Jacobian has a PyTree of its structure in
    place of each array of the value, and the Hessian another one within it. Leaves that
    are not differentiable are replaced by `None`. With `has_aux=True`, a pair of these
    three and `aux`.

    **Raises:**

    `TypeError` if `x` has integers, or if `fun` returns nothing that can be
    differentiated.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import value_jacobian_hessian
        >>> x = jnp.array([2.0, 3.0])
        >>> y, gradient, hessian = value_jacobian_hessian(lambda x: x[0] ** 2 * x[1], x)
        >>> print(y, gradient)
        12.0 [12.  4.]
        >>> print(hessian)
        [[6. 4.]
         [4. 0.]]
        ```
    """
    caller = "value_jacobian_hessian"
    argument = Argument(caller, fun, x, args, kwargs, has_aux=has_aux)
    zeros = [None] * len(argument.arrays)
    out = jax.eval_shape(lambda: argument.along(zeros, 0)[0])
    count = sum(leaf.size for leaf in jtu.tree_leaves(out))
    is_complex = any(
        jnp.iscomplexobj(y) for y in [*argument.arrays, *jtu.tree_leaves(out)]
    )
    if is_complex or 2 * count > argument.known_size:
        jacobian, hessian = tensors(argument, 2, [1, 2])
    else:
        jacobian, hessian = _by_reverse_mode(argument, jtu.tree_leaves(out))
    return argument.with_aux((argument.value(), jacobian, hessian))


def _by_reverse_mode(
    argument: Argument, out: Sequence[Any]
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Computes the rows of the Jacobian and the Hessian for each entry of the result:
    the gradients of the slope in all directions. `out` has the types of the results."""
    size, dtype = argument.known_size, argument.dtype
    # Each device of a `shard_map` differentiates its own results, as with jets alone.
    # JAX would add up gradients with respect to a point that is the same on all.
    axes = joint_axes(out)
    point = [vary(array, axes) for array in argument.arrays]
    units = [vary(part, axes) for part in argument.split(jnp.eye(size))]

    def flat(arrays):
        return jnp.concatenate([x.reshape(-1).astype(dtype) for x in arrays])

    def one_direction(v):
        def slope(arrays, v):
            return argument.along(v, 1, at=arrays)[1]

        y, pull_back = jax.vjp(slope, point, v)
        leaves, treedef = jtu.tree_flatten(y)

        def rows(i):
            """Returns the gradients of each entry of leaf `i`, with respect to the
            point and to `v`."""

            def row(unit):
                cotangents = [jnp.zeros_like(leaf) for leaf in leaves]
                cotangents[i] = unit.reshape(leaves[i].shape)
                slopes = pull_back(jtu.tree_unflatten(treedef, cotangents))
                return [flat(arrays) for arrays in slopes]

            units = jnp.eye(leaves[i].size, dtype=leaves[i].dtype)
            return jax.vmap(row)(as_type(jax.typeof(leaves[i]), units))

        found = [rows(i) for i in range(len(leaves))]
        by_point = jtu.tree_unflatten(treedef, [pair[0] for pair in found])
        by_direction = jtu.tree_unflatten(treedef, [pair[1] for pair in found])
        return by_point, by_direction, y

    second, first, y = jax.vmap(one_direction)(units)

    def jacobian(rows, y):
        rows = rows[0]  # It does not depend on the direction.
        return argument.tensor(rows.T.reshape(size, *y.shape[1:]), 1)

    def hessian(rows, y):
        rows = jnp.moveaxis(rows, 1, 2)  # direction, entry, output
        rows = (rows + jnp.swapaxes(rows, 0, 1)) / 2
        return argument.tensor(rows.reshape(size, size, *y.shape[1:]), 2)

    return jtu.tree_map(jacobian, first, y), jtu.tree_map(hessian, second, y)
