"""Integrals along solutions, by which neural ODEs are regularised."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optimistix
from jaxtyping import Array, Float

from .._core.check import check_integer, check_scalar, describe
from .._core.custom_types import Args, PyTree, RealScalarLike, Y
from .check import check_state
from .custom_types import AbstractTerm, ODETerm
from .regularizers import AbstractRegularizer, chosen, is_regularizer, rates_along
from .vector_field import as_ode_term


# -- the integral as an additional state


class _RegularizedField(eqx.Module):
    """The vector field of `(y, r)`."""

    term: AbstractTerm
    regularizer: PyTree[AbstractRegularizer]

    def __call__(self, t, state, args):
        y, r = _pair(self.regularizer, state)
        dy, rates = rates_along(self.term, self.regularizer, t, y, args, "regularized")
        return dy, jtu.tree_map(lambda rate, r: rate.astype(r.dtype), rates, r)


def regularized(
    vector_field: Any,
    regularizer: Any = None,
    *,
    order: int | None = None,
) -> ODETerm:
    r"""Adds a state to an ODE: the integral of a regulariser along the solution.

    With `order=K`, it returns the term for $(y, r)$, where
    $\mathrm{d}y/\mathrm{d}t = f(t, y, args)$ and
    $\mathrm{d}r/\mathrm{d}t = \frac1n\|\mathrm{d}^K y/\mathrm{d}t^K\|^2$. Solve it from
    `(y0, 0.0)`. At the end $r$ is $R_K$; add it, times a weight, to the loss. Adaptive
    solvers need fewer steps for a neural ODE that is trained with this loss.

    A step then costs about $K$ times as much, as the derivatives are computed at each
    evaluation of the vector field. [`eqx_taylor.GaussLegendre`][] computes the same
    integral from a few points of the solution, which is cheaper.

    It works with all solvers of Diffrax for a single term (this excludes
    implicit-explicit and symplectic ones), with [`eqx_taylor.TaylorSolver`][], and with
    all adjoints. As $r$ is a state, step size controllers control its error, too. If
    they should control the error of $y$ alone, pass
    `norm=`[`eqx_taylor.regularized_rms_seminorm`][] to them.

    **Arguments:**

    - `vector_field`: a `diffrax.ODETerm`, or a `diffrax.MultiTerm` of them; or a
        function `f(t, y, args)`, such as an Equinox module.
    - `regularizer`: the integrand, if it is not the derivative of some `order`. It is
        an [`eqx_taylor.AbstractRegularizer`][], or a PyTree of them, in which case $r$
        is a PyTree of the same structure. (All of them share the derivatives.)
    - `order`: short for `regularizer=SolutionDerivative(order)`. Keyword only.

    **Returns:**

    A `diffrax.ODETerm` for the state `(y, r)`. If $t_1 < t_0$, then $r$ becomes
    negative, as an integral in that direction does.

    **Raises:**

    `TypeError` or `ValueError` if the order is not an integer of at least 1, if not
    exactly one of `regularizer` and `order` is given, or for a `diffrax.ControlTerm`,
    which its method `to_ode` converts. When the solve is traced, also if the state is
    not such a pair, or is not floating-point or complex.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import regularized
        >>> # For y = exp(-a t), integrate the square of y''' from 0 to 1.
        >>> def solve(a):
        ...     term = diffrax.ODETerm(lambda t, y, args: -args * y)
        ...     solution = diffrax.diffeqsolve(
        ...         regularized(term, order=3),
        ...         diffrax.Tsit5(),
        ...         t0=0.0,
        ...         t1=1.0,
        ...         dt0=0.02,
        ...         y0=(jnp.array(1.0), 0.0),
        ...         args=a,
        ...     )
        ...     y1, r = solution.ys
        ...     return y1[-1], r[-1]
        >>> y1, r = solve(2.0)
        >>> print(f"{y1:.4f} {r:.3f}")  # exp(-2), 16 (1 - exp(-4))
        0.1353 15.707
        ```

    **Reference:** [Kelly et al. (2020)][kelly2020learning].
    """
    regularizer = chosen("regularized", regularizer, order)
    term = as_ode_term("regularized", vector_field)
    return diffrax.ODETerm(_RegularizedField(term, regularizer))


def regularized_rms_seminorm(state: PyTree) -> RealScalarLike:
    """Computes the root mean square of $y$ alone, for a state $(y, r)$ of
    [`eqx_taylor.regularized`][].

    Pass it as the `norm` of `diffrax.PIDController` or
    [`eqx_taylor.TaylorController`][]. The steps, and the results for $y$, are then
    those of the equation without regularisation. The error of $r$ is not controlled.

    **Arguments:**

    - `state`: a pair, whose second entry is ignored.

    **Returns:**

    A scalar.

    **Raises:**

    `TypeError` if the state is not a pair.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import regularized_rms_seminorm
        >>> controller = diffrax.PIDController(
        ...     rtol=1e-5, atol=1e-5, norm=regularized_rms_seminorm
        ... )
        >>> print(regularized_rms_seminorm((jnp.array([1.0, 7.0]), 1e6)))
        5.0
        ```
    """
    if not _is_pair(state):
        raise TypeError(
            "regularized_rms_seminorm: the state must be the pair `(y, r)` of a "
            f"`regularized` term; got {eqx.tree_pformat(state)}."
        )
    return optimistix.rms_norm(state[0])


# -- by quadrature


class GaussLegendre(eqx.Module):
    r"""Gauss-Legendre quadrature along a solution: computes the integral of
    [`eqx_taylor.regularized`][] from `num_points` points of the solution.

    The integrand is computed only at these points, and at all of them at once. This
    takes much less time than computing it at each evaluation of the vector field. The
    rule is exact for polynomials of degree `2 * num_points - 1`. The solver
    interpolates the solution at these points, so the order of its interpolation bounds
    the accuracy.

    **Arguments:**

    - `t0`, `t1`: the ends of the interval of integration.
    - `num_points`: the number of points, at least 1.

    **Raises:**

    `TypeError` or `ValueError` if `num_points` is not an integer of at least 1, or if
    `t0` or `t1` is not a scalar.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import GaussLegendre
        >>> term = diffrax.ODETerm(lambda t, y, args: -2.0 * y)
        >>> quadrature = GaussLegendre(0.0, 1.0, num_points=4)
        >>> at_points = diffrax.SubSaveAt(ts=quadrature.ts)
        >>> at_end = diffrax.SubSaveAt(t1=True)
        >>> solution = diffrax.diffeqsolve(
        ...     term,
        ...     diffrax.Tsit5(),
        ...     t0=0.0,
        ...     t1=1.0,
        ...     dt0=0.02,
        ...     y0=jnp.array(1.0),
        ...     saveat=diffrax.SaveAt(subs=(at_points, at_end)),
        ... )
        >>> ys, y1 = solution.ys
        >>> r = quadrature.integrate(term, ys, order=3)
        >>> print(f"{r:.3f}")  # 16 (1 - exp(-4))
        15.707
        >>> print(jnp.sum(quadrature.weights))  # The length of the interval.
        1.0
        ```
    """

    t0: RealScalarLike
    t1: RealScalarLike
    num_points: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_integer("GaussLegendre", "num_points", self.num_points, least=1)
        for name, t in [("t0", self.t0), ("t1", self.t1)]:
            check_scalar("GaussLegendre", name, t)

    @property
    def ts(self) -> Float[Array, " num_points"]:
        """The points, an array of shape `(num_points,)` for `diffrax.SaveAt`."""
        t0, length, points, _ = self._rule()
        return t0 + length * (points + 1) / 2

    @property
    def weights(self) -> Float[Array, " num_points"]:
        """The weights of the points. Their sum is `t1 - t0`."""
        _, length, _, weights = self._rule()
        return length * weights / 2

    def _rule(self) -> tuple[Array, Array, Array, Array]:
        """Returns the interval's start and length, and Gauss's rule on `[-1, 1]`."""
        rule = np.polynomial.legendre.leggauss(int(self.num_points))
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(self.t0, self.t1, float)
        t0, t1 = jnp.asarray(self.t0, dtype), jnp.asarray(self.t1, dtype)
        points, weights = (jnp.asarray(x, dtype) for x in rule)
        return t0, t1 - t0, points, weights

    def integrate(
        self,
        vector_field: Any,
        ys: Y,
        args: Args = None,
        regularizer: Any = None,
        *,
        order: int | None = None,
    ) -> PyTree[Array]:
        """Computes the integral.

        **Arguments:**

        - `vector_field`: the vector field of the equation that was solved; see
            [`eqx_taylor.regularized`][].
        - `ys`: the solution at `ts`. Each leaf has a leading axis over these points.
        - `args`: as for `diffrax.diffeqsolve`.
        - `regularizer`, `order`: the integrand; see [`eqx_taylor.regularized`][].

        **Returns:**

        A scalar, or a PyTree of scalars of the structure of `regularizer`.

        **Raises:**

        The same errors as [`eqx_taylor.regularized`][], and `ValueError` if `ys` does
        not have `num_points` points.
        """
        caller = "GaussLegendre.integrate"
        regularizer = chosen(caller, regularizer, order)
        term = as_ode_term(caller, vector_field)
        ys = check_state(caller, ys)
        for path, leaf in jtu.tree_leaves_with_path(ys):
            if jnp.ndim(leaf) == 0 or len(leaf) != len(self.ts):
                raise ValueError(
                    f"{caller}: `ys` must have a leading axis over the {len(self.ts)} "
                    f"points `ts`; ys{jtu.keystr(path)} has shape {leaf.shape}. Save "
                    "the solution by `SaveAt(ts=quadrature.ts)`."
                )

        def rates(t, y):
            return rates_along(term, regularizer, t, y, args, caller)[1]

        along = jax.vmap(rates)(self.ts, ys)
        return jtu.tree_map(lambda r: jnp.dot(self.weights.astype(r.dtype), r), along)


# -- checks


def _is_pair(state: Any) -> bool:
    return type(state) is tuple and len(state) == 2


def _pair(regularizer: PyTree[AbstractRegularizer], state: Any) -> tuple[Y, PyTree]:
    """Splits a state of `regularized` into `y` and `r`."""
    expected = jtu.tree_map(lambda _: 0.0, regularizer, is_leaf=is_regularizer)
    if not _is_pair(state):
        raise ValueError(
            "regularized: the state must be a pair `(y, r)`, started from `(y0, "
            f"{expected})`; got {eqx.tree_pformat(state)}."
        )
    y, r = state
    if jtu.tree_structure(r) != jtu.tree_structure(expected):
        raise ValueError(
            "regularized: the second entry of the state must have the structure of "
            f"`regularizer`; start it from {expected}. Got {eqx.tree_pformat(r)}."
        )
    for leaf in jtu.tree_leaves(r):
        if jnp.shape(leaf) != () or not jnp.issubdtype(
            jnp.result_type(leaf), jnp.floating
        ):
            raise ValueError(
                "regularized: the second entry of the state must be made of real "
                f"scalars; start it from {expected}. Got {describe(leaf)}."
            )
    return check_state("regularized", y), jtu.tree_map(jnp.asarray, r)
