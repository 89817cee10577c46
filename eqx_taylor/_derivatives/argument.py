"""The argument with respect to which a function is differentiated.

All derivative functions use this file: it decides which leaves of a PyTree are
differentiated, computes jets along straight lines, and checks the argument.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .._core.check import describe, is_none
from .._core.custom_types import PyTree
from .._core.jax import as_type
from .._sums import calls as calls
from .._sums.collapse import sums_over_directions
from .check import as_term, check_floating, check_function
from .filter_jet import jet_of_trees


# A sentinel for "no direction given": any PyTree, `None` included, may be a direction.
_NO_MODEL: Any = object()


class Argument:
    """The point `x` at which `fun` is differentiated. Messages call it `name`. Its
    floating-point leaves are differentiated, leaves that are not arrays are constant,
    and integers are an error.

    If `v` is given, the point may be a model, whose floating-point arrays are its
    parameters. Integers are then constant, and so are Python numbers, unless `v` has
    something in their place.

    `args` and `kwargs` are further arguments of `fun`, which are constant. With
    `has_aux` the function returns a pair, whose second part is not differentiated.
    """

    def __init__(
        self,
        caller: str,
        fun: Callable,
        x: PyTree,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        real: bool = False,
        has_aux: bool = False,
        v: PyTree = _NO_MODEL,
        name: str = "x",
    ):
        check_function(caller, fun, x, *args, **kwargs)
        if args or kwargs:
            fun = _with_arguments(fun, args, kwargs)
        self.caller, self.fun, self.has_aux = caller, fun, has_aux
        paths, self.treedef = jtu.tree_flatten_with_path(x, is_leaf=is_none)
        self.leaves = [leaf for _, leaf in paths]
        self.where: list[int] = []
        self.names: list[str] = []
        self.arrays: list[Array] = []
        for i, (path, leaf) in enumerate(paths):
            if not eqx.is_array_like(leaf) or isinstance(leaf, bool):
                continue
            if v is not _NO_MODEL and not self._is_parameter(i, v):
                continue
            leaf_name = f"{name}{jtu.keystr(path)}"
            array = jnp.asarray(leaf)
            check_floating(caller, leaf_name, array)
            if real and jnp.iscomplexobj(array):
                raise TypeError(
                    f"{caller}: {leaf_name} has dtype {array.dtype}, but must be real. "
                    "Pass the real and the imaginary part as arguments of their own."
                )
            self.where.append(i)
            self.names.append(leaf_name)
            self.arrays.append(array)
        if self.size == 0:
            raise TypeError(
                f"{caller}: {f'`{name}`' if name == 'x' else name} has no "
                "floating-point array with respect to which to differentiate; got "
                f"{eqx.tree_pformat(x)}."
            )

    def _is_parameter(self, i: int, v: PyTree) -> bool:
        if eqx.is_inexact_array(self.leaves[i]):
            return True
        try:
            direction = self.treedef.flatten_up_to(v)[i]
        except ValueError:
            return False  # `v` does not fit; `matching` raises the error.
        is_floating = jnp.issubdtype(jnp.result_type(self.leaves[i]), jnp.inexact)
        return is_floating and direction is not None

    # -- its entries

    @property
    def size(self) -> Any:
        """The number of differentiated entries. It is not an integer if it is
        symbolic."""
        return sum(array.size for array in self.arrays)

    @property
    def known_size(self) -> int:
        """The size as an integer, for functions with one direction for each entry."""
        if not isinstance(self.size, int):
            raise TypeError(
                f"{self.caller}: one direction is propagated for each entry of the "
                f"point, and the number of entries must be known; it is {self.size}, "
                "from symbolic dimensions of `jax.export`. Let only the axes of a "
                "batch, over which `jax.vmap` maps, and of further arguments of `fun` "
                "be symbolic."
            )
        return self.size

    @property
    def dtype(self) -> Any:
        """The widest dtype of the differentiated arrays."""
        return max((x.dtype for x in self.arrays), key=lambda d: jnp.finfo(d).bits)

    def replaced(self, arrays: Sequence[Any], otherwise: Any = ...) -> PyTree:
        """Returns the argument with its differentiated arrays replaced by `arrays`, and
        its other leaves by `otherwise`, if it is given."""
        leaves = (
            list(self.leaves) if otherwise is ... else [otherwise] * len(self.leaves)
        )
        for i, array in zip(self.where, arrays):
            leaves[i] = array
        return jtu.tree_unflatten(self.treedef, leaves)

    def split(self, rows: Any) -> list[Any]:
        """Splits the rows of a matrix, each a vector of all differentiated entries,
        into arrays of the shapes and types of the leaves."""
        parts = []
        for array, part in zip(self.arrays, self.parts(rows)):
            # If an array is constant along all directions, nothing is computed for it.
            none = isinstance(part, np.ndarray) and not np.any(part)
            part = None if none else jnp.asarray(part, array.dtype)
            parts.append(part if part is None else as_type(jax.typeof(array), part))
        return parts

    def parts(self, rows: Any) -> list[Any]:
        """Splits the rows of a matrix into arrays of the shapes of the leaves, without
        conversions."""
        ends = np.cumsum([array.size for array in self.arrays])
        return [
            rows[:, end - array.size : end].reshape(rows.shape[0], *array.shape)
            for array, end in zip(self.arrays, ends)
        ]

    def matching(self, name: str, tree: PyTree) -> list[Any]:
        """Returns the leaves of another PyTree of this structure that correspond to the
        differentiated ones. Its other leaves must be `None`."""
        try:
            leaves = self.treedef.flatten_up_to(tree)
        except ValueError as e:
            raise ValueError(
                f"{self.caller}: `{name}` must have the structure of `x`.\n"
                f"x: {eqx.tree_pformat(self.replaced(self.arrays))}\n"
                f"{name}: {eqx.tree_pformat(tree)}"
            ) from e
        for i, leaf in enumerate(leaves):
            if i not in self.where and leaf is not None:
                raise ValueError(
                    f"{self.caller}: `{name}` must be None where `x` has no array; got "
                    f"{describe(leaf)}."
                )
        return [leaves[i] for i in self.where]

    def direction(self, v: PyTree) -> list[Any]:
        """Returns the leaves of a direction, with `None` where they are zero."""
        terms = [
            as_term(self.caller, f"{name}, `v`,", 1, array, term)
            for name, array, term in zip(self.names, self.arrays, self.matching("v", v))
        ]
        return [
            term if term is None else as_type(jax.typeof(array), term)
            for array, term in zip(self.arrays, terms)
        ]

    def tensor(self, flat: Any, order: int) -> PyTree:
        """Splits an array whose first `order` axes are each over all differentiated
        entries. Returns PyTrees of the structure of `x`, nested `order` times. The
        other axes of the array come first in each leaf."""
        if order == 0:
            return flat

        def parts(flat, depth, shapes):
            if depth == order:
                split = len(shapes)
                flat = jnp.moveaxis(
                    flat, range(split), range(flat.ndim - split, flat.ndim)
                )
                rest = flat.shape[: flat.ndim - split]
                return flat.reshape(*rest, *[n for shape in shapes for n in shape])
            found, start = [], 0
            for array in self.arrays:
                window = [slice(None)] * depth + [slice(start, start + array.size)]
                start += array.size
                found.append(
                    parts(flat[tuple(window)], depth + 1, [*shapes, array.shape])
                )
            return self.replaced(found, otherwise=None)

        return parts(flat, 0, [])

    # -- derivatives along straight lines

    def along(
        self,
        v: Sequence[Any],
        order: int,
        *,
        at: Sequence[Any] | None = None,
        factorial_scaled: bool = False,
    ) -> list[PyTree]:
        """Returns the Taylor coefficients (or derivatives) of orders 0 to `order` of
        the function along the direction `v`, with `None` for leaves that have none. The
        point is `at` if it is given, and `x` otherwise."""
        arrays = self.arrays if at is None else at
        terms = [self.replaced(v, otherwise=None), *[None] * (order - 1)]
        value, series = jet_of_trees(
            self.caller,
            self.differentiated,
            (self.replaced(arrays),),
            (terms,),
            factorial_scaled,
            {},
        )
        if not jtu.tree_leaves(series[0]):
            raise TypeError(
                f"{self.caller}: `fun` returned nothing that can be differentiated: "
                f"{eqx.tree_pformat(value)}."
            )
        value = jtu.tree_map(
            lambda slope, y: None if slope is None else y,
            series[0],
            value,
            is_leaf=is_none,
        )
        return [value, *series][: order + 1]

    def value(self) -> PyTree:
        """Returns the value of the function, with `None` for leaves that have no
        derivative."""
        return self.along([None] * len(self.arrays), 0)[0]

    def differentiated(self, x: PyTree) -> PyTree:
        """Calls the function, and returns the part that is differentiated, as
        arrays."""
        return jtu.tree_map(_as_array, self._call(x)[0])

    def with_aux(self, result: Any) -> Any:
        """Returns a result, and with `has_aux` a pair of it and `aux`. `aux` is
        computed by another call of the function, at the point, so that an outer
        transformation can differentiate it. When compiled, both calls share their
        common parts."""
        if not self.has_aux:
            return result
        return result, self._call(self.replaced(self.arrays))[1]

    def _call(self, x: PyTree) -> tuple[PyTree, PyTree]:
        y = self.fun(x)
        if not self.has_aux:
            return y, None
        if not isinstance(y, tuple | list) or len(y) != 2:
            raise TypeError(
                f"{self.caller}: with `has_aux=True` `fun` must return a pair `(y, "
                f"aux)`, of which `y` is differentiated; got {describe(y)}."
            )
        return y[0], y[1]

    def weighted_sums(
        self,
        directions: Sequence[Any],
        weights: Mapping[int, Any],
        known: Sequence[np.ndarray | None] | None = None,
    ) -> dict[int, PyTree]:
        """Computes, for each order k in `weights`, the sum over directions of
        `weights[k]` times the Taylor coefficient of order k. The directions are stacked
        along the first axis; `None` means that an array is constant along all of them.
        `EACH` instead of weights returns the coefficients along all directions, stacked
        along a new first axis; `SHARED`, for order 0, returns the value."""
        moving = [i for i, v in enumerate(directions) if v is not None]
        trees: list[Any] = []

        def coefficients(arrays, vs):
            v = [None] * len(self.arrays)
            for i, leaf in zip(moving, vs):
                v[i] = leaf
            terms = self.along(v, max(weights), at=arrays)
            leaves, tree = zip(*[jtu.tree_flatten(terms[k]) for k in weights])
            trees.append(tree)
            return leaves

        found = sums_over_directions(
            coefficients,
            self.arrays,
            [directions[i] for i in moving],
            list(weights.values()),
            None if known is None else [known[i] for i in moving],
        )
        return dict(zip(weights, map(jtu.tree_unflatten, trees[-1], found)))


def _as_array(y: Any) -> Any:
    """Converts a Python scalar or NumPy array that a function returns to an array."""
    return jnp.asarray(y) if isinstance(y, float | complex | np.ndarray) else y


def _with_arguments(
    fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Callable:
    return lambda x: fun(x, *args, **kwargs)
