"""Which solves machine code makes, and how their inputs and outputs look there."""

import dataclasses
import functools as ft
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optimistix
from jax.core import Tracer
from jaxtyping import Array

from .._core.jax import evaluate, trace, varying_axes
from .._ode.adjoint_backward import save_states
from .._ode.adjoint_loop import is_sub
from .._ode.ode_jet import increment
from .._ode.solver import TaylorSolver
from .._ode.step_size_controller import TaylorController
from .atoms import NotNative


class Saved(NamedTuple):
    """What one `diffrax.SubSaveAt` has saved."""

    ts: Array
    ys: Any


# By the numbers of `layout`, from 0.
RESULTS: tuple[Any, ...] = (
    diffrax.RESULTS.successful,
    diffrax.RESULTS.max_steps_reached,
    diffrax.RESULTS.nonfinite,
    diffrax.RESULTS.dt_min_reached,
)


class Outputs(NamedTuple):
    """What Diffrax's last `State` is made of."""

    y: Any
    t: Array
    result: Array
    steps: Array
    accepted: Array
    saved: list[Saved]
    dense_ts: Array | None
    dense_infos: Any


@dataclasses.dataclass(frozen=True)
class Served:
    """A solve that machine code makes.

    - `terms`, `saveat`: as the solve was given them, but that what they close over is
        in them.
    - `run`: makes the solve.
    """

    terms: Any
    saveat: Any
    run: Callable[[Any], Outputs]


class _OfArrays(eqx.Module):
    """A function whose last argument is `args`, of which it takes the arrays only. The
    rest is known in it: Equinox would compare it, and NaN differs from itself."""

    closed: Callable[..., Any]

    def __call__(self, t: Any, y: Any, args: Any) -> Any:
        return self.closed(t, y, eqx.filter(args, eqx.is_array))


def read_solve(
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
    init_state: Any,
    passed_solver_state: Any,
    passed_controller_state: Any,
    progress_meter: Any,
    throw: Any,
) -> Served:
    """Reads what Diffrax gives to an adjoint. Raises `NotNative` for a solve that
    machine code does not make."""
    del throw
    device = _checked_device()
    _check_method(solver, stepsize_controller, event, terms)
    _check_rest(
        saveat, max_steps, passed_solver_state, passed_controller_state, progress_meter
    )
    y0 = init_state.y
    _check_arrays(t0, y0)
    _check_devices((y0, args, terms, t0, t1, dt0, stepsize_controller, saveat))
    # The vector field, and what is saved, may close over what is differentiated.
    arrays, rest = eqx.partition(args, eqx.is_array)

    def converted(fun):
        def of_arrays(t, y, arrays):
            return fun(t, y, eqx.combine(arrays, rest))

        return _OfArrays(eqx.filter_closure_convert(of_arrays, t0, y0, arrays))

    field = converted(terms.term.vector_field)
    term = dataclasses.replace(terms.term, vector_field=field)
    terms = dataclasses.replace(terms, term=term)

    def closed(sub):
        if sub.fn is diffrax.SubSaveAt(t1=True).fn:
            return sub
        return dataclasses.replace(sub, fn=converted(sub.fn))

    subs = jtu.tree_map(closed, saveat.subs, is_leaf=is_sub)
    saveat = dataclasses.replace(saveat, subs=subs)
    # The program is that of the values that do not depend on what is differentiated.
    program = _read_field(terms.term, t0, y0, args)
    if device.platform != "cpu":
        from .cuda import check_memory

        check_memory(program.program, solver.taylor_order)
    return Served(terms, saveat, ft.partial(_run, program))


def _checked_device() -> Any:
    """The device on which JAX computes if it is told nothing else."""
    if importlib.util.find_spec("llvmlite") is None:
        raise NotNative(
            "llvmlite, which compiles the solve, is not installed: pip install "
            '"eqx_taylor[native]"'
        )
    device: Any = getattr(jax.config, "jax_default_device", None)
    if not hasattr(device, "platform"):  # None, or the name of a platform.
        device = jax.local_devices(backend=device)[0]
    is_cuda = device.platform == "gpu" and "cuda" in device.client.platform_version
    if device.platform != "cpu" and not is_cuda:
        raise NotNative(
            "machine code runs on CPUs and on NVIDIA's GPUs, and the platform is "
            f"{device.platform!r}"
        )
    if sys.maxsize < 2**32 or sys.byteorder != "little":
        raise NotNative("machine code is made for 64-bit little-endian processors")
    if is_cuda:
        from .ptx import check_library

        check_library()
    else:
        from .call import check_interface

        check_interface()
    return device


