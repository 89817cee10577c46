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
from typing import Any

from .decisions import decisions, Found, is_alarm, is_kink, is_step
from .jax import (
    bind,
    closed_over,
    is_differentiable,
    is_literal,
    live_equations,
    located,
    without_pruning,
    without_references,
    WithoutConstants,
)
from .memo import constant_key, equation_key
from .primitives import CALLS
from .rule import Cost, JaxprEqn, otherwise, Read, RULES, target_key
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
        call = CALLS.get(eqn.primitive.name)
        if call is not None and call.is_read_in_place and not _all_constant(inputs):
            return RULES[eqn.primitive.name].read(self, eqn, inputs)
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
                    found = RULES[eqn.primitive.name].read(self, eqn, inputs)
            cost = _cost(eqn, inputs)
            fused = cost in (Cost.VIEW, Cost.FUSED)
            for series in inputs:
                series.storage.uses += 1 if fused else 2
            sources = [series.storage for series in inputs] if fused else None
            for series in found:
                if not series.filed:
                    series.storage.cost, series.storage.sources = cost, sources
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
        return self.fact("decisions", jaxpr, lambda: decisions(jaxpr))

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
        elif not closed or series.storage.is_slow:
            once = series.storage.once
            series.wrap(lambda compute: lambda k: once(k, compute(k), closed))
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


def _cost(eqn: JaxprEqn, inputs: Sequence[Series]) -> Cost:
    rule = RULES.get(target_key(eqn)) or RULES.get(eqn.primitive.name)
    return Cost.WORK if rule is None else rule.cost_of(inputs)


def _all_constant(inputs: Sequence[Series]) -> bool:
    return all(series.is_constant for series in inputs)


def choose_rule(eqn: JaxprEqn, inputs: Sequence[Series]) -> Read:
    if _all_constant(inputs):
        return constant_rule
    moves = any(is_differentiable(var.aval) for var in eqn.outvars)
    # Loops and calls among them, which are made ahead as a whole.
    if not moves and any(series.moves_ahead for series in inputs):
        return constant_rule
    if eqn.primitive.name == "custom_jvp_call":
        own = RULES.get(target_key(eqn))
        n = closed_over(eqn)
        if own is not None and _all_constant(inputs[:n]):
            return own.read if n == 0 else _of_the_arguments(own.read, n)
    rule = RULES.get(eqn.primitive.name)
    if rule is not None:
        return rule.read
    return otherwise if moves else constant_rule


def _of_the_arguments(rule: Read, n: int) -> Read:
    """A rule that is not told of the first `n` operands, which are constant."""

    def of_the_arguments(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]):
        constants, arguments = inputs[:n], inputs[n:]
        eqn = WithoutConstants(eqn, lambda: primal_values(constants))
        return rule(walk, eqn, arguments)

    return of_the_arguments


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
