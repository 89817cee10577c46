"""The step size controller: Jorba and Zou's choice from the coefficients of the
series."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix
from jaxtyping import Array

from .._core.check import check_boolean, describe
from .._core.custom_types import Args, IntScalarLike, PyTree, RealScalarLike, Y
from .._core.representation import as_call
from .check import check_state, check_step_limits, check_term, check_tolerances
from .custom_types import AbstractTerm
from .error_estimate import (
    BROKEN_AT_END,
    BY_RUNGE_KUTTA,
    ErrorEstimate,
    is_estimate,
    NOT_FINITE,
    OF_SERIES,
    WITHOUT_SLOPE,
)
from .event_steps import end_at_event
from .first_step import first_step
from .solver import TaylorSolver


# The error, in tolerances, that a jump of the vector field may leave in an accepted
# step. It is order + 1 times the estimate, which assumes a smooth solution. The
# estimate of a step that the series has chosen is below one tolerance, unless the
# vector field changes within the step.
_VETO = 50
# The size of an error that may be rounding alone, in units of the last place of the
# state.
_NOISE = 16
# A Runge--Kutta step whose error is above this part of the tolerance has the length
# that its error requires: half the length would leave 1/256 of the error. (A kink in
# the step would leave far more, or nothing.)
_SMOOTH = 0.01
# The largest estimate, in tolerances, of an accepted step whose series is not that of
# the solution. With 1, 0.3 and 0.1, a hundred kinks (`benchmarks/nonsmooth.py`) leave
# errors of 41, 1.3 and 0.1 tolerances, in 577, 730 and 827 steps at 1e-4.
_FOREIGN = 0.3
# A step over a kink is tried if its estimate is expected to be at most this.
_OVER = 0.15


class ControllerState(NamedTuple):
    """The state of `TaylorController` at the start of a step.

    It is carried from step to step as one array. XLA copies each array that a loop
    carries before the loop begins. If there are many, it distributes the copies over
    threads, which takes 50 microseconds.

    **Fields:**

    - `dt`: the length that was chosen for the step. (It may have been clipped since, to
        `t1` for example.)
    - `start`: the time at which the solve began.
    - `trouble`: the time at which the last rejected step ended, apart from the first
        step of the solve. A kink, for example, lies between now and this time. It is
        `start` if no step was rejected.
    - `error`, `length`: the error of that step in tolerances, and its length in units
        of time.
    - `is_cut`: 1 if the length was chosen so that the step ends just after an event, 0
        otherwise. `None` if the solver watches for no event.
    """

    dt: Array
    start: Array
    trouble: Array
    error: Array
    length: Array
    is_cut: Array | None = None

    def packed(self) -> Array:
        return jnp.stack([x for x in self if x is not None])


class TaylorController(
    diffrax.AbstractAdaptiveStepSizeController[Array, RealScalarLike | None]
):
    r"""Chooses the steps of [`eqx_taylor.TaylorSolver`][] from the coefficients of its
    series, before the steps are made.

    The last two coefficients give an estimate $\rho$ of the radius of convergence. In
    units of the tolerance let $E_k = \|c_k / (\mathrm{atol} + \mathrm{rtol}\,|y|)\|$
    and $M = \max(1, \|y / (\mathrm{atol} + \mathrm{rtol}\,|y|)\|)$. Then
    $\rho = \min_{k = K - 1, K} (M / E_k)^{1/k}$. The first omitted term,
    $M (h/\rho)^{K + 1}$, is one tolerance at $h = \rho M^{-1/(K + 1)}$. The step is
    `safety` times that.

    (Jorba and Zou require the last terms, not the first omitted one, to have the size
    of the tolerance. This is about the same at high order, and gives shorter steps at
    low order.)

    If the vector field is smooth, no step is rejected for being too long. The solver's
    error estimate, which detects jumps and kinks, has a veto. If a jump within a step
    may have left an error of more than 50 tolerances, the step is rejected, and made
    again with 0.1 to 0.6 of the length. (If the solution is smooth, the same defect
    means an error that is $K + 1$ times smaller.)

    If the series is not that of the solution, which the solver detects by a defect that
    is large compared with the last terms, the estimate is treated as an error of low
    order, and a step is accepted if it is below 0.3 tolerances. The controller
    remembers where the last rejected step ended. It approaches a kink before that time
    by halving the distance, until one step can cross it. The step after that has the
    length that the series gives. After a step by a Runge--Kutta method, the error of
    that step determines the length of the next one.

    The solve ends if a step is too short to change the time, or if a rejected step is
    shorter than the last digit of the time since the start. The result is
    `diffrax.RESULTS.nonfinite` if the step was rejected because a value was not finite,
    and `diffrax.RESULTS.dt_min_reached` otherwise, as next to a pole.

    The controller works only with `TaylorSolver`. It may be inside a
    `diffrax.ClipStepSizeController`, which adds `step_ts` and `jump_ts`.

    **Arguments:**

    - `rtol`, `atol`: the relative and the absolute tolerance of the local error, as for
        `diffrax.PIDController`. They must not be negative, and one of them must be
        above zero.
    - `norm`: the norm in which all of this is measured: a function from a PyTree of the
        structure of the state to a scalar. By default the root mean square.
    - `dtmin`, `dtmax`: the lengths of the shortest and of the longest step, in units of
        time. A step of length `dtmin` is accepted whatever its error. A step that ends
        just after an event may be shorter.
    - `force_dtmin`: whether to continue with steps of length `dtmin` when shorter ones
        are needed. If `False`, the solve ends with `diffrax.RESULTS.dt_min_reached`.
    - `safety`: the fraction of the length that meets the tolerance which is used;
        between 0 and 1.
    - `factormax`: the largest ratio of the lengths of a step and the one before; above
        1.

    **Raises:**

    `ValueError` or `TypeError` if a tolerance or limit is not as above, or if the
    solver is not a `TaylorSolver`.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import TaylorController, TaylorSolver
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: y * jnp.cos(t)),
        ...     solver=TaylorSolver(order=8),
        ...     t0=0.0,
        ...     t1=10.0,
        ...     dt0=None,
        ...     y0=jnp.array(1.0),
        ...     stepsize_controller=TaylorController(rtol=1e-5, atol=1e-5),
        ... )
        >>> print(jnp.abs(solution.ys[0] - jnp.exp(jnp.sin(10.0))) < 1e-4)
        True
        >>> print(solution.stats["num_rejected_steps"])
        0
        ```

    **Reference:** [Jorba and Zou (2005), Section 3.2][jorba2005software].
    """

    # A solver that watches for an event requires this of its controller.
    ends_steps_at_events: ClassVar[bool] = True

    rtol: RealScalarLike
    atol: RealScalarLike
    norm: Callable[[PyTree], RealScalarLike] = optimistix.rms_norm
    dtmin: RealScalarLike | None = None
    dtmax: RealScalarLike | None = None
    force_dtmin: bool = True
    safety: RealScalarLike = 0.9
    factormax: RealScalarLike = 10.0

    def __check_init__(self) -> None:
        check_tolerances("TaylorController", self.rtol, self.atol)
        limits = self.dtmin, self.dtmax, self.safety, self.factormax
        check_step_limits("TaylorController", *limits)
        check_boolean("TaylorController", "force_dtmin", self.force_dtmin)
        if not callable(self.norm):
            raise TypeError(
                f"TaylorController: `norm` must be callable; got {describe(self.norm)}."
            )

    def __repr__(self) -> str:
        return as_call(self)

    def wrap(self, direction: IntScalarLike) -> "TaylorController":
        del direction
        return self

    def init(
        self,
        terms: PyTree[AbstractTerm],
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        dt0: RealScalarLike | None,
        args: Args,
        func: Callable[..., Any],
        error_order: int,
    ) -> tuple[RealScalarLike, Array]:
        solver = getattr(func, "__self__", func)
        _check_solver(solver)
        if dt0 is None:
            check_term("TaylorSolver", terms)
            y0 = check_state("TaylorSolver", y0)
            dt0 = first_step(self._judge, terms, t0, t1, y0, args, error_order)
        dt0, _ = self._clip(dt0)
        t0, dt0 = jnp.asarray(t0), jnp.asarray(dt0)
        none = jnp.zeros_like(dt0)
        # `diffrax.HalfSolver` is an instance of its inner solver's class, and has no
        # such field.
        is_cut = None if getattr(solver, "event", None) is None else none
        state = ControllerState(dt0, t0, t0, none, none, is_cut)
        return t0 + dt0, state.packed()

    def adapt_step_size(
        self,
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        y1_candidate: Y,
        args: Args,
        y_error: PyTree[ErrorEstimate],
        error_order: int,
        controller_state: Array,
    ) -> tuple[Array, RealScalarLike, Array, bool, Array, diffrax.RESULTS]:
        del args
        state = ControllerState(*controller_state)
        # The lengths of steps are not differentiated. (Intermediate values may be
        # infinite, in branches that are not taken.)
        dt = jax.lax.stop_gradient(jnp.asarray(t1 - t0))
        chosen_dt = state.dt
        estimates, treedef = jtu.tree_flatten(y_error, is_leaf=is_estimate)
        if not all(map(is_estimate, estimates)):
            raise TypeError(
                f"{_WRONG_SOLVER} This solver's estimate of its error is not that of a "
                "TaylorSolver; `diffrax.HalfSolver`, for one, makes its own. "
                f"{_REMEDY}"
            )
        error = jtu.tree_unflatten(treedef, [e.error for e in estimates])
        last = jtu.tree_unflatten(treedef, [e.last for e in estimates])
        unit = estimates[0].unit if estimates else dt
        error, next_dt = self._judge(
            y0, y1_candidate, error, last, unit, error_order - 1, error_order
        )
        kind = estimates[0].kind if estimates else jnp.zeros_like(dt)
        of_series = kind == OF_SERIES
        keep_step = error <= jnp.where(of_series, _VETO / error_order, _FOREIGN)
        if self.dtmin is not None:
            keep_step = keep_step | (chosen_dt <= self.dtmin)
        longer = self._longer(t1, dt, next_dt, kind, error, state)
        # `dt` alone is rounded to a digit of `t`.
        shorter = self._shorter(t0, kind, error, error_order, state)
        shorter = shorter.astype(dt.dtype) * jnp.minimum(dt, chosen_dt)
        # A step below the last digit of the time since the start makes no difference. A
        # step of that length is tried instead; if it fails, the solve cannot continue.
        floor = jnp.finfo(dt.dtype).eps * (t0 - state.start)
        next_dt = jnp.maximum(jnp.where(keep_step, longer, shorter), floor)
        next_dt, result = self._clip(next_dt)
        next_t0 = jnp.where(keep_step, t1, t0)
        next_t1 = next_t0 + next_dt
        # A step that ends where it starts makes no progress. But the solve may have
        # reached its end, at a singularity, which is not known here. So a step by the
        # last digit of `t` is tried once.
        stuck = next_t1 <= next_t0
        was_stuck = ~keep_step | (t0 + chosen_dt <= t0)
        hopeless = ~keep_step & (jnp.minimum(dt, chosen_dt) <= floor)
        hopeless = hopeless | (~keep_step & (kind == WITHOUT_SLOPE))
        failed = (stuck & was_stuck) | hopeless
        failed = failed | (result != diffrax.RESULTS.successful)
        # An accepted step may approach a point where a value was not finite.
        ahead = jnp.where(state.trouble > t1, state.error, 0)
        reason = jnp.where(keep_step, ahead, error.astype(ahead.dtype))
        why = diffrax.RESULTS.where(
            jnp.isfinite(reason),
            diffrax.RESULTS.dt_min_reached,
            NOT_FINITE,
        )
        result = diffrax.RESULTS.where(failed, why, diffrax.RESULTS.successful)
        after = jnp.nextafter(jax.lax.stop_gradient(next_t0), jnp.inf)
        next_t1 = jnp.where(stuck, after, next_t1)
        # The length of the first step is a guess: its rejection does not indicate a
        # kink.
        same = keep_step | (t0 <= state.start)
        new = ControllerState(
            jnp.asarray(next_dt),
            state.start,
            jnp.where(same, state.trouble, t1),
            jnp.where(same, state.error, error.astype(dt.dtype)),
            jnp.where(same, state.length, dt),
        )
        decided = keep_step, next_t0, next_t1, new, result
        cut = estimates[0].cut if estimates else None
        if state.is_cut is None and cut is not None:
            raise ValueError(
                "TaylorController: `controller_state` is of a solve without an event, "
                "and the solver of this one watches for an event. Leave out "
                "`controller_state`; this costs one small series."
            )
        if state.is_cut is not None:
            decided = end_at_event(jnp.asarray(t0), cut, state, decided)
        keep_step, next_t0, next_t1, new, result = decided
        return keep_step, next_t0, next_t1, False, new.packed(), result

    def _longer(
        self,
        t1: RealScalarLike,
        dt: Array,
        by_series: Array,
        kind: Array,
        error: Array,
        state: ControllerState,
    ) -> Array:
        """Returns the length of the step after an accepted one."""
        # If the series was not that of the solution, it may not be in the next step,
        # either, unless the step has passed the reason.
        behind = (t1 - dt < state.trouble) & (state.trouble <= t1)
        by_error = jnp.maximum(0.8 * _inverse_root(error), 0.2)
        by_error = dt * by_error.astype(dt.dtype)
        dt = jnp.where(
            (kind == OF_SERIES) | behind, by_series, jnp.minimum(by_series, by_error)
        )
        longest = self.factormax * state.dt
        if state.is_cut is not None:
            # The length of a step that was cut does not depend on the solution.
            longest = jnp.where(state.is_cut > 0, jnp.inf, longest)
        dt = jnp.minimum(dt, longest)
        # The rejected step was too long, or there is a kink before its end. A kink is
        # approached by halving the distance, until one step can cross it.
        rest = state.trouble - t1
        near = (rest > 0) & (dt >= rest / 2)
        near = near & ~((kind == BY_RUNGE_KUTTA) & (error > _SMOOTH))
        ratio = rest / jnp.where(state.length == 0, 1, state.length)
        over = state.error * ratio**2 <= _OVER
        part = jnp.where(over, rest, rest / 2)
        return jnp.where(near, jnp.minimum(dt, part), dt)

    def _shorter(
        self,
        t0: RealScalarLike,
        kind: Array,
        error: Array,
        error_order: int,
        state: ControllerState,
    ) -> Array:
        """Returns the part of the length of a rejected step that is tried next."""
        part = jnp.where(
            kind == OF_SERIES, error ** (-1 / error_order), _inverse_root(error)
        )
        part = jnp.clip(part, 0.1, 0.5)
        # The length of the first step is a guess.
        first = (kind == BY_RUNGE_KUTTA) & (t0 <= state.start)
        part = jnp.where(first, 0.1, part)
        # Up to the last point inside, the series was that of the solution.
        return jnp.where(kind == BROKEN_AT_END, 0.6, part)

    def _judge(
        self,
        y0: Y,
        y1: Y,
        error: PyTree[Array],
        last: PyTree[Array],
        unit: RealScalarLike,
        order: int,
        error_order: int,
    ) -> tuple[Array, Array]:
        """Returns the error in tolerances, and the length of the next step."""

        def rows(y0, y1, error, last):
            y1 = jnp.where(jnp.all(jnp.isfinite(y1)), y1, y0)
            size = jnp.maximum(jnp.abs(y0), jnp.abs(y1))
            rtol, atol = (jnp.asarray(x, size.dtype) for x in (self.rtol, self.atol))
            # With `atol = 0`, a leaf that decays to zero would have a tolerance that
            # underflows, and no step would be short enough.
            scale = jnp.maximum(atol + rtol * size, jnp.finfo(size.dtype).tiny)
            noise = _NOISE * jnp.finfo(size.dtype).eps * size
            below, top = jnp.abs(last)
            row = jnp.stack([error, size, below, top])
            return row / jnp.stack([scale + noise, scale, scale, scale])

        rows = jtu.tree_map(rows, y0, y1, error, last)
        if len(jtu.tree_leaves(rows)) == 0:
            return jnp.zeros_like(unit), jnp.full_like(unit, jnp.inf)
        # One reduction for all four.
        norms = jnp.asarray(jax.vmap(self.norm)(rows))
        if norms.shape != (4,):
            raise ValueError(
                "TaylorController: `norm` must return a scalar; it returned an array "
                f"of shape {norms.shape[1:]}. Reduce over all axes of the state."
            )
        error, size, *ends = norms
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        ends = ends if order > 1 else ends[1:]
        orders = jnp.arange(order - len(ends) + 1, order + 1, dtype=size.dtype)
        log_size = jnp.log(jnp.maximum(size, 1))
        log_radius = jnp.min((log_size - jnp.log(jnp.stack(ends))) / orders)
        length = jnp.exp(log_radius - log_size / error_order)
        safety = jnp.asarray(self.safety, jnp.result_type(unit))
        dt = safety * length.astype(safety.dtype) * unit
        # The lengths of steps are not differentiated, as in Diffrax.
        return eqxi.nondifferentiable(jax.lax.stop_gradient((error, dt)))

    def _clip(self, dt: RealScalarLike) -> tuple[RealScalarLike, diffrax.RESULTS]:
        result = diffrax.RESULTS.successful
        if self.dtmax is not None:
            dt = jnp.minimum(dt, self.dtmax)
        if self.dtmin is not None:
            if not self.force_dtmin:
                result = diffrax.RESULTS.where(
                    dt < self.dtmin, diffrax.RESULTS.dt_min_reached, result
                )
            dt = jnp.maximum(dt, self.dtmin)
        return dt, result


def _inverse_root(error: Array) -> Array:
    """Computes `error**(-1 / ERROR_ORDER)`; `ERROR_ORDER` is 8."""
    return jax.lax.rsqrt(jnp.sqrt(jnp.sqrt(error)))


_WRONG_SOLVER = (
    "TaylorController chooses steps by the coefficients of a Taylor series, which only "
    "`eqx_taylor.TaylorSolver` has."
)
_REMEDY = "Use `diffrax.PIDController` with it."


def _check_solver(solver: Any) -> None:
    if not isinstance(solver, TaylorSolver):
        raise TypeError(f"{_WRONG_SOLVER} The solver is {describe(solver)}. {_REMEDY}")