def _check_method(solver: Any, controller: Any, event: Any, terms: Any) -> None:
    if type(solver) is not TaylorSolver:
        raise NotNative(f"the solver is a {_name(solver)}, and no `TaylorSolver`")
    if type(controller) is not TaylorController:
        raise NotNative(
            f"the step size controller is a {_name(controller)}, and no "
            "`TaylorController`"
        )
    if controller.norm is not optimistix.rms_norm:
        raise NotNative("the controller has a norm of its own")
    if controller.dtmin is not None:
        raise NotNative("the controller has a `dtmin`")
    if event is not None or solver.event is not None:
        raise NotNative("the solve has an event")
    if solver.warn_if_stiff:
        raise NotNative("the solver has `warn_if_stiff=True`")
    term = getattr(terms, "term", None)
    if type(term) is not diffrax.ODETerm:
        raise NotNative(f"the term is a {_name(term or terms)}, and no `ODETerm`")


def _name(x: Any) -> str:
    return type(x).__name__


def _check_rest(
    saveat: Any,
    max_steps: int | None,
    passed_solver_state: bool,
    passed_controller_state: bool,
    progress_meter: Any,
) -> None:
    if passed_solver_state or passed_controller_state:
        raise NotNative("the solve is resumed from a state of the solver")
    if saveat.solver_state or saveat.controller_state or saveat.made_jump:
        raise NotNative("`SaveAt` asks for states of the solver or the controller")
    if type(progress_meter) is not diffrax.NoProgressMeter:
        raise NotNative("the solve has a progress meter")
    subs = jtu.tree_leaves(saveat.subs, is_leaf=is_sub)
    if any(sub.steps and sub.ts is not None for sub in subs):
        raise NotNative("`SaveAt` has `ts` and `steps` together")
    if sum(sub.ts is not None for sub in subs) > 1:
        raise NotNative("`SaveAt` has more than one `ts`")
    if max_steps is not None and max_steps < 1:
        raise NotNative(f"`max_steps` is {max_steps}")


def _check_arrays(t0: Any, y0: Any) -> None:
    leaves = jtu.tree_leaves(y0)
    dtypes = sorted({str(x.dtype) for x in (t0, *leaves)})
    if len(dtypes) > 1 or dtypes[0] not in ("float64", "float32"):
        raise NotNative(
            "the time and the state have to be of one dtype, float64 or float32, and "
            f"have {' and '.join(dtypes)}"
        )
    if sum(x.size for x in leaves) == 0:
        raise NotNative("the state has no entries")


def _check_devices(inputs: Any) -> None:
    arrays = jtu.tree_leaves(eqx.filter(inputs, eqx.is_array))
    if any(varying_axes(jax.typeof(x)) for x in arrays):
        raise NotNative("the solve is inside of a `jax.shard_map`")


def _arrays_of(term: Any, args: Any) -> tuple[list[Array], Any]:
    arrays, static = eqx.partition((term, args), eqx.is_array)
    leaves, treedef = jtu.tree_flatten(arrays)
    return leaves, (treedef, static)


class _Program(NamedTuple):
    """A scalar program, and which arrays are its arguments."""

    program: Any
    used: list[int]


