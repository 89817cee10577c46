"""Rules: declarations about a primitive or a function, as data.

A rule says how an equation is read as series. It also has a few facts that the
interpreter, the collapsed mode and the documentation's page on primitives need.
"""

import difflib
import enum
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
from jax.extend.core import Primitive

from .checked_rule import checked, is_own
from .jax import custom_jvp_rule, primitive_names
from .protocols import JaxprEqn


# A function that reads an equation: `read(walk, eqn, inputs)` returns a series for each
# output. (This file cannot import the types of walks and series.)
Read = Callable[[Any, JaxprEqn, Sequence[Any]], list[Any]]
# The target of a rule: a primitive, the name of one, or a function with a `custom_jvp`.
# (The type is `Any`, as the message of `rule_key` is better than that of beartype.)
Target = Any


class Cost(enum.Enum):
    """The cost of a coefficient of an equation's outputs."""

    # It costs nothing: the coefficient is a view of the operand's.
    VIEW = enum.auto()
    # It costs next to nothing: coefficient `k` needs only coefficient `k` of the
    # operands, and XLA fuses it with its uses.
    FUSED = enum.auto()
    # It takes products with all lower orders, or more.
    WORK = enum.auto()
    # As `WORK`, and coefficient 0 takes longer to compute than to load from memory.
    SLOW = enum.auto()


@dataclass(frozen=True)
class Rule:
    """The facts that are declared about a target.

    **Fields:**

    - `read`: the function that reads an equation.
    - `kind`: how its coefficients are computed, in a few words. The documentation's
        page on primitives explains each kind.
    - `linear`: the operands in which the target is jointly linear; or a function of an
        equation that returns them.
    - `factors`: two operands, in each of which the target is linear.
    - `cost`: the cost of a coefficient; or a function of the operands' series that
        returns it.
    - `is_kink`: whether the slope jumps at some point.
    """

    read: Read
    kind: str = "recurrence"
    linear: slice | Callable[[JaxprEqn], slice] | None = None
    factors: tuple[int, int] | None = None
    cost: Cost | Callable[[Sequence[Any]], Cost] = Cost.WORK
    is_kink: bool = False

    def cost_of(self, inputs: Sequence[Any]) -> Cost:
        return self.cost if isinstance(self.cost, Cost) else self.cost(inputs)


# The rules of primitives by their names, so that a primitive that some version of JAX
# lacks does not break the import of the package; and the rules of functions with a
# `custom_jvp`, which share one primitive, by their `defjvp`.
RULES: dict[Hashable, Rule] = {}
# The name under which the rule for all other primitives is registered.
OTHERWISE = "otherwise"


def otherwise(walk: Any, eqn: JaxprEqn, inputs: Sequence[Any]):
    """Reads an equation as if its primitive had no rule: by its derivative."""
    return RULES[OTHERWISE].read(walk, eqn, inputs)


# Whether names must be those of existing primitives. The package itself registers names
# that only some versions of JAX have, and sets this afterwards.
checks_names = False


def _check_name(name: str) -> None:
    if not checks_names or name in RULES or name in (names := primitive_names()):
        return
    close = difflib.get_close_matches(name, sorted(names), n=3)
    similar = f"; there are: {', '.join(close)}" if close else ""
    raise ValueError(
        f"rules: the target '{name}' is not the name of any primitive that has been "
        f"imported{similar}. Import the module that defines it first, or pass the "
        "primitive itself. If only some versions of a library have it, register "
        "the rule for these."
    )


def rule_key(target: Target) -> Hashable:
    """Returns the key of a primitive or function in the table of rules."""
    if isinstance(target, str):
        _check_name(target)
        return target
    if isinstance(target, Primitive):
        return target.name
    if not isinstance(target, jax.custom_jvp):
        raise TypeError(
            "rules: a target must be a primitive (`jax.extend.core.Primitive`), the "
            "name of one, or a function with a `jax.custom_jvp`; got "
            f"{target!r}."
        )
    if target.jvp is None:
        raise ValueError(
            f"rules: the target {target!r} has no derivative yet: call its `defjvp` "
            "first. Its calls are recognised by this derivative."
        )
    return target.jvp


