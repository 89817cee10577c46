"""A jaxpr is read as a set of recurrences: one walk, and whoever asks drives it.

`Walk.interpret` goes through the equations of a jaxpr and makes a `Series` of every
value, by the rule that is registered for the equation's primitive. A rule says how to
compute coefficient `k`; when that happens follows from what is known:

- where all inputs of an equation are known (a jet), all its coefficients are computed
  at once, equation after equation ("equation-major");
- what depends on a series under construction (the solution of an ODE, a primitive
  whose rule is its own derivative) is put on the walk's tape, and `Walk.advance(k)`
  computes coefficient `k` of all of it ("order-major").

A memo finds equations that were met before with the same inputs. It is common
subexpression elimination, it shares pairs like sine and cosine, and it is what makes a
primitive whose derivative calls the primitive a recurrence and not a regress.
"""

import functools as ft
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive

from .decisions import decisions, Found, is_alarm, is_kink, is_step
from .jax import (
    bind,
    closed_over,
    custom_jvp_rule,
    is_differentiable,
    is_literal,
    live_equations,
    located,
    without_pruning,
    without_references,
    WithoutConstants,
)
from .memo import constant_key, equation_key
from .series import (
    analytic_support,
    constant,
    mask,
    reading,
    Series,
    Support,
    Tentative,
    unknown,
)
from .terms import Term


Jaxpr = Any
JaxprEqn = Any
Rule = Callable[["Walk", JaxprEqn, Sequence[Series]], list[Series]]
# What a rule is for: a primitive, or its name, or a function with a `custom_jvp`. (Not
# written as a type: `rule_key` has the better message for all others.)
Target = Any

# Primitives that cost nothing to compute again wherever they are used.
FUSED: set[Hashable] = set()
# Those of them that compute nothing: their result is but another look at the operand.
VIEWS: set[str] = set()
# Functions of numbers that take longer than to load one from memory.
SLOW: set[str] = set()
# Calls, which are read as a part of the program around them.
INLINED: set[str] = set()
# By name, so that a primitive that some version of JAX lacks never breaks an import; of
# functions with a `custom_jvp`, which are all one primitive, by their `defjvp`.
RULES: dict[Hashable, Rule] = {}


class Declared(NamedTuple):
    """What is declared of a target, for whoever reads programs: the rules themselves,
    and the collapsed mode."""

    # Which operands it is linear in, together: a slice, or what finds it out from an
    # equation.
    linear: slice | Callable[[JaxprEqn], slice] | None = None
    # Two operands, in each of which it is linear.
    factors: tuple[int, int] | None = None


# By the keys of `RULES`. Another rule for the same target takes it back.
DECLARED: dict[Hashable, Declared] = {}
# The name under which the rule for all other primitives is registered.
OTHERWISE = "otherwise"


def rule_key(target: Target) -> Hashable:
    """Under which the rule of a primitive or function is kept."""
    if isinstance(target, str):
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
            "first, by which its calls are recognised."
        )
    return target.jvp


