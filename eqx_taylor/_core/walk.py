"""The interpreter: a walk reads a jaxpr as a set of recurrences.

`Walk.interpret` goes through the equations of a jaxpr, and makes a `Series` for every
value by the rule of the equation's primitive. A rule says how to compute coefficient
`k`. When this happens depends on what is known:

- If all inputs of an equation are known (a jet), all its coefficients are computed at
  once, equation after equation ("equation-major").
- Series that depend on a series under construction (the solution of an ODE, or a
  primitive whose rule is its own derivative) are put on the walk's tape, and
  `Walk.advance(k)` computes coefficient `k` of all of them ("order-major").

A memo finds equations that have been read before with the same inputs. It eliminates
common subexpressions, and shares pairs like sine and cosine. If the derivative of a
primitive calls the primitive, the memo makes this a recurrence instead of an infinite
recursion.
"""

import contextlib
import copy
import enum
import functools as ft
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from .decisions import decisions, Found, is_alarm, is_kink, is_step
from .history import History
from .jax import (
    bind,
    can_move,
    closed_over,
    is_differentiable,
    is_literal,
    live_equations,
    located,
    name_of_call,
    without_pruning,
    without_references,
    WithoutConstants,
)
from .memo import constant_key, equation_key
from .order import Order, outside
from .primitives import CALLS
from .protocols import Jaxpr, JaxprEqn
from .recurrence import Recurrence
from .rule import Cost, otherwise, Read, RULES, target_key
from .series import (
    ahead_values,
    analytic_support,
    CONSTANT,
    constant,
    mask,
    primal_values,
    reading,
    Series,
    Support,
    Tentative,
    unknown,
)
from .terms import Term


# Facts about objects. The key is the kind of fact and the object's identity; the value
# is the fact and the object.
Cache = dict[Hashable, tuple[Any, Any]]


class Reach(enum.IntEnum):
    """The coefficients of an equation that are computed when it is read."""

    # None: only types and supports are found, and nothing is emitted.
    NOTHING = 0
    # Coefficient 0.
    FIRST = 1
    # All coefficients if the operands are known, otherwise coefficient 0.
    ALL = 2