def target_key(eqn: JaxprEqn) -> Hashable:
    """Returns the key of the target of an equation in the table of rules."""
    if eqn.primitive.name == "custom_jvp_call":
        return custom_jvp_rule(eqn)[0]
    return eqn.primitive.name


def register(*targets: Target, **facts: Any) -> Callable[[Read], Read]:
    """Returns a decorator that registers a rule for primitives or functions.

    A rule is a function `rule(walk, eqn, inputs)`. Its arguments are the
    [`eqx_taylor.rules.Walk`][], the equation of the jaxpr, and a list with one
    [`eqx_taylor.rules.Series`][] for each operand. It returns a list with one series
    for each output. Coefficients are normalised: coefficient `k` is the derivative of
    order `k`, divided by `k!`.

    **Arguments:**

    - `targets`: one or more targets. A target is a `jax.extend.core.Primitive`, the
        name of one, or a function with a `jax.custom_jvp` whose `defjvp` has been
        called.
    - `facts`: further facts about the target, as keyword arguments. `linear` is the
        slice of the operands in which the target is jointly linear, or a function of
        the equation that returns the slice. `factors` are the positions of two
        operands, in each of which the target is linear while the other is constant.
        With these, operators that sum over directions, such as
        [`eqx_taylor.laplacian`][], apply the target to the sum, and not in each
        direction. (`kind`, `cost` and `is_kink` are for the package's own rules.)

    **Returns:**

    The decorator, which returns the rule unchanged. The rule applies to everything that
    is traced afterwards, and replaces any earlier rule of the target.

    **Raises:**

    `TypeError` if a target is none of these, for an unknown keyword, and for facts or
    rules of a wrong type. `ValueError` if the `defjvp` of a function has not been
    called, or if no primitive has the name.

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
        >>> @rules.register(sqrt)
        ... def rule(walk, eqn, inputs):
        ...     [x] = inputs
        ...     def compute(k):  # y y = x, solved for y_k
        ...         if k == 0:
        ...             return rules.bind(eqn, [x[0]])[0]
        ...         rest = rules.sub(x[k], rules.convolve_square(y, k, first=1))
        ...         return None if rest is None else rest / (2 * y[0])
        ...     support = walk.analytic_support(inputs)
        ...     y = rules.Series(eqn.outvars[0].aval, support, compute)
        ...     return [y]
        >>> y, derivatives = filter_jet(sqrt, (4.0,), ([1.0, None, None],))
        >>> print(y, *derivatives)
        2.0 0.25 -0.03125 0.01171875
        ```
    """
    keys = [rule_key(target) for target in targets]
    known = [field.name for field in fields(Rule) if field.name != "read"]
    if unknown := sorted(facts.keys() - known):
        raise TypeError(
            f"rules.register: there is no fact `{unknown[0]}` to declare about a "
            f"target; there are: {', '.join(known)}."
        )

    linear, factors = facts.get("linear"), facts.get("factors")
    if not (linear is None or isinstance(linear, slice) or callable(linear)):
        raise TypeError(
            "rules.register: `linear` must be a slice of the operands, or a function "
            f"of the equation that returns one; got {linear!r}."
        )
    if not (factors is None or isinstance(factors, tuple) and len(factors) == 2):
        raise TypeError(
            "rules.register: `factors` must be the places of two operands, such as "
            f"(0, 1); got {factors!r}."
        )

    def decorator(rule: Any) -> Any:  # Not `Read`: the message below is better.
        if not callable(rule):
            raise TypeError(
                "rules.register: a rule must be a function of the walk, the equation "
                f"and the operands' series; got {rule!r}."
            )
        read: Any = rule if is_own(rule) else checked(rule)
        RULES.update(dict.fromkeys(keys, Rule(read, **facts)))
        return rule

    return decorator


def with_cost(cost: Cost, *names: str) -> None:
    """Sets the cost of the coefficients of primitives that have rules."""
    for name in names:
        RULES[name] = replace(RULES[name], cost=cost)
