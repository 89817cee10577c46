"""Taylor-mode differentiation and Taylor ODE solvers for JAX, Equinox and Diffrax."""

from . import rules as rules
from ._filter_jet import filter_jet as filter_jet, jet as jet
from ._inspect import (
    count_primitives as count_primitives,
    plot_primitive_counts as plot_primitive_counts,
)
from ._interpolation import TaylorInterpolation as TaylorInterpolation
from ._jarrett import jarrett as jarrett
from ._ode_jet import ode_jet as ode_jet
from ._simplify import cse as cse, simplify as simplify
from ._solver import TaylorSolver as TaylorSolver
from ._step_size_controller import TaylorController as TaylorController


__version__ = "0.1.0"
