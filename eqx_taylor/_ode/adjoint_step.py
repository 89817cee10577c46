"""The steps that `ReplayAdjoint` recomputes: those of `TaylorSolver`, of explicit
Runge--Kutta methods, and of every other solver.

A recomputed step is a function of its record. Its results are those with which the
solve continued, and those from which values are saved.
"""

import functools as ft
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._core.custom_types import Args, RealScalarLike, Y
from .error_estimate import BY_RUNGE_KUTTA, is_estimate
from .ode_jet import solution_series, usable
from .runge_kutta import runge_kutta_step
from .solver import TaylorSolver
from .step import evaluate_state
from .transposed_series import series_with_transpose


class Step(NamedTuple):
    """A step, as it was recorded.

    **Fields:**

    - `start`, `end`: the times.
    - `y`: the state at its start.
    - `carried`: the differentiated part of what the solver carries from step to step.
    - `note`: what else is needed to recompute the step.
    """

    start: RealScalarLike
    end: RealScalarLike
    y: Y
    carried: PyTree[Array]
    note: PyTree[Array]


class Pass(NamedTuple):
    """A pass of Diffrax's loop, as it was recorded.

    **Fields:**

    - `accepted`: whether the step was accepted.
    - `step`: the step.
    - `saved`: for each `diffrax.SubSaveAt`, the number of its times before the step.
    """

    accepted: Array
    step: Step
    saved: list[Array]


class Made(NamedTuple):
    """The results of a step: the state at its end, what the solver carries, and the
    inexact arrays of Diffrax's `dense_info`."""

    y: Y
    carried: PyTree[Array]
    dense_info: PyTree[Array]


# A way to make a step: a function of terms, `args` and the recorded step.
Remake = Callable[[diffrax.AbstractTerm, Args, Step], Made]


class _AsItIs(eqx.Module):
    """The base of classes for solvers whose state is recorded unchanged, and that make
    all steps in one way."""

    solver: eqx.AbstractVar[Any]

    @property
    def recording(self) -> Any:
        # The solve itself is not differentiated in reverse mode. This kind of loop over
        # stages has forward mode.
        return _with_scan(self.solver)

    def recorded_state(self, solver_state: PyTree) -> PyTree:
        return solver_state

    def solver_state(self, recorded: PyTree) -> PyTree:
        return recorded

    def way(self, note: PyTree[Array]) -> Array | int:
        """Returns the index of the way in which a step was made."""
        del note
        return 0


class AnySolver(_AsItIs):
    """The steps of any solver of Diffrax, which are recomputed by its method `step`.

    What it carries from step to step, such as a slope or a second state, is recorded,
    too, and is differentiated as it is in the solve.
    """

    solver: Any

    # The results of a solve that have no derivative.
    constant: ClassVar[tuple[str, ...]] = ("controller_state",)

    def carried(self, state: Any) -> PyTree[Array]:
        return eqx.filter(state.solver_state, eqx.is_inexact_array)

    def recorded(self, before: Any, after: Any) -> Step:
        del after
        rest = eqx.filter(before.solver_state, eqx.is_inexact_array, inverse=True)
        note = eqx.filter(rest, eqx.is_array), jnp.asarray(before.made_jump)
        carried = self.carried(before)
        return Step(before.tprev, before.tnext, before.y, carried, note)

    def ways(self, solver_state: PyTree, may_jump: bool) -> list[Remake]:
        solver = self.solver
        static = eqx.filter(solver_state, eqx.is_array, inverse=True)

        def remake(terms, args, step):
            rest, made_jump = step.note
            state = eqx.combine(step.carried, rest, static)
            y, _, dense_info, state, _ = solver.step(
                terms,
                step.start,
                step.end,
                step.y,
                args,
                state,
                made_jump if may_jump else False,
            )
            carried = eqx.filter(state, eqx.is_inexact_array)
            return Made(y, carried, dense_info)

        return [remake]


class OfRungeKutta(_AsItIs):
    """The steps of an explicit Runge--Kutta method of Diffrax, which are recomputed
    with their stages one after the other.

    The method's own `step` has a loop over stages, which takes longer to differentiate
    and to run. The slope that it carries from step to step is computed again. It is
    that of the last stage, which XLA removes if it is not needed.
    """

    solver: Any

    # The slope in `solver_state` follows from the state.
    constant: ClassVar[tuple[str, ...]] = ("solver_state", "controller_state")

    def carried(self, state: Any) -> PyTree[Array]:
        del state
        return None

    def recorded(self, before: Any, after: Any) -> Step:
        del after
        return Step(before.tprev, before.tnext, before.y, None, None)

    def ways(self, solver_state: PyTree, may_jump: bool) -> list[Remake]:
        del solver_state, may_jump
        tableau = self.solver.tableau

        def remake(terms, args, step):
            start, end, y0 = step.start, step.end, step.y
            control = terms.contr(start, end)
            slopes = [terms.vf_prod(start, y0, args, control)]
            y = y0
            for weights, node in zip(tableau.a_lower, tableau.c):
                t = end if node == 1 else start + float(node) * (end - start)
                y = _combined(y0, weights, slopes)
                slopes.append(terms.vf_prod(t, y, args, control))
            y1 = y if tableau.ssal else _combined(y0, tableau.b_sol, slopes)
            stacked = jtu.tree_map(lambda *k: jnp.stack(k), *slopes)
            return Made(y1, None, dict(y0=y0, y1=y1, k=stacked))

        return [remake]


