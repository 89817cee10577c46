"""Everything that depends on JAX's version, and nothing else.

The rest of the package uses only this file and JAX's public API. It is tested with JAX
0.10 to 0.12; changes between these are noted at each function.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import numpy as np
from jax._src import core as jax_core, source_info_util
from jax._src.interpreters.partial_eval import dce_jaxpr
from jax._src.literals import TypedNdArray
from jax._src.state.discharge import discharge_state
from jax.core import ShapedArray
from jax.extend.core import Literal as Literal
from jax.interpreters import ad
from jax.ref import AbstractRef
from jax.sharding import NamedSharding, PartitionSpec


# From 0.11 on, `jax.extend.core.ClosedJaxpr is jax.extend.core.Jaxpr`: a single class
# has the attributes of both. In annotations `Jaxpr` means a closed one.


# JAX's own classes, which differ between versions. The rest of the package uses the
# protocols of `protocols.py`.
Jaxpr = Any
JaxprEqn = Any
Aval = Any
OpenJaxpr = Any


def known_size(x: Any) -> float:
    """Returns the number of entries of an array or its type, or infinity if it is
    symbolic, from `jax.export.symbolic_shape`."""
    return float(x.size) if isinstance(x.size, int) else float("inf")


def trace(fun: Callable, *avals: Aval) -> Jaxpr:
    """Traces `fun`, a function from arrays to a list of arrays, to a closed jaxpr."""
    return jax.make_jaxpr(fun)(*avals)


def close(jaxpr: Jaxpr) -> Jaxpr:
    """Closes a jaxpr that may be open (`checkpoint`'s parameter is)."""
    if hasattr(jaxpr, "consts"):
        return jaxpr
    return jex.ClosedJaxpr(jaxpr, ())


def with_constants(jaxpr: Jaxpr, consts: Sequence[Any]) -> Jaxpr:
    """Returns the same program with other constants of the same types."""
    return jex.ClosedJaxpr(jaxpr.jaxpr, list(consts))


def without_references(jaxpr: Jaxpr) -> Jaxpr:
    """Returns the same function, with mutable references that it makes itself
    (`jax.new_ref`) replaced by values that are passed on. Inner jaxprs are left
    unchanged."""
    for eqn in jaxpr.jaxpr.eqns:
        for var in eqn.outvars:
            if isinstance(var.aval, AbstractRef):
                return discharge_state(jaxpr, lower=False)
    return jaxpr


def name_of(jaxpr: Jaxpr) -> str:
    """Returns the name of the function that was traced."""
    info = getattr(close(jaxpr).jaxpr, "debug_info", None)
    return getattr(info, "func_name", "a function")


def primitive_names() -> set[str]:
    """Returns the names of all primitives of the modules that have been imported."""
    tables = ad.primitive_jvps, ad.primitive_transposes
    named = {primitive.name for table in tables for primitive in table}
    # Some primitives have no rules. (`isinstance` would call code of other objects.)
    objects = gc.get_objects()
    return named | {x.name for x in objects if issubclass(type(x), jex.Primitive)}


def is_literal(atom: Any) -> bool:
    return isinstance(atom, jex.Literal)


def is_jaxpr(value: Any) -> bool:
    return isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)


