"""The adaptive loop of a solve in LLVM's language: the steps of `TaylorSolver` as
`TaylorController` chooses them, for one solve or for a vector of solves at once.

Where this departs from the loop of Diffrax with these two:

- The defect is looked at where steps end, and not inside of them, and there is no step
  by a Runge--Kutta method: fields with kinks and jumps are solved by XLA.
- The first step is chosen by the series of the solver itself, as every other step, and
  not by a shorter one: it is made here without being compiled a second time.
- The unit of time is that of the caller. Coefficients are scaled by powers of the step
  where squares of them are summed.
- Logarithms of norms have 5 digits: lengths of steps need no more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ir

from .emit import INDEX, index, Numbers, POINTER, Variable
from .entries import Entries
from .layout import DT_MIN, load_table, MAX_STEPS, NOT_FINITE, SETTINGS, Shape
from .loops import loop, repeating
from .polynomials import compensated, polynomial, with_increment


# As in `_ode/step_size_controller.py`, which says where they come from.
VETO = 50
NOISE = 16
FOREIGN = 0.3
# As in `_ode/error_estimate.py`.
DEFECT_NOISE = 4
DEFECT_FOREIGN = 5
DEFECT_ROUNDING = 100

_COUNT = ir.IntType(32)
_SIGN = SETTINGS.index("sign")


def define_block(
    module: ir.Module, prepare: ir.Function, series: ir.Function, shape: Shape
) -> ir.Function:
    """Appends the function that makes as many solves as there are lanes. Its arguments
    are a table, the number of the first of these solves, memory, and what was prepared
    of the arguments, if they are shared."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, INDEX, POINTER, POINTER])
    function = ir.Function(module, kind, "solve_block")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    start = function.append_basic_block("start")
    builder.branch(start)
    builder.position_at_end(start)
    _Block(builder, prepare, series, shape, *function.args).emit()
    builder.ret_void()
    return function


