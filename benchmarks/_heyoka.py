"""What is solved with heyoka, too: in our terms, and in heyoka's.

heyoka (https://github.com/bluescarni/heyoka.py) has wheels for Linux only; without it
`heyoka()` is `None`, and a report consists of `MISSING`.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import (
    _outer_solar_system as solar_system,
    TaylorController,
    TaylorSolver,
)

from . import problems


# heyoka's default tolerance, for which it chooses order 20, as we do.
EPS = float(np.finfo(np.float64).eps)

MISSING = (
    "**fails**: heyoka is not installed (`ImportError`). It has wheels for Linux only, "
    'and `pip install ".[benchmarks]"` leaves it out elsewhere.'
)


def heyoka() -> Any:
    """The module, if it is installed."""
    try:
        import heyoka  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    # Or what was compiled on another day would be taken from there.
    heyoka.llvm_state.set_diskcache_enabled(False)
    return heyoka


class System(NamedTuple):
    """One way to write a problem. For heyoka all ways are the same."""

    name: str
    problem: problems.Problem
    # The ratio of run times that is aimed at.
    at_most: float


# -- the outer Solar System by pairs of bodies

_BODIES = len(solar_system.BODIES)
_FIRST, _SECOND = np.triu_indices(_BODIES, k=1)
_GM = solar_system.GRAVITATIONAL_CONSTANT * solar_system.MASSES
# What the pull of each pair adds to the acceleration of each body: a factor.
_FACTORS = np.zeros((_BODIES, len(_FIRST)))
_FACTORS[_FIRST, np.arange(len(_FIRST))] = _GM[_SECOND]
_FACTORS[_SECOND, np.arange(len(_FIRST))] = -_GM[_FIRST]


def _pull(positions):
    """Of each pair: the displacement over the cube of the distance. Trajectories may
    be along further axes."""
    displacement = positions[_SECOND] - positions[_FIRST]
    return displacement * jnp.sum(displacement**2, axis=1, keepdims=True) ** -1.5


def by_pairs(t, y, args):
    """A body's pairs are summed by a product with a matrix."""
    del t, args
    positions, velocities = y
    return velocities, jnp.tensordot(_FACTORS, _pull(positions), axes=1)


def by_pairs_scattered(t, y, args):
    """A body's pairs are summed by adding each to where it belongs."""
    del t, args
    positions, velocities = y
    pull = _pull(positions)
    after = (None,) * (pull.ndim - 1)
    accelerations = jnp.zeros_like(positions)
    accelerations = accelerations.at[_FIRST].add(_GM[_SECOND][:, *after] * pull)
    accelerations = accelerations.at[_SECOND].add(-_GM[_FIRST][:, *after] * pull)
    return velocities, accelerations


def by_broadcasting(t, y, args):
    """`eqx_taylor._outer_solar_system.vector_field`, for one trajectory or for some
    along a last axis."""
    del t, args
    positions, velocities = y
    after = (None,) * (positions.ndim - 2)
    displacement = positions[None] - positions[:, None]
    # A body's distance from itself is set to 1, so that its pull on itself is 0.
    itself = np.eye(_BODIES)[:, :, *after]
    distance2 = jnp.sum(displacement**2, axis=2) + itself
    weight = _GM[None, :, *after] * distance2**-1.5
    return velocities, jnp.sum(weight[:, :, None] * displacement, axis=1)


def lorenz(at_most: float) -> System:
    problem = problems.lorenz()
    return System(problem.name, problem, at_most)


def solar_systems(by_pairs_at_most: float, by_broadcasting_at_most: float):
    problem = problems.outer_solar_system()
    return [
        System(f"{problem.name}, {name}", problem._replace(field=field), at_most)
        for name, field, at_most in [
            ("by pairs, matrix product", by_pairs, by_pairs_at_most),
            ("by pairs, scatter-add", by_pairs_scattered, by_pairs_at_most),
            ("by broadcasting", by_broadcasting, by_broadcasting_at_most),
        ]
    ]


# -- for heyoka


def equations(heyoka: Any, problem: problems.Problem) -> list:
    """As `heyoka.taylor_adaptive` takes them: variables, each with its slope."""
    if isinstance(problem.y0, tuple):
        return heyoka.model.nbody(
            _BODIES,
            masses=list(solar_system.MASSES),
            Gconst=solar_system.GRAVITATIONAL_CONSTANT,
        )
    x, y, z = heyoka.make_vars("x", "y", "z")
    return [(x, 10 * (y - x)), (y, x * (28 - z) - y), (z, x * y - 8 * z / 3)]


def to_heyoka(y: Any) -> np.ndarray:
    """A state by components: of the Solar System, the position and the velocity of one
    body after the other. Trajectories may be along a last axis."""
    if not isinstance(y, tuple):
        return np.array(y)
    both = np.concatenate([np.asarray(part) for part in y], axis=1)
    return both.reshape(-1, *both.shape[2:])


def from_heyoka(state: np.ndarray, like: Any) -> Any:
    if not isinstance(like, tuple):
        return state.copy()
    both = state.reshape(_BODIES, 6, *state.shape[1:])
    return both[:, :3].copy(), both[:, 3:].copy()


# -- for us


def solve(problem: problems.Problem, y0: Any, t1: Any, **controller) -> tuple[Any, Any]:
    """The state at `t1`, and the number of steps.

    Forward mode, as nothing is differentiated: Diffrax's default adjoint wants a bound
    on the number of steps.
    """
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(problem.field),  # pyright: ignore[reportArgumentType]
        TaylorSolver(rtol=EPS),
        t0=0.0,
        t1=t1,
        dt0=None,
        y0=y0,
        stepsize_controller=TaylorController(
            rtol=EPS, atol=problem.atol_per_rtol * EPS, **controller
        ),
        adjoint=diffrax.ForwardMode(),
        max_steps=None,
    )
    y1 = jax.tree.map(lambda y: y[-1], solution.ys)
    return y1, solution.stats["num_steps"]


# -- times


class Time(NamedTuple):
    median: float
    # Half the distance between the quartiles.
    spread: float

    @classmethod
    def of(cls, runs) -> "Time":
        low, median, high = np.percentile(runs, [25, 50, 75])
        return cls(float(median), float(high - low) / 2)


def timed(fun: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = fun()
    return result, time.perf_counter() - start
