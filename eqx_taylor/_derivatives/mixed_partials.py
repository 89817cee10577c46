"""Mixed partial derivatives, from jets along straight lines."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .._core.check import check_integer
from .._core.custom_types import PyTree
from .argument import Argument
from .differential_operators import apply_operator, as_multi_index
from .interpolation_weights import as_rows, interpolated, Sparse


# The result of a function, and its partial derivative.
_T = TypeVar("_T")


def partial_derivative(
    fun: Callable[..., _T],
    x: PyTree,
    multi_index: PyTree,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes a mixed partial derivative, $\partial^{|i|} f / \partial x_1^{i_1}
    \partial x_2^{i_2} \cdots$.

    It is a sum of derivatives along straight lines. Their directions and weights are
    computed exactly (see [`eqx_taylor.derivative_tensor`][]), and the sum of their
    highest coefficients is propagated as one vector (see [`eqx_taylor.laplacian`][]).

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `multi_index`: how often to differentiate with respect to each entry of `x`. It is
        a PyTree of the structure of `x`, with integers in the shape of each array. For
        a vector of three entries it is `(2, 0, 1)`, for example, and the same for a
        tuple of three scalars.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, in which each array is replaced by its derivative, of
    the same shape, and each leaf that is not differentiable by `None`. The derivative
    is not divided by factorials. With `has_aux=True`, a pair of this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if the multi-index does not fit the point, if its
    entries are not non-negative integers, or if `x` has integers.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import partial_derivative
        >>> x = jnp.array([2.0, 3.0, 5.0])
        >>> fun = lambda x: x[0] ** 2 * x[1] ** 2 * x[2]
        >>> # Twice with respect to the first entry, once to the third: 2 y^2.
        >>> print(partial_derivative(fun, x, (2, 0, 1)))
        18.0
        ```

    **Reference:** [Griewank, Utke and Walther (2000)][griewank2000evaluating].
    """
    argument = Argument("partial_derivative", fun, x, args, kwargs, has_aux=has_aux)
    index = as_multi_index(argument, "multi_index", multi_index)
    return apply_operator(argument, [(1, index)])


def derivative_tensor(
    fun: Callable[..., PyTree],
    x: PyTree,
    order: int,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> PyTree:
    r"""Computes all partial derivatives of one order: for order 1 the Jacobian, for
    order 2 the Hessian, and so on.

    For $D$ inputs, $\binom{D + K - 1}{K}$ of the partial derivatives of order $K$ are
    distinct. They are interpolated from the jets of order $K$ along as many directions,
    by the formula of Griewank, Utke and Walther, whose weights are rational numbers.
    All partial derivatives share the jets, which are computed together by `jax.vmap`.
    Entries that are equal by symmetry are equal to the last bit.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `order`: the order $K \geq 0$.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    What $K$ nested `jax.jacfwd` return. If `x` is an array, it is the PyTree that `fun`
    returns, in which each array has the axes of `x`, $K$ times, after its own. If `x`
    is a PyTree, PyTrees of its structure are nested $K$ times. Leaves that are not
    differentiable are replaced by `None`. The derivatives are not divided by
    factorials. With `has_aux=True`, a pair of this and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if the order is not a non-negative integer, or if `x`
    has integers.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import derivative_tensor
        >>> x = jnp.array([2.0, 3.0])
        >>> third = derivative_tensor(lambda x: x[0] ** 2 * x[1], x, 3)
        >>> third.shape
        (2, 2, 2)
        >>> print(third[0, 0, 1], third[0, 1, 0], third[0, 0, 0])
        2.0 2.0 0.0
        ```

    **Reference:** [Griewank, Utke and Walther (2000)][griewank2000evaluating].
    """
    order = check_integer("derivative_tensor", "order", order, 0)
    argument = Argument("derivative_tensor", fun, x, args, kwargs, has_aux=has_aux)
    if order == 0:
        return argument.with_aux(argument.value())
    [tensor] = tensors(argument, order, [order])
    return argument.with_aux(tensor)


def tensors(
    argument: Argument, order: int, wanted: Sequence[int]
) -> list[PyTree[Array]]:
    """Computes the derivative tensors of the wanted orders from jets of one order,
    along the directions of [Griewank, Utke and Walther
    (2000)][griewank2000evaluating]."""
    size = argument.known_size
    lines = [_counted(c) for c in _combinations(size, order)]
    directions = argument.split(as_rows(lines, size))
    moving = [i for i, v in enumerate(directions) if v is not None]

    def jets(vs):
        v = [None] * len(directions)
        for i, part in zip(moving, vs):
            v[i] = part
        terms = argument.along(v, order)
        return [terms[k] for k in wanted]

    along = jax.vmap(jets)([directions[i] for i in moving])
    return [
        jtu.tree_map(lambda y: _interpolate(argument, y, lines, k), tree)
        for k, tree in zip(wanted, along)
    ]


def _interpolate(argument: Argument, y: Any, lines: list[Sparse], k: int) -> PyTree:
    size = argument.known_size
    place = {v: n for n, v in enumerate(lines)}
    unique = list(_combinations(size, k))
    [order] = {sum(n for _, n in v) for v in lines}
    every = [interpolated(_counted(c), order) for c in unique]
    # If there are many variables, each partial derivative needs few of the directions.
    count = max(map(len, every))
    columns, weights = np.zeros((2, len(unique), count))
    for n, one in enumerate(every):
        columns[n, : len(one)] = [place[v] for v in one]
        weights[n, : len(one)] = [float(w) for w in one.values()]
    if 4 * count < len(lines):
        weights = jnp.asarray(
            weights.reshape(*weights.shape, *[1] * (y.ndim - 1)), y.dtype
        )
        partials = jnp.sum(weights * y[columns.astype(int)], axis=1)
    else:
        dense = np.zeros((len(unique), len(lines)))
        np.add.at(
            dense, (np.arange(len(unique))[:, None], columns.astype(int)), weights
        )
        highest = jax.lax.Precision.HIGHEST
        partials = jnp.tensordot(
            jnp.asarray(dense, y.dtype), y, axes=1, precision=highest
        )
    # Each entry of the tensor equals the one whose indices are the same, sorted.
    indices = np.sort(np.indices((size,) * k).reshape(k, -1), axis=0)
    keys = np.ravel_multi_index(tuple(indices), (size,) * k)
    known = np.ravel_multi_index(tuple(np.array(unique).T), (size,) * k)
    flat = partials[np.searchsorted(known, keys)]
    return argument.tensor(flat.reshape(*(size,) * k, *y.shape[1:]), k)


def _combinations(size: int, order: int):
    """Lists ascending tuples of indices, one for each distinct partial derivative."""
    return itertools.combinations_with_replacement(range(size), order)


def _counted(combination: Sequence[int]) -> Sparse:
    return tuple((i, len(list(same))) for i, same in itertools.groupby(combination))
