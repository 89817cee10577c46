"""Jets of functions of PyTrees: the public border of the interpreter."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .. import _rules as _rules
from .._core.check import (
    check_boolean,
    describe,
    is_none,
    trace_on_devices,
    UNTRACEABLE,
    untraceable,
)
from .._core.custom_types import PyTree
from .._core.jax import (
    all_varying,
    as_type,
    as_weak_as,
    filled,
    is_differentiable,
    transformation,
)
from .._core.series import given
from .._core.terms import scale, Term
from .._core.walk import Walk
from .check import (
    as_primal,
    as_term,
    check_keywords,
    check_primals,
    common_order,
    term_leaves,
)


# The result of a function. Its terms have the same type, with other arrays, and with
# `None` in place of leaves that are not differentiable.
_T = TypeVar("_T")


def jet(
    fun: Callable[..., _T],
    primals: Sequence[PyTree],
    series: Sequence[PyTree],
    *,
    factorial_scaled: bool = True,
) -> tuple[_T, PyTree]:
    r"""Differentiates a function by Taylor mode. The arguments and results are those of
    `jax.experimental.jet.jet`: to switch, change the import.

    Let $x(t) = x_0 + x_1 t + x_2 t^2/2! + \cdots$ be a curve through the primals. `jet`
    returns the value of $f(x(t))$ and its derivatives with respect to $t$ at $t = 0$,
    up to the order given by the length of the series. For order $K$ this costs $O(K^2)$
    multiplications, and $K + 1$ applications of each linear operation.

    In contrast to JAX's function, `jet` supports every primitive that JAX can
    differentiate, uses `custom_jvp` rules, and accepts PyTrees as arguments. For
    Equinox modules, and other PyTrees with leaves that are not arrays, see
    [`eqx_taylor.filter_jet`][].

    **Arguments:**

    - `fun`: the function to differentiate. Its arguments are arrays or PyTrees of
        arrays.
    - `primals`: a tuple or list of the arguments of `fun`, at which it is evaluated.
    - `series`: a tuple or list of the same length. The entry for an array is a tuple or
        list of its terms of order $1, 2, \ldots, K$, each of the primal's shape. The
        entry for a PyTree has one such sequence in place of every leaf. (This is the
        opposite nesting to [`eqx_taylor.filter_jet`][], where each term is a PyTree.)
    - `factorial_scaled`: if `True` (the default), terms are derivatives, $x^{(k)}$; if
        `False`, they are Taylor coefficients, $x^{(k)}/k!$. This applies to input and
        output.

    **Returns:**

    A pair `(primals_out, series_out)`. `primals_out` is the value of `fun`.
    `series_out` has the same structure, with a list of the terms of order
    $1, \ldots, K$ in place of every leaf; each term has the shape of the leaf. The
    terms of leaves that are not differentiable (integers) are zero.

    **Raises:**

    `ValueError` or `TypeError`, while tracing, if the series do not fit their primals
    in number, structure, length, shape or dtype. `NotImplementedError` for a primitive
    that JAX cannot differentiate.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import jet
        >>> # sin(t) at t = 0.5, and its first three derivatives.
        >>> y, (dy, d2y, d3y) = jet(jnp.sin, (0.5,), ((1.0, 0.0, 0.0),))
        >>> print(y, dy, d2y, d3y)
        0.47942555 0.87758255 -0.47942555 -0.87758255
        >>> # The same as Taylor coefficients: derivatives over 1!, 2! and 3!.
        >>> y, terms = jet(jnp.sin, (0.5,), ((1.0, 0.0, 0.0),), factorial_scaled=False)
        >>> print(*terms)
        0.87758255 -0.23971277 -0.14626375
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    factorial_scaled = check_boolean("jet", "factorial_scaled", factorial_scaled)
    check_primals("jet", fun, primals, series, {})
    moving = []
    for i, (primal, terms) in enumerate(zip(primals, series)):
        leaves, treedef = jtu.tree_flatten_with_path(primal)
        try:
            per_leaf = treedef.flatten_up_to(terms)
        except ValueError as e:
            raise ValueError(
                f"jet: series[{i}] must have the structure of primals[{i}], with a "
                "tuple or list of terms in place of every leaf.\n"
                f"primals[{i}]: {eqx.tree_pformat(primal)}\n"
                f"series[{i}]: {eqx.tree_pformat(terms)}"
            ) from e
        for (path, leaf), leaf_terms in zip(leaves, per_leaf):
            name = f"primals[{i}]{jtu.keystr(path)}"
            if not isinstance(leaf_terms, tuple | list):
                raise TypeError(
                    f"jet: the series of {name} must be a tuple or list of its terms "
                    f"of order 1, 2, ...; got {describe(leaf_terms)}."
                )
            moving.append(_Leaf(name, leaf, list(leaf_terms)))
    order = common_order("jet", {leaf.name: len(leaf.terms) for leaf in moving})
    treedef = jtu.tree_structure(tuple(primals))

    def flat_fun(*arrays):
        return jtu.tree_map(jnp.asarray, fun(*jtu.tree_unflatten(treedef, arrays)))

    out_tree, outs = _jet_of_leaves("jet", flat_fun, moving, order, factorial_scaled)
    zero = [
        [jnp.zeros_like(terms[0]) if term is None else term for term in terms]
        for terms in outs
    ]
    primals_out = jtu.tree_unflatten(out_tree, [terms[0] for terms in zero])
    series_out = jtu.tree_unflatten(out_tree, [terms[1:] for terms in zero])
    return primals_out, series_out


