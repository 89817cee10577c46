"""Rules that were written for `jax.experimental.jet`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._core.checked_rule import check_type
from .._core.jax import name_of_call
from .._core.protocols import JaxprEqn
from .._core.recurrence import outputs
from .._core.rule import register, Target
from .._core.series import Series
from .._core.terms import Term
from .._core.walk import Walk
from .define import applied


def define_jet_rule(target: Target, rule: Callable[..., Any]) -> None:
    """Declares a rule that was written for `jax.experimental.jet`. It replaces
    `jet_rules[primitive] = rule`.

    The rule is called once for each order, with the coefficients up to that order, so a
    jet of order $K$ takes $K$ times the work of the rule. To avoid this, write a
    recurrence for [`eqx_taylor.rules.define_recurrence`][].

    **Arguments:**

    - `target`: a `jax.extend.core.Primitive`, the name of one, or a function with a
        `jax.custom_jvp` whose `defjvp` has been called.
    - `rule`: a function of `primals_in`, a list of the operands, and `series_in`, a
        list with coefficients 1 to `k` of each operand; and, as keyword arguments, of
        the primitive's parameters. It returns `(primal_out, series_out)`, or lists of
        them if the target has several outputs. As in JAX's rules, coefficients are
        normalised: they are derivatives divided by `k!`. An output whose series is not
        a list, such as JAX's `zero_series`, is constant.

    **Returns:**

    `None`. The rule applies to everything that is traced afterwards.

    **Raises:**

    `TypeError` if the target is none of these. `ValueError` if the `defjvp` of a
    function has not been called, or if no primitive has the name. When the rule is
    applied, `ValueError` if its result does not have this form.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def square(x):
        ...     return x * x
        >>> @square.defjvp
        ... def _(primals, tangents):
        ...     (x,), (dx,) = primals, tangents
        ...     return square(x), 2 * x * dx
        >>> def square_rule(primals_in, series_in):
        ...     c = [primals_in[0], *series_in[0]]
        ...     y = [sum(c[j] * c[k - j] for j in range(k + 1)) for k in range(len(c))]
        ...     return y[0], y[1:]
        >>> rules.define_jet_rule(square, square_rule)
        >>> y, derivatives = filter_jet(square, (3.0,), ([1.0, None],))
        >>> print(y, *derivatives)
        9.0 6.0 2.0
        ```
    """

    @register(target)
    def read(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        is_call = eqn.primitive.name == "custom_jvp_call"
        params = {} if is_call else eqn.params
        multiple = len(eqn.outvars) > 1 if is_call else eqn.primitive.multiple_results

        def compute(k: int) -> list[Term]:
            primals = [x.dense(0) for x in inputs]
            series = [[x.dense(j) for j in range(1, k + 1)] for x in inputs]
            out = applied(lambda *given: rule(*given, **params), eqn, primals, series)
            try:
                _, series = out
                found = [_highest(k, x) for x in (series if multiple else [series])]
                named = list(zip(found, eqn.outvars, strict=True))
            except (TypeError, ValueError) as e:
                raise ValueError(
                    f"rules: the jet rule for `{name_of_call(eqn)}` must return a pair "
                    "of the primal output and its coefficients 1 to k, a list, or a "
                    f"list of each; got {out!r} for k = {k}."
                ) from e
            for term, var in named:
                if term is not None:
                    what = f"coefficient {k}"
                    check_type(rule, eqn, what, jax.typeof(term), var.aval)
            return found

        return outputs(eqn, inputs, walk.analytic_support(inputs), compute)


def _highest(k: int, terms: Any) -> Term:
    if not isinstance(terms, list | tuple):
        return None
    if len(terms) != k:
        raise ValueError
    return terms[-1]
