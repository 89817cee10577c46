"""The Taylor method as a Diffrax solver."""

from typing import ClassVar, TypeAlias

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._check import check_order, check_state, check_term
from ._custom_types import Args, RealScalarLike, Y
from ._interpolation import TaylorInterpolation
from ._ode_jet import solution_series
from ._series import evaluate


_SolverState: TypeAlias = None

# The rounding errors of the defect, with room to spare, in units of the last place of
# the step's increment.
_NOISE = 4


class TaylorSolver(diffrax.AbstractAdaptiveSolver[_SolverState]):
    r"""Taylor's method, of any order: each step expands the solution in a power series
    and evaluates it.

    A step of order $K$ costs one [`eqx_taylor.ode_jet`][] of order $K$ and one
    evaluation of the vector field, and has a local error of $O(h^{K+1})$. High orders
    pay off with tight tolerances, where the steps become much longer than those of
    Runge--Kutta methods: 8 for 1e-6, 12 for 1e-9, 15 to 20 for 1e-12 and below, in
    double precision.

    The error is estimated from the defect at the end of the step, by how much the
    Taylor polynomial $p$ fails to satisfy the equation:
    $h\,(f(t_1, p(t_1)) - p'(t_1))/(K + 1)$ is the local error to leading order. Unlike
    the last coefficients of the series it notices a jump or a kink of the vector field
    within the step, provided the field is different behind it.

    The dense output is the Taylor polynomial ([`eqx_taylor.TaylorInterpolation`][]).

    Use it with `diffrax.PIDController`. At high order `pcoeff=0.3, icoeff=0.3,
    safety=0.95` rejects fewer steps than the defaults. (Not a smaller `safety`: this
    controller holds the error at `safety**((order + 1) / icoeff)` of the tolerance,
    which must not come below rounding errors.)

    **Arguments:**

    - `order`: the order $K$ of the method, an integer from 1.

    **Raises:**

    `TypeError` or `ValueError` for an order below 1 or not an integer; and, when the
    solve is traced, for states with leaves that are not floating-point or complex, and
    for a `diffrax.ControlTerm`, which can be converted by its method `to_ode`.

    !!! example

        ```python
        import diffrax
        import jax.numpy as jnp
        from eqx_taylor import TaylorSolver

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: -y),
            solver=TaylorSolver(order=8),
            t0=0.0,
            t1=3.0,
            dt0=None,
            y0=jnp.array(1.0),
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        )
        ```

    ??? cite "Reference"

        ```bibtex
        @book{hairer1993solving,
            author={Hairer, Ernst and N{\o}rsett, Syvert P. and Wanner, Gerhard},
            title={Solving Ordinary Differential Equations {I}: Nonstiff Problems},
            edition={2nd},
            publisher={Springer},
            year={1993},
            note={Section I.8},
        }
        ```
    """

    # Not called `order`, which is a method of every Diffrax solver.
    taylor_order: int = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = TaylorInterpolation

    def __init__(self, order: int = 5):
        self.taylor_order = check_order("TaylorSolver", order)

    def order(self, terms: PyTree[diffrax.AbstractTerm]) -> int:
        del terms
        return self.taylor_order

    def error_order(self, terms: PyTree[diffrax.AbstractTerm]) -> int:
        del terms
        return self.taylor_order + 1

    def init(
        self,
        terms: diffrax.AbstractTerm,
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        args: Args,
    ) -> _SolverState:
        del t0, t1, args
        check_term("TaylorSolver", terms)
        check_state("TaylorSolver", y0)
        return None

    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        args: Args,
        solver_state: _SolverState,
        made_jump,
    ) -> tuple[Y, Y, dict[str, PyTree[Array]], _SolverState, diffrax.RESULTS]:
        del solver_state, made_jump
        K = self.taylor_order
        control = terms.contr(t0, t1)
        series = solution_series(
            terms, jnp.asarray(t0), jnp.asarray(t1 - t0), y0, args, control, K
        )
        y1 = series.map(lambda c: evaluate(c, 1))
        slope = terms.vf_prod(t1, y1, args, control)

        def error(c, slope):
            polynomial_slope = sum(k * c[k] for k in range(K, 0, -1))
            defect = jnp.abs(slope - polynomial_slope)
            # What is below the rounding errors of the defect is not known, and must not
            # steer: adjoints run steps again, in another program, and would come to
            # other steps by it.
            eps = jnp.finfo(slope.dtype).eps
            return jnp.maximum(defect, _NOISE * eps * jnp.abs(slope)) / (K + 1)

        y_error = series.map(error, slope)
        dense_info = dict(coefficients=series.stacked())
        return y1, y_error, dense_info, None, diffrax.RESULTS.successful

    def func(
        self, terms: diffrax.AbstractTerm, t0: RealScalarLike, y0: Y, args: Args
    ) -> Y:
        return terms.vf(t0, y0, args)