def filter_jet(
    fun: Callable[..., _T],
    primals: tuple[PyTree, ...],
    series: tuple[Sequence[PyTree] | None, ...],
    /,
    *,
    factorial_scaled: bool = True,
    **kwargs: Any,
) -> tuple[_T, list[_T]]:
    r"""Differentiates a function of arbitrary PyTrees by Taylor mode. `filter_jet` is
    to `equinox.filter_jvp` what higher derivatives are to the first.

    Let $x(t) = x_0 + x_1 t + x_2 t^2/2! + \cdots$ be a curve through the primals.
    `filter_jet` returns the value of $f(x(t))$ and its derivatives with respect to $t$
    at $t = 0$, up to the order given by the length of the series.

    **Arguments:** (the first three are positional-only; keywords are passed to `fun`)

    - `fun`: the function to differentiate. It may be a Module, a bound method or a
        transformed function. Arrays that it closes over are constant.
    - `primals`: a tuple of the arguments of `fun`, which can be arbitrary PyTrees.
    - `series`: a tuple of the same length. The entry for a primal is a tuple or list of
        its terms of order $1, 2, \ldots, K$. Each term is a PyTree of the primal's
        structure, and its leaves have the shapes of the primal's leaves. `None` in
        place of a leaf, of a term, or of all terms of a primal means zero. Leaves that
        are not floating-point arrays must have `None`.
    - `factorial_scaled`: if `True` (the default), terms are derivatives, $x^{(k)}$; if
        `False`, they are Taylor coefficients, $x^{(k)}/k!$. This applies to input and
        output.
    - `**kwargs`: keyword arguments of `fun`, which are not differentiated.

    **Returns:**

    A pair `(primals_out, series_out)`. `primals_out` is the value of `fun`.
    `series_out` is a list of the terms of order $1, \ldots, K$, each a PyTree of the
    structure and shapes of `primals_out`, with `None` in place of leaves that are not
    differentiable. Terms are derivatives $y^{(k)}$, or $y^{(k)}/k!$ with
    `factorial_scaled=False`. Term $k$ has the units of the output over those of $t^k$.

    **Raises:**

    `ValueError` or `TypeError`, while tracing, if the series do not fit their primals
    in number, structure, length, shape or dtype. `NotImplementedError` for a primitive
    that JAX cannot differentiate.

    !!! example

        ```pycon
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet
        >>> mlp = eqx.nn.MLP(3, 2, 16, 2, activation=jnp.tanh, key=jax.random.key(0))
        >>> x, v = jnp.ones(3), jnp.array([1.0, 0.0, 0.0])
        >>> # The first four derivatives along v.
        >>> y, derivatives = filter_jet(mlp, (x,), ([v, None, None, None],))
        >>> y.shape, [d.shape for d in derivatives]
        ((2,), [(2,), (2,), (2,), (2,)])
        >>> # Of exp(t) and of its square, for t = 2 h: derivatives 2^k, and 4^k.
        >>> fun = lambda t: {"exp": jnp.exp(t), "square": jnp.exp(t) ** 2}
        >>> value, (first, second) = filter_jet(fun, (0.0,), ([2.0, None],))
        >>> print(value["exp"], first["exp"], second["exp"])
        1.0 2.0 4.0
        >>> print(value["square"], first["square"], second["square"])
        1.0 4.0 16.0
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    factorial_scaled = check_boolean("filter_jet", "factorial_scaled", factorial_scaled)
    check_keywords(fun, kwargs)
    return jet_of_trees("filter_jet", fun, primals, series, factorial_scaled, kwargs)


def jet_of_trees(
    caller: str,
    fun: Callable[..., Any],
    primals: tuple[PyTree, ...],
    series: tuple[Sequence[PyTree] | None, ...],
    factorial_scaled: bool,
    kwargs: dict[str, Any],
) -> tuple[PyTree, list[PyTree]]:
    """Computes what `filter_jet` returns. Messages begin with `caller`."""
    check_primals(caller, fun, primals, series, kwargs)
    lengths = {}
    for i, terms in enumerate(series):
        if terms is None:
            continue
        if not isinstance(terms, tuple | list):
            raise TypeError(
                f"{caller}: series[{i}] must be None or a tuple or list of the terms "
                f"of order 1, 2, ... of primals[{i}]; got {describe(terms)}."
            )
        lengths[f"primals[{i}]"] = len(terms)
    order = common_order(caller, lengths)

    leaves, treedef = jtu.tree_flatten(tuple(primals), is_leaf=is_none)
    by_order = [
        [None if terms is None else terms[k] for terms in series] for k in range(order)
    ]
    columns = [
        term_leaves(caller, primals, terms, k) for k, terms in enumerate(by_order, 1)
    ]
    paths = [
        f"primals{jtu.keystr(path)}"
        for path, _ in jtu.tree_leaves_with_path(tuple(primals), is_leaf=is_none)
    ]
    moving, where = [], []
    for i, (path, leaf, *terms) in enumerate(zip(paths, leaves, *columns)):
        if not all(map(is_none, terms)):
            moving.append(_Leaf(path, leaf, terms))
            where.append(i)

    static = []

    def flat_fun(*arrays):
        full = list(leaves)
        for i, array in zip(where, arrays):
            full[i] = array
        out = fun(*jtu.tree_unflatten(treedef, full), **kwargs)
        out_arrays, out_static = eqx.partition(out, eqx.is_array)
        static.append(out_static)
        return out_arrays

    out_tree, outs = _jet_of_leaves(caller, flat_fun, moving, order, factorial_scaled)
    primals_out, *series_out = [
        jtu.tree_unflatten(out_tree, [terms[k] for terms in outs])
        for k in range(order + 1)
    ]
    return eqx.combine(primals_out, static[-1]), series_out


class _Leaf(NamedTuple):
    name: str
    primal: Any
    terms: list[Any]


@transformation("jet")
def _jet_of_leaves(
    caller: str,
    fun: Callable[..., PyTree],
    leaves: Sequence[_Leaf],
    order: int,
    factorial_scaled: bool,
) -> tuple[Any, list[list[Term]]]:
    """Returns the structure of `fun`'s output and, for each of its leaves, the terms of
    orders 0 to `order`. If a leaf is not differentiable, those above 0 are `None`."""
    primals = [as_primal(caller, leaf.name, leaf.primal) for leaf in leaves]
    factors = [1.0] * (order + 1)
    if factorial_scaled:
        factors = _factorials(order, [primal.dtype for primal in primals])
    inputs = []
    for (name, _, terms), primal in zip(leaves, primals):
        terms = [
            as_term(caller, name, k, primal, term) for k, term in enumerate(terms, 1)
        ]
        # If one term differs from device to device, the whole curve does.
        primal, *_ = all_varying([primal, *[x for x in terms if x is not None]])
        terms = [x if x is None else as_type(jax.typeof(primal), x) for x in terms]
        inputs.append(
            [primal]
            + [
                term if term is None or factor == 1 else term / factor
                for term, factor in zip(terms, factors[1:])
            ]
        )

    out_trees = []

    def flat_fun(*arrays):
        out_leaves, out_tree = jtu.tree_flatten(fun(*arrays))
        out_trees.append(out_tree)
        return out_leaves

    try:
        point = [terms[0] for terms in inputs]
        jaxpr = trace_on_devices("`fun`", flat_fun, primals, point)
    except UNTRACEABLE as e:
        raise untraceable(caller, "`fun`", e) from e
    series = [given(var.aval, terms) for var, terms in zip(jaxpr.jaxpr.invars, inputs)]
    results = []
    for out in Walk(order).interpret(jaxpr, series):
        # A literal is not a `jax.Array` yet.
        terms: list[Term] = [jnp.asarray(out.dense(0))]
        for k in range(1, order + 1):
            if is_differentiable(out.aval):
                term = filled(out.aval) if out[k] is None else scale(out[k], factors[k])
                terms.append(as_weak_as(out.aval, term))
            else:
                terms.append(None)
        results.append(terms)
    return out_trees[-1], results


def _factorials(order: int, dtypes: Sequence[Any]) -> list[float]:
    """Returns the factorials `k!`, each rounded once. A derivative divided by `k!` is a
    coefficient.

    In float16 `1/10!` is a subnormal number, and in float64 `1/180!` is zero. For
    orders near these limits, the unit of time is changed by a power of two `σ`: a
    coefficient with respect to `t / σ` is `x^(k) σ^k / k!`, which is near `x^(k)` for
    `σ` about `order / e`.
    """
    inexact = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    tiny = max([0.0, *[float(jnp.finfo(dtype).tiny) for dtype in inexact]])
    unit = 1
    while Fraction(unit**order, math.factorial(order)) < tiny**0.5:
        unit *= 2
    return [float(Fraction(math.factorial(k), unit**k)) for k in range(order + 1)]
