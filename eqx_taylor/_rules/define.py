"""The kinds of rules. The other files of this folder declare the kind of each
primitive."""

import functools as ft
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from .._core.checked_rule import checked_step, is_own
from .._core.decisions import has_kink
from .._core.jax import is_differentiable, name_of_call, trace, vary, varying_axes
from .._core.protocols import JaxprEqn
from .._core.recurrence import output, outputs
from .._core.rule import Read, register, Target
from .._core.series import CONSTANT, Series
from .._core.terms import scale, Term
from .._core.walk import Walk


# A function from the series of an output and of the operands to the function that
# computes coefficient `k`.
Equation = Callable[..., Callable[[int], Term]]


def define_recurrence(*targets: Target) -> Callable[[Equation], Equation]:
    """Returns a decorator that declares the recurrence of targets.

    The decorated function takes the series of the output, and one series for each
    operand. It returns a function from the order `k`, which is at least 1, to
    coefficient `k` of the output. This may use coefficients up to `k` of the operands,
    and up to `k - 1` of the output. Coefficient 0 is the primitive's own value.
    Coefficients are normalised: coefficient `k` is the derivative of order `k`, divided
    by `k!`. `None` means that a coefficient is known to be zero.

    The output must be an analytic function of all operands. For a target that has
    several outputs, or is not analytic, use [`eqx_taylor.rules.register`][].

    **Arguments:**

    - `targets`: one or more targets. A target is a `jax.extend.core.Primitive`, the
        name of one, or a function with a `jax.custom_jvp` whose `defjvp` has been
        called.

    **Returns:**

    The decorator, which returns the function unchanged. The rule applies to everything
    that is traced afterwards.

    **Raises:**

    `TypeError` if a target is none of these. `ValueError` if the `defjvp` of a function
    has not been called, or if no primitive has the name.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def sqrt(x):
        ...     return jnp.sqrt(x)
        >>> @sqrt.defjvp
        ... def _(primals, tangents):
        ...     (x,), (dx,) = primals, tangents
        ...     return sqrt(x), dx / (2 * sqrt(x))
        >>> @rules.define_recurrence(sqrt)
        ... def recurrence(y, x):  # y y = x, solved for y_k
        ...     def step(k):
        ...         rest = rules.sub(x[k], rules.convolve_square(y, k, first=1))
        ...         return rules.over(rest, 2 * y[0])
        ...     return step
        >>> y, derivatives = filter_jet(sqrt, (4.0,), ([1.0, None, None],))
        >>> print(y, *derivatives)
        2.0 0.25 -0.03125 0.01171875
        ```
    """

    def decorator(equation: Equation) -> Equation:
        @register(*targets)
        def rule(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
            support = walk.analytic_support(inputs)
            y = output(eqn, inputs, support, lambda k: step(k))
            step = applied(equation, eqn, y, *inputs)
            if not callable(step):
                raise TypeError(
                    f"rules: the recurrence for `{name_of_call(eqn)}` must return a "
                    "function from the order to the coefficient; it returned "
                    f"{step!r}. End it with `return step`."
                )
            if not is_own(equation):
                step = checked_step(equation, eqn, y.aval, step)
            return [y]

        return equation

    return decorator


def define_rewrite(target: Target, fun: Callable[..., Any]) -> None:
    """Declares that the series of a target is that of another JAX expression.

    Coefficient 0 is still the primitive's own value.

    **Arguments:**

    - `target`: a `jax.extend.core.Primitive`, the name of one, or a function with a
        `jax.custom_jvp` whose `defjvp` has been called.
    - `fun`: a function of the operands and, as keyword arguments, of the primitive's
        parameters (a function with a `jax.custom_jvp` has none). It returns one array.

    **Returns:**

    `None`. The rule applies to everything that is traced afterwards.

    **Raises:**

    `TypeError` if the target is none of these. `ValueError` if the `defjvp` of a
    function has not been called, or if no primitive has the name.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def cube(x):
        ...     return x**3
        >>> @cube.defjvp
        ... def _(primals, tangents):
        ...     (x,), (dx,) = primals, tangents
        ...     return cube(x), 3 * x**2 * dx
        >>> rules.define_rewrite(cube, lambda x: x * x * x)
        >>> y, derivatives = filter_jet(cube, (2.0,), ([1.0, None, None, None],))
        >>> print(y, *derivatives)
        8.0 12.0 12.0 6.0 0.0
        ```
    """

    @register(target, kind="rewrite")
    def rule(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        params = eqn.params if eqn.primitive.name != "custom_jvp_call" else {}
        return [rewritten(walk, eqn, inputs, ft.partial(fun, **params))]


def rewritten(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], fun: Callable[..., Any]
) -> Series:
    others = read(walk, ft.partial(applied, fun, eqn), inputs)
    _check_values(eqn, "another expression", others, [eqn.outvars[0].aval])
    [other] = others
    return output(eqn, inputs, other.support | CONSTANT, lambda k: other[k])


def define_derivative(target: Target, fun: Callable[..., Any]) -> None:
    """Declares the differential equation of a target: `y' = fun(y, x..., x'...)`.

    Coefficient `k` of `y` is coefficient `k - 1` of the right-hand side, divided by `k`
    (coefficients are normalised by the factorial). Expressions that the right-hand side
    has in common with the rest of the program are computed once. Without such a
    declaration, the JVP of a target is used in the same way. So declare a derivative if
    it is faster or more accurate than the JVP.

    **Arguments:**

    - `target`: a `jax.extend.core.Primitive`, the name of one, or a function with a
        `jax.custom_jvp` whose `defjvp` has been called.
    - `fun`: a JAX function of the outputs, the operands, and the derivatives of the
        operands, in this order. It returns the derivative of the output, or a tuple of
        the derivatives of all outputs.

    **Returns:**

    `None`. The rule applies to everything that is traced afterwards.

    **Raises:**

    `TypeError` if the target is none of these. `ValueError` if the `defjvp` of a
    function has not been called, or if no primitive has the name.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def exp(x):
        ...     return jnp.exp(x)
        >>> @exp.defjvp
        ... def _(primals, tangents):
        ...     (x,), (dx,) = primals, tangents
        ...     return exp(x), exp(x) * dx
        >>> rules.define_derivative(exp, lambda y, x, dx: y * dx)
        >>> y, derivatives = filter_jet(exp, (0.0,), ([2.0, None, None],))
        >>> print(y, *derivatives)
        1.0 2.0 4.0 8.0
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    register(target, kind="differential equation")(derivative_rule(fun))


def derivative_rule(fun: Callable[..., Any]) -> Read:
    """Makes the rule of a target with this derivative."""

    def rule(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        def slope(inner: Walk) -> list[Series]:
            slopes = [series.derivative for series in inputs]
            given = [*outs, *inputs, *slopes]
            found = read(inner, ft.partial(applied, fun, eqn), given)
            moving = [v.aval for v in eqn.outvars if is_differentiable(v.aval)]
            _check_values(eqn, "its derivative", found, moving)
            return found

        outs = integrals(walk, eqn, inputs, slope)
        return outs

    return rule


def integrals(
    walk: Walk,
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    slope: Callable[[Walk], list[Series]],
) -> list[Series]:
    """Makes the outputs `y` of `eqn` from the equation `y' = g`: `y_k = g_{k-1} / k`.

    `slope` reads `g` (for each differentiable output) in a walk of its own; `g_k` may
    depend on `y_0` to `y_k`.
    """
    kept = [i for i, var in enumerate(eqn.outvars) if is_differentiable(var.aval)]
    axes = [varying_axes(eqn.outvars[i].aval) for i in kept]

    @ft.cache
    def right_hand_side():
        # The decisions of a formula avoid singularities, and are made at the point. The
        # decisions in a user's derivative, and in those of primitives with a kink,
        # belong to the function, and are made ahead.
        name = eqn.primitive.name
        decides_ahead = name == "custom_jvp_call" or has_kink(name)
        inner = walk.definition_walk(outs[0].key, decides_ahead)
        with walk.outside():
            g = slope(inner)
        for series in g:
            series.storage.uses += 1
        return inner, g

    def compute(k):
        inner, g = right_hand_side()
        inner.advance(k - 1)
        terms: list[Term] = [None] * len(eqn.outvars)
        for i, g_i, varies in zip(kept, g, axes):
            term = scale(g_i[k - 1], 1 / k)
            # The derivative of a product of no factors is the same on all devices.
            terms[i] = None if term is None else vary(term, varies)
        return terms

    outs = outputs(eqn, inputs, walk.analytic_support(inputs), compute)
    return outs


def applied(fun: Callable[..., Any], eqn: JaxprEqn, *args: Any) -> Any:
    """Calls `fun(*args)`. If `fun` does not accept this number of arguments, the error
    says which arguments it must have."""
    try:
        return fun(*args)
    except TypeError as e:
        try:
            inspect.signature(fun).bind(*args)
        except TypeError:
            name = name_of_call(eqn)
            raise TypeError(
                f"rules: the function {fun!r} was given for `{name}`, and cannot be "
                f"called with {len(args)} arguments. They are the outputs, the "
                "operands and their derivatives, as far as its kind of rule has them: "
                f"`{name}` has {len(eqn.outvars)} output(s) and {len(eqn.invars)} "
                "operand(s) here. Arrays that a function closes over are not counted."
            ) from e
        raise


def _check_values(
    eqn: JaxprEqn, what: str, found: Sequence[Series], wanted: Sequence[Any]
):
    """Raises if the results of a user's function do not have the types of the
    outputs."""
    kinds, types = (
        [(x.shape, x.dtype) for x in avals]
        for avals in ([series.aval for series in found], wanted)
    )
    if kinds != types:
        shown, right = (
            ", ".join(f"{dtype}{list(shape)}" for shape, dtype in some) or "nothing"
            for some in (kinds, types)
        )
        raise ValueError(
            f"rules: the function declared for `{name_of_call(eqn)}` as {what} returns "
            f"{shown}, and must return {right}: one array for each differentiable "
            "output, of its shape and dtype."
        )


def read(walk: Walk, fun: Callable[..., Any], inputs: Sequence[Series]) -> list[Series]:
    """Reads a JAX expression of one value, or of a tuple of values. Its decisions avoid
    singularities, and are therefore made at the point itself."""

    def as_list(*args):
        out = fun(*args)
        return list(out) if isinstance(out, tuple) else [out]

    jaxpr = trace(as_list, *[series.aval for series in inputs])
    return walk.deciding_here().interpret(jaxpr, inputs)