def _read_field(term: Any, t0: Any, y0: Any, args: Any) -> _Program:
    from .scalarise import scalar_program

    leaves, treedef = jtu.tree_flatten(y0)
    arrays, rebuild = _arrays_of(term, args)

    def field(t, *inputs):
        y = jtu.tree_unflatten(treedef, inputs[: len(leaves)])
        term, args = _rebuilt(inputs[len(leaves) :], rebuild)
        return jtu.tree_leaves(increment(term, t, y, args, jnp.ones_like(t)))

    jaxpr = trace(field, t0, *leaves, *arrays)
    known = {var for eqn in jaxpr.jaxpr.eqns for var in eqn.invars if _is_var(var)}
    known.update(var for var in jaxpr.jaxpr.outvars if _is_var(var))
    first = 1 + len(leaves)
    inputs = zip(jaxpr.jaxpr.invars[first:], arrays)
    # (There are no zeros of keys of random numbers.)
    used = [
        i
        for i, (v, x) in enumerate(inputs)
        if _is_traced(x)
        and (v in known or jnp.issubdtype(x.dtype, jax.dtypes.extended))
    ]

    # As for XLA, arrays with values are constants of the program.
    def pruned(*inputs):
        given = dict(zip(used, inputs[first:]))
        rest = [
            given.get(i, jnp.zeros(x.shape, x.dtype) if _is_traced(x) else x)
            for i, x in enumerate(arrays)
        ]
        return evaluate(jaxpr, [*inputs[:first], *rest])

    if len(used) < len(arrays):
        jaxpr = trace(pruned, t0, *leaves, *[arrays[i] for i in used])
    program = scalar_program(jaxpr, len(leaves))
    return _Program(program, used)


def _is_var(atom: Any) -> bool:
    return not hasattr(atom, "val")


def _is_traced(x: Any) -> bool:
    return isinstance(x, Tracer)


def _rebuilt(arrays: Any, rebuild: Any) -> Any:
    treedef, static = rebuild
    return eqx.combine(jtu.tree_unflatten(treedef, list(arrays)), static)


def _run(field: _Program, kwargs: Any) -> Outputs:
    """Makes a solve."""
    from .call import call, Solve

    solver, controller = kwargs["solver"], kwargs["stepsize_controller"]
    init_state, saveat = kwargs["init_state"], kwargs["saveat"]
    terms, args, max_steps = kwargs["terms"], kwargs["args"], kwargs["max_steps"]
    t0, t1, dt0 = kwargs["t0"], kwargs["t1"], kwargs["dt0"]
    y0, dtype = init_state.y, t0.dtype
    subs = jtu.tree_leaves(saveat.subs, is_leaf=is_sub)
    leaves, _ = jtu.tree_flatten(y0)
    arrays, _ = _arrays_of(terms.term, args)
    order, steps = solver.taylor_order, any(sub.steps for sub in subs)
    solve = Solve(
        field.program,
        order,
        solver.compensated,
        -1 if max_steps is None else max_steps,
        order + 1 if saveat.dense else int(steps),
    )
    settings = [
        t0,
        t1,
        terms.direction,
        -1 if dt0 is None else dt0,
        controller.rtol,
        controller.atol,
        jnp.inf if controller.dtmax is None else controller.dtmax,
        controller.safety,
        controller.factormax,
    ]
    settings = jnp.stack([jnp.asarray(x).astype(dtype) for x in settings])
    stop = jax.lax.stop_gradient
    ts = [sub.ts for sub in subs if sub.ts is not None]
    ts = ts[0] if ts else jnp.zeros(0, dtype)
    inputs = (
        _flat(leaves, dtype),
        field.program.givens.arguments([stop(arrays[i]) for i in field.used], dtype),
        settings,
        ts,
    )
    out = call(solve, *map(stop, inputs))
    result, num_steps, accepted, _, saved = out.counts.astype(int)
    y1 = _unflat(out.y1, y0)
    after, dense = None, (None, None)
    if solve.rows:
        rows = out.step_rows.reshape(*out.step_ts.shape, solve.rows, -1)
        if saveat.dense:
            dense = _dense(out.step_ts, rows, accepted, t0, y0, terms.direction)
        # What a step starts from is the end of the one before.
        states = jnp.concatenate([rows[1:, 0], out.y1[None]])
        last = jnp.arange(len(states))[:, None] == accepted - 1
        after = _unflat(jnp.where(last, out.y1[None], states), y0, 1)
    parts = _Parts(t0, y0, out, y1, accepted, saved, after, args, t0 == t1)
    outs = [
        parts.saved_by(sub, old)
        for sub, old in zip(subs, save_states(init_state.save_state))
    ]
    return Outputs(y1, out.t_end, result, num_steps, accepted, outs, *dense)


