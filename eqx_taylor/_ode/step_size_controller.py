"""The step size from the coefficients of the series, as Jorba and Zou choose it."""

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


# The error that a jump of the vector field may leave in a step that is accepted, in
# tolerances: order + 1 times the estimate, which is that of a smooth solution. Steps
# chosen by the series have an estimate of less than one, unless something happens to
# the vector field within them.
_VETO = 50
# An error that may be nothing but rounding, in units of the last place of the state.
_NOISE = 16
# A Runge--Kutta step that has used this much of its tolerance is of a length that its
# error has chosen: half the length would leave 1/256, and a kink far more or nothing.
_SMOOTH = 0.01
# The largest estimate of a step whose series is not that of the solution, in
# tolerances. A hundred kinks (`benchmarks/nonsmooth.py`) leave 41 tolerances with 1,
# 1.3 with 0.3, 0.1 with 0.1, in 577, 730 and 827 steps at 1e-4.
_FOREIGN = 0.3
# The estimate that a kink is expected to leave where it is gone over; less than that.
_OVER = 0.15


class ControllerState(NamedTuple):
    """The knowledge of `TaylorController` at the start of a step.

    From step to step it is carried as one array. XLA copies each array that a loop
    carries before the loop begins, and if these are many it leaves them to its threads,
    which takes 50 microseconds.

    **Fields:**

    - `dt`: the length that was chosen for the step. (It may have been clipped since, to
        `t1` for instance.)
    - `start`: the time at which the solve began.
    - `trouble`: the time at which the last step that was rejected ended, the first step
        of the solve aside. Something is between here and there; before the first time
        there is nothing.
    - `error`, `length`: of that step, in tolerances and in units of time.
    - `is_cut`: 1 if the length was chosen so that the step ends behind an event, 0 if
        not; `None` where the solver watches for none.
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
    r"""Chooses the steps of [`eqx_taylor.TaylorSolver`][] by the coefficients of its
    series, before they are made.

    The last two coefficients say how far the series converges. In units of the
    tolerance, $E_k = \|c_k / (\mathrm{atol} + \mathrm{rtol}\,|y|)\|$ and
    $M = \max(1, \|y / (\mathrm{atol} + \mathrm{rtol}\,|y|)\|)$, that is
    $\rho = \min_{k = K - 1, K} (M / E_k)^{1/k}$. The first term that is left out,
    $M (h/\rho)^{K + 1}$, is one tolerance at $h = \rho M^{-1/(K + 1)}$, and the step is
    `safety` times that.

    (Jorba and Zou ask that the last terms be of the size of the tolerance, not the
    first that is left out: about the same at high order, and shorter steps at low.)

    No step is rejected for being too long, as long as the vector field is smooth. The
    solver's estimate of the error, which sees jumps and kinks, has a veto: a step is
    rejected, and made again with a tenth to a half of the length, if a jump within it
    may have left an error of more than 50 tolerances. (Where the solution is smooth the
    same defect means an error that is $K + 1$ times smaller.)

    Where the series is not that of the solution, which the solver sees by a defect that
    is large beside the last terms, the estimate is taken for an error of low order, and
    a step is kept if it is below 0.3 tolerances. Where a rejected step ended is
    remembered. A kink before it is approached by halves of the distance, until the rest
    can be gone over in one step; the step after that is as long as the series says.
    After a step by a Runge--Kutta method its error chooses the length of the next.

    Where steps become so short that time stands still, or a step is rejected that is
    below the last digit of the time since the start, the solve ends: with
    `diffrax.RESULTS.nonfinite` if the step was rejected because something was not
    finite, with `diffrax.RESULTS.dt_min_reached` otherwise, next to a pole for
    instance.

    It works with `TaylorSolver` only, and within a `diffrax.ClipStepSizeController`,
    which adds `step_ts` and `jump_ts`.

    **Arguments:**

    - `rtol`, `atol`: relative and absolute tolerance of the local error, as for
        `diffrax.PIDController`; not negative, and one of them above zero.
    - `norm`: a function from a PyTree of the structure of the state to a scalar, in
        which all of the above is measured. By default the root mean square.
    - `dtmin`, `dtmax`: the shortest and the longest step; in units of time. A step of
        `dtmin` is accepted whatever its error. A step that ends behind an event may be
        shorter.
    - `force_dtmin`: whether to go on with steps of `dtmin` where shorter ones are asked
        for; or else to end with `diffrax.RESULTS.dt_min_reached`.
    - `safety`: what part of the length that meets the tolerance is used; from 0 to 1.
    - `factormax`: how many times longer than the step before a step may be; above 1.

    **Raises:**

    `ValueError` or `TypeError` for tolerances and limits that are not as above, and for
    another solver.

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

    # A solver that watches for an event asks for it.
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
        # `diffrax.HalfSolver` passes for the solver within, and has no such field.
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
        # The lengths of steps are not differentiated. (They may be infinite on the way,
        # in branches that are not taken.)
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
        # A step below the last digit of the time so far makes no difference: one of
        # that length is tried instead, and if it fails there is no way on.
        floor = jnp.finfo(dt.dtype).eps * (t0 - state.start)
        next_dt = jnp.maximum(jnp.where(keep_step, longer, shorter), floor)
        next_dt, result = self._clip(next_dt)
        next_t0 = jnp.where(keep_step, t1, t0)
        next_t1 = next_t0 + next_dt
        # A step that ends where it starts is that of a solve that gets nowhere. It may
        # have got to its end, though, which is not known here, and be at a singularity:
        # once, a step by the last digit of `t` is tried.
        stuck = next_t1 <= next_t0
        was_stuck = ~keep_step | (t0 + chosen_dt <= t0)
        hopeless = ~keep_step & (jnp.minimum(dt, chosen_dt) <= floor)
        hopeless = hopeless | (~keep_step & (kind == WITHOUT_SLOPE))
        failed = (stuck & was_stuck) | hopeless
        failed = failed | (result != diffrax.RESULTS.successful)
        # An accepted step may be on its way to what was not finite.
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
        # The length of the first step is a guess: if it is too long, there need be no
        # trouble.
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
                "and this one has an event that the solver watches for. Leave "
                "`controller_state` out, which costs one small series."
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
        """The length of the step after one that was accepted."""
        # Where the series was not that of the solution, it may not be that of the next
        # step, either; unless the reason is behind.
        behind = (t1 - dt < state.trouble) & (state.trouble <= t1)
        by_error = jnp.maximum(0.8 * _inverse_root(error), 0.2)
        by_error = dt * by_error.astype(dt.dtype)
        dt = jnp.where(
            (kind == OF_SERIES) | behind, by_series, jnp.minimum(by_series, by_error)
        )
        longest = self.factormax * state.dt
        if state.is_cut is not None:
            # The length of a step that was cut says nothing of the solution.
            longest = jnp.where(state.is_cut > 0, jnp.inf, longest)
        dt = jnp.minimum(dt, longest)
        # The step that was rejected was too long, or there is a kink before its end. In
        # the latter case it is approached by halves, until it can be gone over.
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
        """The part of the length of a step that was rejected which is tried next."""
        part = jnp.where(
            kind == OF_SERIES, error ** (-1 / error_order), _inverse_root(error)
        )
        part = jnp.clip(part, 0.1, 0.5)
        # The length of the first step is a guess.
        first = (kind == BY_RUNGE_KUTTA) & (t0 <= state.start)
        part = jnp.where(first, 0.1, part)
        # Up to the last point inside, all was well.
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
        """The error in tolerances, and the length of the next step."""

        def rows(y0, y1, error, last):
            y1 = jnp.where(jnp.all(jnp.isfinite(y1)), y1, y0)
            size = jnp.maximum(jnp.abs(y0), jnp.abs(y1))
            rtol, atol = (jnp.asarray(x, size.dtype) for x in (self.rtol, self.atol))
            scale = atol + rtol * size
            noise = _NOISE * jnp.finfo(size.dtype).eps * size
            below, top = jnp.abs(last)
            row = jnp.stack([error, size, below, top])
            scale = jnp.stack([scale + noise, scale, scale, scale])
            # A leaf that is zero and stays zero has no error, with `atol = 0`.
            return jnp.where(row == 0, 0, row / scale)

        rows = jtu.tree_map(rows, y0, y1, error, last)
        if len(jtu.tree_leaves(rows)) == 0:
            return jnp.zeros_like(unit), jnp.full_like(unit, jnp.inf)
        # One reduction for all four.
        norms = jnp.asarray(jax.vmap(self.norm)(rows))
        if norms.shape != (4,):
            raise ValueError(
                "TaylorController: `norm` must return a scalar; of the state it "
                f"returns an array of shape {norms.shape[1:]}."
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
        # The steps are a detail of how the solution is computed, as in Diffrax.
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