def register(*targets: Target) -> Callable[[Rule], Rule]:
    """A decorator, which registers a rule for primitives or functions.

    A rule is a function `rule(walk, eqn, inputs)` of the
    [`eqx_taylor.rules.Walk`][], of the equation of the jaxpr, and of one
    [`eqx_taylor.rules.Series`][] for each operand. It returns a list of one series for
    each output. Coefficients are normalised: coefficient `k` is the derivative of order
    `k` over `k!`.

    **Arguments:**

    - `targets`: one or several; a `jax.extend.core.Primitive`, or the name of one, or a
        function with a `jax.custom_jvp` whose `defjvp` has been called.

    **Returns:**

    The decorator, which returns the rule as it is. The rule holds for all that is
    traced from then on.

    **Raises:**

    `TypeError` for a target that is none of these; `ValueError` for a function whose
    `defjvp` has not been called.

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

    def decorator(rule: Rule) -> Rule:
        for target in targets:
            RULES[rule_key(target)] = rule
            DECLARED.pop(rule_key(target), None)
        return rule

    return decorator


def declare(*targets: Target, **facts: Any) -> None:
    """Declares facts (see `Declared`) of targets whose rules have been registered."""
    DECLARED.update(dict.fromkeys(map(rule_key, targets), Declared(**facts)))


class History:
    """Coefficients of inner values that outlive a trace.

    The body of a loop is traced anew for each order. What it computed at lower orders
    comes in as `stored`, what it computes now goes out as `fresh`; both are flat
    dictionaries of arrays, stacked by the loop over its iterations. It is a cache: what
    is not found is computed again.
    """

    def __init__(self, stored: dict[str, Any], prefix: str = "", fresh=None):
        self.stored = stored
        self.fresh: dict[str, Any] = {} if fresh is None else fresh
        self.prefix = prefix

    def cached(self, key: str, compute: Callable[[int], Term]):
        def cached_compute(k):
            name = f"{self.prefix}{key}:{k}"
            if name in self.stored:
                return self.stored[name]
            term = compute(k)
            if term is not None:
                self.fresh[name] = term
            return term

        return cached_compute

    def forget(self, key: str, k: int) -> None:
        self.fresh.pop(f"{self.prefix}{key}:{k}", None)

    def inner(self, key: str) -> dict[str, Any]:
        """What was filed below `key`, by a loop inside this loop's body."""
        start = f"{self.prefix}{key}/"
        found = {**self.stored, **self.fresh}
        return {k[len(start) :]: v for k, v in found.items() if k.startswith(start)}

    def file(self, key: str, entries: dict[str, Any]) -> None:
        for name, value in entries.items():
            self.fresh[f"{self.prefix}{key}/{name}"] = value


def order_of_entry(name: str) -> int:
    """The order of the coefficient that a history holds under this name."""
    return int(name.rpartition(":")[2])


