"""The Taylor method as a Diffrax solver."""

import functools as ft
import math
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .._core.check import check_boolean, check_integer
from .._core.custom_types import Args, RealScalarLike, Y
from .._core.jax import joint_axes, vary
from .._core.polynomial import evaluate, evaluate_compensated
from .check import check_carried, check_order, check_state, check_term, check_tolerances
from .error_estimate import (
    BROKEN_AT_END,
    BY_RUNGE_KUTTA,
    Defect,
    defect,
    ErrorEstimate,
    NOT_FINITE,
    OF_SERIES,
    probe_points,
    WITHOUT_SLOPE,
)
from .interpolation import TaylorInterpolation
from .ode_jet import increment, solution_series, unit_near, usable
from .runge_kutta import runge_kutta_step
from .stiffness import warn_if_stiff


class TaylorState(eqx.Module):
    """The state of `TaylorSolver` at the start of a step.

    **Fields:**

    - `coefficients`: the coefficients of the solution's series, each leaf with a
        leading axis over orders.
    - `t0`: the time at which it starts.
    - `unit`: the unit of time in which the coefficients are. It is a power of two near
        the length of the step before, so that they neither overflow nor underflow, and
        so that having a unit costs no rounding. Zero where there is no series yet.
    - `steps`: the number of steps taken; `None` where nothing is looked for every so
        many.
    - `rest`: the rest of the state beyond its last digit with `compensated`, else
        `None`.
    """

    coefficients: PyTree[Array]
    t0: RealScalarLike
    unit: Array
    steps: Array | None
    rest: PyTree[Array] | None


