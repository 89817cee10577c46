"""The Taylor method as a Diffrax solver."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .._core.check import check_boolean, check_integer
from .._core.custom_types import Args, BoolScalarLike, PyTree, RealScalarLike, Y
from .._core.representation import as_call
from .check import check_state, check_term, check_unroll
from .custom_types import AbstractTerm
from .error_estimate import (
    BROKEN_AT_END,
    Defect,
    defect,
    ErrorEstimate,
    NOT_FINITE,
    OF_SERIES,
    probe_points,
)
from .event_conditions import read_conditions
from .event_steps import length_to_first_event
from .event_watch import (
    Call,
    check_event,
    check_watched,
    find_call,
    told_to_conditions,
)
from .interpolation import TaylorInterpolation
from .last_terms import last_terms
from .ode_jet import unit_near
from .small_loop import in_small_loop
from .step import is_finite, make_step, Step, TaylorState
from .stiffness import warn_if_stiff
from .tolerances import choose_order, warn_if_far_apart


class TaylorSolver(diffrax.AbstractAdaptiveSolver[TaylorState]):
    r"""Taylor's method of any order. Each step expands the solution in a power series
    and evaluates it.

    A step of order $K$ costs one [`eqx_taylor.ode_jet`][] of order $K$, and has a local
    error of $O(h^{K+1})$. High orders pay off at tight tolerances, where steps become
    much longer than those of Runge--Kutta methods:

    | rtol + atol | 1e-3 | 1e-6 | 1e-9 | 1e-12 | 1e-14 | 2.2e-16 | float32: 1.2e-7 |
    |-------------|------|------|------|-------|-------|---------|-----------------|
    | order       | 5    | 8    | 12   | 15    | 18    | 20      | 9               |

    This is the order that `TaylorSolver(rtol=..., atol=...)` chooses:
    $\max(2, \lceil 1 - \tfrac12 \ln(\mathrm{rtol} + \mathrm{atol}) \rceil)$. It has the
    lowest cost per unit of time (Jorba and Zou, Section 3.2). The formula assumes a
    state of size 1. If `atol` is above `rtol`, it counts as `rtol`, since the state is
    then probably larger.

    Use the solver with [`eqx_taylor.TaylorController`][], which chooses steps from the
    coefficients of the series and rejects hardly any. [`eqx_taylor.taylor_method`][]
    makes both from one pair of tolerances. If the order does not suit the tolerances of
    the controller, a warning says so when the solve is traced. Every step size
    controller of Diffrax works, too. With `diffrax.PIDController`, the coefficients
    `pcoeff=0.3, icoeff=0.3, safety=0.95` reject fewer steps at high order than the
    defaults. (Do not use a smaller `safety`: that controller holds the error at
    `safety**((order + 1) / icoeff)` times the tolerance, which must stay above rounding
    errors.)

    The error is estimated from the defect, the amount by which the Taylor polynomial
    $p$ fails to satisfy the equation. To leading order, the local error is
    $h\,(f(t, p(t)) - p'(t))/(K + 1)$ at the end of the step. Unlike the last
    coefficients of the series, the defect detects a jump or a kink of the vector field
    within the step, if the field is different after it. At the end of the step it costs
    nothing, as $f(t_1, p(t_1))$ is the first coefficient of the next step. It is also
    computed at `probes` points inside the step, each of which costs one evaluation of
    the field. These detect most changes of the field that last only a part of the step.

    The series of a field may not describe it within the whole step: if the field has a
    kink or an infinite derivative, or if the derivatives that JAX computes are not
    those of the field, as for `jax.lax.stop_gradient` and for a root found by
    bisection. The defect inside the step is then large compared with the last terms of
    the series, which does not happen in a smooth problem. Such a step is made by the
    Runge--Kutta method of `diffrax.Dopri8` instead, with its error estimate.

    The dense output is the Taylor polynomial ([`eqx_taylor.TaylorInterpolation`][]).
    Diffrax locates an event on it, to the precision of the event's root finder. Diffrax
    checks events only at the ends of steps, and these steps are long. Pass the `event`
    to the solver as well: then a step ends just after the first sign change of a
    condition within it. (If you do not, a warning says so.) To find all events of a
    solution, use [`eqx_taylor.find_events`][].

    **Arguments:**

    - `order`: the order $K$ of the method, an integer of at least 1. If it is `None`,
        it is chosen from the tolerances, or is 5 if there are none.
    - `rtol`, `atol`: tolerances from which the order is chosen (Python floats). They do
        not affect step sizes: pass them to the step size controller as well, or make
        both by [`eqx_taylor.taylor_method`][]. Keyword only.
    - `compensated`: whether to use compensated summation for the series, and for the
        state from step to step. The solver then carries the rounding error of the state
        along, so that rounding contributes less to the error of long integrations.
        Keyword only.
    - `warn_if_stiff`: whether to check, every 256 steps, if stability rather than
        accuracy limits the steps. If so, a `UserWarning` recommends another solver.
        (The message of Diffrax when `max_steps` is reached does not.) Off by default:
        the mere presence of a callback makes small solves up to three times slower on a
        CPU. Keyword only.
    - `probes`: the number of points inside each step at which the defect is computed,
        in addition to its end; an integer of at least 0. With 0, no step is made by a
        Runge--Kutta method. Keyword only.
    - `unroll`: whether the program of a step contains the operations of all orders, one
        after the other. With `False` it has a loop over orders, if the field allows it:
        it compiles faster, in a time that does not depend on the order, and runs more
        slowly. `None` (the default) unrolls programs that are not too large, as in
        [`eqx_taylor.ode_jet`][]. Keyword only.
    - `event`: the `diffrax.Event` that is passed to `diffrax.diffeqsolve`, if steps are
        to end just after it. It needs [`eqx_taylor.TaylorController`][]. Keyword only.
    - `taylor_order`: the order, by the name of its field. `dataclasses.replace` passes
        it. It is used only if neither `order` nor a tolerance is given. Keyword only.

    **Fields:**

    - `taylor_order`: the order $K$. (`order` is a method of every Diffrax solver.)
    - `compensated`, `warn_if_stiff`, `probes`, `unroll`, `event`: the arguments.

    A solve can be resumed with the `solver_state` that `SaveAt(solver_state=True)`
    returns. Its series is used if the solve resumes at exactly the state and time where
    it belongs; otherwise a new one is computed. The solver cannot detect that the
    vector field or `args` have changed: in that case pass `made_jump=True`, or the
    first step uses the old ones. Also pass `made_jump=True`, or leave out
    `solver_state`, to differentiate with respect to the state at which the solve
    resumes: the series in `solver_state` does not depend on that state.

    If the state is no longer finite, the solve ends with `diffrax.RESULTS.nonfinite`,
    whatever the step size controller.

    **Raises:**

    `TypeError` or `ValueError` if the order is not an integer of at least 1, if a
    tolerance is negative, or if `event` is not a `diffrax.Event`. When the solve is
    traced, also if the event has other conditions than that of the solve, or the
    controller cannot end steps after it; if `solver_state` has another order; if the
    state has leaves that are not floating-point or complex; and for a
    `diffrax.ControlTerm`, which its method `to_ode` converts.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import TaylorController, TaylorSolver
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: -y),
        ...     solver=TaylorSolver(rtol=1e-6, atol=1e-6),
        ...     t0=0.0,
        ...     t1=3.0,
        ...     dt0=None,
        ...     y0=jnp.array(1.0),
        ...     stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
        ... )
        >>> print(jnp.abs(solution.ys[0] - jnp.exp(-3.0)) < 1e-6)
        True
        ```

    **References:**
    [Jorba and Zou (2005)][jorba2005software];
    [Hairer, Nørsett and Wanner (1993), Section I.8][hairer1993solving].
    """

    # `order` is a method of every Diffrax solver.
    taylor_order: int = eqx.field(static=True)
    compensated: bool = eqx.field(static=True)
    warn_if_stiff: bool = eqx.field(static=True)
    probes: int = eqx.field(static=True)
    unroll: bool | None = eqx.field(static=True)
    event: diffrax.Event | None

    term_structure: ClassVar[Any] = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., TaylorInterpolation]] = (
        TaylorInterpolation
    )

    def __init__(
        self,
        order: int | None = None,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        compensated: bool = False,
        warn_if_stiff: bool = False,
        probes: int = 1,
        unroll: bool | None = None,
        event: diffrax.Event | None = None,
        taylor_order: int | None = None,
    ):
        if order is None and rtol is None and atol is None:
            order = taylor_order
        self.taylor_order = choose_order(order, rtol, atol)
        self.compensated = check_boolean("TaylorSolver", "compensated", compensated)
        self.warn_if_stiff = check_boolean(
            "TaylorSolver", "warn_if_stiff", warn_if_stiff
        )
        self.probes = check_integer("TaylorSolver", "probes", probes, least=0)
        self.unroll = check_unroll("TaylorSolver", unroll)
        self.event = check_event(event)

    def __repr__(self) -> str:
        return as_call(self, order="taylor_order")

    def order(self, terms: PyTree[AbstractTerm]) -> int:
        del terms
        return self.taylor_order

    def error_order(self, terms: PyTree[AbstractTerm]) -> int:
        del terms
        return self.taylor_order + 1

    def init(
        self,
        terms: AbstractTerm,
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        args: Args,
    ) -> TaylorState:
        check_term("TaylorSolver", terms)
        y0 = check_state("TaylorSolver", y0)
        rest = jtu.tree_map(jnp.zeros_like, y0) if self.compensated else None
        steps = jnp.array(0) if self.warn_if_stiff else None
        nothing = jtu.tree_map(
            lambda y: jnp.zeros((self.taylor_order + 1, *y.shape), y.dtype), y0
        )
        t0 = jnp.asarray(t0)
        no_unit = jnp.zeros_like(unit_near(t1 - t0))
        return TaylorState(nothing, t0, no_unit, steps, rest)

    def step(
        self,
        terms: AbstractTerm,
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        args: Args,
        solver_state: TaylorState,
        made_jump: BoolScalarLike,
    ) -> tuple[Y, PyTree[ErrorEstimate], dict[str, Any], TaylorState, diffrax.RESULTS]:
        # Each value of a Python number would be compiled anew.
        t0, t1, made_jump = map(jnp.asarray, (t0, t1, made_jump))
        call = find_call()
        if call is not None:
            warn_if_far_apart(self.taylor_order, call.controller)
        check_watched(self.event, call, t0, y0, args)
        call = None if self.event is None else call
        return _step(self, terms, t0, t1, y0, args, solver_state, made_jump, call)

    def func(self, terms: AbstractTerm, t0: RealScalarLike, y0: Y, args: Args) -> Y:
        return terms.vf(t0, y0, args)


# Diffrax traces a step several times, and an adjoint differentiates it several times.
# For a function that is jitted, JAX does each of these once.
@eqx.filter_jit
@jax.named_scope("taylor_step")
def _step(
    solver: TaylorSolver,
    terms: diffrax.AbstractTerm,
    t0: Array,
    t1: Array,
    y0: Y,
    args: Args,
    state: TaylorState,
    made_jump: Array,
    call: Call | None,
) -> tuple[Y, PyTree[ErrorEstimate], dict[str, Any], TaylorState, diffrax.RESULTS]:
    order, probes = solver.taylor_order, solver.probes
    made = make_step(
        terms, t0, t1, y0, args, state, made_jump, order, probes, solver.unroll
    )
    h, next_unit = t1 - t0, made.next_unit
    s = h / made.unit
    steps = state.steps
    if steps is not None:
        steps = steps + 1
        warn_if_stiff(jtu.tree_leaves(made.series), s, steps, order)
    with jax.named_scope("defect"):
        # The slope, not the first coefficient: these differ if the field jumps here.
        by_field = jtu.tree_map(
            lambda slope: slope * jnp.asarray(h / next_unit, slope.dtype), made.slope
        )
        at_end = defect(by_field, made.y1, made.series, s, 1.0)
    cut = _cut(solver, terms, t0, t1, y0, args, made, call)
    y_error = _estimate(at_end, made, probes, order, cut)
    dense_info = dict(coefficients=made.series, unit=made.unit)
    next_state = TaylorState(made.next_series, t1, next_unit, steps, made.rest)
    return made.y1, y_error, dense_info, next_state, _result(made.y1)


def _cut(
    solver: TaylorSolver,
    terms: diffrax.AbstractTerm,
    t0: Array,
    t1: Array,
    y0: Y,
    args: Args,
    made: Step,
    call: Call | None,
) -> Array | None:
    """Returns the length of time after which a step has to end, if the solver watches
    for an event."""
    if solver.event is None:
        return None
    kwargs = told_to_conditions(solver, terms, call)
    conditions = read_conditions(
        "TaylorSolver", solver.event.cond_fn, t0, y0, args, kwargs
    )
    if conditions.number == 0:
        return None
    return length_to_first_event(conditions, t0, t1, made.series, made.unit, made.y1)


@jax.named_scope("defect")
def _estimate(
    at_end: Defect, made: Step, probes: int, order: int, cut: Array | None
) -> PyTree[ErrorEstimate]:
    """Estimates the error of a step from the defects at its end and inside. Returns it
    together with the coefficients of the series at the end, and with the length of time
    after which the step has to end."""
    leaves, treedef = jtu.tree_flatten(made.next_series)
    kind = made.kind
    # The part of the step after the last point inside.
    behind = 1 - max([0.0, *probe_points(probes)])
    # If the series describes the field up to the last point inside but not at the end,
    # the error is at most the defect times this part of the step, as after a jump.
    replaced = kind != OF_SERIES
    broken = at_end.is_foreign() & ~replaced
    kind = jnp.where(broken, jnp.asarray(BROKEN_AT_END, kind.dtype), kind)

    unit = made.next_unit
    last = [jnp.where(jnp.isfinite(c[-2:]), c[-2:], 0) for c in leaves]
    if cut is not None:
        # After a step that was cut, which may be very short, the unit is as short.
        state = [c[0] for c in leaves]
        known = jax.lax.stop_gradient((last, state, unit))

        def rescaled():
            terms, unit = last_terms(*known, order)
            return [*terms, unit]

        *last, unit = in_small_loop(rescaled)

    def of_leaf(last, error, at_end, size):
        by_defect = jnp.maximum(error, at_end)
        by_defect = jnp.where(broken, jnp.maximum(by_defect, behind * size), by_defect)
        error = jnp.where(replaced, error, by_defect)
        return ErrorEstimate(error, last, unit, kind, cut)

    estimates = map(
        of_leaf,
        last,
        treedef.flatten_up_to(made.errors),
        at_end.errors(order),
        at_end.sizes,
    )
    return jtu.tree_unflatten(treedef, estimates)


def _result(y: PyTree[Array]) -> diffrax.RESULTS:
    """Returns the result of the step: a failure if the state is not finite."""
    return diffrax.RESULTS.where(is_finite(y), diffrax.RESULTS.successful, NOT_FINITE)
