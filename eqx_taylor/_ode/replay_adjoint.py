"""An adjoint that records the steps of a solve, and recomputes them in reverse."""

import dataclasses
import functools as ft
from typing import Any, NoReturn

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .._core.check import check_integer
from .._core.reverse_only import reverse_only
from .adjoint_loop import (
    Functions,
    Inputs,
    is_sub,
    recorded,
    replayed_loop,
    Saved,
    Times,
)
from .adjoint_step import Steps, steps_of


def _no_forward_mode() -> NoReturn:
    raise TypeError(
        "ReplayAdjoint: it has no forward mode. Use `adjoint=diffrax.ForwardMode()`, "
        "or `adjoint=diffrax.DirectAdjoint()`, which has both modes."
    )


def _check_checkpoint_every(n: Any) -> int:
    return check_integer("ReplayAdjoint", "checkpoint_every", n, 1)


class ReplayAdjoint(diffrax.AbstractAdjoint):
    """Differentiates a solve by recording its steps, and by recomputing them one by one
    in reverse order.

    The solve itself is the same as with every other adjoint. For each accepted step the
    adjoint records the state at its start, and the times of its start and end. The
    reverse pass recomputes the step from these, with the same vector field and `args`,
    and differentiates it. It recomputes nothing else: no rejected steps, no choice of
    step sizes, and no checkpoints. So the gradients equal those of
    `diffrax.DirectAdjoint` up to rounding, and always belong to exactly the steps that
    were taken.

    With [`eqx_taylor.TaylorSolver`][] it compiles and runs faster than Diffrax's
    default adjoint. For each step it computes one series, instead of one at each end
    together with the error estimate and the step size. If the vector field has no
    decisions, loops or matrix factorisations, that series is differentiated by its
    transposed recurrence. With explicit Runge--Kutta methods it also runs faster. Every
    other solver of Diffrax works, too.

    It needs memory for `max_steps` states. If that is too much, `checkpoint_every=n`
    keeps only the state at the start of every `n`-th step, and recomputes those in
    between. This needs memory for `max_steps / n + n` states, and one more series for
    each step. If the number of steps has no bound, use
    `diffrax.RecursiveCheckpointAdjoint`.

    A solve is differentiated with respect to `y0`, `args`, terms and what they close
    over, `t0`, `t1`, the times of `SaveAt(ts=...)`, and the times to which
    `diffrax.ClipStepSizeController` and `diffrax.StepTo` step. The lengths of all other
    steps are constants, as with Diffrax's adaptive step size controllers; so are `dt0`
    and the tolerances. Every `diffrax.SaveAt` works, and so do dense output and events.
    There is no forward mode: use `diffrax.ForwardMode`. Forward mode over its gradients
    works, as in `jax.hessian`. Reverse mode over them does not: use
    `diffrax.DirectAdjoint`.

    A resumed solve of a `TaylorSolver` is differentiated with respect to the state from
    which it resumes. Its `solver_state`, which follows from that state, is a constant.

    **Arguments:**

    - `checkpoint_every`: the number of steps, rejected ones included, from one state
        that is kept to the next; an integer of at least 1. About the square root of
        `max_steps` needs the least memory.

    **Raises:**

    `ValueError`, when the solve is traced, for `max_steps=None` and for a
    `diffrax.UnsafeBrownianPath`. `TypeError` if a solve is differentiated in forward
    mode, and `RuntimeError` if a gradient is differentiated in reverse mode.
    `TypeError` or `ValueError` if `checkpoint_every` is not an integer of at least 1.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import ReplayAdjoint, TaylorController, TaylorSolver
        >>> def end(rate):
        ...     solution = diffrax.diffeqsolve(
        ...         diffrax.ODETerm(lambda t, y, rate: -rate * y),
        ...         TaylorSolver(rtol=1e-6, atol=1e-6),
        ...         t0=0.0,
        ...         t1=1.0,
        ...         dt0=None,
        ...         y0=jnp.array(1.0),
        ...         args=rate,
        ...         stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
        ...         adjoint=ReplayAdjoint(),
        ...         max_steps=64,
        ...     )
        ...     return solution.ys[0]
        >>> # The derivative of exp(-rate) at 0.5.
        >>> print(round(float(jax.grad(end)(0.5)), 4))
        -0.6065

        ```
    """

    checkpoint_every: int = eqx.field(
        default=1, static=True, converter=_check_checkpoint_every
    )

    def loop(
        self,
        *,
        args: Any,
        terms: Any,
        solver: Any,
        stepsize_controller: Any,
        event: Any,
        saveat: Any,
        t0: Any,
        t1: Any,
        dt0: Any,
        max_steps: Any,
        throw: Any,
        init_state: Any,
        passed_solver_state: Any,
        passed_controller_state: Any,
        progress_meter: Any,
    ) -> Any:
        del throw, passed_solver_state, passed_controller_state
        _check(terms, max_steps)
        steps, every = steps_of(solver), self.checkpoint_every
        subs = jtu.tree_leaves(saveat.subs, is_leaf=is_sub)
        solver_state = steps.recorded_state(init_state.solver_state)
        init_state = dataclasses.replace(init_state, solver_state=solver_state)

        def outer(cond_fun, body_fun, init_state, *, max_steps, buffers):
            # Arrays that the loop closes over, such as arguments and arrays that the
            # vector field closes over, are made arguments of the differentiated
            # functions.
            init_state = jtu.tree_map(jnp.asarray, init_state)
            jumps = []
            run = recorded(steps, cond_fun, body_fun, max_steps, buffers, jumps, every)
            run = eqx.filter_closure_convert(run, init_state)
            functions = _functions(
                steps, subs, solver, terms, args, init_state, any(jumps)
            )
            ts = [sub.ts for sub in subs]
            times = Times(jnp.asarray(t1), _named(stepsize_controller), ts)
            inputs = Inputs(init_state, functions, times, run)
            inputs = reverse_only(
                jtu.tree_map(_without_tangent, inputs), _no_forward_mode
            )
            state = replayed_loop(inputs, steps, every)

            def untouched(sub, new, old):
                # Results that are saved only before or after the loop do not go through
                # it.
                return new if sub.steps or sub.ts is not None else old

            save_state = jtu.tree_map(
                untouched,
                saveat.subs,
                state.save_state,
                init_state.save_state,
                is_leaf=is_sub,
            )
            return dataclasses.replace(state, save_state=save_state)

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
        state = dataclasses.replace(state, solver_state=solver_state)
        return state, stats


