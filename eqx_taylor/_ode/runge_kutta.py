"""A Runge--Kutta step, for steps in which the series is not that of the solution."""

import diffrax
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .._core.custom_types import Args, PyTree, RealScalarLike
from .ode_jet import increment


# The method of Dormand and Prince of order 8, with its error estimate of order 7. The
# coefficients are those of Diffrax, and so is the interpolation.
_TABLEAU = diffrax.Dopri8.tableau


@jax.named_scope("runge_kutta")
def runge_kutta_step(
    terms: diffrax.AbstractTerm,
    t0: RealScalarLike,
    t1: RealScalarLike,
    unit: RealScalarLike,
    series: PyTree[Array],
    args: Args,
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Makes the step from `t0` to `t1`. Returns a polynomial of the order of `series`
    in this unit of time, and an estimate of its error.

    `series` has stacked coefficients, of which only the state and the slope are used.
    """
    h = jnp.asarray(t1 - t0)
    leaves, treedef = jtu.tree_flatten(series)
    order = max((len(c) - 1 for c in leaves), default=1)
    control = terms.contr(t0, t1)
    weights, nodes = _stages()

    def combined(weights, slopes):
        # Not a matrix product, for which XLA would leave the loop of a small solve.
        weights = jnp.asarray(weights, slopes.dtype)
        weights = weights.reshape(*weights.shape, *[1] * (slopes.ndim - 1))
        axis = weights.ndim - slopes.ndim
        return jnp.sum(weights * jnp.expand_dims(slopes, tuple(range(axis))), axis=axis)

    def stage(slopes, xs):
        i, row, node = xs
        t = jnp.where(node == 1, t1, t0 + node * h)
        y = [c[0] + combined(row, k) for c, k in zip(leaves, slopes)]
        new = increment(terms, t, jtu.tree_unflatten(treedef, y), args, control)
        new = treedef.flatten_up_to(new)
        return [k.at[i].set(x) for k, x in zip(slopes, new)], None

    first = [c[1] * jnp.asarray(h / unit, c.dtype) for c in leaves]
    slopes = [
        jnp.zeros((len(nodes) + 1, *x.shape), x.dtype).at[0].set(x) for x in first
    ]
    numbers = jnp.arange(1, len(nodes) + 1)
    # Asking for float64 would cause a warning if it is disabled.
    dtypes = [jnp.finfo(x.dtype).dtype for x in (h, *leaves)]
    widest = max(dtypes, key=lambda dtype: jnp.finfo(dtype).nmant)
    stages = numbers, jnp.asarray(weights, widest), jnp.asarray(nodes, h.dtype)
    slopes, _ = jax.lax.scan(stage, slopes, stages)
    # The powers of `unit / h` convert to the unit of the series. In a step of length
    # zero, all terms but the state are zero.
    scale = jnp.where(h == 0, 0, unit / jnp.where(h == 0, 1, h))
    powers = scale ** jnp.arange(1, order + 1, dtype=h.dtype)
    interpolation = _interpolation(order)

    def polynomial(c, k):
        terms = combined(interpolation, k)
        # The interpolation has large weights, which cancel. The correction makes it
        # equal to the result of the step at its end, to the last digit.
        rest = combined(_TABLEAU.b_sol, k) - jnp.sum(terms, axis=0)
        terms = terms.at[-1].add(rest)
        column = powers.reshape(-1, *[1] * (c.ndim - 1)).astype(c.dtype)
        return jnp.concatenate([c[:1], terms * column])

    coefficients = [polynomial(c, k) for c, k in zip(leaves, slopes)]
    errors = [jnp.abs(combined(_TABLEAU.b_error, k)) for k in slopes]
    return jtu.tree_unflatten(treedef, coefficients), jtu.tree_unflatten(
        treedef, errors
    )


def _stages() -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of all stages but the first, padded with zeros, and their
    times."""
    nodes = _TABLEAU.c
    weights = np.zeros((len(nodes), len(nodes) + 1))
    for row, lower in zip(weights, _TABLEAU.a_lower):
        row[: len(lower)] = lower
    return weights, nodes


def _interpolation(order: int) -> np.ndarray:
    """Returns the weights of the stages in the terms of the interpolation, from order 1
    to this order, in units of the step.

    The polynomial of Bogacki and Shampine has degree 6. For lower orders, this is the
    closest polynomial, by least squares at the Chebyshev points, with the same value at
    the end.
    """
    # Diffrax has the highest term first, and one factor of time divided out.
    own = np.asarray(diffrax.Dopri8.interpolation_cls.eval_coeffs).T[::-1]
    degree = len(own)
    if order >= degree:
        return np.concatenate([own, np.zeros((order - degree, own.shape[1]))])
    s = (1 - np.cos(np.pi * (np.arange(40) + 0.5) / 40))[:, None] / 2
    # t^m - t: polynomials that are zero at both ends.
    basis = s ** np.arange(2, degree + 1) - s
    if order == 1:
        return np.sum(own, axis=0, keepdims=True)
    lower = basis[:, : order - 1]
    kept = np.linalg.lstsq(lower, basis @ own[1:], rcond=None)[0]
    linear = np.sum(own, axis=0) - np.sum(kept, axis=0)
    return np.concatenate([linear[None], kept])