@dataclasses.dataclass
class _Parts:
    """What is saved is made of these."""

    t0: Any
    y0: Any
    out: Any
    y1: Any
    accepted: Any
    saved: Any
    after: Any
    args: Any
    is_trivial: Any

    def saved_by(self, sub: Any, old: Any) -> Saved:
        def one(t, y):
            return jtu.tree_map(lambda x: x[None], (t, sub.fn(t, y, self.args)))

        save, index = (old.ts, old.ys), 0
        if sub.t0:
            save = _written(save, one(self.t0, self.y0), 0, 1)
            index = 1
        many = jax.vmap(lambda t, y: (t, sub.fn(t, y, self.args)))
        if sub.ts is not None:
            ys = _unflat(self.out.ys, self.y0, 1)
            # Where there is no step, all times are that of the state.
            number = jnp.where(self.is_trivial, len(sub.ts), self.saved)
            ys = jtu.tree_map(
                lambda x, y: jnp.where(self.is_trivial, y[None], x), ys, self.y0
            )
            save = _written(save, many(sub.ts, ys), index, number)
            index = index + number
        missing = 1
        if sub.steps:
            end = slice(sub.steps - 1, None, sub.steps)
            ts, ys = jtu.tree_map(lambda x: x[end], (self.out.step_ts, self.after))
            number = self.accepted // sub.steps
            save = _written(save, many(ts, ys), index, number)
            index = index + number
            # The last state may be saved already.
            missing = jnp.where(self.accepted % sub.steps == 0, 0, 1)
        if sub.t1:
            final = one(self.out.t_end, self.y1)
            save = _written(save, final, index, missing)
        return Saved(*save)


def _written(save: Any, new: Any, index: Any, number: Any) -> Any:
    """Writes the first rows of arrays into others, from a row on."""

    def write(old, new):
        if new.shape[0] == 0:
            return old
        i = jnp.arange(new.shape[0])
        rows = jnp.where(i < number, i + index, old.shape[0])
        return old.at[rows].set(new.astype(old.dtype), mode="drop")

    return jtu.tree_map(write, save, new)


def _dense(
    step_ts: Array, rows: Array, accepted: Array, t0: Array, y0: Any, direction: Array
) -> tuple[Array, Any]:
    made = jnp.arange(len(step_ts)) < accepted
    ts = jnp.concatenate([t0[None], jnp.where(made, step_ts, jnp.inf)])
    # Diffrax's time goes forwards.
    odd = jnp.arange(rows.shape[1])[None, :, None] % 2 == 1
    rows = jnp.where(odd, rows * direction.astype(rows.dtype), rows)
    rows = jnp.where(made[:, None, None], rows, jnp.inf)
    unit = jnp.where(made, 1.0, jnp.inf).astype(t0.dtype)
    return ts, dict(coefficients=_unflat(rows, y0, 2), unit=unit)


def _flat(leaves: list[Array], dtype: Any) -> Array:
    rows = [jnp.ravel(x).astype(dtype) for x in leaves]
    return jnp.concatenate([jnp.zeros(0, dtype), *rows])


def _unflat(x: Array, like: Any, axes: int = 0) -> Any:
    """Parts of the last axis as the leaves of a PyTree, behind so many other axes."""
    leaves, treedef = jtu.tree_flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    outs = [
        x[..., end - leaf.size : end].reshape(*x.shape[:axes], *leaf.shape)
        for end, leaf in zip(ends, leaves)
    ]
    return jtu.tree_unflatten(treedef, outs)


def outputs_of(state: Any) -> Outputs:
    """The same, of the last state of Diffrax's loop."""
    result = jnp.array(0)
    for number, other in enumerate(RESULTS):
        result = jnp.where(state.result == other, number, result)
    saves = save_states(state.save_state)
    accepted = jnp.asarray(state.num_accepted_steps, int)
    return Outputs(
        state.y,
        state.tprev,
        result,
        jnp.asarray(state.num_steps, int),
        accepted,
        [Saved(save.ts, save.ys) for save in saves],
        state.dense_ts,
        state.dense_infos,
    )