class _Block:
    def __init__(self, builder, prepare, series, shape, table, first, memory, prepared):
        self.b, self.prepare, self.series, self.shape = builder, prepare, series, shape
        self.x = Numbers(builder, shape.kind, shape.width)
        self.one = self.x.scalars()
        self.entries = Entries(builder, shape)
        self.table, self.first = load_table(builder, table), first
        self.at = {name: self.x.at(memory, i) for name, i in shape.places()[0].items()}
        self.y1, self.rest = self.at["y1"], self.at["rest"]
        self.parameters = prepared if shape.shared else self.at["parameters"]
        # They are exchanged after each step.
        self.c = Variable(self.x, self.at["c"])
        self.d = Variable(self.x, self.at["d"])

    # Lanes.

    def number(self, lane: Any) -> Any:
        """The number of the solve in a lane; of the last one where there are no
        more."""
        b = self.b
        number, last = b.add(self.first, lane), b.sub(self.table.lanes, index(1))
        return b.select(b.icmp_signed("<", number, last), number, last)

    @contextmanager
    def each_lane(self) -> Iterator[Any]:
        if self.shape.width == 1:
            yield index(0)
        else:
            with loop(self.b, index(0), index(self.shape.width)) as lane:
                yield lane

    def is_real(self, lane: Any) -> Any:
        number = self.b.add(self.first, lane)
        return self.b.icmp_signed("<", number, self.table.lanes)

    def gather(self, pointer: Any, stride: Any, i: Any) -> Any:
        """Entry `i` of each solve's row of an array."""
        lanes = []
        for lane in range(self.shape.width):
            place = self.b.add(self.b.mul(self.number(index(lane)), stride), i)
            place = self.one.at(pointer, place)
            lanes.append(self.b.load(place, typ=self.one.type))
        return self.x.joined(lanes)

    def scattered(self, x: Any) -> Variable:
        """A vector in memory, from which lanes are read one by one."""
        return Variable(self.x, x)

    def lane_of(self, variable: Variable, lane: Any, kind: Any) -> Any:
        return self.b.load(self.lane_place(variable, lane, kind), typ=kind)

    def lane_place(self, variable: Variable, lane: Any, kind: Any) -> Any:
        return self.b.gep(variable.pointer, [lane], source_etype=kind)

    # The program.

    def emit(self) -> None:
        b, x, table, shape = self.b, self.x, self.table, self.shape
        settings = {
            name: self.gather(table.settings, table.settings_stride, index(i))
            for i, name in enumerate(SETTINGS)
        }
        self.settings = settings
        if not shape.shared:
            with loop(b, index(0), index(shape.arguments)) as i:
                argument = self.gather(table.args, table.args_stride, i)
                x.store(argument, self.at["arguments"], i)
            b.call(self.prepare, [self.at["arguments"], self.parameters])
        with loop(b, index(0), index(shape.n)) as i:
            x.store(self.gather(table.y0, table.y0_stride, i), self.y1, i)
            x.store(x.constant(0.0), self.rest, i)
        zero = x._splat(_COUNT, 0)
        self.prev = x.variable(settings["t0"])
        self.next = x.variable(settings["t0"])
        self.dt = x.variable(x.constant(0.0))
        self.result = x.variable(zero)
        self.steps, self.accepted = x.variable(zero), x.variable(zero)
        self.saved = x.variable(zero)
        ends = x.compare("<", settings["t0"], settings["t1"])
        self.active = x.variable(ends)
        self.save_state(self.y1, None)
        with b.if_then(x.any(ends)):
            self.expand(settings["t0"], self.c.get(), index(shape.order))
            self.choose_first_step()
            with repeating(b, lambda: x.any(self.active.get())):
                self.step()
        self.finish()

    def expand(self, t: Any, coefficients: Any, needed: Any) -> None:
        """The series of the solution through `y1`, at least to the order that is
        needed."""
        x = self.x
        t = x.mul(self.settings["sign"], t)
        x.store(t, self.at["t"])
        at = self.at["t"], self.y1, self.parameters, coefficients, self.at["work"]
        self.b.call(self.series, [*at, needed])

    def coefficient(self, pointer: Any, k: int, i: Any) -> Any:
        return self.x.load(pointer, self.b.add(index(k * self.shape.n), i))

    def choose_first_step(self) -> None:
        x, b, order = self.x, self.b, self.shape.order
        c, settings = self.c.get(), self.settings
        # The unit in which the larger one of the last two terms is of the state's size:
        # their squares can be summed.
        largest = [x.variable(x.constant(0.0)) for _ in range(3)]
        below = max(order - 1, 1)
        with loop(b, index(0), index(self.shape.n)) as i:
            for variable, k in zip(largest, [0, below, order]):
                size = x.absolute(self.coefficient(c, k, i))
                variable.set(x.larger(size, variable.get()))
        size, *tops = [x.log2(v.get()) for v in largest]
        is_zero = x.compare("==", largest[0].get(), x.constant(0.0))
        size = x.select(is_zero, x.constant(0.0), size)
        logs = [
            x.mul(x.sub(size, top), x.constant(1 / k))
            for top, k in zip(tops, [below, order])
        ]
        unit = x.exp2(x.smaller(*logs))
        _, dt, *_ = self.judge(c, c, unit, None)
        span = x.sub(settings["t1"], settings["t0"])
        usable = x.both(x.is_finite(dt), x.compare(">", dt, x.constant(0.0)))
        dt = x.select(usable, dt, span)
        given = x.compare(">", settings["dt0"], x.constant(0.0))
        dt = x.select(given, settings["dt0"], dt)
        dt = x.smaller(dt, settings["dtmax"])
        self.dt.set(dt)
        # Without a slope there is no solution to go on with.
        nothing = x.variable(x.constant(0.0))
        with loop(b, index(0), index(self.shape.n)) as i:
            slope = self.coefficient(c, 1, i)
            nothing.set(x.fma(slope, x.constant(0.0), nothing.get()))
        moves = x.compare("==", nothing.get(), x.constant(0.0))
        moves = x.either(moves, x.negate(self.active.get()))
        self.active.set(x.both(self.active.get(), moves))
        failed = x._splat(_COUNT, NOT_FINITE)
        self.result.set(x.select(moves, self.result.get(), failed))
        end = x.add(settings["t0"], dt)
        self.next.set(x.smaller(end, settings["t1"]))

    def step(self) -> None:
        x, b, settings = self.x, self.b, self.settings
        c, d = self.c.get(), self.d.get()
        prev, end, chosen = self.prev.get(), self.next.get(), self.dt.get()
        dt = x.sub(end, prev)
        s = x.mul(dt, settings["sign"])
        self.evaluate(c, s)
        # The last step is followed by no other: of the series at its end the slope is
        # needed, for the defect. What is computed of other rows has no consequence.
        goes_on = x.both(self.active.get(), x.compare("<", end, settings["t1"]))
        order = index(self.shape.order)
        self.expand(end, d, b.select(x.any(goes_on), order, index(1)))
        good, by_series, shorter, finite = self.judge(c, d, dt, s)
        active = self.active.get()
        keep = x.both(good, active)
        dropped = x.both(x.negate(good), active)
        one = x._splat(_COUNT, 1)
        zero = x._splat(_COUNT, 0)
        steps = b.add(self.steps.get(), x.select(active, one, zero))
        self.steps.set(steps)
        with b.if_then(x.any(keep)):
            self.save(c, prev, end, keep)
            if self.shape.width == 1:
                self._exchange(c, d)
            else:
                everywhere = b.not_(x.any(dropped))
                with b.if_else(everywhere) as (then, otherwise):
                    with then:
                        self._exchange(c, d)
                    with otherwise:
                        rows = (self.shape.order + 1) * self.shape.n
                        with loop(b, index(0), index(rows)) as i:
                            new = x.select(keep, x.load(d, i), x.load(c, i))
                            x.store(new, c, i)
            if self.shape.compensated:
                with loop(b, index(0), index(self.shape.n)) as i:
                    new = x.load(self.at["new_rest"], i)
                    new = x.select(keep, new, x.load(self.rest, i))
                    x.store(new, self.rest, i)
        self.accepted.set(b.add(self.accepted.get(), x.select(keep, one, zero)))
        # The length of the next step, as `TaylorController` chooses it.
        longer = x.smaller(by_series, x.mul(settings["factormax"], chosen))
        least = x.smaller(dt, chosen)
        shorter = x.mul(shorter, least)
        floor = x.mul(x.constant(self.x.eps), x.sub(prev, settings["t0"]))
        new = x.select(keep, longer, shorter)
        new = x.larger(new, floor)
        new = x.smaller(new, settings["dtmax"])
        at = x.select(keep, end, prev)
        after = x.add(at, new)
        # As Diffrax ends steps at `t1`: also those that end shortly before.
        t1 = settings["t1"]
        clip = x.larger(x.absolute(t1), x.constant(_TINY[self.shape.kind]))
        clip = x.sub(t1, x.mul(clip, x.constant(50 * self.x.eps)))
        half = x.fma(x.constant(0.5), x.sub(t1, at), at)
        clipped = x.select(keep, t1, half)
        after = x.select(x.compare(">", after, clip), clipped, after)
        stuck = x.negate(x.compare(">", after, at))
        hopeless = x.both(dropped, x.compare("<=", least, floor))
        going = x.compare("<", at, t1)
        failed = x.both(going, x.both(active, x.either(stuck, hopeless)))
        reason = x.select(
            finite, x._splat(_COUNT, DT_MIN), x._splat(_COUNT, NOT_FINITE)
        )
        # A series that is not finite, at a point where the state is: no step is known.
        result = x.select(failed, reason, self.result.get())
        limit = b.trunc(self.table.max_steps, _COUNT)
        limit = x.joined([limit] * self.shape.width)
        at_limit = b.icmp_signed(">=", steps, limit)
        going = x.both(going, x.both(active, x.negate(failed)))
        ends = x.both(going, at_limit)
        result = x.select(ends, x._splat(_COUNT, MAX_STEPS), result)
        self.result.set(result)
        self.prev.set(x.select(active, at, prev))
        self.next.set(x.select(going, after, end))
        self.dt.set(x.select(active, new, chosen))
        going = x.both(going, x.negate(at_limit))
        self.active.set(going)
        # Where a lane ends the others go on, and it makes their steps without meaning.
        ended = x.both(active, x.negate(going))
        with b.if_then(x.any(ended)):
            self.save_state(self.c.get(), ended)

    def _exchange(self, c: Any, d: Any) -> None:
        self.c.set(d)
        self.d.set(c)

    def evaluate(self, c: Any, s: Any) -> None:
        """Evaluates the state at `s`, and what its slope there adds in this time."""
        each = self.entries
        x, s = each.numbers, each.of_solve(s)
        with each.each() as i:
            terms = [self.entry(c, k, i) for k in range(self.shape.order + 1)]
            y, increment = with_increment(x, terms, s)
            if self.shape.compensated:
                y, rest = compensated(x, terms, s, each.load(self.rest, i))
                each.store(rest, self.at["new_rest"], i)
            each.store(y, self.y1, i)
            each.store(increment, self.at["increment"], i)

    def entry(self, pointer: Any, k: int, i: Any) -> Any:
        """A coefficient of some entries of the state."""
        return self.entries.load(pointer, self.b.add(index(k * self.shape.n), i))

    def judge(self, c: Any, d: Any, unit: Any, s: Any) -> tuple[Any, ...]:
        """Whether a step is kept, the length of the next one, what part of the length
        is tried otherwise, and whether the error is finite. `s` is the length of the
        step, with its sign; where it is `None` there was none."""
        n, order, each = self.shape.n, self.shape.order, self.entries
        below = max(order - 1, 1)
        # For each entry.
        x, zero = each.numbers, each.numbers.constant(0.0)
        rtol, atol = (each.of_solve(self.settings[name]) for name in ("rtol", "atol"))
        units = [each.of_solve(self.x.power(unit, k)) for k in (below, order)]
        if s is not None:
            s, lasts = each.of_solve(s), self.last_units(unit)
        sums = [x.variable(zero) for _ in range(5)]
        of_size, of_below, of_top, of_error, of_broken = sums
        most_found, most_expected = x.variable(zero), x.variable(zero)

        def add(variable, row, factor):
            row = x.mul(row, factor)
            each.update(variable, x.fma(row, row, variable.get()))

        def inverse(scale):
            # What is zero and stays zero has no error, with `atol = 0`.
            none = x.compare("==", scale, zero)
            return x.select(none, zero, x.div(x.constant(1.0), scale))

        with each.each() as i:
            y0, y1 = self.entry(c, 0, i), each.load(self.y1, i)
            value = x.absolute(y1)
            size = x.larger(value, x.absolute(y0))
            scale = x.fma(rtol, size, atol)
            factor = inverse(scale)
            add(of_size, size, factor)
            for sum_, k, unit_k in zip((of_below, of_top), (below, order), units):
                add(sum_, self.entry(d, k, i), x.mul(unit_k, factor))
            if s is not None:
                noise = x.constant(NOISE * x.eps)
                factor = inverse(x.fma(noise, size, scale))
                error, found, expected = self.defect(c, d, s, i, value, lasts)
                add(of_error, error, factor)
                add(of_broken, x.larger(error, found), factor)
                # Not less than what is not a number.
                each.update(most_found, _or_nan(x, found, most_found.get()))
                most = x.larger(expected, most_expected.get())
                each.update(most_expected, most)
        # For the solve.
        x, settings, zero = self.x, self.settings, self.x.constant(0.0)
        mean = x.constant(1 / n)
        half = x.constant(0.5)
        size, low, top, of_error, of_broken = (
            x.mul(mean, each.reduced(v, Numbers.add)) for v in sums
        )
        most_found = each.reduced(most_found, _or_nan)
        most_expected = each.reduced(most_expected, Numbers.larger)
        size, low, top = (x.mul(half, x.log2(v)) for v in (size, low, top))
        size = x.larger(size, zero)
        radius = x.mul(x.sub(size, top), x.constant(1 / order))
        if order > 1:
            other = x.mul(x.sub(size, low), x.constant(1 / below))
            radius = x.smaller(radius, other)
        radius = x.sub(radius, x.mul(size, x.constant(1 / (order + 1))))
        length = x.mul(x.mul(settings["safety"], x.exp2(radius)), unit)
        if s is None:
            return None, length, None, None
        bound = x.mul(x.constant(DEFECT_FOREIGN), most_expected)
        broken = x.negate(x.compare("<=", most_found, bound))
        total = x.select(broken, of_broken, of_error)
        allowed = x.select(
            broken,
            x.constant(FOREIGN**2),
            x.constant((VETO / (order + 1)) ** 2),
        )
        keep = x.compare("<=", total, allowed)
        # The square root is taken here, too.
        part = x.mul(x.log2(total), x.constant(-0.5 / (order + 1)))
        part = x.larger(x.exp2(part), x.constant(0.1))
        part = x.smaller(part, x.constant(0.5))
        part = x.select(broken, x.constant(0.6), part)
        finite = x.is_finite(total)
        part = x.select(finite, part, x.constant(0.1))
        return keep, length, part, finite

    def last_units(self, unit: Any) -> list[tuple[int, Any]]:
        """The last two orders, and the factor of the derivative's terms."""
        x, order = self.x, self.shape.order
        return [
            (k, self.entries.of_solve(x.mul(x.constant(k), x.power(unit, k))))
            for k in range(max(order - 1, min(order, 2)), order + 1)
        ]

    def defect(
        self, c: Any, d: Any, s: Any, i: Any, value: Any, lasts: list[tuple[int, Any]]
    ) -> tuple[Any, Any, Any]:
        """The estimate of the error, the defect, and what it may be where the series is
        that of the solution."""
        x, order = self.entries.numbers, self.shape.order
        by_series = self.entries.load(self.at["increment"], i)
        by_field = x.mul(self.entry(d, 1, i), s)
        found = x.absolute(x.sub(by_field, by_series))
        last = [x.mul(x.absolute(self.entry(c, k, i)), u) for k, u in lasts]
        expected = last[0] if len(last) == 1 else x.larger(*last)
        increment = x.absolute(by_field)
        noise = x.mul(
            x.constant(x.eps),
            x.larger(
                x.mul(x.constant(DEFECT_NOISE), increment),
                x.mul(x.constant(order + 1), value),
            ),
        )
        known = x.smaller(expected, noise)
        error = x.select(x.compare("<=", found, noise), known, found)
        error = x.mul(error, x.constant(1 / (order + 1)))
        rounding = x.mul(x.constant(DEFECT_ROUNDING * x.eps), x.add(increment, value))
        return error, found, x.add(expected, rounding)

    # What is saved.

    def save(self, c: Any, start: Any, end: Any, keep: Any) -> None:
        """Saves what is asked for of the steps that are kept."""
        b, one, shape = self.b, self.one, self.shape
        if not shape.at_times and shape.rows == 0:
            return
        keep = b.zext(keep, self.x.vector_of(ir.IntType(8)))
        starts, ends, keeps = map(self.scattered, (start, end, keep))
        with self.each_lane() as lane:
            kept = self.lane_of(keeps, lane, ir.IntType(8))
            kept = b.icmp_unsigned("!=", kept, ir.Constant(ir.IntType(8), 0))
            with b.if_then(b.and_(kept, self.is_real(lane))):
                end = self.lane_of(ends, lane, one.type)
                if shape.at_times:
                    start = self.lane_of(starts, lane, one.type)
                    self.save_times(c, lane, start, end)
                if shape.rows:
                    self.save_rows(c, lane, end)

    def save_times(self, c: Any, lane: Any, start: Any, end: Any) -> None:
        """Saves the states at those of the times that are asked for which are within
        the step."""
        b, one, table, shape = self.b, self.one, self.table, self.shape
        number = self.number(lane)
        times = one.at(table.ts, b.mul(number, table.ts_stride))
        rows = b.mul(number, b.mul(table.ts_size, index(shape.n)))
        rows = one.at(table.ys, rows)
        place = b.add(b.mul(number, table.settings_stride), index(_SIGN))
        sign = b.load(one.at(table.settings, place), typ=one.type)
        saved = self.lane_place(self.saved, lane, _COUNT)

        def next_row():
            return b.sext(b.load(saved, typ=_COUNT), INDEX)

        def time(i):
            last = b.sub(table.ts_size, index(1))
            i = b.select(b.icmp_signed("<", i, last), i, last)
            return b.load(one.at(times, i), typ=one.type)

        def is_within():
            i = next_row()
            more = b.icmp_signed("<", i, table.ts_size)
            return b.and_(more, one.compare("<=", time(i), end))

        with repeating(b, is_within):
            j = next_row()
            s = one.mul(one.sub(time(j), start), sign)
            row = b.mul(j, index(shape.n))
            with loop(b, index(0), index(shape.n)) as i:
                terms = [
                    self.lane_entry(c, b.add(index(k * shape.n), i), lane)
                    for k in range(shape.order + 1)
                ]
                y = polynomial(one, terms, s)
                b.store(y, one.at(rows, b.add(row, i)), align=one.size)
            b.store(b.trunc(b.add(j, index(1)), _COUNT), saved)

    def save_rows(self, c: Any, lane: Any, end: Any) -> None:
        """Saves the series of a step, or the state at its start, and its end."""
        b, one, table, shape = self.b, self.one, self.table, self.shape
        size = shape.rows * shape.n
        accepted = self.lane_of(self.accepted, lane, _COUNT)
        place = b.mul(self.number(lane), table.step_size)
        place = b.add(place, b.sext(accepted, INDEX))
        b.store(end, one.at(table.step_ts, place), align=one.size)
        place = b.mul(place, index(size))
        with loop(b, index(0), index(size)) as i:
            entry = self.lane_entry(c, i, lane)
            place_i = one.at(table.step_rows, b.add(place, i))
            b.store(entry, place_i, align=one.size)

    def lane_entry(self, pointer: Any, i: Any, lane: Any) -> Any:
        b, one = self.b, self.one
        i = b.add(b.mul(i, index(self.shape.width)), lane)
        return b.load(one.at(pointer, i), typ=one.type, align=one.size)

    def save_state(self, rows: Any, chosen: Any) -> None:
        """Writes the states of the lanes that are chosen; `None` is all."""
        x, b, one, table, shape = self.x, self.b, self.one, self.table, self.shape
        kind = ir.IntType(8)
        if chosen is None:
            chosen = x.flag(True)
        flags = self.scattered(b.zext(chosen, x.vector_of(kind)))
        with self.each_lane() as lane:
            flag = self.lane_of(flags, lane, kind)
            flag = b.icmp_unsigned("!=", flag, ir.Constant(kind, 0))
            with b.if_then(b.and_(flag, self.is_real(lane))):
                number = b.add(self.first, lane)
                with loop(b, index(0), index(shape.n)) as i:
                    y = self.lane_entry(rows, i, lane)
                    place = b.add(b.mul(number, index(shape.n)), i)
                    b.store(y, one.at(table.y1, place), align=one.size)

    def finish(self) -> None:
        """Writes the results of the lanes that there are, but for their states."""
        b, one, table = self.b, self.one, self.table
        rejected = b.sub(self.steps.get(), self.accepted.get())
        counts = self.result, self.steps, self.accepted, self.scattered(rejected)
        counts = *counts, self.saved
        with self.each_lane() as lane:
            number = b.add(self.first, lane)
            with b.if_then(self.is_real(lane)):
                t = self.lane_of(self.prev, lane, one.type)
                b.store(t, one.at(table.t_end, number), align=one.size)
                for i, count in enumerate(counts):
                    place = b.add(b.mul(number, index(len(counts))), index(i))
                    place = b.gep(table.counts, [place], source_etype=_COUNT)
                    b.store(self.lane_of(count, lane, _COUNT), place)


# The smallest normal numbers.
_TINY = {"double": 2.0**-1022, "float": 2.0**-126}


def _or_nan(x: Numbers, new: Any, old: Any) -> Any:
    """The larger one; not a number if either is none."""
    is_less = x.compare("<=", new, old)
    larger = x.select(is_less, old, new)
    is_number = x.compare("==", old, old)
    return x.select(is_number, larger, old)
