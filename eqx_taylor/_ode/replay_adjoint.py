"""An adjoint that records the steps of a solve, and makes them again."""

import functools as ft
from typing import Any

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax.numpy as jnp
import jax.tree_util as jtu

from .adjoint_loop import Functions, Inputs, recorded, replayed_loop, Saved, Times
from .adjoint_step import AnySolver, OfTaylor, steps_of


class ReplayAdjoint(diffrax.AbstractAdjoint):
    """Gradients of a solve, by its steps: it records those that were accepted, and makes
    each of them again, the last one first.
    """

    def loop(
        self,
        *,
        args,
        terms,
        solver,
        stepsize_controller,
        event,
        saveat,
        t0,
        t1,
        dt0,
        max_steps,
        throw,
        init_state,
        passed_solver_state,
        passed_controller_state,
        progress_meter,
    ) -> Any:
        del throw, passed_solver_state, passed_controller_state
        _check(terms, max_steps)
        steps = steps_of(solver)
        subs = jtu.tree_leaves(saveat.subs, is_leaf=_is_sub)
        solver_state = steps.recorded_state(init_state.solver_state)
        init_state = eqx.tree_at(
            lambda s: s.solver_state, init_state, solver_state, is_leaf=_is_none
        )

        def outer(cond_fun, body_fun, init_state, *, max_steps, buffers):
            # Closed over by what is differentiated: arguments, and what the vector
            # field closes over.
            init_state = jtu.tree_map(jnp.asarray, init_state)
            jumps = []
            run = recorded(steps, cond_fun, body_fun, max_steps, buffers, jumps)
            run = eqx.filter_closure_convert(run, init_state)
            functions = _functions(
                steps, subs, solver, terms, args, init_state, any(jumps)
            )
            ts = [sub.ts for sub in subs]
            times = Times(jnp.asarray(t1), _named(stepsize_controller), ts)
            inputs = Inputs(init_state, functions, times, run)
            return replayed_loop(inputs, steps)

        state, stats = self._loop(
            args=args,
            terms=terms,
            solver=steps.recording,
            stepsize_controller=stepsize_controller,
            event=event,
            saveat=saveat,
            t0=t0,
            t1=t1,
            dt0=dt0,
            max_steps=max_steps,
            init_state=init_state,
            inner_while_loop=ft.partial(eqxi.while_loop, kind="lax"),
            outer_while_loop=outer,
            progress_meter=progress_meter,
        )
        solver_state = steps.solver_state(state.solver_state)
        state = eqx.tree_at(
            lambda s: s.solver_state, state, solver_state, is_leaf=_is_none
        )
        return _only_of(steps, state), stats


def _functions(
    steps: AnySolver | OfTaylor,
    subs: list[diffrax.SubSaveAt],
    solver: Any,
    terms: Any,
    args: Any,
    state: Any,
    may_jump: bool,
) -> Functions:
    """The functions that are differentiated, for a step like one from `state`."""
    convert = eqx.filter_closure_convert
    step = steps.recorded(state, state)
    ways, made = [], None
    for way in steps.ways(state.solver_state, may_jump):
        ways.append(convert(ft.partial(way, terms, args), step))
        made = ways[-1].out_struct
    assert made is not None
    saved = []
    for sub in subs:

        def inside(t, ends, made, fn=sub.fn):
            step = solver.interpolation_cls(t0=ends[0], t1=ends[1], **made)
            return fn(t, step.evaluate(t), args)

        at_end = convert(lambda t, y, fn=sub.fn: fn(t, y, args), state.tprev, state.y)
        ends = state.tprev, state.tnext
        args_inside = state.tprev, ends, made.dense_info
        saved.append(
            Saved(
                sub.steps,
                at_end if sub.steps else None,
                None if sub.ts is None else convert(inside, *args_inside),
            )
        )
    return Functions(ways, saved)


def _named(controller: Any) -> list[Any]:
    """The times that a step size controller was told to step to."""
    if isinstance(controller, diffrax.StepTo):
        return [controller.ts]
    named = []
    while isinstance(controller, diffrax.ClipStepSizeController):
        named += [controller.step_ts, controller.jump_ts]
        controller = controller.controller
    return [ts for ts in named if ts is not None]


def _only_of(steps: AnySolver | OfTaylor, state: Any) -> Any:
    """Raises if what has no derivative is differentiated."""
    return state


def _check(terms: Any, max_steps: int | None) -> None:
    if max_steps is None:
        raise ValueError(
            "ReplayAdjoint: records all steps, and needs a bound of their number, but "
            "`max_steps` is None. Give a number, or use "
            "`diffrax.RecursiveCheckpointAdjoint(checkpoints=...)`."
        )
    if any(
        isinstance(x, diffrax.UnsafeBrownianPath)
        for x in jtu.tree_leaves(terms, is_leaf=_is_path)
    ):
        raise ValueError(
            "ReplayAdjoint: makes steps again, for which a `diffrax.UnsafeBrownianPath` "
            "does not serve. Use a `diffrax.VirtualBrownianTree`, or "
            "`diffrax.ForwardMode()`."
        )


def _is_path(x: Any) -> bool:
    return isinstance(x, diffrax.UnsafeBrownianPath)


def _is_sub(x: Any) -> bool:
    return isinstance(x, diffrax.SubSaveAt)


def _is_none(x: Any) -> bool:
    return x is None
