"""The cost of a solve: evaluations of the vector field, and steps."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix
from jax.core import Tracer
from jaxtyping import Array, Int

from .._core.check import check_integer, check_scalar, describe
from .._core.custom_types import Args, RealScalarLike, Y
from .check import check_state, check_tolerances
from .ode_jet import slope
from .solver import TaylorSolver
from .vector_field import as_ode_term


class SolveCost(eqx.Module):
    """The cost of a solve, as [`eqx_taylor.solve_cost`][] returns it.

    **Fields:**

    - `num_evaluations`: the number of evaluations of the vector field.
    - `num_steps`: the number of steps, accepted and rejected.
    - `num_rejected_steps`: the number of rejected steps.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import solve_cost
        >>> field = lambda t, y, args: -y
        >>> solver, y0 = diffrax.Dopri5(), jnp.array(1.0)
        >>> cost = solve_cost(field, solver, 0.0, 1.0, y0, rtol=1e-3, atol=1e-3)
        >>> # There are six evaluations for each step, and one more for the first.
        >>> bool(cost.num_evaluations == 6 * cost.num_steps + 1)
        True
        ```
    """

    num_evaluations: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected_steps: Int[Array, ""]


def solve_cost(
    vector_field: Any,
    solver: Any,
    t0: RealScalarLike,
    t1: RealScalarLike,
    y0: Y,
    args: Args = None,
    *,
    rtol: RealScalarLike,
    atol: RealScalarLike,
    max_steps: int = 100_000,
) -> SolveCost:
    """Counts how often a solver of Diffrax evaluates the vector field to meet a
    tolerance.

    Steps are chosen by `diffrax.PIDController(rtol, atol)`. For explicit Runge--Kutta
    methods, evaluations are the stages of all steps, accepted or rejected. This is the
    number of function evaluations (NFE) by which neural ODEs are compared. It can be
    computed inside `jax.jit`; under `jax.vmap` each member of the batch has its own.

    For other solvers, the calls of the vector field are counted while the solve runs.
    (Those within Newton's method count, too, and a Jacobian counts as one.) This works
    only outside of JAX's transformations.

    **Arguments:**

    - `vector_field`: a function `f(t, y, args)`, or a `diffrax.ODETerm`.
    - `solver`: a solver of Diffrax with an error estimate, such as `diffrax.Dopri5()`.
        (Not [`eqx_taylor.TaylorSolver`][]: it evaluates jets, `num_steps + 1` of them,
        not the field.)
    - `t0`, `t1`: the times at which the solve starts and ends.
    - `y0`: the state at `t0`.
    - `args`: passed to the vector field.
    - `rtol`, `atol`: the tolerances. Keyword only.
    - `max_steps`: raise an error if more steps than this are needed. Keyword only.

    **Returns:**

    An [`eqx_taylor.SolveCost`][].

    **Raises:**

    `TypeError` for a solver whose evaluations cannot be counted, `TypeError` or
    `ValueError` if an argument is not as above, and `RuntimeError` if the solve fails.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import solve_cost
        >>> mlp = eqx.nn.MLP(2, 2, 32, 2, key=jax.random.key(0))
        >>> field = lambda t, y, args: mlp(y)
        >>> @jax.jit
        ... @jax.vmap
        ... def evaluations(y0):
        ...     solver = diffrax.Dopri5()
        ...     cost = solve_cost(field, solver, 0.0, 1.0, y0, rtol=1e-4, atol=1e-4)
        ...     return cost.num_evaluations
        >>> counts = evaluations(jnp.ones((10, 2)))
        >>> counts.shape, bool(jnp.all(counts > 6))
        ((10,), True)
        ```
    """
    check_scalar("solve_cost", "t0", t0)
    check_scalar("solve_cost", "t1", t1)
    check_tolerances("solve_cost", rtol, atol)
    max_steps = check_integer("solve_cost", "max_steps", max_steps, least=1)
    y0 = check_state("solve_cost", y0)
    term = as_ode_term("solve_cost", vector_field)
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise TypeError(
            "solve_cost: `solver` must be a solver of Diffrax with an estimate of its "
            f"error, such as `diffrax.Dopri5()`; got {describe(solver)}."
        )
    if isinstance(solver, TaylorSolver):
        raise TypeError(
            "solve_cost: a `TaylorSolver` evaluates jets, not the vector field. It "
            "evaluates one for each step and one more: see "
            '`solution.stats["num_steps"]`.'
        )
    options = t0, t1, y0, args, rtol, atol, max_steps
    tableau = getattr(solver, "tableau", None)
    if isinstance(tableau, diffrax.MultiButcherTableau):
        raise TypeError(
            f"solve_cost: {type(solver).__name__} is a method for a sum of two vector "
            "fields, whose evaluations are not counted. Use `diffrax.Kvaerno5()` or "
            "an explicit method."
        )
    if isinstance(solver, diffrax.AbstractERK):
        assert tableau is not None
        stats, at_start = _solve(term, solver, *options)
        # Once a step is accepted, its last evaluation is the first of the next step.
        shared = int(tableau.fsal)
        evaluations = stats["num_steps"] * (tableau.num_stages - shared)
        evaluations = evaluations + shared * at_start
    else:
        traced = TypeError(
            f"solve_cost: evaluations by {type(solver).__name__} can only be "
            "counted outside of `jit`, `vmap` and other transformations. Those of "
            "explicit Runge-Kutta methods are known from their steps."
        )
        if any(isinstance(x, Tracer) for x in jtu.tree_leaves((term, options))):
            raise traced
        counter = _Counter()
        counted = diffrax.ODETerm(_Counted(counter, term))
        stats, _ = _solve(counted, solver, *options)
        # The vector field may close over traced values.
        if isinstance(stats["num_steps"], Tracer):
            raise traced
        jax.effects_barrier()
        evaluations = jnp.array(counter.count)
    return SolveCost(evaluations, stats["num_steps"], stats["num_rejected_steps"])


class _Controller(diffrax.AbstractAdaptiveStepSizeController):
    """A `diffrax.PIDController` that also counts the steps up to the first accepted
    one, which is included."""

    rtol: Any
    atol: Any
    norm: Any = optimistix.rms_norm

    @property
    def pid(self) -> diffrax.PIDController:
        return diffrax.PIDController(rtol=self.rtol, atol=self.atol, norm=self.norm)

    def wrap(self, direction):
        del direction
        return self

    def init(self, *args):
        t1, state = self.pid.init(*args)
        return t1, (state, jnp.array(0), jnp.array(False))

    def adapt_step_size(self, t0, t1, y0, y1, args, y_error, error_order, state):
        state, at_start, accepted = state
        keep, t0, t1, jump, state, result = self.pid.adapt_step_size(
            t0, t1, y0, y1, args, y_error, error_order, state
        )
        at_start = at_start + jnp.where(accepted, 0, 1)
        return keep, t0, t1, jump, (state, at_start, accepted | keep), result


def _solve(term, solver, t0, t1, y0, args, rtol, atol, max_steps) -> tuple[Any, Any]:
    """Solves the equation. Returns Diffrax's statistics, and the number of steps up to
    the first accepted one."""
    solution = diffrax.diffeqsolve(
        term,
        solver,
        t0,
        t1,
        None,
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True, controller_state=True),
        stepsize_controller=_Controller(rtol, atol),
        max_steps=max_steps,
        adjoint=diffrax.ForwardMode(),  # Nothing is differentiated.
    )
    state: Any = solution.controller_state
    _, at_start, _ = state
    return solution.stats, at_start


class _Counter:
    count = 0

    def __call__(self):
        self.count += 1


class _Counted(eqx.Module):
    """A vector field that counts its calls."""

    counter: _Counter = eqx.field(static=True)
    term: diffrax.AbstractTerm

    def __call__(self, t, y, args):
        jax.debug.callback(self.counter)
        return slope(self.term, t, y, args)