class TaylorSolver(diffrax.AbstractAdaptiveSolver[TaylorState]):
    r"""Taylor's method, of any order: each step expands the solution in a power series
    and evaluates it.

    A step of order $K$ costs one [`eqx_taylor.ode_jet`][] of order $K$, and has a local
    error of $O(h^{K+1})$. High orders pay off with tight tolerances, where the steps
    become much longer than those of Runge--Kutta methods:

    | rtol + atol | 1e-3 | 1e-6 | 1e-9 | 1e-12 | 1e-14 | 2.2e-16 | float32: 1.2e-7 |
    |-------------|------|------|------|-------|-------|---------|-----------------|
    | order       | 5    | 8    | 12   | 15    | 18    | 20      | 9               |

    This is what `TaylorSolver(rtol=..., atol=...)` chooses:
    $\max(2, \lceil 1 - \tfrac12 \ln(\mathrm{rtol} + \mathrm{atol}) \rceil)$, the order
    for which a step of a given length costs least (Jorba and Zou, Section 3.2).

    Use it with [`eqx_taylor.TaylorController`][], which chooses steps by the
    coefficients of the series and rejects next to none. Every step size controller of
    Diffrax works too; with `diffrax.PIDController`, `pcoeff=0.3, icoeff=0.3,
    safety=0.95` rejects fewer steps at high order than the defaults. (Not a smaller
    `safety`: that controller holds the error at `safety**((order + 1) / icoeff)` of the
    tolerance, which must not come below rounding errors.)

    The error is estimated from the defect, by how much the Taylor polynomial $p$ fails
    to satisfy the equation: $h\,(f(t, p(t)) - p'(t))/(K + 1)$ at the end of the step is
    the local error to leading order. Unlike the last coefficients of the series it
    notices a jump or a kink of the vector field within the step, provided the field is
    different behind it. At the end it costs nothing, as $f(t_1, p(t_1))$ is the first
    coefficient of the next step; at `probes` points inside the step it costs an
    evaluation of the field each, and notices most of what is over when the step ends.

    A field may be another one inside a step than its series says: where it has a kink,
    where a derivative is infinite, or where the derivatives that JAX knows are not its
    own, as those of `jax.lax.stop_gradient` and of a root found by bisection. The
    defect at a point inside is then large beside the last terms of the series, which in
    a smooth problem it is not, and the step is made by the Runge--Kutta method of
    `diffrax.Dopri8` instead, with its estimate of the error.

    The dense output is the Taylor polynomial ([`eqx_taylor.TaylorInterpolation`][]).
    An event with a root finder is located on it, to the precision of the root finder.
    (`optimistix.Bisection` always finds it where there is a single condition. Of a list
    of conditions Diffrax makes a system of equations, which bisection refuses: use
    `optimistix.Newton` there, and bound the steps by `dtmax`.)
    Diffrax looks for events at the ends of steps, and these are long: bound them by the
    `dtmax` of the controller if a condition may change its sign twice within one.

    **Arguments:**

    - `order`: the order $K$ of the method, an integer from 1. If it is `None` it is
        chosen for the tolerances; if these are not given either, it is 5.
    - `rtol`, `atol`: the tolerances to choose the order for; numbers, as for the
        step-size controller, which is not told by them. Keyword only.
    - `compensated`: whether to sum the series, and its increments from step to step,
        with compensation for rounding errors. The digits of the state beyond the last
        are then carried from step to step, and rounding makes up a smaller part of the
        error of long integrations. Keyword only.
    - `warn_if_stiff`: whether to look, every 256 steps, at whether stability rather
        than accuracy limits the steps, and to issue a `UserWarning` if so, which tells
        what to use instead. (Diffrax's own message, when `max_steps` is reached, does
        not.)
        Not by default: it is hardly ever called, but that a callback is in the program
        takes three times the run time on a CPU where the state is a few numbers.
        Keyword only.
    - `probes`: at how many points inside each step to look at the defect, besides its
        end; an integer from 0. With 0 no step is made by a Runge--Kutta method. Keyword
        only.

    A solve can be resumed with the `solver_state` that `SaveAt(solver_state=True)`
    returned. The series in it is used if it is that of the very state and time at which
    the solve is resumed; otherwise a new one is made. That the vector field or `args`
    are others than before cannot be seen: say `made_jump=True` then, or the first step
    is made with the old ones. To differentiate with respect to
    the state at which a solve is resumed, say `made_jump=True`, or leave `solver_state`
    out: what is carried does not depend on that state.

    A solve whose state is no longer finite ends with `diffrax.RESULTS.nonfinite`,
    whatever the step size controller.

    **Raises:**

    `TypeError` or `ValueError` for an order below 1 or not an integer, and for
    tolerances that are negative; and, when the solve is traced, for a `solver_state` of
    another order, for states with leaves that are not floating-point or complex, and
    for a `diffrax.ControlTerm`, which can be converted by its method `to_ode`.

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

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = TaylorInterpolation

    def __init__(
        self,
        order: int | None = None,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        compensated: bool = False,
        warn_if_stiff: bool = False,
        probes: int = 1,
    ):
        self.taylor_order = _choose_order(order, rtol, atol)
        self.compensated = check_boolean("TaylorSolver", "compensated", compensated)
        self.warn_if_stiff = check_boolean(
            "TaylorSolver", "warn_if_stiff", warn_if_stiff
        )
        self.probes = check_integer("TaylorSolver", "probes", probes, least=0)

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

    def _polynomial(
        self, terms, t0, t1, y0, args, state, made_jump
    ) -> tuple[TaylorState, PyTree[Array], Array]:
        """Returns the polynomial of the step, as the state at its start; the error that
        is noticed inside of it; and the kind of the step.

        It is the series that the state has, unless that is of another state, of before
        a jump, or there is none yet. If the series is found not to be that of
        the solution, it is the polynomial of a Runge--Kutta method.
        """
        leaves = jtu.tree_leaves(y0)
        series = jtu.tree_leaves(state.coefficients)
        check_carried(self.taylor_order, [c.shape for c in series])
        other = [jnp.any(c[0] != y) for c, y in zip(series, leaves)]
        moved = [state.unit == 0, t0 != state.t0, jnp.asarray(made_jump)]
        other = jnp.any(jnp.stack([*moved, *other]))

        foreign, errors = self._inside(terms, t0, t1, args, state)
        # The type of all branches. What there is at first is the same on all devices;
        # what the field closes over is in the errors.
        inputs = eqx.filter((t0, t1, y0, args, state, other, errors), eqx.is_array)
        axes = joint_axes(map(jax.typeof, jtu.tree_leaves(inputs)))
        vary_all = ft.partial(jtu.tree_map, lambda x: vary(jnp.asarray(x), axes))
        old = vary_all((state.coefficients, state.unit))
        of_series = jnp.asarray(OF_SERIES, state.unit.dtype)
        is_old = vary_all((*old, errors, of_series))

        def made_anew():
            unit = unit_near(t1 - t0)
            series = solution_series(terms, t0, unit, y0, args, self.taylor_order)
            new = series.stacked(), unit
            series, unit = jtu.tree_map(lambda a, b: jnp.where(other, a, b), new, old)
            series = usable(series)
            new = TaylorState(series, t0, unit, state.steps, state.rest)
            foreign, errors = self._inside(terms, t0, t1, args, new)
            made = vary_all((series, errors, of_series))
            series, errors, kind = _replaced(terms, t0, t1, unit, args, foreign, made)
            return vary_all((series, unit, errors, kind))

        # Most steps have nothing to do here. One predicate for all lanes of a `vmap`,
        # or every lane would make all of this, and throw it away, at every step.
        coefficients, unit, errors, kind = jax.lax.cond(
            eqxi.unvmap_any(other | foreign), made_anew, lambda: is_old
        )
        state = TaylorState(coefficients, t0, unit, state.steps, state.rest)
        return state, errors, kind

    @jax.named_scope("defect")
    def _inside(
        self, terms, t0, t1, args, state: TaylorState
    ) -> tuple[Array, PyTree[Array]]:
        """Returns whether the series is foreign to the solution at any of the points
        inside of the step; and the error of the step by what is found there."""
        h = jnp.asarray(t1 - t0)
        s = h / jnp.where(state.unit == 0, 1, state.unit)
        control = terms.contr(t0, t1)
        leaves, treedef = jtu.tree_flatten(state.coefficients)
        foreign = jnp.array(False)
        errors = [jnp.zeros_like(jnp.abs(c[0])) for c in leaves]
        for part in probe_points(self.probes):
            y, _ = self._evaluate(state, part * s)
            by_field = increment(terms, t0 + part * h, y, args, control)
            found = defect(by_field, y, state.coefficients, s, part)
            foreign = foreign | found.is_foreign()
            errors = map(jnp.maximum, errors, found.errors(self.taylor_order))
        return foreign, jtu.tree_unflatten(treedef, list(errors))

    @jax.named_scope("taylor_step")
    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: RealScalarLike,
        t1: RealScalarLike,
        y0: Y,
        args: Args,
        solver_state: TaylorState,
        made_jump,
    ) -> tuple[Y, PyTree[ErrorEstimate], dict[str, Any], TaylorState, diffrax.RESULTS]:
        K = self.taylor_order
        state, errors, kind = self._polynomial(
            terms, t0, t1, y0, args, solver_state, made_jump
        )
        h = jnp.asarray(t1 - t0)
        s = h / state.unit
        y1, rest = self._evaluate(state, s)
        steps = state.steps
        if steps is not None:
            steps = steps + 1
            warn_if_stiff(jtu.tree_leaves(state.coefficients), s, steps, K)

        # The series of the next step tells the error of this one, too.
        unit = unit_near(h)
        series = solution_series(terms, t1, unit, y1, args, K)
        with jax.named_scope("defect"):
            # Not by the first coefficient: that of a jump that comes next is another.
            by_field = jtu.tree_map(
                lambda slope: slope * jnp.asarray(h / unit, slope.dtype), series.slope
            )
            at_end = defect(by_field, y1, state.coefficients, s, 1.0)
        coefficients = series.stacked()
        behind = 1 - max([0.0, *probe_points(self.probes)])
        y_error = _estimate(at_end, behind, errors, kind, coefficients, unit, K)
        dense_info = dict(coefficients=state.coefficients, unit=state.unit)
        next_state = TaylorState(coefficients, t1, unit, steps, rest)
        return y1, y_error, dense_info, next_state, _result(y1)

    def _evaluate(self, state: TaylorState, s: RealScalarLike):
        """Evaluates the state at `s`, and the rest of it beyond its last digit."""
        leaves, treedef = jtu.tree_flatten(state.coefficients)
        if not self.compensated:
            y1 = [evaluate(list(c), s) for c in leaves]
            return jtu.tree_unflatten(treedef, y1), None
        rests = jtu.tree_leaves(state.rest)
        both = [evaluate_compensated(list(c), s, r) for c, r in zip(leaves, rests)]
        y1, rest = zip(*both) if both else ((), ())
        return jtu.tree_unflatten(treedef, y1), jtu.tree_unflatten(treedef, rest)

    def func(
        self, terms: diffrax.AbstractTerm, t0: RealScalarLike, y0: Y, args: Args
    ) -> Y:
        return terms.vf(t0, y0, args)


def _replaced(
    terms: diffrax.AbstractTerm,
    t0: RealScalarLike,
    t1: RealScalarLike,
    unit: Array,
    args: Args,
    foreign: Array,
    made: tuple[PyTree[Array], PyTree[Array], Array],
) -> tuple[PyTree[Array], PyTree[Array], Array]:
    """Returns `made`: the series of a step in this unit of time, with the errors that
    are known of it, and its kind. If it is `foreign` to the solution it returns the
    polynomial of a Runge--Kutta method, with its estimate of the error."""

    # Reverse mode keeps its arguments, and none of its stages.
    @jax.checkpoint
    def by_runge_kutta(made):
        series, _, of_series = made
        new = runge_kutta_step(terms, t0, t1, unit, series, args)
        has_slope = _finite(jtu.tree_map(lambda c: c[1], series))
        kind = jnp.where(has_slope, BY_RUNGE_KUTTA, WITHOUT_SLOPE)
        return jtu.tree_map(
            lambda new, old: jnp.where(foreign, new, old),
            (*new, kind.astype(of_series.dtype)),
            made,
        )

    return jax.lax.cond(
        eqxi.unvmap_any(foreign), by_runge_kutta, lambda made: made, made
    )


@jax.named_scope("defect")
def _estimate(
    at_end: Defect,
    behind: float,
    errors: PyTree[Array],
    kind: Array,
    coefficients: PyTree[Array],
    unit: Array,
    order: int,
) -> PyTree[ErrorEstimate]:
    """Makes the error of a step, where `errors` is that of a Runge--Kutta step, or what
    was noticed inside of it; with the coefficients of the series at its end. `behind`
    is the part of the step that is behind the last point inside."""
    leaves, treedef = jtu.tree_flatten(coefficients)
    # Behind the last point inside it is another field than that of the series. What
    # that leaves is at most the defect over this part of the step, as after a jump.
    replaced = kind != OF_SERIES
    broken = at_end.is_foreign() & ~replaced
    kind = jnp.where(broken, jnp.asarray(BROKEN_AT_END, kind.dtype), kind)

    def of_leaf(c, error, at_end, size):
        by_defect = jnp.maximum(error, at_end)
        by_defect = jnp.where(broken, jnp.maximum(by_defect, behind * size), by_defect)
        last = jnp.where(jnp.isfinite(c[-2:]), c[-2:], 0)
        return ErrorEstimate(jnp.where(replaced, error, by_defect), last, unit, kind)

    estimates = map(
        of_leaf,
        leaves,
        treedef.flatten_up_to(errors),
        at_end.errors(order),
        at_end.sizes,
    )
    return jtu.tree_unflatten(treedef, estimates)


def _finite(y: PyTree[Array]) -> Array:
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jtu.tree_leaves(y)]
    return ft.reduce(jnp.logical_and, finite, jnp.array(True))


def _result(y: PyTree[Array]) -> diffrax.RESULTS:
    """The result of a solve, which is no success if the state has an entry that is not
    finite."""
    return diffrax.RESULTS.where(_finite(y), diffrax.RESULTS.successful, NOT_FINITE)


def _choose_order(order: Any, rtol: Any, atol: Any) -> int:
    if rtol is None and atol is None:
        return 5 if order is None else check_order("TaylorSolver", order)
    if order is not None:
        raise ValueError(
            "TaylorSolver: give `order`, or `rtol` and `atol` to choose it by, but not "
            f"both; got order={order!r}, rtol={rtol!r}, atol={atol!r}."
        )
    if isinstance(rtol, Tracer) or isinstance(atol, Tracer):
        raise TypeError(
            "TaylorSolver: `rtol` and `atol` must be known before tracing, as the "
            f"order is chosen by them; got rtol={rtol!r}, atol={atol!r}."
        )
    rtol, atol = rtol or 0.0, atol or 0.0
    check_tolerances("TaylorSolver", rtol, atol)
    return max(2, math.ceil(1 - math.log(float(rtol + atol)) / 2))