class Walk:
    """One reading of a program on series of some order. A rule is given it.

    Only `order` and `analytic_support` are for rules; all else is the interpreter's.

    **Arguments:**

    - `order`: the highest order $K$ that is asked for. (In a loop coefficients may be
        asked for one by one.)

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import rules
        >>> walk = rules.Walk(order=6)
        >>> walk.order
        6
        >>> # The square of a series with orders 0 and 2 has the even orders.
        >>> aval = jax.ShapeDtypeStruct((), jnp.float32)
        >>> terms = {0: jnp.array(1.0), 2: jnp.array(3.0)}
        >>> x = rules.Series(aval, 0b101, terms.get)
        >>> bin(walk.analytic_support([x]))
        '0b1010101'
        ```
    """

    # What is known is computed up to order `stop`; every decision is the same for all
    # values of it.

    def __init__(
        self,
        order: int,
        *,
        stop: int | None = None,
        history: History | None = None,
        eager: bool = True,
        abstract: bool = False,
        effects: bool = True,
    ):
        self.order = order
        self.stop = order if stop is None else stop
        self.history = history
        # Whether equations with known inputs are computed at once.
        self.eager = eager and not abstract
        # Whether only types and supports are asked for: nothing is emitted.
        self.abstract = abstract
        # Whether prints and callbacks happen: once, not again at each order.
        self.effects = effects and not abstract
        # Functions (`params_key`) that are taken for linear, to see if they can be.
        self.supposed_linear: frozenset[Hashable] = frozenset()
        # Whether decisions are made ahead of the point, where series look ahead; or at
        # the point, in formulas of rules, which avoid by them what is singular there.
        self.decides_ahead = True
        self.tape: list[Series] = []
        # What was found out about the jaxprs within, for all the walks that read them.
        self.facts: dict[Hashable, tuple[Any, Any]] = {}
        # The series, and what has to stay alive for the key to be valid.
        self._memo: dict[Hashable, tuple[list[Series], Any]] = {}
        self._here = ""
        self._counts: dict[str, int] = {}

    def inside(self, key: str, decides_ahead: bool = True) -> "Walk":
        """A walk of a program that defines a series of this walk: nothing is known
        before it is asked for, but what is met here is shared with it."""
        walk = Walk(self.order, history=self.history, eager=False, effects=False)
        walk.abstract, walk.supposed_linear = self.abstract, self.supposed_linear
        walk.facts, walk._memo = self.facts, self._memo
        walk._here = f"{key}'"
        walk.decides_ahead = self.decides_ahead and decides_ahead
        return walk

    def within(
        self, stop: int, history: History | None = None, effects: bool = True
    ) -> "Walk":
        """A walk of the body of a loop, a branch or a call: a program of its own, whose
        inputs are known up to order `stop`."""
        effects = effects and self.effects
        walk = Walk(self.order, stop=stop, history=history, effects=effects)
        walk.facts = self.facts
        walk.decides_ahead = self.decides_ahead
        return walk

    def output_supports(
        self, jaxpr: Jaxpr, supports: Sequence[Support]
    ) -> list[Support]:
        """The supports of a jaxpr's outputs. Emits nothing."""

        def find_out():
            variables = jaxpr.jaxpr.invars
            inputs = [unknown(var.aval, s) for var, s in zip(variables, supports)]
            walk = Walk(self.order, abstract=True)
            walk.facts, walk.supposed_linear = self.facts, self.supposed_linear
            outputs = walk.interpret(jaxpr, inputs)
            return [series.support & mask(self.order) for series in outputs]

        key = ("supports", tuple(supports), self.order, self.supposed_linear)
        return self.fact(key, jaxpr.jaxpr, find_out)

    def fact(self, key: Hashable, about: Any, find_out: Callable[[], Any]) -> Any:
        """What `find_out()` returns, asked once about each object."""
        key = (key, id(about))
        if key not in self.facts:
            self.facts[key] = (find_out(), about)
        return self.facts[key][0]

    # -- reading

    def interpret(self, jaxpr: Jaxpr, inputs: Sequence[Series]) -> list[Series]:
        """The series of a closed jaxpr's outputs."""
        jaxpr = without_references(jaxpr)
        inner = jaxpr.jaxpr
        env: dict[Any, Series] = {}
        for var, value in zip(inner.constvars, jaxpr.consts):
            env[var] = self._shared_constant(var.aval, value)
        env.update(zip(inner.invars, inputs))

        def read(atom) -> Series:
            if is_literal(atom):
                return self._shared_constant(atom.aval, atom.val)
            return env[atom]

        prefix = self._here
        here = self._new_name()
        live = self.fact("live", inner, lambda: live_equations(jaxpr))
        for index, eqn in enumerate(live):
            self._here = f"{here}.{index}."
            with located(eqn):
                outputs = self.apply(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outputs))
        self._here = prefix
        return [read(atom) for atom in inner.outvars]

    def apply(self, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        """The series of one equation's outputs."""
        if eqn.primitive.name in INLINED and not _all_constant(inputs):
            return RULES[eqn.primitive.name](self, eqn, inputs)
        if eqn.primitive.name == "custom_jvp_call":
            written, places = without_pruning(eqn)
            # Its own rule, if it has one, is for all results.
            if len(places) == len(written.outvars):
                eqn = written
            elif target_key(written) in RULES:
                outputs = self.apply(written, inputs)
                return [outputs[i] for i in places]
        if any(series.is_decided for series in inputs) and is_alarm(eqn):
            inputs = [constant(s.aval, s.here) if s.is_decided else s for s in inputs]
        looks_ahead = any(series.moves_ahead for series in inputs)
        key = equation_key(eqn, inputs)
        if looks_ahead and not self.decides_ahead and (is_step(eqn) or is_kink(eqn)):
            key = (key, "here")
        found, _ = self._memo.get(key, (None, None))
        if found is None:
            closed = all(series.closed for series in inputs)
            with reading(closed) as made:
                found = choose_rule(eqn, inputs)(self, eqn, inputs)
                if len(found) != len(eqn.outvars):
                    # JAX has left out results, in a way that is not seen through.
                    found = RULES[eqn.primitive.name](self, eqn, inputs)
            fused = is_fused(eqn, inputs)
            for series in inputs:
                series.uses += 1 if fused else 2
            for series in found:
                if not series.filed:
                    series.is_slow = eqn.primitive.name in SLOW
                    series.sources = inputs if fused else None
                    series.is_view = eqn.primitive.name in VIEWS
                    series.is_tracked = False
                    self.file(series, closed)
            for series in made:
                if not series.filed:
                    self.auxiliary(series, inputs)
            if looks_ahead and not (eqn.effects or is_step(eqn)):
                self._look_ahead(eqn, inputs, found)
            if not eqn.effects:
                self._memo[key] = (found, (eqn, inputs))
            elif self.effects and len(found) == 0:
                bind(eqn, primal_values(inputs))
            for series in found:
                series.depend_on(inputs)
        self.tape.extend(found)
        if not self.abstract:
            # Coefficient 0 of everything can be had by now. It is computed in any case:
            # a predicate then need not go back through the whole program.
            for series in found:
                series[self.stop if self.eager and series.closed else 0]
        return found

    def _look_ahead(self, eqn: JaxprEqn, inputs, outputs: list[Series]) -> None:
        """Says of outputs what they are ahead: what the equation makes of its inputs
        there, evaluated if a decision asks for it. What was decided stays as it is."""

        @ft.cache
        def ahead():
            return bind(eqn, ahead_values(inputs))

        for i, (series, var) in enumerate(zip(outputs, eqn.outvars)):
            if series.moves_ahead or not is_differentiable(var.aval):
                continue
            compute = lambda k, i=i: ahead()[i]  # noqa: E731
            if self.history is not None:
                compute = self.history.cached(f"{series.key}ahead", compute)
            series.look_ahead(ft.partial(compute, 0))

    def decisions(self, jaxpr: Jaxpr) -> Found:
        """Which decisions there are in a jaxpr."""
        return self.fact("decisions", jaxpr, lambda: decisions(jaxpr, _has_rule))

    def suppose(self, eqn: JaxprEqn, inputs, outputs: list[Series]) -> None:
        """Has an equation be found, wherever it is met, with these outputs."""
        self._memo[equation_key(eqn, inputs)] = (outputs, (eqn, inputs))

    def file(self, series: Series, closed: bool) -> Series:
        """Gives a new series its name; its coefficients are kept under it."""
        series.filed = True
        series.key = self._new_name()
        series.closed = closed
        history = self.history
        if history is not None:
            series.wrap(lambda compute: history.cached(series.key, compute))
        elif not closed or series.is_slow:
            series.wrap(lambda compute: lambda k: series.stored_once(k, compute(k)))
        return series

    def auxiliary(self, series: Series, inputs: Sequence[Series]) -> Series:
        """A series that a rule computes from `inputs` for itself, kept as the outputs
        of an equation are."""
        self.file(series, all(x.closed for x in inputs)).depend_on(inputs)
        return series

    def _new_name(self) -> str:
        """Made of the place in the program, and so the same whenever it is read."""
        n = self._counts[self._here] = self._counts.get(self._here, 0) + 1
        return f"{self._here}{n}"

    def _shared_constant(self, aval: Any, value: Any) -> Series:
        key = constant_key(aval, value)
        if key not in self._memo:
            self._memo[key] = ([constant(aval, value)], value)
        return self._memo[key][0][0]

    # -- driving

    def advance(self, k: int) -> None:
        """Computes coefficient `k` of everything met so far, in order of appearance:
        so that no request recurses through the whole program."""
        for series in self.tape:
            series[k]

    def retract(self, tentative: Tentative, k: int) -> None:
        """Takes back coefficient `k` of what depends on these series, and of them."""
        for series in tentative.dependents:
            lowest = tentative.lowest(series, k)
            series.retract(lowest)
            if self.history is not None:
                for j in range(lowest, k + 1):
                    self.history.forget(series.key, j)

    # -- what rules ask for

    def is_known(self, inputs: Sequence[Series]) -> bool:
        """Whether all orders of an equation can be had at once, from known inputs."""
        return self.eager and self.history is None and all(s.closed for s in inputs)

    def analytic_support(self, inputs: Sequence[Series]) -> Support:
        """The orders that an analytic function of these series may have: the set of
        all sums of theirs, up to the order of the walk.

        **Arguments:**

        - `inputs`: any number of [`eqx_taylor.rules.Series`][].

        **Returns:**

        An integer, of which bit `k` stands for coefficient `k`.
        """
        joined = 0
        for series in inputs:
            joined |= series.support
        return analytic_support(joined, self.order)


def is_fused(eqn: JaxprEqn, inputs: Sequence[Series]) -> bool:
    """Whether each coefficient is computed from the same one of the inputs, by next to
    nothing."""
    name = eqn.primitive.name
    if name == "mul" or name == "div" and inputs[1].is_constant:
        return any(series.is_constant for series in inputs)
    return name in FUSED


def _all_constant(inputs: Sequence[Series]) -> bool:
    return all(series.is_constant for series in inputs)


def choose_rule(eqn: JaxprEqn, inputs: Sequence[Series]) -> Rule:
    if _all_constant(inputs):
        return constant_rule
    rule = RULES.get(eqn.primitive.name)
    if any(series.moves_ahead for series in inputs):
        # Loops and calls among them, which are made ahead as a whole.
        if not any(is_differentiable(var.aval) for var in eqn.outvars):
            return constant_rule
    if eqn.primitive.name == "custom_jvp_call":
        own = RULES.get(target_key(eqn))
        n = closed_over(eqn)
        if own is not None and _all_constant(inputs[:n]):
            return own if n == 0 else _of_the_arguments(own, n)
    if rule is None:
        moving = any(is_differentiable(var.aval) for var in eqn.outvars)
        rule = RULES[OTHERWISE] if moving else constant_rule
    return rule


def _has_rule(eqn: JaxprEqn) -> bool:
    """Whether a rule is registered for a function with a `custom_jvp`."""
    return target_key(without_pruning(eqn)[0]) in RULES


def _of_the_arguments(rule: Rule, n: int) -> Rule:
    """A rule that is not told of the first `n` operands, which are constant."""

    def of_the_arguments(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]):
        constants, arguments = inputs[:n], inputs[n:]
        eqn = WithoutConstants(eqn, lambda: primal_values(constants))
        return rule(walk, eqn, arguments)

    return of_the_arguments


