"""Linear differential operators, by collapsed Taylor mode."""

import functools as ft
import math
import numbers
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, overload, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer

from .._core.check import describe
from .._core.custom_types import PyTree
from .._sums.values import EACH, SHARED
from .argument import Argument
from .interpolation_weights import (
    as_array,
    as_rows,
    of_operator,
    order_of,
    Sparse,
    sparse,
)


# The result of a function. Its derivatives have the same type, with other arrays, and
# with `None` in place of leaves that are not differentiable.
_T = TypeVar("_T")
# The second part of what a function returns, with `has_aux=True`.
_Aux = TypeVar("_Aux")


def laplacian(
    fun: Callable[..., _T],
    x: PyTree,
    *args: Any,
    mask: PyTree | None = None,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes the Laplacian $\sum_d \partial^2 f / \partial x_d^2$.

    Every operation is linear in the second derivatives of its input, so their sum over
    $d$ is propagated as one vector (Dangel et al. 2025). For $D$ inputs, $2 + D$
    vectors go through every layer of a network, not $1 + 2 D$. The result is an
    ordinary JAX computation, which can be differentiated with respect to anything that
    `fun` closes over.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of real arrays of any shapes.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `mask`: the entries of `x` over which the second derivatives are summed; `None`
        (the default) selects all. A mask is a PyTree of the structure of `x`. For each
        array it has a boolean, or booleans in the shape of the array. They must be
        known while tracing, so use Python's or NumPy's. Only the selected entries cost
        anything.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, in which each array is replaced by its Laplacian, of
    the same shape, and each leaf that is not differentiable by `None`. With
    `has_aux=True`, a pair of this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if `x` has integers or is complex, if the mask does not
    fit the point, or if `fun` does not return a pair and `has_aux=True`.

    !!! example

        ```pycon
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import laplacian
        >>> fun, x = lambda x: jnp.sum(x**2), jnp.ones(3)
        >>> print(laplacian(fun, x))
        6.0
        >>> # Leave out the first of the inputs, which may be the time.
        >>> print(laplacian(fun, x, mask=[False, True, True]))
        4.0
        >>> # The Laplacian of a network at ten points.
        >>> mlp = eqx.nn.MLP(3, "scalar", 32, 2, jnp.tanh, key=jax.random.key(0))
        >>> jax.vmap(lambda x: laplacian(mlp, x))(jnp.ones((10, 3))).shape
        (10,)
        ```

    **Reference:** [Dangel et al. (2025)][dangel2025collapsing].
    """
    argument = Argument("laplacian", fun, x, args, kwargs, real=True, has_aux=has_aux)
    return argument.with_aux(_sum_of_squares(argument, mask))


@overload
def value_gradient_laplacian(
    fun: Callable[..., _T],
    x: PyTree,
    *args: Any,
    mask: PyTree | None = None,
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> tuple[_T, PyTree, _T]: ...


@overload
def value_gradient_laplacian(
    fun: Callable[..., tuple[_T, _Aux]],
    x: PyTree,
    *args: Any,
    mask: PyTree | None = None,
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[tuple[_T, _Aux], PyTree, _T]: ...


def value_gradient_laplacian(
    fun: Callable[..., PyTree],
    x: PyTree,
    *args: Any,
    mask: PyTree | None = None,
    has_aux: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    r"""Computes the value of a function, its gradient and its Laplacian in one pass. A
    local energy, or the residual of a PDE, is made of these.

    [`eqx_taylor.laplacian`][] propagates the first derivatives in any case; here they
    are returned as well.

    **Arguments:**

    - `fun`, `x`, `args`, `kwargs`, `has_aux`: the same as for
        [`eqx_taylor.laplacian`][].
    - `mask`: the entries of `x` over which the Laplacian is summed, as for
        [`eqx_taylor.laplacian`][]. The gradient is with respect to all entries.

    **Returns:**

    `(value, gradient, laplacian)`. The gradient of a scalar is an array or PyTree of
    the structure of `x`. If `fun` returns other arrays, it is the Jacobian, in the form
    of [`eqx_taylor.value_jacobian_hessian`][]. Leaves that are not differentiable are
    replaced by `None`. With `has_aux=True` the result is
    `((value, aux), gradient, laplacian)`, as for `jax.value_and_grad`.

    **Raises:**

    The same errors as [`eqx_taylor.laplacian`][].

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import value_gradient_laplacian
        >>> # The local energy of the ground state of a hydrogen atom is -1/2.
        >>> log_psi = lambda x, charge: -charge * jnp.sqrt(jnp.sum(x**2))
        >>> x = jnp.array([0.0, 0.6, 0.8])
        >>> y, dy, d2y = value_gradient_laplacian(log_psi, x, 1.0)
        >>> kinetic = -(d2y + jnp.sum(dy**2)) / 2
        >>> print(kinetic - 1.0 / jnp.sqrt(jnp.sum(x**2)))
        -0.5
        ```

    **Reference:** [Dangel et al. (2025)][dangel2025collapsing].
    """
    caller = "value_gradient_laplacian"
    argument = Argument(caller, fun, x, args, kwargs, real=True, has_aux=has_aux)
    weights = np.where(_selected(argument, mask), 2.0, 0.0)
    rows = np.eye(argument.known_size, dtype=bool)
    wanted = {0: SHARED, 1: EACH, 2: weights}
    found = argument.weighted_sums(argument.split(rows), wanted, argument.parts(rows))
    gradient = jtu.tree_map(lambda y: argument.tensor(y, 1), found[1])
    return argument.with_aux(found[0]), gradient, found[2]


def biharmonic(
    fun: Callable[..., _T],
    x: PyTree,
    *args: Any,
    mask: PyTree | None = None,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes the biharmonic operator $\Delta^2 f = \sum_{d, e} \partial^4 f /
    \partial x_d^2 \partial x_e^2$.

    It is computed as the Laplacian of the Laplacian, both by collapsed Taylor mode:
    $(2 + D)^2$ vectors go through every layer of a network. Interpolation of the fourth
    derivatives from $D^2$ directions would take $2 + 3 D^2$.

    **Arguments:**

    - `fun`, `x`, `args`, `kwargs`, `mask`, `has_aux`: the same as for
        [`eqx_taylor.laplacian`][].

    **Returns:**

    The PyTree that `fun` returns, in which each array is replaced by $\Delta^2$ of it,
    and each leaf that is not differentiable by `None`. With `has_aux=True`, a pair of
    this PyTree and `aux`.

    **Raises:**

    The same errors as [`eqx_taylor.laplacian`][].

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import biharmonic
        >>> # In D dimensions, the biharmonic of |x|^4 is 8 D (D + 2).
        >>> print(biharmonic(lambda x: jnp.sum(x**2) ** 2, jnp.ones(3)))
        120.0
        ```

    **Reference:** [Dangel et al. (2025)][dangel2025collapsing].
    """

    caller = "biharmonic"

    def of(x):
        return Argument(caller, fun, x, args, kwargs, real=True, has_aux=has_aux)

    argument = of(x)
    inner = lambda x: _sum_of_squares(of(x), mask)  # noqa: E731
    outer = Argument(caller, inner, x, real=True)
    return argument.with_aux(_sum_of_squares(outer, mask))


def weighted_laplacian(
    fun: Callable[..., _T],
    x: PyTree,
    sigma: PyTree,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Computes the weighted Laplacian $\operatorname{tr}(\sigma \sigma^\top \nabla^2
    f) = \sum_r \sigma_r^\top (\nabla^2 f) \sigma_r$. It is, for example, twice the
    generator of a diffusion $dX = \sigma\, dW$.

    Collapsed Taylor mode propagates $2 + R$ vectors for $R$ columns, as in
    [`eqx_taylor.laplacian`][].

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of real arrays of any shapes.
    - `sigma`: the matrix $\sigma$, which may be computed from the point. For a vector
        `x` of shape `(D,)` it is an array of shape `(D, R)`. For other `x` it is a
        PyTree of the same structure, whose arrays have the columns along an additional
        last axis; `None` means that an array is constant.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, in which each array is replaced by its weighted
    Laplacian, and each leaf that is not differentiable by `None`. With `has_aux=True`,
    a pair of this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if `x` has integers or is complex, or if `sigma` does
    not fit the point.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import weighted_laplacian
        >>> x = jnp.array([2.0, 3.0])
        >>> sigma = jnp.array([[1.0, 0.0], [0.5, 2.0]])
        >>> # sigma sigma' is [[1, 0.5], [0.5, 4.25]], the Hessian [[0, 6], [6, 4]].
        >>> print(weighted_laplacian(lambda x: x[0] * x[1] ** 2, x, sigma))
        23.0
        ```

    **Reference:** [Dangel et al. (2025)][dangel2025collapsing].
    """
    caller = "weighted_laplacian"
    argument = Argument(caller, fun, x, args, kwargs, real=True, has_aux=has_aux)
    directions, known, counts = [], [], set()
    for name, array, columns in zip(
        argument.names, argument.arrays, argument.matching("sigma", sigma)
    ):
        if columns is None:
            directions.append(None)
            known.append(None)
            continue
        if any(isinstance(column, Tracer) for column in jtu.tree_leaves(columns)):
            columns = jnp.asarray(columns)  # NumPy does not take a list of these.
        if np.shape(columns)[:-1] != array.shape or np.ndim(columns) == 0:
            raise ValueError(
                f"weighted_laplacian: `sigma` must have the shape of {name}, which is "
                f"{array.shape}, and an additional last axis for its columns; got "
                f"{describe(columns)}."
            )
        # Entries that are known to be zero are left out.
        is_known = not isinstance(columns, Tracer)
        entries = np.asarray(columns) if is_known else None
        columns = jnp.asarray(columns)
        if jnp.issubdtype(columns.dtype, jnp.complexfloating):
            raise TypeError(
                f"weighted_laplacian: `sigma` must be real; got {describe(columns)}."
            )
        counts.add(columns.shape[-1])
        directions.append(jnp.moveaxis(columns.astype(array.dtype), -1, 0))
        known.append(None if entries is None else np.moveaxis(entries, -1, 0))
    if len(counts) != 1:
        raise ValueError(
            "weighted_laplacian: the arrays of `sigma`, at least one, must have the "
            f"same number of columns; got {sorted(counts)}."
        )
    [count] = counts
    if count == 0:  # There is no direction along which to compute a jet.
        return argument.with_aux(jtu.tree_map(jnp.zeros_like, argument.value()))
    weights = {2: np.full(count, 2.0)}
    found = argument.weighted_sums(directions, weights, known)
    return argument.with_aux(found[2])


def linear_operator(
    fun: Callable[..., _T],
    x: PyTree,
    terms: Sequence[Any],
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> _T:
    r"""Applies a linear differential operator $\sum_i c_i\, \partial^{|i|} f / \partial
    x_1^{i_1} \partial x_2^{i_2} \cdots$, which is given by its terms. Terms are
    derivatives: there are no factorials.

    All terms of one order are computed from derivatives along the same directions (see
    [`eqx_taylor.derivative_tensor`][]). The highest derivatives of all directions are
    propagated as one sum (see [`eqx_taylor.laplacian`][]).

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `terms`: a list of pairs of a coefficient and a multi-index. A coefficient is a
        real number or a real scalar array; compute it from the point beforehand if it
        depends on the point. A multi-index says how often to differentiate with respect
        to each entry of `x` (see [`eqx_taylor.partial_derivative`][]); if all its
        entries are zero, it stands for the value of `fun`.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    The PyTree that `fun` returns, in which each array is replaced by the result of the
    operator, and each leaf that is not differentiable by `None`. With `has_aux=True`, a
    pair of this PyTree and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if the terms are not such pairs, if a coefficient is not
    finite, if a multi-index does not fit the point, or if `x` has integers.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import linear_operator
        >>> # The heat equation u_t - 0.1 (u_xx + u_yy), for x = (t, x, y).
        >>> terms = [(1.0, (1, 0, 0)), (-0.1, (0, 2, 0)), (-0.1, (0, 0, 2))]
        >>> x = jnp.array([0.0, 0.3, 0.4])
        >>> u = lambda x: jnp.exp(-x[0]) * (x[1] ** 2 + x[2])
        >>> print(linear_operator(u, x, terms))  # -(0.09 + 0.4) - 0.1 * 2
        -0.69
        ```

    **Reference:** [Dangel et al. (2025)][dangel2025collapsing].
    """
    argument = Argument("linear_operator", fun, x, args, kwargs, has_aux=has_aux)
    if not isinstance(terms, list | tuple) or len(terms) == 0:
        raise TypeError(
            "linear_operator: `terms` must be a list of pairs of a coefficient and a "
            f"multi-index, at least one; got {describe(terms)}."
        )
    checked = []
    for n, term in enumerate(terms):
        if not isinstance(term, list | tuple) or len(term) != 2:
            raise TypeError(
                f"linear_operator: terms[{n}] must be a pair of a coefficient and a "
                f"multi-index; got {describe(term)}."
            )
        coefficient, index = term
        if _is_infinite(coefficient):
            raise ValueError(
                f"linear_operator: the coefficient of terms[{n}] must be finite; got "
                f"{coefficient}."
            )
        if isinstance(coefficient, numbers.Rational):
            coefficient = Fraction(coefficient)
        elif isinstance(coefficient, float):
            coefficient = Fraction(coefficient)
        elif (
            eqx.is_array_like(coefficient)
            and jnp.shape(coefficient) == ()
            and not jnp.iscomplexobj(coefficient)
        ):
            real = jnp.finfo(argument.dtype).dtype
            coefficient = jnp.asarray(coefficient).astype(real)
        else:
            raise TypeError(
                f"linear_operator: the coefficient of terms[{n}] must be a real number "
                f"or a scalar array; got {describe(coefficient)}."
            )
        checked.append((coefficient, as_multi_index(argument, f"terms[{n}][1]", index)))
    return apply_operator(argument, checked)


# -- parts of these functions


def as_multi_index(argument: Argument, name: str, multi_index: PyTree) -> Sparse:
    """Checks a multi-index, and returns the orders of all differentiated entries in one
    row."""
    caller = argument.caller
    # For a single array it may be anything that NumPy converts to an array.
    is_array = jtu.treedef_is_leaf(argument.treedef)
    leaves = [multi_index] if is_array else argument.matching(name, multi_index)
    flat = []
    for leaf_name, array, leaf in zip(argument.names, argument.arrays, leaves):
        entries = _known_while_tracing(leaf)
        if not np.issubdtype(entries.dtype, np.integer):
            raise TypeError(
                f"{caller}: `{name}` must have integers that are known while tracing, "
                f"one for each entry of `x`; got {describe(leaf)} for {leaf_name}, "
                f"which has shape {array.shape}."
            )
        if entries.shape != array.shape:
            raise ValueError(
                f"{caller}: `{name}` must have one integer for each entry of `x`; got "
                f"shape {entries.shape} for {leaf_name}, which has shape {array.shape}."
            )
        flat.append(entries.reshape(-1))
    entries = np.concatenate(flat)
    if np.any(entries < 0):
        raise ValueError(
            f"{caller}: the entries of `{name}` must not be negative: they are orders "
            f"of derivatives; got {multi_index}."
        )
    return sparse(entries)


def _is_infinite(coefficient: Any) -> bool:
    """Returns whether a coefficient is infinite or NaN, and `False` if it is traced."""
    if isinstance(coefficient, Tracer | numbers.Rational):
        return False
    if not eqx.is_array_like(coefficient) or jnp.shape(coefficient) != ():
        return False
    # `math`, because under `jit` `jnp.isfinite` would return a tracer.
    return not jnp.iscomplexobj(coefficient) and not math.isfinite(coefficient)


def _known_while_tracing(leaf: Any) -> np.ndarray:
    """Converts a leaf to a NumPy array. If its values are not known, that is an array
    of objects."""
    try:
        return np.asarray(leaf)
    except (ValueError, jax.errors.TracerArrayConversionError):
        return np.asarray(None)


def apply_operator(argument: Argument, terms: Sequence[tuple[Any, Sparse]]) -> PyTree:
    """Computes the sum of terms. Each is a coefficient (an exact rational number or an
    array) and a multi-index."""
    by_order: dict[int, dict[Sparse, Any]] = {}
    for coefficient, index in terms:
        if isinstance(coefficient, int):
            coefficient = Fraction(coefficient)
        group = by_order.setdefault(order_of(index), {})
        if index in group:
            pair = [group[index], coefficient]
            if not all(isinstance(c, Fraction) for c in pair):
                pair = [float(c) if isinstance(c, Fraction) else c for c in pair]
            coefficient = pair[0] + pair[1]
        group[index] = coefficient
    results = []
    if 0 in by_order:
        [coefficient] = by_order.pop(0).values()
        value = argument.value()
        results.append(jtu.tree_map(lambda y: _times(coefficient, y), value))
    # If the directions of a lower order are among those of a higher one, the jets of
    # the higher order have the derivatives of the lower one, too.
    families: list[tuple[dict[Sparse, Any], dict[int, dict[Sparse, Any]]]] = []
    for order in sorted(by_order, reverse=True):
        weights = of_operator(by_order[order])
        for directions, orders in families:
            if weights.keys() <= directions.keys():
                orders[order] = weights
                break
        else:
            families.append((weights, {order: weights}))
    for directions, orders in families:
        if len(directions) == 0:
            continue
        rows = as_rows(directions, argument.known_size)
        sums = argument.weighted_sums(
            argument.split(rows),
            {
                k: as_array(weights.get(v, Fraction(0)) for v in directions)
                for k, weights in orders.items()
            },
            argument.parts(rows),
        )
        results.extend(sums.values())
    if not results:  # All coefficients are zero.
        results.append(jtu.tree_map(jnp.zeros_like, argument.value()))
    total = ft.reduce(lambda a, b: jtu.tree_map(jnp.add, a, b), results)
    return argument.with_aux(total)


def _times(coefficient: Any, y: Any) -> Any:
    if isinstance(coefficient, Fraction):
        coefficient = float(coefficient)
    return jnp.asarray(coefficient, y.dtype) * y


def _sum_of_squares(argument: Argument, mask: PyTree | None) -> PyTree:
    """Sums the second derivatives with respect to the entries that the mask selects."""
    [places] = np.nonzero(_selected(argument, mask))
    rows = np.zeros((len(places), argument.known_size), bool)
    rows[np.arange(len(places)), places] = True
    weights = np.full(len(places), 2.0)
    directions = argument.split(rows)
    found = argument.weighted_sums(directions, {2: weights}, argument.parts(rows))
    return found[2]


def _selected(argument: Argument, mask: PyTree | None) -> np.ndarray:
    """Returns a boolean for each entry: whether the mask selects it."""
    selected = np.ones(argument.known_size, bool)
    if mask is not None:
        flat = []
        for name, array, leaf in zip(
            argument.names, argument.arrays, argument.matching("mask", mask)
        ):
            entries = _known_while_tracing(leaf)
            if entries.dtype != bool or entries.shape not in ((), array.shape):
                raise ValueError(
                    f"{argument.caller}: `mask` must have a boolean, or booleans of "
                    f"shape {array.shape}, for {name}, known while tracing; got "
                    f"{describe(leaf)}."
                )
            flat.append(np.broadcast_to(entries, array.shape).reshape(-1))
        selected = np.concatenate(flat)
        if not np.any(selected):
            raise ValueError(
                f"{argument.caller}: `mask` selects nothing; got {mask!r}. Select at "
                "least one entry of `x` by True, or pass None for all."
            )
    return selected
