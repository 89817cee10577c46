"""Dense output: the Taylor polynomial itself."""

import jax.numpy as jnp
import jax.tree_util as jtu
from diffrax import AbstractLocalInterpolation
from jaxtyping import Array

from .._core.custom_types import Coefficients, PyTree, RealScalarLike
from .._core.polynomial import evaluate


class TaylorInterpolation(AbstractLocalInterpolation):
    r"""Evaluates the Taylor polynomial of a step made by [`eqx_taylor.TaylorSolver`][].

    It is $y(t) = \sum_k c_k s^k$ with $s = (t - t_0)/u$. The coefficients $c_k$ belong
    to the unit of time $u$, and are normalised by the factorial: $c_k = u^k\,
    y^{(k)}(t_0)/k!$. The polynomial is as accurate inside the step as at its end, and
    equals $c_0$ bit for bit at $t_0$.

    **Arguments:**

    - `t0`, `t1`: the times at which the step starts and ends; scalars. They may be
        equal.
    - `unit`: the unit of time $u$, in which the coefficients are neither very large nor
        very small; a scalar.
    - `coefficients`: a PyTree of the structure of the state, each leaf with a leading
        axis over orders.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import TaylorInterpolation, TaylorSolver
        >>> # 1 + 2 s + 3 s^2 with s = (t - 5) / 0.5.
        >>> step = TaylorInterpolation(
        ...     t0=5.0, t1=5.5, unit=0.5, coefficients=jnp.array([1.0, 2.0, 3.0])
        ... )
        >>> print(step.evaluate(5.0), step.evaluate(5.5), step.evaluate(5.0, 5.5))
        1.0 6.0 5.0
        >>> # A dense solution has one for each step.
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: -y),
        ...     TaylorSolver(order=8),
        ...     t0=0.0,
        ...     t1=1.0,
        ...     dt0=0.25,
        ...     y0=1.0,
        ...     saveat=diffrax.SaveAt(dense=True),
        ... )
        >>> print(solution.evaluate(0.6), jnp.exp(-0.6))
        0.5488116 0.5488116
        ```

    **Reference:** [Hairer, Nørsett and Wanner (1993), Section I.8][hairer1993solving].
    """

    t0: RealScalarLike
    t1: RealScalarLike
    unit: RealScalarLike
    coefficients: Coefficients

    def evaluate(
        self, t0: RealScalarLike, t1: RealScalarLike | None = None, left: bool = True
    ) -> PyTree[Array]:
        """Evaluates the solution at `t0`; or, if `t1` is given, its increment from `t0`
        to `t1`.

        **Arguments:**

        - `t0`, `t1`: scalars, in the unit of the integration time.
        - `left`: ignored, as the polynomial is continuous.

        **Returns:**

        A PyTree of the structure and shapes of the state.
        """
        del left
        if t1 is not None:
            before, after = self.evaluate(t0), self.evaluate(t1)
            return jtu.tree_map(jnp.subtract, after, before)
        # Diffrax's event handling starts with a step that is all zeros.
        empty = self.unit == 0
        s = jnp.where(empty, 0, t0 - self.t0) / jnp.where(empty, 1, self.unit)
        return jtu.tree_map(lambda c: evaluate(list(c), s), self.coefficients)