def _combined(y0: Y, weights: Any, slopes: list[Y]) -> Y:
    used = [(float(w), k) for w, k in zip(weights, slopes) if w != 0]
    numbers, slopes = [w for w, _ in used], [k for _, k in used]

    def combine(y, *slopes):
        terms = [jnp.asarray(w, y.dtype) * k for w, k in zip(numbers, slopes)]
        return y + ft.reduce(jnp.add, terms)

    return jtu.tree_map(combine, y0, *slopes) if used else y0


class OfTaylor(eqx.Module):
    """The steps of `TaylorSolver`. Each is recomputed from one series, as a function of
    its start, its end, the state and `args` alone. A step that was made by a
    Runge--Kutta method is recomputed by this method."""

    solver: TaylorSolver

    # The series in `solver_state` follows from the state.
    constant: ClassVar[tuple[str, ...]] = ("solver_state", "controller_state")

    @property
    def recording(self) -> Any:
        return _Noting(self.solver)

    def recorded_state(self, solver_state: PyTree) -> PyTree:
        unit = jnp.zeros_like(solver_state.unit)
        return _Noted(solver_state, unit, jnp.array(False))

    def solver_state(self, recorded: PyTree) -> PyTree:
        return recorded.state

    def carried(self, state: Any) -> PyTree[Array]:
        del state
        return None

    def recorded(self, before: Any, after: Any) -> Step:
        noted = after.solver_state
        note = noted.unit, noted.by_runge_kutta if self.solver.probes else None
        return Step(before.tprev, before.tnext, before.y, None, note)

    def ways(self, solver_state: PyTree, may_jump: bool) -> list[Remake]:
        del solver_state, may_jump
        solver, order = self.solver, self.solver.taylor_order

        def by_series(terms, args, step):
            unit, _ = step.note
            start, y = step.start, step.y
            series = series_with_transpose(
                terms, start, unit, y, args, order, "TaylorSolver", solver.unroll
            )
            if not solver.probes:
                series = usable(series)
            return made(step, series, unit)

        def by_runge_kutta(terms, args, step):
            unit, _ = step.note
            start, y = step.start, step.y
            # The Runge--Kutta step uses only the slope of the series, on the side of a
            # jump into which the solution goes.
            series = solution_series(terms, start, unit, y, args, 1).stacked()
            series = jtu.tree_map(
                lambda c: jnp.concatenate(
                    [c, jnp.zeros((order - 1, *c.shape[1:]), c.dtype)]
                ),
                series,
            )
            series, _ = runge_kutta_step(terms, start, step.end, unit, series, args)
            return made(step, series, unit)

        def made(step, series, unit):
            y, _ = evaluate_state(series, (step.end - step.start) / unit, None)
            return Made(y, None, dict(coefficients=series, unit=unit))

        return [by_series, by_runge_kutta] if solver.probes else [by_series]

    def way(self, note: PyTree[Array]) -> Array | int:
        _, by_runge_kutta = note
        return by_runge_kutta.astype(int) if self.solver.probes else 0


Steps = AnySolver | OfRungeKutta | OfTaylor


def steps_of(solver: Any) -> Steps:
    # Not `isinstance` alone: a Diffrax wrapper of a solver counts as an instance of the
    # class of that solver.
    if type(solver) is TaylorSolver:
        return OfTaylor(solver)
    if isinstance(solver, diffrax.AbstractERK):
        makes_steps = next(c for c in type(solver).__mro__ if "step" in vars(c))
        is_plain = isinstance(solver.tableau, diffrax.ButcherTableau)
        if makes_steps is diffrax.AbstractRungeKutta and is_plain:
            return OfRungeKutta(solver)
    return AnySolver(solver)


class _Noted(eqx.Module):
    """The state of `TaylorSolver`, with the unit of the series from which the last step
    was made, and whether a Runge--Kutta method made it instead."""

    state: Any
    unit: Array
    by_runge_kutta: Array


class _Noting(diffrax.AbstractAdaptiveSolver[_Noted]):
    """`TaylorSolver`, with a state that notes how the last step was made."""

    solver: TaylorSolver

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore
        return self.solver.interpolation_cls

    def order(self, terms):
        return self.solver.order(terms)

    def error_order(self, terms):
        return self.solver.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        raise NotImplementedError

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, y_error, dense_info, state, result = self.solver.step(
            terms, t0, t1, y0, args, solver_state.state, made_jump
        )
        estimates = jtu.tree_leaves(y_error, is_leaf=is_estimate)
        kinds = [estimate.kind for estimate in estimates[:1]]
        other = kinds[0] >= BY_RUNGE_KUTTA if kinds else jnp.array(False)
        noted = _Noted(state, dense_info["unit"], other)
        return y1, y_error, dense_info, noted, result

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)


def _with_scan(solver: Any) -> Any:
    if isinstance(solver, diffrax.AbstractRungeKutta | diffrax.AbstractSRK):
        if solver.scan_kind is None:
            return eqx.tree_at(
                lambda s: s.scan_kind, solver, "lax", is_leaf=lambda x: x is None
            )
    return solver
