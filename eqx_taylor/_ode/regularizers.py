"""Regularisers of neural ODEs: integrands along their solutions."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._core.check import check_key, describe
from .._core.custom_types import Args, PyTree, RealScalarLike, Y
from .check import check_order
from .custom_types import AbstractTerm
from .ode_jet import slope, solution_series, unit_of


class AbstractRegularizer(eqx.Module):
    """A regulariser of a neural ODE: a rate that is integrated along the solution.

    The regularisers in this package are [`eqx_taylor.SolutionDerivative`][],
    [`eqx_taylor.KineticEnergy`][] and [`eqx_taylor.JacobianFrobenius`][]. To write your
    own, subclass this class, with a method `rate`, and a field or property `order`: the
    number of derivatives of the solution that `rate` needs.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import equinox as eqx
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import AbstractRegularizer, GaussLegendre
        >>> class Speed(AbstractRegularizer):
        ...     order: int = eqx.field(default=1, init=False, static=True)
        ...     def rate(self, term, t, y, args, derivatives):
        ...         return jnp.linalg.norm(derivatives[0])
        >>> # The length of a quarter of a circle, from two points on it.
        >>> turn = lambda t, y, args: jnp.stack([-y[1], y[0]])
        >>> quadrature = GaussLegendre(0.0, jnp.pi / 2, num_points=2)
        >>> ys = jnp.stack([jnp.cos(quadrature.ts), jnp.sin(quadrature.ts)], axis=1)
        >>> print(quadrature.integrate(turn, ys, regularizer=Speed()))
        1.5707963
        ```
    """

    order: eqx.AbstractVar[int]

    @abc.abstractmethod
    def rate(
        self,
        term: AbstractTerm,
        t: RealScalarLike,
        y: Y,
        args: Args,
        derivatives: tuple[Y, ...],
    ) -> Float[Array, ""]:
        r"""Computes the rate at a point of the solution.

        **Arguments:**

        - `term`: the ODE.
        - `t`, `y`, `args`: the point, in the form of the arguments of a vector field.
        - `derivatives`: $\mathrm{d}y/\mathrm{d}t, \mathrm{d}^2y/\mathrm{d}t^2, \ldots$
            of the solution through the point, not divided by factorials. There are at
            least `order` of them, and at least one.

        **Returns:**

        A real scalar.
        """


class SolutionDerivative(AbstractRegularizer):
    r"""The mean square of a derivative of the solution, whose integral is
    $R_K = \int \frac1n \|\mathrm{d}^K y/\mathrm{d}t^K\|^2\,\mathrm{d}t$.

    The derivative is the total derivative along the solution, which includes the
    dependence of the vector field on time. $n$ is the number of entries of the state,
    including those of a batch. A solution with $R_K = 0$ is a polynomial of degree
    $K - 1$, for which adaptive solvers need few steps.

    **Arguments:**

    - `order`: the order of the derivative, $K \geq 1$.

    **Raises:**

    `TypeError` or `ValueError` if the order is not an integer of at least 1.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import GaussLegendre, SolutionDerivative
        >>> # y' = 3 t^2, y'' = 6 t: the integral of 36 t^2 is 12.
        >>> quadrature = GaussLegendre(0.0, 1.0, num_points=2)
        >>> field = lambda t, y, args: 3 * t**2
        >>> ys = quadrature.ts**3
        >>> print(quadrature.integrate(field, ys, regularizer=SolutionDerivative(2)))
        12.0
        ```

    **Reference:** [Kelly et al. (2020)][kelly2020learning].
    """

    order: int = eqx.field(static=True)

    def __init__(self, order: int):
        self.order = check_order("SolutionDerivative", order)

    def rate(
        self,
        term: AbstractTerm,
        t: RealScalarLike,
        y: Y,
        args: Args,
        derivatives: tuple[Y, ...],
    ) -> Float[Array, ""]:
        del term, t, y, args
        return _mean_square(derivatives[self.order - 1])


class KineticEnergy(AbstractRegularizer):
    r"""The mean square of the slope, $\frac1n \|f(t, y)\|^2$: the first of the two
    terms of RNODE. It is the same as `SolutionDerivative(1)`.

    !!! example

        ```pycon
        >>> from eqx_taylor import GaussLegendre, KineticEnergy
        >>> # y' = 2 t: the integral of 4 t^2 is 4/3.
        >>> quadrature = GaussLegendre(0.0, 1.0, num_points=2)
        >>> field = lambda t, y, args: 2 * t
        >>> ys = quadrature.ts**2
        >>> print(quadrature.integrate(field, ys, regularizer=KineticEnergy()))
        1.3333334
        ```

    **Reference:** [Finlay et al. (2020)][finlay2020how].
    """

    order: int = eqx.field(default=1, init=False, static=True)

    def rate(
        self,
        term: AbstractTerm,
        t: RealScalarLike,
        y: Y,
        args: Args,
        derivatives: tuple[Y, ...],
    ) -> Float[Array, ""]:
        del term, t, y, args
        return _mean_square(derivatives[0])


class JacobianFrobenius(AbstractRegularizer):
    r"""The squared Frobenius norm of the Jacobian,
    $\frac1n \|\partial f/\partial y\|_F^2$: the second of the two terms of RNODE. (The
    first is [`eqx_taylor.KineticEnergy`][], which has the reference.)

    **Arguments:**

    - `key`: a `jax.random.key` for Hutchinson's estimate. It uses one vector $\epsilon$
        of random signs for the whole solution: the mean of
        $\|(\partial f/\partial y)\,\epsilon\|^2$ is the squared norm. Use a new key for
        each step of training (and, under `jax.vmap`, for each member of a batch). With
        `None`, the default, the norm is computed exactly, by $n$ products with the
        Jacobian.

    If the state is a batch, the Jacobian is that of the whole batch, with a block for
    each member. The estimate then needs one product, as for a single member; the exact
    norm needs a product for every entry of the batch.

    **Raises:**

    `TypeError`, when the rate is computed, if the state is complex, or if `key` is not
    a key.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import JacobianFrobenius
        >>> matrix = jnp.array([[1.0, 2.0], [0.0, 3.0]])
        >>> term = diffrax.ODETerm(lambda t, y, args: matrix @ y)
        >>> y = jnp.ones(2)
        >>> print(JacobianFrobenius().rate(term, 0.0, y, None, ()))  # (1 + 4 + 9) / 2
        7.0
        >>> # The estimate is ((1 + 2)^2 + 9) / 2 or ((1 - 2)^2 + 9) / 2, by the signs.
        >>> estimate = JacobianFrobenius(jax.random.key(0)).rate(term, 0.0, y, None, ())
        >>> float(estimate) in (9.0, 5.0)
        True
        ```
    """

    key: Any = None
    order: int = eqx.field(default=1, init=False, static=True)

    def rate(
        self,
        term: AbstractTerm,
        t: RealScalarLike,
        y: Y,
        args: Args,
        derivatives: tuple[Y, ...],
    ) -> Float[Array, ""]:
        del derivatives
        for path, leaf in jtu.tree_leaves_with_path(y):
            if jnp.iscomplexobj(leaf):
                raise TypeError(
                    "JacobianFrobenius: the state must be real, but "
                    f"y{jtu.keystr(path)} has dtype {leaf.dtype}. Make its real and "
                    "imaginary parts separate leaves."
                )
        flat, unravel = ravel_pytree(y)

        def product(vector):
            """Computes a Jacobian-vector product."""
            along = (unravel(vector),)
            return jax.jvp(lambda y: slope(term, t, y, args), (y,), along)[1]

        if self.key is None:
            columns = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
            return flat.size * _mean_square(columns)
        check_key("JacobianFrobenius", self.key)
        signs = jax.random.rademacher(self.key, flat.shape, flat.dtype)
        return _mean_square(product(signs))


def _mean_square(tree: Y) -> Float[Array, ""]:
    """Computes the mean square of all entries, in the widest of their dtypes."""
    leaves = jtu.tree_leaves(tree)
    squares = [jnp.sum(jnp.real(x * jnp.conj(x))) for x in leaves]
    size = sum(x.size for x in leaves)
    with jax.numpy_dtype_promotion("standard"):
        # `sum` does not start from a zero of the default dtype: float32 stays float32.
        return jnp.asarray(sum(squares)) / max(size, 1)


def rates_along(
    term: AbstractTerm,
    regularizer: PyTree[AbstractRegularizer],
    t: RealScalarLike,
    y: Y,
    args: Args,
    caller: str,
) -> tuple[Y, PyTree[Array]]:
    """Computes the slope of the solution at a point, and the rates of regularisers."""
    t = jnp.asarray(t)
    regularizers = jtu.tree_leaves(regularizer, is_leaf=is_regularizer)
    order = max(1, *(each.order for each in regularizers))
    if order == 1:
        derivatives = (slope(term, t, y, args),)
    else:
        # The first derivative is the slope, so the vector field is not evaluated again.
        series = solution_series(term, t, unit_of(t, y), y, args, order, caller)
        derivatives = tuple(
            series.map(lambda terms, k=k: terms[k] * float(math.factorial(k)))
            for k in range(1, order + 1)
        )

    def rate(each):
        value = each.rate(term, t, y, args, derivatives)
        if not eqx.is_array_like(value) or jnp.shape(value) != ():
            raise TypeError(
                f"{caller}: the rate of {type(each).__name__} must be a scalar; got "
                f"{describe(value)}. Return a sum or a mean over the state."
            )
        value = jnp.asarray(value)
        if jnp.iscomplexobj(value):
            raise TypeError(
                f"{caller}: the rate of {type(each).__name__} must be real; got "
                f"{describe(value)}. Return its real part, or a squared modulus."
            )
        inexact = jnp.issubdtype(value.dtype, jnp.inexact)
        return value if inexact else value.astype(jnp.result_type(float))

    return derivatives[0], jtu.tree_map(rate, regularizer, is_leaf=is_regularizer)


def is_regularizer(x: Any) -> bool:
    return isinstance(x, AbstractRegularizer)


def chosen(caller: str, regularizer: Any, order: Any) -> PyTree[AbstractRegularizer]:
    if (regularizer is None) == (order is None):
        raise ValueError(
            f"{caller}: give either `order`, of the derivative to be integrated, or a "
            f"`regularizer`, and not both; got order={order!r}, "
            f"regularizer={regularizer!r}."
        )
    if order is not None:
        return SolutionDerivative(check_order(caller, order))
    leaves = jtu.tree_leaves(regularizer, is_leaf=is_regularizer)
    for leaf in leaves or [regularizer]:
        if not is_regularizer(leaf):
            raise TypeError(
                f"{caller}: `regularizer` must be an `AbstractRegularizer`, such as "
                "`SolutionDerivative(3)` or `KineticEnergy()`, or a PyTree of them; "
                f"got {describe(leaf)}."
                + (" Did you mean `order=`?" if isinstance(leaf, int) else "")
            )
    return regularizer
