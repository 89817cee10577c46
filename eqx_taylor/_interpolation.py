"""Dense output: the Taylor polynomial itself."""

import jax.numpy as jnp
import jax.tree_util as jtu
from diffrax import AbstractLocalInterpolation
from jaxtyping import Array, PyTree, Shaped

from ._custom_types import RealScalarLike
from ._series import evaluate


class TaylorInterpolation(AbstractLocalInterpolation):
    r"""Evaluates the Taylor polynomial of a step made by [`eqx_taylor.TaylorSolver`][].

    $y(t) = \sum_k c_k s^k$ with $s = (t - t_0)/u$, for coefficients $c_k$ that belong
    to the unit of time $u$. It is as accurate inside the step as at its end, and equals
    $c_0$ bit for bit at $t_0$.

    **Arguments:**

    - `t0`, `t1`: the times at which the step starts and ends; scalars. They may be
        equal.
    - `unit`: the unit of time $u$, in which the coefficients are neither very large nor
        very small; a scalar.
    - `coefficients`: a PyTree of the structure of the state, each leaf with a leading
        axis over orders.
    """

    t0: RealScalarLike
    t1: RealScalarLike
    unit: RealScalarLike
    coefficients: PyTree[Shaped[Array, "order_plus_one ?*y"], "Y"]  # noqa: F821

    def evaluate(
        self, t0: RealScalarLike, t1: RealScalarLike | None = None, left: bool = True
    ) -> PyTree[Array]:
        """The solution at `t0`; or, if `t1` is given, its increment from `t0` to `t1`.

        **Arguments:**

        - `t0`, `t1`: scalars, in the unit of the integration time.
        - `left`: ignored; the polynomial is continuous.

        **Returns:**

        A PyTree of the structure and shapes of the state.
        """
        del left
        if t1 is not None:
            before, after = self.evaluate(t0), self.evaluate(t1)
            return jtu.tree_map(jnp.subtract, after, before)
        # An event handler begins with a step that is all zeros.
        empty = self.unit == 0
        s = jnp.where(empty, 0, t0 - self.t0) / jnp.where(empty, 1, self.unit)
        return jtu.tree_map(lambda c: evaluate(list(c), s), self.coefficients)