def bind(eqn: JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Applies the primitive of an equation, with its parameters, to other operands.

    The custom rules of the equation, and the context in which it was traced, are kept.

    **Arguments:**

    - `eqn`: an equation of a jaxpr.
    - `args`: the operands, arrays of the shapes and dtypes of `eqn.invars`.

    **Returns:**

    A list of all outputs.

    **Raises:**

    The errors of the primitive for operands that do not fit.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> [eqn] = jax.make_jaxpr(jnp.negative)(1.0).eqns
        >>> print(*rules.bind(eqn, [3.0]))
        -3.0
        ```
    """
    if eqn.primitive.name == "pvary":
        # Some primitives (of sparse matrices) declare a result to be the same on all
        # devices although it is not. Values that vary already must not be cast.
        return [as_type(eqn.outvars[0].aval, args[0])]
    if isinstance(eqn, WithoutConstants):
        args, eqn = [*eqn.constants(), *args], eqn.equation
    with eqn.ctx.manager:
        params = eqn.primitive.get_bind_params(eqn.params)
        out = eqn.primitive.bind(*args, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


class WithoutConstants:
    """An equation without its first operands, for a rule that does not expect them.
    `constants` returns their values, for `bind`."""

    def __init__(self, equation: JaxprEqn, constants: Callable[[], list[Any]]):
        self.equation, self.constants = equation, constants

    @property
    def invars(self) -> list[Any]:
        return self.equation.invars[closed_over(self.equation) :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.equation, name)


def located(eqn: JaxprEqn) -> Any:
    """Returns a context in which equations get the source line of this one, and its
    names (`jax.named_scope`) after the names that they would get anyway."""
    info = eqn.source_info
    names = source_info_util.current_name_stack() + info.name_stack
    return source_info_util.user_context(info.traceback, name_stack=names)


def place_of(eqn: JaxprEqn) -> str:
    """The line of source of an equation, in words."""
    return source_info_util.summarize(eqn.source_info)


def inside_call(eqn: JaxprEqn) -> Any:
    """Returns a context for reading the program of a call as a part of the one around
    it. It gives equations the names that JAX gives them in a call of `jax.jit`."""
    if eqn.primitive.name != "jit":
        return contextlib.nullcontext()
    return jax.named_scope(f"jit({eqn.params['name']})")


def current_place() -> Any:
    """Returns the names and the source line that equations get now."""
    return source_info_util._source_info_context.context


def at_place(place: Any) -> Any:
    """Returns a context in which equations get the names and the source line of
    `place`, which `current_place` has returned."""
    names = place.name_stack
    return source_info_util.user_context(place.traceback, name_stack=names)


def transformation(name: str) -> Any:
    """Returns a context, or a decorator, in which JAX writes `name(scope)` for scopes,
    as for its own transformations."""
    return source_info_util.transform_name_stack(name)


def without_names() -> Any:
    """Returns a context without names, for reading a program within an equation, which
    is traced by itself: JAX puts the names of the equation before the inner ones."""
    return source_info_util.reset_name_stack()


def evaluate(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
    return jex.jaxpr_as_fun(jaxpr)(*args)


def current_trace() -> Any:
    """Returns the trace that records operations now."""
    return jax_core.trace_ctx.trace


def recorded_by(trace: Any) -> Any:
    """Returns a context in which `trace`, one of the enclosing ones, records
    operations."""
    return jax_core.set_current_trace(trace)


# A value that does not exist yet while a program is traced; `evaluate_with` fills it
# in.
_placeholder_p = jex.Primitive("eqx_taylor_placeholder")
_placeholder_p.def_abstract_eval(lambda *, aval, index: aval)


def placeholder(aval: Aval, index: int) -> Any:
    if isinstance(aval, jax.ShapeDtypeStruct):  # Rules may use this as a type.
        aval = jax.make_jaxpr(lambda x: x)(aval).in_avals[0]
    return _placeholder_p.bind(aval=aval, index=index)


def evaluate_with(jaxpr: Jaxpr, values: Sequence[Any]) -> list[Any]:
    """Evaluates a closed jaxpr without inputs, with values for the placeholders."""
    inner = jaxpr.jaxpr
    env: dict[Any, Any] = dict(zip(inner.constvars, jaxpr.consts))

    def read(atom):
        return atom.val if is_literal(atom) else env[atom]

    for eqn in live_equations(jaxpr):
        if eqn.primitive is _placeholder_p:
            env[eqn.outvars[0]] = values[eqn.params["index"]]
            continue
        with located(eqn):
            env.update(zip(eqn.outvars, bind(eqn, [read(x) for x in eqn.invars])))
    return [read(atom) for atom in inner.outvars]


# Earlier CPU compilers drop the barrier before they fuse, so that it only prevents
# their simplifications. Seen in the fusions of 0.10.2, 0.11.0, 0.11.1 and 0.12.
BARRIER_HOLDS = jax.__version_info__ >= (0, 11, 1)


def materialise(x: Any) -> Any:
    """Makes XLA compute an array once and store it, instead of computing it again in
    every fusion that uses it."""
    return jax.lax.optimization_barrier(x) if BARRIER_HOLDS else x


def live_equations(jaxpr: Jaxpr) -> list[Any]:
    """Returns the equations on which the outputs or an effect depend, in order. Dead
    code is removed from programs inside them, too."""
    live, has_programs = _live_equations(jaxpr)
    if has_programs:
        live, _ = _live_equations(without_dead_code(jaxpr))
    return live


def _live_equations(jaxpr: Jaxpr) -> tuple[list[Any], bool]:
    """Returns the equations on which the outputs or an effect depend, and whether some
    of them may contain programs with dead code."""
    wanted = {var for var in jaxpr.jaxpr.outvars if not is_literal(var)}
    live, has_programs = [], False
    for eqn in reversed(jaxpr.jaxpr.eqns):
        if eqn.effects or not wanted.isdisjoint(eqn.outvars):
            if eqn.primitive.name == "while" and not eqn.effects:
                eqn = _pruned_while(eqn, [var in wanted for var in eqn.outvars])
            live.append(eqn)
            # The rule of a `custom_jvp` is a function, which is traced only when it is
            # needed. If all results are used, there is nothing to remove.
            if eqn.primitive.name == "custom_jvp_call":
                has_programs |= not wanted.issuperset(eqn.outvars)
            elif not has_programs:
                has_programs = any(map(_holds_jaxpr, eqn.params.values()))
            for var in eqn.invars:
                if not isinstance(var, jex.Literal):
                    wanted.add(var)
    return live[::-1], has_programs


def _pruned_while(eqn: JaxprEqn, used: list[bool]) -> JaxprEqn:
    """Removes from a loop everything on which its used outputs do not depend. JAX does
    so itself from 0.12 on."""
    cond, of_cond, body, of_body = while_params(eqn)
    carried = [a or b for a, b in zip(used, _pruned(cond, [True])[1][of_cond:])]
    while True:
        _, read = _pruned(body, carried)
        grown = [a or b for a, b in zip(carried, read[of_body:])]
        if grown == carried:
            break
        carried = grown
    new_cond, kept_cond = _pruned(cond, [True], [False] * of_cond + carried)
    new_body, kept_body = _pruned(body, carried, [False] * of_body + carried)
    kept = [*kept_cond[:of_cond], *kept_body[:of_body], *carried]
    if all(kept):
        return eqn
    return eqn.replace(
        invars=[var for var, keep in zip(eqn.invars, kept) if keep],
        outvars=[var for var, keep in zip(eqn.outvars, carried) if keep],
        params=eqn.params
        | dict(
            cond_jaxpr=new_cond,
            body_jaxpr=new_body,
            cond_nconsts=sum(kept_cond[:of_cond]),
            body_nconsts=sum(kept_body[:of_body]),
        ),
    )


def _pruned(
    jaxpr: Jaxpr, used: list[bool], instantiate: bool | list[bool] = False
) -> tuple[Jaxpr, list[bool]]:
    """Reduces a closed jaxpr to what its `used` outputs need, and returns which of its
    inputs stay. Those of `instantiate` stay in any case."""
    inner, of_inputs = dce_jaxpr(jaxpr.jaxpr, used, instantiate=instantiate)
    if not hasattr(inner, "consts"):
        inner = jex.ClosedJaxpr(inner, jaxpr.consts)
    return inner, of_inputs


def _holds_jaxpr(param: Any) -> bool:
    return is_jaxpr(param) or isinstance(param, tuple) and any(map(is_jaxpr, param))


class ScanParams(NamedTuple):
    jaxpr: Jaxpr
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: int | bool


def scan_params(eqn: JaxprEqn) -> ScanParams:
    """Reads `scan`'s parameters; JAX 0.11 replaced two counts by a tree (`ft_in`)."""
    params = eqn.params
    if "ft_in" in params:
        consts, carry, _ = params["ft_in"].update(eqn.invars).unpack()
        num_consts, num_carry = len(list(consts)), len(list(carry))
    else:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    return ScanParams(
        close(params["jaxpr"]),
        num_consts,
        num_carry,
        params["length"],
        params["reverse"],
        params["unroll"],
    )


class WhileParams(NamedTuple):
    cond: Jaxpr
    num_cond_consts: int
    body: Jaxpr
    num_body_consts: int


def while_params(eqn: JaxprEqn) -> WhileParams:
    """Reads the parameters of a `while_loop`. Its operands are the constants of the
    condition, those of the body, and the carry."""
    params = eqn.params
    return WhileParams(
        close(params["cond_jaxpr"]),
        params["cond_nconsts"],
        close(params["body_jaxpr"]),
        params["body_nconsts"],
    )


class LinearSolveParams(NamedTuple):
    matvec: Jaxpr
    num_matvec_consts: int
    num_consts: int


def linear_solve_params(eqn: JaxprEqn) -> LinearSolveParams:
    """Reads the parameters of a `custom_linear_solve`. Its operands are the constants,
    of which those of the product with the matrix come first, and the right-hand
    sides."""
    lengths = eqn.params["const_lengths"]
    return LinearSolveParams(
        close(eqn.params["jaxprs"].matvec), lengths.matvec, sum(lengths)
    )


def shard_map_like(eqn: JaxprEqn) -> Callable[..., Any]:
    """Returns `jax.shard_map` for the mesh and the axes of an equation. Its arguments
    are the function, `in_specs` and `out_specs`."""
    params = eqn.params
    return functools.partial(
        jax.shard_map,
        mesh=params["mesh"],
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )


def custom_jvp_rule(eqn: JaxprEqn) -> tuple[Any, ...]:
    """Returns the function that was passed to `defjvp`, and the values of its
    non-differentiable arguments: these distinguish two rules.

    The equation holds them in several wrappers, which are new in every trace. If a
    version of JAX wraps them differently, the innermost known wrapper is returned. One
    rule then looks like several, which costs time but is never wrong.
    """

    *_, wrapper = _wrappers(eqn)
    return (wrapper.f, *_static_values(getattr(wrapper, "transforms", ())))


def name_of_call(eqn: JaxprEqn) -> str:
    """Returns the name of a primitive, or of a function with a `custom_jvp`."""
    if eqn.primitive.name != "custom_jvp_call":
        return eqn.primitive.name
    return name_of(eqn.params["call_jaxpr"])


def closed_over(eqn: JaxprEqn) -> int:
    """Counts the arrays that a function with a `custom_jvp` closes over. JAX makes them
    the first operands of its call. When the call is applied again, as by `bind`, they
    are ordinary operands, and a wrapper of the rule has their number."""
    if eqn.primitive.name != "custom_jvp_call":
        return 0
    lifted = 0
    for wrapper in _wrappers(eqn):
        code = getattr(wrapper.f, "__code__", None)
        names = code.co_freevars if code is not None else ()
        if "num_consts" in names:
            lifted += _cells(wrapper.f)[names.index("num_consts")]
    return eqn.params.get("num_consts", 0) + lifted


def _wrappers(eqn: JaxprEqn) -> list[Any]:
    """Returns the wrappers of the rule of a `custom_jvp`, from the outside inwards."""
    found = [eqn.params["jvp_jaxpr_fun"]]
    while len(inner := _wrapped_by(found[-1])) == 1:
        found += inner
    return found


def _wrapped_by(wrapper: Any) -> list[Any]:
    near = _cells(wrapper.f)
    far = [x for f in near if not _is_wrapper(f) for x in _cells(f)]
    return [x for x in near + far if _is_wrapper(x)]


def _is_wrapper(x: Any) -> bool:
    return hasattr(x, "call_wrapped") and hasattr(x, "f")


def _static_values(x: Any) -> list[Any]:
    if isinstance(x, tuple | list):
        return [value for item in x for value in _static_values(item)]
    return [x.val] if hasattr(x, "val") else []


def without_pruning(eqn: JaxprEqn) -> tuple[JaxprEqn, list[int]]:
    """Returns the call of a function with a `custom_jvp` as the user wrote it, and the
    positions of the equation's results among those of that call.

    When JAX eliminates dead code, it wraps the function's rule and removes unused
    results, which a rule registered for the function does not expect. (If a version of
    JAX wraps the rule differently, the equation is returned unchanged.)
    """
    places = list(range(len(eqn.outvars)))
    while True:
        near = _cells(eqn.params["jvp_jaxpr_fun"].f)
        held = [x for f in near for x in _cells(f)]
        wrapped = [x for x in held if isinstance(x, jex.JaxprEqn)]
        masks = [x for x in held if isinstance(x, list | tuple)]
        if len(wrapped) != 1 or len(masks) != 1:
            return eqn, places
        [inner], [mask] = wrapped, masks
        if inner.primitive is not eqn.primitive or len(mask) != len(inner.outvars):
            return eqn, places
        kept = [i for i, used in enumerate(mask) if used]
        eqn, places = inner, [kept[i] for i in places]


def _cells(fun: Any) -> list[Any]:
    """Returns the objects that a Python function closes over."""
    return [cell.cell_contents for cell in getattr(fun, "__closure__", None) or ()]


def as_weak_as(aval: Aval, x: Any) -> Any:
    """Gives `x` the weak type of `aval`, for type promotion."""
    if jax.typeof(x).weak_type == aval.weak_type:
        return x
    return jax.lax.convert_element_type_p.bind(
        x, new_dtype=aval.dtype, weak_type=aval.weak_type, sharding=None
    )


def filled(aval: Aval, value: Any = 0) -> Any:
    """Returns the array of this type whose entries are all `value`.

    A type is more than a shape and a dtype. An array that is made from these two alone
    is the same on all devices, and JAX refuses it where an array that is divided among
    devices is expected: the equations of a jaxpr, the carry of a loop, and the results
    of branches have the types with which they were traced. This array also has

    - the axes of a `jax.shard_map` over which arrays of this type vary,
    - the sharding, on a mesh whose axes are explicit.
    """
    array = jax.lax.full(
        aval.shape, value, aval.dtype, sharding=explicit_sharding(aval)
    )
    return vary(array, varying_axes(aval))


def as_type(aval: Aval, x: Any) -> Any:
    """Converts `x` to an array that can be used where one of type `aval` is expected
    (or several of them, stacked along axes in front). It gets the same sharding, and
    varies over the axes of a `jax.shard_map` over which arrays of this type vary."""
    sharding = explicit_sharding(aval)
    if sharding is not None:
        front = [None] * (x.ndim - len(aval.shape))
        spec = PartitionSpec(*front, *sharding.spec)
        if jax.typeof(x).sharding.spec != spec:
            x = jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))
    axes = varying_axes(aval)
    return vary(x, axes) if axes else x


def explicit_sharding(aval: Aval) -> Any:
    """Returns the sharding if it is a part of the type, on a mesh whose axes are
    explicit."""
    sharding = getattr(aval, "sharding", None)
    spec = tuple(getattr(sharding, "spec", ()))
    return sharding if spec.count(None) < len(spec) else None


def stacked_type(aval: Aval, count: int) -> Aval:
    """Returns the type of `count` arrays of this type, stacked along a first axis."""
    return _reshaped(aval, (count, *aval.shape), lambda spec: (None, *spec))


def unstacked_type(aval: Aval) -> Aval:
    """Returns the type of the arrays that are stacked along the first axis."""
    return _reshaped(aval, aval.shape[1:], lambda spec: spec[1:])


def _reshaped(aval: Aval, shape: tuple[Any, ...], respec: Callable) -> Aval:
    sharding = explicit_sharding(aval)
    if sharding is None:
        return aval.update(shape=shape)
    spec = PartitionSpec(*respec(tuple(sharding.spec)))
    return aval.update(shape=shape, sharding=NamedSharding(sharding.mesh, spec))


def all_varying(arrays: Sequence[Any]) -> list[Any]:
    """Makes each of the arrays vary over all axes that any of them varies over."""
    axes = joint_axes(map(jax.typeof, arrays))
    return [vary(x, axes) for x in arrays] if axes else list(arrays)


def vary(x: Any, axes: frozenset[str]) -> Any:
    """Makes `x` vary over these axes of a `jax.shard_map`, too."""
    if not axes:
        return x
    missing = axes - varying_axes(jax.typeof(x))
    return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x


def joint_axes(avals: Iterable[Aval]) -> frozenset[str]:
    return frozenset[str]().union(*map(varying_axes, avals))


def varying_axes(aval: Aval) -> frozenset[str]:
    """Returns the axes of a `jax.shard_map` over which an array of this type may differ
    from device to device."""
    # The attribute was `vma` before it became a part of `mat`, whose full name a
    # `ShapeDtypeStruct` uses. Types of other classes have none of these.
    for name in ("mat", "manual_axis_type"):
        if (kind := getattr(aval, name, None)) is not None:
            return kind.varying
    return getattr(aval, "vma", None) or frozenset()


def is_differentiable(aval: Aval) -> bool:
    """Returns whether values of this type are differentiable: whether their dtype has a
    tangent."""
    return jex.primal_dtype_to_tangent_dtype(aval.dtype) != jax.dtypes.float0


def can_move(eqn: JaxprEqn) -> bool:
    """Returns whether any output of an equation is differentiable."""
    return any(is_differentiable(var.aval) for var in eqn.outvars)


def without_dead_code(jaxpr: Jaxpr) -> Jaxpr:
    """Removes dead code from a function, and from its loops, branches and calls. All of
    its arguments stay."""
    return _pruned(jaxpr, [True] * len(jaxpr.jaxpr.outvars), True)[0]


def with_body(jaxpr: Jaxpr, replaced: Callable[[Jaxpr], Jaxpr]) -> Jaxpr:
    """Applies `replaced` to a jaxpr that is the parameter of an equation. The result is
    open or closed, like the jaxpr. If it would hold another number of constants, which
    not all equations allow, the jaxpr is returned unchanged."""
    new = replaced(close(jaxpr))
    held = len(getattr(jaxpr, "consts", ()))
    if len(new.consts) != held:
        return jaxpr
    return new if hasattr(jaxpr, "consts") else new.jaxpr


def number_like(aval: Aval, x: Any) -> Any:
    """Makes a scalar that becomes a literal, with the dtype and weak type of `aval`."""
    kind = ShapedArray((), aval.dtype, weak_type=aval.weak_type)
    return TypedNdArray(np.asarray(x, aval.dtype), kind)