def target_key(eqn: JaxprEqn) -> Hashable:
    """The key of what an equation calls: see `rule_key`."""
    if eqn.primitive.name == "custom_jvp_call":
        return custom_jvp_rule(eqn)[0]
    return eqn.primitive.name


def constant_rule(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    """No coefficient but the first: of constants, and of functions without slope."""
    looks_ahead = any(series.moves_ahead for series in inputs)
    looks_ahead = looks_ahead and walk.decides_ahead and is_step(eqn)
    operands = ahead_values if looks_ahead else primal_values
    outs = joint(
        [(var.aval, 1) for var in eqn.outvars],
        lambda k: bind(eqn, operands(inputs)),
    )
    if looks_ahead or any(series.is_decided for series in inputs):

        @ft.cache
        def here():
            return bind(eqn, [series.here for series in inputs])

        for i, (series, var) in enumerate(zip(outs, eqn.outvars)):
            if not is_differentiable(var.aval):
                series.look_here(lambda i=i: here()[i])
    return outs


def joint(
    types: Sequence[tuple[Any, Support]], compute: Callable[[int], Sequence[Term]]
) -> list[Series]:
    """Series whose coefficients are computed together: `compute(k)` for all of them."""
    results: dict[int, list[Any]] = {}

    def compute_one(k, i):
        # Asked for again: the coefficient was taken back, and so were the others.
        if k not in results or results[k][i] is _TAKEN:
            results[k] = list(compute(k))
        term, results[k][i] = results[k][i], _TAKEN
        return term

    return [
        Series(aval, support, lambda k, i=i: compute_one(k, i))
        for i, (aval, support) in enumerate(types)
    ]


_TAKEN = object()


def ahead_values(inputs: Sequence[Series]) -> list[Any]:
    """The operands of a decision."""
    return [series.ahead for series in inputs]


def primal_values(inputs: Sequence[Series]) -> list[Any]:
    return [series.dense(0) for series in inputs]
