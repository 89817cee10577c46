"""Taylor-mode differentiation and Taylor ODE solvers for JAX, Equinox and Diffrax."""

__version__ = "0.1.0"

# This comes first: it answers `python -m eqx_taylor --help` before JAX is imported.
from . import _command_line as _command_line
from . import programs as programs, rules as rules
from ._derivatives.attention import dot_product_attention as dot_product_attention
from ._derivatives.derivatives import (
    derivatives as derivatives,
    directional_derivatives as directional_derivatives,
    nth_derivative as nth_derivative,
)
from ._derivatives.differential_operators import (
    biharmonic as biharmonic,
    laplacian as laplacian,
    linear_operator as linear_operator,
    value_gradient_laplacian as value_gradient_laplacian,
    weighted_laplacian as weighted_laplacian,
)
from ._derivatives.filter_jet import filter_jet as filter_jet, jet as jet
from ._derivatives.gradients import (
    directional_gradients as directional_gradients,
    hvp as hvp,
    value_jacobian_hessian as value_jacobian_hessian,
)
from ._ode.find_events import Events as Events, find_events as find_events
from ._ode.hybrid import (
    hybrid_solve as hybrid_solve,
    HybridSolution as HybridSolution,
)
from ._ode.interpolation import TaylorInterpolation as TaylorInterpolation
from ._derivatives.mixed_partials import (
    derivative_tensor as derivative_tensor,
    partial_derivative as partial_derivative,
)
from ._native.adjoint import NativeAdjoint as NativeAdjoint
from ._ode.method import taylor_method as taylor_method
from ._ode.ode_jet import ode_jet as ode_jet
from ._ode.regularization import (
    GaussLegendre as GaussLegendre,
    regularized as regularized,
    regularized_rms_seminorm as regularized_rms_seminorm,
)
from ._ode.regularizers import (
    AbstractRegularizer as AbstractRegularizer,
    JacobianFrobenius as JacobianFrobenius,
    KineticEnergy as KineticEnergy,
    SolutionDerivative as SolutionDerivative,
)
from ._ode.replay_adjoint import ReplayAdjoint as ReplayAdjoint
from ._ode.solve_cost import solve_cost as solve_cost, SolveCost as SolveCost
from ._ode.solver import TaylorSolver as TaylorSolver
from ._ode.step_size_controller import TaylorController as TaylorController
from ._derivatives.stochastic import (
    Estimate as Estimate,
    stochastic_biharmonic as stochastic_biharmonic,
    stochastic_laplacian as stochastic_laplacian,
)
from ._derivatives.taylor_polynomial import (
    taylor_polynomial as taylor_polynomial,
    TaylorPolynomial as TaylorPolynomial,
)


def __getattr__(name: str) -> object:
    """Finds names that have moved to `eqx_taylor.programs`, for one more release."""
    import warnings

    if name.startswith("_") or not hasattr(programs, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"eqx_taylor.{name} is now `eqx_taylor.programs.{name}`. The old name goes "
        "with the next release.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(programs, name)
