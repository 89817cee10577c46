"""`TaylorSolver` with `TaylorController` on the 25 problems of DETEST."""

import functools

import diffrax
import jax
import numpy as np
import pytest
import scipy.integrate
from detest import END, GRAVITY, PLANETS, PROBLEMS, SUN

from eqx_taylor import TaylorController, TaylorSolver


TOLERANCE = 1e-8

all_problems = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
closed_forms = pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if p.end is not None], ids=lambda p: p.name
)


def _dop853(problem, tolerance):
    """SciPy's Runge-Kutta method of order 8."""
    field = jax.jit(problem.field)
    solution = scipy.integrate.solve_ivp(
        lambda t, y: np.asarray(field(t, y, problem.args)),
        (0.0, END),
        problem.y0,
        method="DOP853",
        rtol=tolerance,
        atol=tolerance / 10,
    )
    assert solution.success
    return solution.y[:, -1]


def _error(y, expected):
    """Of the worst component: absolute where it is below 1, relative above."""
    return np.max(np.abs(y - expected) / np.maximum(1, np.abs(expected)))


@closed_forms
def test_closed_forms(problem):
    """The closed form at the end solves the equation from the start."""
    assert _error(_dop853(problem, 1e-10), problem.end) < 1e-7


def test_planets():
    """The data of C5: axes (AU), eccentricities and inclinations to the ecliptic
    (degrees) of the outer planets, to what they vary by in some decades."""
    x, v = PROBLEMS[[p.name for p in PROBLEMS].index("C5")].y0.reshape(2, 5, 3)
    # The coordinates are equatorial; the earth's axis is inclined by 23.44 degrees.
    tilt = np.radians(23.44)
    north = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    weight = GRAVITY * (SUN + PLANETS)
    distance = np.linalg.norm(x, axis=1)
    axis = 1 / (2 / distance - np.sum(v**2, axis=1) / weight)
    spin = np.cross(x, v)
    eccentricity = np.sqrt(1 - np.sum(spin**2, axis=1) / (weight * axis))
    tilts = np.arccos(spin @ north / np.linalg.norm(spin, axis=1))
    np.testing.assert_allclose(axis, [5.20, 9.55, 19.2, 30.1, 39.5], rtol=0.01)
    expected = [0.048, 0.055, 0.047, 0.009, 0.249]
    np.testing.assert_allclose(eccentricity, expected, atol=0.01)
    expected = [1.30, 2.49, 0.77, 1.77, 17.1]
    np.testing.assert_allclose(np.degrees(tilts), expected, atol=0.1)


@functools.partial(jax.jit, static_argnames="field")
def _solve(field, y0, args):
    """Compiled once for the orbits of class D, and once for C1 to C3."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        TaylorSolver(rtol=TOLERANCE, atol=TOLERANCE),
        t0=0.0,
        t1=END,
        dt0=None,
        y0=y0,
        args=args,
        stepsize_controller=TaylorController(rtol=TOLERANCE, atol=TOLERANCE),
        adjoint=diffrax.ForwardMode(),
    )
    return solution.ys[0], solution.stats


@pytest.mark.sample(4)
@all_problems
def test_error_at_the_end(problem):
    y, stats = _solve(problem.field, problem.y0, problem.args)
    expected = problem.end
    if expected is None:
        expected = _dop853(problem, 1e-13)
    assert _error(y, expected) < 4e-5
    # No field has a jump or a kink, so that hardly a step is to be made again.
    assert stats["num_rejected_steps"] <= 2