def _functions(
    steps: Steps,
    subs: list[diffrax.SubSaveAt],
    solver: Any,
    terms: Any,
    args: Any,
    state: Any,
    may_jump: bool,
) -> Functions:
    """Returns the functions that are differentiated. Their steps are like one from
    `state`."""
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
    """Returns the times to which a step size controller was told to step."""
    if isinstance(controller, diffrax.StepTo):
        return [controller.ts]
    named = []
    while isinstance(controller, diffrax.ClipStepSizeController):
        named += [controller.step_ts, controller.jump_ts]
        controller = controller.controller
    return [ts for ts in named if ts is not None]


def _check(terms: Any, max_steps: int | None) -> None:
    if max_steps is None:
        raise ValueError(
            "ReplayAdjoint: all steps are recorded, in memory for `max_steps` of them, "
            "but `max_steps=None` is no bound. Pass an integer, or use "
            "`adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=...)`."
        )
    if any(
        isinstance(x, diffrax.UnsafeBrownianPath)
        for x in jtu.tree_leaves(terms, is_leaf=_is_path)
    ):
        raise ValueError(
            "ReplayAdjoint: a `diffrax.UnsafeBrownianPath` cannot be evaluated twice, "
            "as steps are recomputed. Use a `diffrax.VirtualBrownianTree`, or "
            "`adjoint=diffrax.ForwardMode()`."
        )


def _without_tangent(x: Any) -> Any:
    """Removes the tangent of an integer or boolean array. JAX gives it one if it is
    returned by a branch or a loop together with floats that have one."""
    if eqx.is_array(x) and not jnp.issubdtype(x.dtype, jnp.inexact):
        if not jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return jax.lax.bitwise_or(x, x)
    return x


def _is_path(x: Any) -> bool:
    return isinstance(x, diffrax.UnsafeBrownianPath)
