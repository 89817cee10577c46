"""Taylor-mode differentiation and Taylor ODE solvers for JAX, Equinox and Diffrax."""

from . import rules as rules
from ._counts import PrimitiveCounts as PrimitiveCounts
from ._derivatives import (
    derivatives as derivatives,
    directional_derivatives as directional_derivatives,
    nth_derivative as nth_derivative,
)
from ._differential_operators import (
    biharmonic as biharmonic,
    laplacian as laplacian,
    linear_operator as linear_operator,
    weighted_laplacian as weighted_laplacian,
)
from ._filter_jet import filter_jet as filter_jet, jet as jet
from ._gradients import (
    directional_gradients as directional_gradients,
    hvp as hvp,
    value_jacobian_hessian as value_jacobian_hessian,
)
from ._inspect import (
    count_primitives as count_primitives,
    plot_primitive_counts as plot_primitive_counts,
)
from ._interpolation import TaylorInterpolation as TaylorInterpolation
from ._jarrett import jarrett as jarrett
from ._mixed_partials import (
    derivative_tensor as derivative_tensor,
    partial_derivative as partial_derivative,
)
from ._ode_jet import ode_jet as ode_jet
from ._regularization import (
    GaussLegendre as GaussLegendre,
    regularized as regularized,
    regularized_rms_seminorm as regularized_rms_seminorm,
)
from ._regularizers import (
    AbstractRegularizer as AbstractRegularizer,
    JacobianFrobenius as JacobianFrobenius,
    KineticEnergy as KineticEnergy,
    SolutionDerivative as SolutionDerivative,
)
from ._simplify import cse as cse, simplify as simplify
from ._solve_cost import solve_cost as solve_cost, SolveCost as SolveCost
from ._solver import TaylorSolver as TaylorSolver
from ._step_size_controller import TaylorController as TaylorController
from ._stochastic import (
    Estimate as Estimate,
    stochastic_biharmonic as stochastic_biharmonic,
    stochastic_laplacian as stochastic_laplacian,
)
from ._taylor_polynomial import (
    taylor_polynomial as taylor_polynomial,
    TaylorPolynomial as TaylorPolynomial,
)


__version__ = "0.1.0"
