"""Solves as one call of machine code, chosen by an adjoint of Diffrax."""

import dataclasses
import warnings
from typing import Any, NoReturn

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

from .._core.check import describe
from .._core.reverse_only import reverse_only
from .._ode.adjoint_backward import filled, is_save_state
from .._ode.adjoint_loop import together
from .._ode.replay_adjoint import ReplayAdjoint
from .atoms import NotNative
from .served import outputs_of, read_solve, RESULTS, Served


class NativeAdjoint(diffrax.AbstractAdjoint):
    """Compiles the whole loop over the steps of a solve to machine code, by LLVM, which
    XLA calls as one function.

    `diffrax.diffeqsolve(..., adjoint=NativeAdjoint())` with
    [`eqx_taylor.TaylorSolver`][] and [`eqx_taylor.TaylorController`][] returns the same
    solution as without it, to the tolerances, and takes less time to compile and to
    run. It needs `pip install "eqx_taylor[native]"`. It works inside `jax.jit`. Under
    `jax.vmap` each solve has its own steps; on a CPU the solves share the vector
    instructions and all cores, and on an NVIDIA GPU each is made by one thread. The
    latter was checked by compiling it for GPUs and by interpreting its instructions,
    and has not yet run on a GPU.

    The vector field has to consist of smooth operations on scalars: elementwise
    functions, powers, sums, products of matrices, convolutions, solutions of small
    systems of equations, `softmax` and `logsumexp`, operations that move entries, loops
    of known length. What depends on `args` alone, and not on the time or the state, is
    computed by XLA before the solve, and may be anything, of any dtype: `args` may have
    integers, booleans and keys of random numbers, and branches and indices may depend
    on them. The state and the time need one dtype, float64 or float32, and so does
    whatever of the arguments meets them. Other solves run in XLA, and a warning gives
    the reason: other primitives, or kinks in the field; events; other solvers, norms
    and controllers; `dtmin`; resumed solves; a `SaveAt` with several `ts`, or with `ts`
    and `steps`.

    Exponents may depend on `args` or on the state. If the base is zero, which has a
    series for the exponents 0, 1, 2, ... only, these are served up to 63. For others
    the solve ends with `diffrax.RESULTS.nonfinite`, and so it does for an exponent that
    depends on the state while the base is not positive.

    The steps are those of the solver and the controller, with two differences. The
    defect is checked at the ends of steps, and not at the solver's `probes` inside of
    them. So a solve that starts where derivatives are infinite ends with
    `diffrax.RESULTS.nonfinite`, instead of going on by a Runge--Kutta method. And the
    first step is as long as the solver's own series allows.

    Gradients are those of `otherwise`: a solve that is differentiated runs in XLA, from
    its beginning.

    Machine code is cached on disk by the content of the program, in the folder
    `eqx_taylor` of `XDG_CACHE_HOME` or of `~/.cache`. The environment variable
    `EQX_TAYLOR_CACHE_DIR` names another folder; if it is empty, nothing is cached.

    **Arguments:**

    - `otherwise`: an adjoint of Diffrax, which computes gradients, and makes the solves
        that cannot be compiled. By default [`eqx_taylor.ReplayAdjoint`][].

    **Raises:**

    `TypeError` if `otherwise` is not an adjoint, and if a solve is differentiated in
    forward mode.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import NativeAdjoint, taylor_method
        >>> solver, controller = taylor_method(rtol=1e-6, atol=1e-6)
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: -y),
        ...     solver,
        ...     t0=0.0,
        ...     t1=3.0,
        ...     dt0=None,
        ...     y0=jnp.array(1.0),
        ...     stepsize_controller=controller,
        ...     adjoint=NativeAdjoint(),
        ... )
        >>> print(jnp.abs(solution.ys[0] - jnp.exp(-3.0)) < 1e-6)
        True

        ```
    """

    otherwise: diffrax.AbstractAdjoint = ReplayAdjoint()

    def __check_init__(self) -> None:
        if not isinstance(self.otherwise, diffrax.AbstractAdjoint):
            raise TypeError(
                "NativeAdjoint: `otherwise` must be an adjoint of Diffrax; got "
                f"{describe(self.otherwise)}."
            )

    def loop(self, **kwargs: Any) -> Any:
        try:
            served = read_solve(**kwargs)
        except NotNative as e:
            warnings.warn(
                f"NativeAdjoint: {e}. The solve runs in XLA, by `otherwise`.",
                stacklevel=2,
            )
            return self.otherwise.loop(**kwargs)
        # Closed over by nothing: it is an input of what is differentiated.
        kwargs = {**kwargs, "terms": served.terms, "saveat": served.saveat}
        inputs = reverse_only(kwargs, _no_forward_mode)
        outputs = _solved(inputs, served, self.otherwise)
        return _final_state(kwargs["init_state"], outputs), {}


@eqx.filter_custom_vjp
def _solved(kwargs: Any, served: Served, otherwise: Any) -> Any:
    del otherwise
    return together(served.run(kwargs), kwargs)


@_solved.def_fwd
def _forward(perturbed: Any, kwargs: Any, served: Served, otherwise: Any) -> Any:
    del perturbed, served
    arrays, static = eqx.partition(kwargs, eqx.is_inexact_array)

    def run(arrays):
        state, _ = otherwise.loop(**eqx.combine(arrays, static))
        return outputs_of(state)

    outputs, pull_back = eqx.filter_vjp(run, arrays)
    return together(outputs, kwargs), (pull_back, outputs)


@_solved.def_bwd
def _backward(residuals: Any, grad: Any, *args: Any) -> Any:
    del args
    pull_back, outputs = residuals
    outputs = eqx.filter(outputs, eqx.is_inexact_array)
    [bar] = pull_back(filled(grad, outputs))
    return bar


def _no_forward_mode() -> NoReturn:
    raise TypeError(
        "NativeAdjoint: it has no forward mode. Use `adjoint=diffrax.ForwardMode()`, "
        "which solves in XLA."
    )


def _final_state(init_state: Any, outputs: Any) -> Any:
    """Diffrax's `State` after the last step."""
    index = iter(outputs.saved)
    save_state = jtu.tree_map(
        lambda old: dataclasses.replace(old, **next(index)._asdict()),
        init_state.save_state,
        is_leaf=is_save_state,
    )
    result: Any = RESULTS[0]
    for number, other in enumerate(RESULTS):
        result = diffrax.RESULTS.where(outputs.result == number, other, result)
    return dataclasses.replace(
        init_state,
        y=outputs.y,
        tprev=outputs.t,
        tnext=outputs.t,
        result=result,
        num_steps=outputs.steps,
        num_accepted_steps=outputs.accepted,
        num_rejected_steps=outputs.steps - outputs.accepted,
        save_state=save_state,
        dense_ts=outputs.dense_ts,
        dense_infos=outputs.dense_infos,
        dense_save_index=None
        if outputs.dense_ts is None
        else outputs.accepted.astype(jnp.int32),
    )