class Walk:
    """One reading of a program on series of some order. It is the first argument of a
    rule.

    Rules use only `order` and `analytic_support`; all else is for the interpreter.

    **Arguments:**

    - `order`: the highest order $K$ of the coefficients. (In a loop they may be
        requested one by one.)

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

    # `stop` is the order up to which known series are computed. No choice depends on
    # it.

    def __init__(
        self,
        order: int,
        *,
        stop: int | None = None,
        history: History | None = None,
        reach: Reach = Reach.ALL,
        effects: bool = True,
        decides_ahead: bool = True,
        assumed_linear: frozenset[Hashable] = frozenset(),
        cache: Cache | None = None,
        loop: Any = None,
    ):
        self.order = order
        self.stop: int = order if stop is None else stop
        self.history = history
        self.reach = reach
        # Whether effects, such as prints and callbacks, are emitted. They must be once,
        # not again at each order.
        self.effects: bool = effects and reach is not Reach.NOTHING
        # Whether decisions are made ahead of the point, if series look ahead. In the
        # formulas of rules they are made at the point, to avoid singularities there.
        self.decides_ahead = decides_ahead
        # Functions (`params_key`) that are assumed to be linear, to test whether they
        # are.
        self.assumed_linear = assumed_linear
        # The loop over orders in which coefficients are computed, if there is one.
        self.loop = loop
        self.tape: list[Series] = []
        # Facts about inner jaxprs, which all walks that read them share.
        self._cache: Cache = {} if cache is None else cache
        # The series of outputs and constants, with the objects that must stay alive for
        # the key to be valid.
        self._memo: dict[Hashable, tuple[list[Series], Any]] = {}
        # The position in the program, and the number of names made at each position.
        self._here = ""
        self._counts: dict[str, int] = {}

    def definition_walk(self, key: str, decides_ahead: bool = True) -> "Walk":
        """Makes a walk for a program that defines a series of this walk. It computes
        nothing before it is requested, and shares the memo of this walk."""
        walk = Walk(
            self.order,
            history=self.history,
            reach=min(self.reach, Reach.FIRST),
            effects=False,
            decides_ahead=self.decides_ahead and decides_ahead,
            assumed_linear=self.assumed_linear,
            cache=self._cache,
            loop=self.loop,
        )
        walk._memo, walk._here = self._memo, f"{key}'"
        return walk

    def body_walk(
        self, stop: int, history: History | None = None, effects: bool = True
    ) -> "Walk":
        """Makes a walk for the body of a loop, a branch or a call. This is a program of
        its own, whose inputs are known up to order `stop`."""
        return Walk(
            self.order,
            stop=stop,
            history=history,
            effects=effects and self.effects,
            decides_ahead=self.decides_ahead,
            cache=self._cache,
        )

    def deciding_here(self) -> "Walk":
        """Returns a copy of this walk, with its tape and its memo, that makes decisions
        at the point."""
        walk = copy.copy(self)
        walk.decides_ahead = False
        return walk

    def output_supports(
        self, jaxpr: Jaxpr, supports: Sequence[Support]
    ) -> list[Support]:
        """Finds the supports of a jaxpr's outputs, without emitting anything."""

        def find_out():
            variables = jaxpr.jaxpr.invars
            inputs = [unknown(var.aval, s) for var, s in zip(variables, supports)]
            walk = Walk(
                self.order,
                reach=Reach.NOTHING,
                assumed_linear=self.assumed_linear,
                cache=self._cache,
            )
            outputs = walk.interpret(jaxpr, inputs)
            return [series.support & mask(self.order) for series in outputs]

        key = ("supports", tuple(supports), self.order, self.assumed_linear)
        return self.cached(key, jaxpr.jaxpr, find_out)

    def cached(self, key: Hashable, about: Any, find_out: Callable[[], Any]) -> Any:
        """Returns `find_out()`, which is called once for each key and object."""
        key = (key, id(about))
        if key not in self._cache:
            self._cache[key] = (find_out(), about)
        return self._cache[key][0]

    # -- reading

    def interpret(self, jaxpr: Jaxpr, inputs: Sequence[Series]) -> list[Series]:
        """Reads a closed jaxpr, and returns the series of its outputs."""
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
        live = self.cached("live", inner, lambda: live_equations(jaxpr))
        for index, eqn in enumerate(live):
            self._here = f"{here}.{index}."
            with located(eqn):
                outputs = self.apply(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outputs))
        self._here = prefix
        return [read(atom) for atom in inner.outvars]

    def apply(self, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        """Reads one equation, and returns the series of its outputs."""
        name = eqn.primitive.name
        call = CALLS.get(name)
        if call is not None and call.is_read_in_place and not _all_constant(inputs):
            return RULES[name].read(self, eqn, inputs)
        if name == "custom_jvp_call":
            written, places = without_pruning(eqn)
            # A rule of the function returns all of its results.
            if len(places) == len(written.outvars):
                eqn = written
            elif target_key(written) in RULES:
                outputs = self.apply(written, inputs)
                return [outputs[i] for i in places]
        if any(series.is_decided for series in inputs) and is_alarm(eqn):
            inputs = [constant(s.aval, s.here) if s.is_decided else s for s in inputs]
        key = self._memo_key(eqn, inputs)
        outputs, _ = self._memo.get(key, (None, None))
        if outputs is None:
            outputs = self._read(eqn, inputs)
            if not eqn.effects:
                self._memo[key] = (outputs, (eqn, inputs))
        self.tape.extend(outputs)
        if self.reach is not Reach.NOTHING:
            # Coefficient 0 of everything is known by now. It is computed in any case,
            # so that a predicate need not go back through the whole program.
            takes_all = self.reach is Reach.ALL
            for series in outputs:
                if self.loop is None or self.loop.knows_first(series):
                    series[self.stop if takes_all and series.is_known else 0]
        return outputs

    def _memo_key(self, eqn: JaxprEqn, inputs: Sequence[Series]) -> Hashable:
        key = equation_key(eqn, inputs)
        looks_ahead = any(series.moves_ahead for series in inputs)
        if looks_ahead and not self.decides_ahead and (is_step(eqn) or is_kink(eqn)):
            return key, "here"
        return key

    def _read(self, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
        """Reads an equation by its rule, and keeps all series that the rule makes."""
        is_known = all(series.is_known for series in inputs)
        with reading(is_known) as made, self._naming(eqn):
            outputs = choose_rule(eqn, inputs)(self, eqn, inputs)
            if len(outputs) != len(eqn.outvars):
                # JAX has removed results in a way that `without_pruning` does not know.
                outputs = RULES[eqn.primitive.name].read(self, eqn, inputs)
        self._count_uses(eqn, inputs, outputs)
        if self.loop is not None:
            is_linear = _is_linear(self, eqn, inputs)
            for series in outputs:
                series.is_linear = series.is_linear or is_linear
            for series in [*outputs, *made]:
                self.loop.names.setdefault(series, name_of_call(eqn))
        for series in outputs:
            if not series.is_kept:
                series.is_tracked = False
                self._keep(series, is_known)
        for series in made:
            if not series.is_kept:
                self.auxiliary(series, inputs)
        if any(series.moves_ahead for series in inputs):
            if not (eqn.effects or is_step(eqn)):
                self._look_ahead(eqn, inputs, outputs)
        if eqn.effects and self.effects and len(outputs) == 0:
            bind(eqn, primal_values(inputs))
        for series in outputs:
            series.depend_on(inputs)
        return outputs

    def _count_uses(self, eqn: JaxprEqn, inputs, outputs: Sequence[Series]) -> None:
        """Counts the uses of operands, and sets the cost of outputs."""
        cost = _cost(eqn, inputs)
        is_fused = cost in (Cost.VIEW, Cost.FUSED)
        for series in inputs:
            series.storage.uses += 1 if is_fused else 2
        sources = [series.storage for series in inputs] if is_fused else None
        for series in outputs:
            if not series.is_kept:
                series.storage.cost, series.storage.sources = cost, sources

    def _look_ahead(self, eqn: JaxprEqn, inputs, outputs: list[Series]) -> None:
        """Sets the values of outputs ahead: those of the equation for its inputs ahead,
        which are evaluated if a decision needs them. If an output has one, it keeps it.
        """

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
        """Finds the decisions in a jaxpr."""
        return self.cached("decisions", jaxpr, lambda: decisions(jaxpr))

    def assume_outputs(
        self, eqn: JaxprEqn, inputs: Sequence[Series], outputs: list[Series]
    ) -> None:
        """Enters an equation into the memo, to be found with these outputs."""
        self._memo[equation_key(eqn, inputs)] = (outputs, (eqn, inputs))

    def _keep(self, series: Series, is_known: bool) -> Series:
        """Gives a new series its name, under which its coefficients are kept."""
        series.is_kept = True
        series.key = self._new_name()
        series.is_known = is_known
        series.loop = self.loop
        history = self.history
        if history is not None:
            series.wrap(lambda compute: history.cached(series.key, compute))
        elif self.loop is None and (not is_known or series.storage.is_slow):
            once = series.storage.once
            series.wrap(lambda compute: lambda k: once(k, compute(k), is_known))
        return series

    def auxiliary(self, series: Series, inputs: Sequence[Series]) -> Series:
        """Keeps an intermediate series, which a rule computes from `inputs`, in the
        same way as the outputs of an equation."""
        self._keep(series, all(x.is_known for x in inputs)).depend_on(inputs)
        return series

    def _new_name(self) -> str:
        """Makes a name from the position in the program. It is the same in every
        reading."""
        n = self._counts[self._here] = self._counts.get(self._here, 0) + 1
        return f"{self._here}{n}"

    def _shared_constant(self, aval: Any, value: Any) -> Series:
        key = constant_key(aval, value)
        if key not in self._memo:
            self._memo[key] = ([constant(aval, value)], value)
        return self._memo[key][0][0]

    # -- driving

    def advance(self, k: Any) -> None:
        """Computes coefficient `k` of everything read so far, in order of appearance,
        so that no request recurses through the whole program."""
        if isinstance(k, Order):
            k.loop.advance(self.tape, k)
        else:
            for series in self.tape:
                series[k]

    def retract(self, tentative: Tentative, k: int) -> None:
        """Retracts coefficient `k` of these series, and what was computed from it."""
        for series in tentative.dependents:
            lowest = tentative.lowest(series, k)
            series.retract(lowest)
            if self.history is not None:
                for j in range(lowest, k + 1):
                    self.history.forget(series.key, j)

    def outside(self) -> Any:
        """Returns a context for computations before a loop over orders, even while the
        body of the loop is read."""
        return outside(self.loop)

    def _naming(self, eqn: JaxprEqn) -> Any:
        if self.loop is None:
            return contextlib.nullcontext()
        return self.loop.naming(name_of_call(eqn))

    # -- for rules

    def takes_all_orders(self, inputs: Sequence[Series]) -> bool:
        """Returns whether all orders of an equation are computed at once, from known
        inputs."""
        takes_all = self.reach is Reach.ALL and self.history is None
        return takes_all and all(series.is_known for series in inputs)

    def analytic_support(self, inputs: Sequence[Series]) -> Support:
        """Returns the orders that an analytic function of these series may have: all
        sums of their orders, up to the order of the walk.

        **Arguments:**

        - `inputs`: a sequence of [`eqx_taylor.rules.Series`][].

        **Returns:**

        An integer, in which bit `k` stands for coefficient `k`.
        """
        joined = 0
        for series in inputs:
            joined |= series.support
        return analytic_support(joined, self.order)


def _cost(eqn: JaxprEqn, inputs: Sequence[Series]) -> Cost:
    rule = RULES.get(target_key(eqn)) or RULES.get(eqn.primitive.name)
    return Cost.WORK if rule is None else rule.cost_of(inputs)


def _is_linear(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> bool:
    """Returns whether an equation is declared to be linear in those of its operands
    whose coefficient 0 is not known before a loop. The recurrence of its output is then
    the same from coefficient 0 on."""
    rule = RULES.get(target_key(eqn)) or RULES.get(eqn.primitive.name)
    late = {i for i, x in enumerate(inputs) if not walk.loop.knows_first(x)}
    if rule is None:
        return False
    if rule.factors is not None:
        return late <= set(rule.factors)
    linear = rule.linear(eqn) if callable(rule.linear) else rule.linear
    return linear is not None and late <= set(range(len(inputs))[linear])


def _all_constant(inputs: Sequence[Series]) -> bool:
    return all(series.is_constant for series in inputs)


def choose_rule(eqn: JaxprEqn, inputs: Sequence[Series]) -> Read:
    if _all_constant(inputs):
        return constant_rule
    # Equations without derivatives, including loops and calls, are evaluated ahead as
    # a whole.
    if any(series.moves_ahead for series in inputs) and not can_move(eqn):
        return constant_rule
    if eqn.primitive.name == "custom_jvp_call":
        own = RULES.get(target_key(eqn))
        n = closed_over(eqn)
        if own is not None and _all_constant(inputs[:n]):
            return own.read if n == 0 else _of_the_arguments(own.read, n)
    rule = RULES.get(eqn.primitive.name)
    if rule is not None:
        return rule.read
    return otherwise if can_move(eqn) else constant_rule


def _of_the_arguments(rule: Read, n: int) -> Read:
    """Wraps a rule that does not expect the first `n` operands, which are constant."""

    def of_the_arguments(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]):
        constants, arguments = inputs[:n], inputs[n:]
        without: Any = WithoutConstants(eqn, lambda: primal_values(constants))
        return rule(walk, without, arguments)

    return of_the_arguments


def _nothing(k: int) -> Sequence[Term]:
    raise AssertionError(f"coefficient {k} of a constant")


def constant_rule(walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series]) -> list[Series]:
    """The rule of constants, and of functions with slope zero: only coefficient 0."""
    looks_ahead = any(series.moves_ahead for series in inputs)
    looks_ahead = looks_ahead and walk.decides_ahead and is_step(eqn)
    operands = ahead_values if looks_ahead else primal_values
    types = [(var.aval, CONSTANT) for var in eqn.outvars]
    outs = Recurrence(types, lambda: bind(eqn, operands(inputs)), _nothing).outs
    if looks_ahead or any(series.is_decided for series in inputs):

        @ft.cache
        def here():
            return bind(eqn, [series.here for series in inputs])

        for i, (series, var) in enumerate(zip(outs, eqn.outvars)):
            if not is_differentiable(var.aval):
                series.look_here(lambda i=i: here()[i])
    return outs
