"""Random programs over all of the rule table, and what their jets must be.

A program is a list of lines, each of which uses values of the lines above. The table at
the end has the forms that a line may take. A form is Python with holes:

- `<a>`: a value; the letter says of which shape (`_LETTERS`), a second letter is a
  second value, and all of them have the dtype of the first;
- `<axis>`, `<c>`: an axis of the first value, a constant;
- `<f q k>`: a smooth expression in `q` and `k`, random itself, with calls of loops,
  branches and transformations inside of it.

The program is run once, and a line whose values are large, not finite or close to a tie
(`_GUARDS`) is taken out: so domains need no more care than `1.5 + tanh`.
"""

import functools as ft
import random
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy as jsp
import jax.tree_util as jtu
import numpy as np
from fuzz_table import (
    COMPLEX_SMOOTH,
    FORMS,
    REAL_SMOOTH,
    REAL_SMOOTH_CALLS,
    SMOOTH_CALLS,
)
from helpers import (
    count_equations,
    derivatives,
    largest,
    nested_ode_jet,
    polynomial,
)
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import eqx_taylor


# -- what programs may call


def weights(x, seed=0):
    """Numbers of the shape and dtype of `x`, no two of them equal."""
    values = np.cos(1.7 * np.arange(float(x.size)) + 0.3 + seed).reshape(x.shape)
    return jnp.asarray(values, x.dtype)


def eye(x):
    return jnp.eye(x.shape[-1], dtype=x.dtype)


def bounded(x):
    return 0.2 * x if jnp.iscomplexobj(x) else jnp.tanh(x)


def dominant(x):
    """A square matrix with a large diagonal."""
    return 0.7 * bounded(x) + (4.0 + 0.3 * jnp.diag(weights(x[0]))) * eye(x)


def definite(x):
    half = 0.5 * bounded(x)
    return half @ half.mT.conj() + 2.0 * eye(x)


def separated(x):
    """A Hermitian matrix with eigenvalues that are far apart."""
    half = 0.2 * bounded(x)
    return half + half.mT.conj() + jnp.diag(jnp.arange(1.0, len(x) + 1).astype(x.dtype))


@jax.custom_jvp
def cubed(x):
    return x**3


@cubed.defjvp
def _cubed_jvp(primals, tangents):
    [x], [dx] = primals, tangents
    return cubed(x), 3.0 * x * x * dx


@jax.custom_jvp
def tripled(x):
    """With a slope that is not its own: what a `custom_jvp` says is what counts."""
    return jnp.sin(x)


@tripled.defjvp
def _tripled_jvp(primals, tangents):
    [x], [dx] = primals, tangents
    return tripled(x), 3.0 * jnp.cos(x) * dx


@ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
def applied(fun, x, y):
    return fun(x) * y


@applied.defjvp
def _applied_jvp(fun, primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    value, slope = jax.jvp(fun, (x,), (dx,))
    return applied(fun, x, y), slope * y + value * dy


@jax.custom_jvp
def several(x):
    """With two results, of which a program may use one."""
    return jnp.sin(x), jnp.tanh(0.3 * bounded(x)) * x


@several.defjvp
def _several_jvp(primals, tangents):
    [x], [dx] = primals, tangents
    _, slope = jax.jvp(lambda x: jnp.tanh(0.3 * bounded(x)) * x, (x,), (dx,))
    return several(x), (jnp.cos(x) * dx, slope)


@jax.jit
def compiled(x):
    return jnp.sin(x) * x


def second_by_jet(fun, x, v):
    """The second derivative along a line, by a jet inside of the program."""
    return eqx_taylor.filter_jet(fun, (x,), ([v, None],))[1][1]


def second_by_nesting(fun, x, v):
    def first(x):
        return jax.jvp(fun, (x,), (v,))[1]

    return jax.jvp(first, (x,), (v,))[1]


NAMES = {
    **{f.__name__: f for f in (weights, eye, bounded, dominant, definite, separated)},
    **{f.__name__: f for f in (cubed, tripled, applied, several, compiled)},
    **dict(eqx=eqx, jax=jax, jnp=jnp, jsp=jsp, lax=lax, np=np),
}


# -- programs


class Line(NamedTuple):
    names: tuple[str, ...]
    text: str
    # What must hold of the values in it.
    guards: tuple[str, ...]

    def __str__(self):
        return f"{', '.join(self.names)} = {self.text}"


class Program(NamedTuple):
    """Of the values that move (`x0`, `x1` ...) and of an index `n0`, a truth value `b0`
    and an exponent `p0`. Its results are the values that no line uses."""

    inputs: dict[str, np.ndarray]
    # For each input that moves its terms, which are derivatives.
    series: dict[str, list[np.ndarray | None]]
    lines: tuple[Line, ...]
    order: int

    @property
    def outputs(self) -> list[str]:
        used = {name for line in self.lines for name in _names_in(line.text)}
        defined = [name for line in self.lines for name in line.names]
        return [name for name in defined if name not in used] or ["x0"]

    @property
    def source(self) -> str:
        body = [str(line) for line in self.lines]
        body.append(f"return [{', '.join(self.outputs)}]")
        arguments = ", ".join(self.inputs)
        return f"def program({arguments}):\n" + textwrap.indent("\n".join(body), "    ")

    @property
    def dtype(self):
        return self.inputs["x0"].dtype

    def function(self, second=second_by_jet) -> Callable[..., list[Any]]:
        namespace = dict(NAMES, second_derivative=second)
        exec(self.source, namespace)
        return namespace["program"]

    def upto(self, index: int) -> "Program":
        """The program of line `index` alone and of what it needs."""
        needed, kept = set(_names_in(self.lines[index].text)), [self.lines[index]]
        for line in self.lines[:index][::-1]:
            if needed.intersection(line.names):
                needed.update(_names_in(line.text))
                kept.append(line)
        return self._replace(lines=tuple(kept[::-1]))

    def __repr__(self):
        """Python that can be run: the program, its inputs and its jet."""
        values = {k: (v, self.series.get(k)) for k, v in self.inputs.items()}
        lines = [self.source, f"order = {self.order}"]
        for name, (value, terms) in values.items():
            lines.append(f"{name} = {_literal(value)}")
            if terms is not None:
                inner = ", ".join("None" if t is None else _literal(t) for t in terms)
                lines.append(f"{name}_series = [{inner}]")
        series = [f"{k}_series" if k in self.series else "None" for k in self.inputs]
        lines.append(
            f"eqx_taylor.filter_jet(program, ({', '.join(self.inputs)},), "
            f"({', '.join(series)},))"
        )
        return "\n".join(lines)


def _literal(x):
    return f"jnp.asarray({np.asarray(x).tolist()!r}, '{x.dtype}').reshape({x.shape})"


def _names_in(text: str) -> list[str]:
    return re.findall(r"\b[xnbvp]\d+\b", text)


# -- choosing one

_SHAPES = [(), (), (3,), (3,), (3, 3), (3, 3), (2, 3), (1,), (2, 3, 3), (1, 3), (0,), (2, 0)]  # fmt: skip
_LETTERS: dict[str, Callable[[Any, Any], bool]] = {
    "a": lambda x, first: True,
    "r": lambda x, first: not x.dtype.kind == "c",
    "z": lambda x, first: x.dtype.kind == "c",
    # of the first value's shape, or a number
    "e": lambda x, first: x.shape == first.shape,
    "h": lambda x, first: x.shape in (first.shape, ()),
    "s": lambda x, first: x.shape == (),
    # of so many axes, none of them empty
    "n": lambda x, first: x.ndim >= 1 and x.size > 0,
    "v": lambda x, first: x.ndim == 1 and x.size > 0,
    "m": lambda x, first: x.ndim == 2 and x.size > 0,
    "t": lambda x, first: x.ndim >= 2 and x.size > 0,
    "q": lambda x, first: x.shape == (3, 3),
    "d": lambda x, first: x.ndim >= 1 and x.shape[-1] == 3,
    # likewise, and real
    "k": lambda x, first: x.ndim >= 1 and x.size > 0 and not x.dtype.kind == "c",
    "w": lambda x, first: x.shape == (3,) and not x.dtype.kind == "c",
}  # fmt: skip

# At ties the value is right either way, but a rounding error decides which.
_GUARDS = {
    "away": lambda a: np.min(np.abs(a), initial=1) > 0.02,
    "apart": lambda a, b: np.min(np.abs(a - b), initial=1) > 0.02,
    "distinct": lambda a: np.min(np.diff(np.sort(a, None)), initial=1) > 0.005,
    "between": lambda a: np.min(np.abs(a % 0.5 - 0.25), initial=0) < 0.23,
}
_CONSTANTS = [0.3, -0.7, 1.3, -0.2, 0.9, 2.0]
_EXPONENTS = [-2.0, -1.5, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 0.3]
_HOLE = re.compile(r"<([a-z]\w*(?: [\w\[\]]+)*)>")


class Builder:
    """Chooses with a `random.Random`, or with Hypothesis's, which shrinks."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        # By name, or what is known of their types.
        self.values: dict[str, Any] = {}
        self.lines: list[Line] = []
        self.fresh = 0
        self.real = True

    def build(self) -> Program:
        rng = self.rng
        order = rng.choice([1, 2, 2, 2, 3, 3, 3, 4])
        kind = rng.choice([*["float64"] * 8, "float32", "complex128"])
        self.dtype = np.dtype(kind)
        inputs = {
            f"x{i}": self.array(rng.choice(_SHAPES)) for i in range(rng.randint(1, 3))
        }
        moving = {name: self.terms(x, order) for name, x in inputs.items()}
        inputs["n0"] = np.asarray(rng.randint(0, 2), np.int32)
        inputs["b0"] = np.asarray(rng.random() < 0.5)
        # An exponent, of which nothing is known while tracing.
        inputs["p0"] = np.asarray(rng.choice(_EXPONENTS), self.dtype)
        self.values = dict(inputs)
        for _ in range(rng.randint(2, 9)):
            self.add_line()
        return _tame(Program(inputs, moving, tuple(self.lines), order))

    def array(self, shape) -> np.ndarray:
        def number():
            return self.rng.randint(-150, 150) / 100

        size = int(np.prod(shape))
        values = np.array([number() for _ in range(size)])
        if self.dtype.kind == "c":
            values = values + 1j * np.array([number() for _ in range(size)])
        return values.reshape(shape).astype(self.dtype)

    def terms(self, x, order):
        still = self.rng.random() < 0.1
        return [
            None if still or self.rng.random() < 0.3 else self.array(x.shape)
            for _ in range(order)
        ]

    def add_line(self) -> None:
        for _ in range(20):
            forms = FORMS[self.rng.choice(list(FORMS))]
            text, *guards = self.rng.choice(forms).split(" ; ")
            filled = self.fill(text, guards)
            if filled is None:
                continue
            text, guards = filled
            try:
                outs = self.types_of(text)
            except (TypeError, ValueError, jax.dtypes.TypePromotionError):
                continue  # JAX wants real numbers, or another shape.
            if any(x.ndim > 3 or x.size > 60 for x in outs):
                continue
            count = len(self.values)
            names = tuple(f"v{count + i}" for i in range(len(outs)))
            self.lines.append(Line(names, text.lstrip("*"), guards))
            self.values.update(zip(names, outs))
            return

    def types_of(self, text: str) -> list[jax.ShapeDtypeStruct]:
        def line(values):
            out = eval(text.lstrip("*"), dict(NAMES, second_derivative=second_by_nesting, **values))  # fmt: skip
            return list(out) if text.startswith("*") else [out]

        return jax.eval_shape(line, self.values)

    def fill(self, text: str, guards: Sequence[str]):
        chosen: dict[str, str] = {}

        def first():
            names = [name for name in chosen.values() if name in self.values]
            return self.values[names[0]] if names else None

        def hole(match):
            word, *rest = match[1].split()
            if word in chosen:
                return chosen[word]
            if word == "c":
                return repr(self.rng.choice(_CONSTANTS))
            if word == "axis":
                chosen[word] = str(self.rng.randrange(max(first().ndim, 1)))
                return chosen[word]
            if word == "f":
                self.real = first() is None or first().dtype.kind != "c"
                return self.smooth([chosen.get(x, x) for x in rest], 2)
            suits = _LETTERS[word[0]]
            names = [
                name
                for name, x in self.values.items()
                if x.dtype.kind in "fc"
                and suits(x, first())
                and (first() is None or x.dtype == first().dtype)
            ]
            if not names:
                raise LookupError
            # Later ones more often, for programs that are deep and not wide.
            chosen[word] = self.rng.choice(names + names[-2:])
            return chosen[word]

        try:
            text = _HOLE.sub(hole, text)
        except LookupError:
            return None
        guards = [" ".join(chosen.get(x, x) for x in g.split()) for g in guards]
        return text, tuple(guards)

    def smooth(self, names: Sequence[str], depth: int) -> str:
        """An expression of one shape and dtype in these, of moderate size."""
        rng = self.rng
        form = rng.random()
        if depth == 0 or form < 0.15:
            return rng.choice(names)
        inner = self.smooth(names, depth - 1)
        if form < 0.55:
            return rng.choice(REAL_SMOOTH if self.real else COMPLEX_SMOOTH).format(
                inner
            )
        if form < 0.85:
            other = self.smooth(names, depth - 1)
            return rng.choice(["({} + {})", "({} * {})", "({} - 0.5 * {})", "({} / (2.5 + 0.3 * {}))"]).format(inner, other)  # fmt: skip
        self.fresh += 1
        local = f"w{self.fresh}"
        body = self.smooth([local], depth - 1)
        calls = SMOOTH_CALLS + (REAL_SMOOTH_CALLS if self.real else [])
        return rng.choice(calls).format(w=local, body=body, x=inner)


def _tame(program: Program) -> Program:
    """Without the lines whose values are not what they should be."""
    every = [name for line in program.lines for name in line.names]

    def run(inputs):
        scope = dict(NAMES, second_derivative=second_by_nesting, **inputs)
        for line in program.lines:
            exec(str(line), scope)
        return {name: scope[name] for name in every}

    values = {**program.inputs, **jax.device_get(jax.jit(run)(program.inputs))}

    def is_tame(line):
        for guard in line.guards:
            name, *operands = guard.split()
            if not _GUARDS[name](*[values[x] for x in operands]):
                return False
        outs = [values[name] for name in line.names]
        # Not `>`, which is false for NaN.
        return all(np.max(np.abs(x), initial=0) <= 30 for x in outs)

    kept: list[Line] = []
    known = set(program.inputs)
    for line in program.lines:
        if known.issuperset(_names_in(line.text)) and is_tame(line):
            kept.append(line)
            known.update(line.names)
    return program._replace(lines=tuple(kept))


def random_program(rng: random.Random) -> Program:
    return Builder(rng).build()


# -- checks


class Mismatch(AssertionError):
    pass


class Skipped(Exception):
    """The reference says nothing: the reason why."""


def _wide(dtype):
    return np.dtype("complex128" if np.dtype(dtype).kind == "c" else "float64")


def jet_of(fun, program: Program, inputs, series) -> list[list[Any]]:
    """By order, the outputs' derivatives; `None` where there are none."""
    # Their order is lost under `jit`.
    arrays = {k: jnp.asarray(inputs[k]) for k in program.inputs}
    if len(program.lines) % 3 == 0:
        # As one PyTree.
        def of_tree(tree):
            return fun(**tree["moving"], **tree["other"])

        moving = {k: arrays[k] for k in series}
        other = {k: x for k, x in arrays.items() if k not in series}
        terms = [
            dict(
                moving={k: series[k][i] for k in series}, other={k: None for k in other}
            )
            for i in range(program.order)
        ]
        value, terms = eqx_taylor.filter_jet(
            of_tree, (dict(moving=moving, other=other),), (terms,)
        )
    else:
        value, terms = eqx_taylor.filter_jet(
            fun, tuple(arrays.values()), tuple(series.get(k) for k in arrays)
        )
    return [value, *terms]


def reference(program: Program, inputs=None, series=None) -> list[list[np.ndarray]]:
    """The same by nested `jvp`, always in 64 bits: a program says nothing of dtypes."""
    along = _along(program, inputs or program.inputs, series or program.series)
    # One program to compile, and not one for each of its operations.
    return jax.device_get(jax.jit(derivatives(along, program.order))(jnp.zeros(())))


def _along(program, inputs, series):
    fun = program.function(second_by_nesting)
    points = {
        k: jnp.asarray(v, _wide(v.dtype) if v.dtype.kind in "fc" else None)
        for k, v in inputs.items()
    }
    terms = {
        k: [None if t is None else jnp.asarray(t, points[k].dtype) for t in v]
        for k, v in series.items()
    }

    def along(t):
        outs = fun(**{k: polynomial(x, terms.get(k, ()), t) for k, x in points.items()})
        return [out for out in outs if jnp.issubdtype(out.dtype, jnp.inexact)]

    return along


def jitted_jet(program: Program) -> list[list[np.ndarray]]:
    jet = jax.jit(ft.partial(jet_of, program.function(), program))
    return jax.device_get(jet(program.inputs, program.series))


def check_nested(program: Program) -> list[list[np.ndarray]]:
    """Against nested derivatives. Returns the jet."""
    try:
        expected = reference(program)
    except Exception as e:
        raise Skipped(f"JAX has no derivative: {type(e).__name__}") from e
    actual = jitted_jet(program)
    types = jax.eval_shape(program.function(), **program.inputs)
    moving = [i for i, x in enumerate(types) if jnp.issubdtype(x.dtype, jnp.inexact)]
    for k, outs in enumerate(actual):
        for i, (x, type_) in enumerate(zip(outs, types, strict=True)):
            if k > 0 and i not in moving:
                if x is not None:
                    raise Mismatch(f"order {k} of output {i}, an integer: {x}")
            elif x.shape != type_.shape or x.dtype != type_.dtype:
                raise Mismatch(f"order {k} of output {i}: {x.dtype}{x.shape}, {type_}")
    kept = [[outs[i] for i in moving] for outs in actual]
    if not all(np.all(np.isfinite(x)) for outs in expected for x in outs):
        ours = all(np.all(np.isfinite(x)) for outs in kept for x in outs)
        raise Skipped("JAX's is not finite" + (", ours is" if ours else ""))
    _compare(program, kept, expected)
    return actual


def _compare(program, actual, expected):
    """An error of 1000 roundings for each order is forgiven, of the largest entry of any
    order up to this one and of 1 (what values inside of a program are like), and as
    much as the reference itself moves when its inputs do by a few roundings: there a
    result is the difference of larger numbers, and neither side can be more accurate."""
    eps = float(jnp.finfo(program.dtype).eps)
    errors = [_distance(a, e) for a, e in zip(actual, expected, strict=True)]
    sizes = [max(1, largest(expected[: k + 1])) for k in range(len(expected))]
    allowed = 1e3 * (program.order + 1) * eps * np.array(sizes)
    if np.all(errors <= allowed):
        return
    for seed in range(3):
        moved = reference(program, *_moved(program, 4 * eps, seed))
        sizes = [_distance(a, e) for a, e in zip(moved, expected)]
        allowed += 100 * np.maximum.accumulate(sizes)
    if np.all(errors <= allowed):
        return
    judged = _interpolated(program)
    ours = [_distance(a, j) for a, j in zip(actual, judged)]
    theirs = [_distance(e, j) for e, j in zip(expected, judged)]
    message = "\n".join(
        f"order {k}: error {errors[k]:.3g}, allowed {allowed[k]:.3g}, from a polynomial "
        f"through points of the curve: ours {ours[k]:.3g}, JAX's {theirs[k]:.3g}"
        for k in range(len(errors))
    )
    k = int(np.argmax(~(errors <= allowed)))
    if ours[k] < 1e-2 * theirs[k]:
        raise Skipped("JAX's is wrong")
    raise Mismatch(message)


def _distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    gaps = [np.max(np.abs(x - y), initial=0) for x, y in zip(a, b, strict=True)]
    return float(max(gaps, default=0))


def _moved(program, size, seed):
    rng = np.random.default_rng(seed)

    def moved(x):
        if x is None or x.dtype.kind not in "fc":
            return x
        return x.astype(_wide(x.dtype)) * (1 + size * rng.choice([-1, 1], x.shape))

    inputs = {k: moved(x) for k, x in program.inputs.items()}
    return inputs, {k: [moved(t) for t in v] for k, v in program.series.items()}


def _interpolated(program) -> list[list[np.ndarray]]:
    """Derivatives of a polynomial through points of the curve: of few digits, but it
    knows no rule of differentiation, and says which side is wrong."""
    along = _along(program, program.inputs, program.series)
    width, degree = 0.04, program.order + 8
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    values = [jax.device_get(along(jnp.asarray(width * t))) for t in nodes]
    results = []
    for k in range(program.order + 1):
        results.append([])
        for outs in zip(*values):
            flat = np.stack(outs).reshape(len(nodes), -1)
            fit = np.polynomial.chebyshev.chebfit(nodes, flat, degree)
            slope = np.polynomial.chebyshev.chebder(fit, k) if k else fit
            at_0 = np.polynomial.chebyshev.chebval(0.0, slope) / width**k
            results[-1].append(np.reshape(at_0, outs[0].shape))
    return results


def check_same(program, actual, other, what):
    """Of two ways to the same numbers."""
    eps = float(jnp.finfo(program.dtype).eps)
    pairs = list(zip(jtu.tree_leaves(actual), jtu.tree_leaves(other), strict=True))
    size = max(1, largest(actual))
    for a, b in pairs:
        error = np.max(np.abs(a - b), initial=0) if a.dtype != bool else np.any(a != b)
        if not error <= 1e4 * eps * size:
            raise Mismatch(f"{what}: error {error} of {size}\n{a}\n{b}")


def check_eager(program, actual):
    eager = jet_of(program.function(), program, program.inputs, program.series)
    check_same(program, actual, jax.device_get(eager), "without jit")


def check_vmap(program, actual):
    """Of two curves through one point, there and back: no case changes."""
    fun = program.function()

    def scaled(sign):
        series = {
            k: [None if t is None else t * sign**i for i, t in enumerate(v, 1)]
            for k, v in program.series.items()
        }
        return jet_of(fun, program, program.inputs, series)

    signs = jnp.asarray([1.0, -1.0], program.dtype)
    both = jax.device_get(jax.jit(jax.vmap(scaled))(signs))
    check_same(program, actual, jtu.tree_map(lambda x: x[0], both), "vmap")
    back = [
        jtu.tree_map(lambda x, k=k: x[1] * (-1) ** k if k else x[1], outs)
        for k, outs in enumerate(both)
    ]
    check_same(program, actual, back, "vmap, the other way")


def check_shard_map(program, actual, rng) -> bool:
    """Inside of a `jax.shard_map`, with its checks of what varies: they are the same on
    one device. Some of the values are said to be the same on all. Returns whether JAX
    takes the program there."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    same = [rng.random() < 0.3 for _ in range(2 * len(program.inputs))]
    point = {k: jnp.asarray(x) for k, x in program.inputs.items()}
    names = list(point)

    def on_devices(fun):
        def body(inputs, series):
            return jtu.tree_map(_spread, fun(inputs, series))

        specs = [dict(zip(names, map(_spec, some))) for some in (same, same[::-1])]
        specs[1] = {k: specs[1][k] for k in program.series}
        return jax.jit(
            jax.shard_map(
                body, mesh=mesh, in_specs=tuple(specs), out_specs=PartitionSpec("d")
            )
        )

    series = {k: [None if t is None else jnp.asarray(t) for t in v] for k, v in program.series.items()}  # fmt: skip
    # Replicated values have no axis of devices, and those that differ have one of 1.
    stacked = [jtu.tree_map(lambda x: x[None], tree) for tree in (point, series)]
    plain = program.function(second_by_nesting)

    def unstacked(inputs, series):
        return [jtu.tree_map(lambda x: x[0], tree) for tree in (inputs, series)]

    def primal(inputs, series):
        # The function is called with what its series are: it must take that.
        inputs, series = unstacked(inputs, series)
        for k, terms in series.items():
            if any("V:d" in str(jax.typeof(x)) for x in terms if x is not None):
                inputs[k] = _varying(inputs[k])
        return list(plain(**inputs))

    def jet(inputs, series):
        return jet_of(program.function(), program, *unstacked(inputs, series))

    try:
        # Lowered as well: there are primitives that have a type there, and no more.
        on_devices(primal).lower(*stacked)
    except Exception:
        return False
    inside = jax.device_get(on_devices(jet)(*stacked))
    check_same(program, actual, jtu.tree_map(lambda x: x[0], inside), "shard_map")
    return True


def _spec(same):
    return PartitionSpec() if same else PartitionSpec("d")


def _varying(x):
    is_same = "V:d" not in str(jax.typeof(x))
    return lax.pcast(x, "d", to="varying") if is_same else x


def _spread(x):
    return _varying(x)[None]


def check_unused(rng: random.Random) -> None:
    """That a result which nobody uses costs nothing: as many equations as without."""
    builder = Builder(rng)
    used, unused = (builder.smooth(["p"], 3) for _ in range(2))
    wrapper = rng.choice(_UNUSED)
    order = rng.randint(2, 6)
    counts = []
    for text in (unused, "p"):
        source = wrapper.format(used=used, unused=text)
        fun = eval(f"lambda x: {source}", dict(NAMES, second_derivative=second_by_jet, b0=jnp.array(True), n0=0, two_results=two_results))  # fmt: skip
        x = jnp.asarray([0.3, -0.4, 0.9])
        counts.append(
            count_equations(
                lambda x, v, fun=fun: eqx_taylor.filter_jet(
                    fun, (x,), ([v] + [None] * (order - 1),)
                ),
                x,
                x,
            )  # fmt: skip
        )
    # A value that is handed through is an equation or two.
    if counts[0] > counts[1] + 4:
        source = wrapper.format(used=used, unused=unused)
        raise Mismatch(f"unused, order {order}: {counts[0]} equations, {counts[1]} without\n{source}")  # fmt: skip


def two_results(fun, other, x):
    """Of a function with a `custom_jvp`."""

    @jax.custom_jvp
    def both(x):
        return fun(x), other(x)

    @both.defjvp
    def _(primals, tangents):
        return jax.jvp(lambda x: (fun(x), other(x)), primals, tangents)

    return both(x)


_UNUSED = [
    "jax.jit(lambda p: ({used}, {unused}))(x)[0]",
    "jax.checkpoint(lambda p: ({used}, {unused}))(x)[0]",
    "lax.scan(lambda p, _: ({used}, {unused}), x, None, length=3)[0]",
    "lax.cond(x[0] > 0, lambda p: ({used}, {unused}), lambda p: (p, p), x)[0]",
    "jax.jit(lambda q: jax.jit(lambda p: ({used}, {unused}))(q)[0])(x)",
    "two_results(lambda p: {used}, lambda p: {unused}, x)[0]",
    "jax.jit(lambda q: two_results(lambda p: {used}, lambda p: {unused}, q))(x)[0]",
]


def check_ode_jet(program, nested: bool):
    """As a vector field: the jet of the field along the solution is its derivative, and
    with `nested` the total derivatives are JAX's."""
    fun = program.function()
    types = jax.eval_shape(fun, **program.inputs)
    pairs = [
        (name, i)
        for name, x in program.inputs.items()
        for i, out in enumerate(types)
        if name in program.series and (x.shape, x.dtype) == (out.shape, out.dtype)
    ]
    if not pairs:
        return False
    name, index = pairs[-1]
    # JAX stumbles over a NumPy array in a `custom_jvp` under `vmap`.
    inputs = {k: jnp.asarray(v) for k, v in program.inputs.items()}
    y0 = inputs[name]
    t0 = jnp.asarray(0.2, jnp.finfo(y0.dtype).dtype)

    def field(t, y, args, fun=fun):
        return fun(**{**inputs, name: y + 0.3 * t.astype(y.dtype)})[index]

    order = 3
    ode_jet = jax.jit(lambda t, y: eqx_taylor.ode_jet(field, t, y, order=order))
    actual = jax.device_get(ode_jet(t0, y0))
    if nested:
        field_ = ft.partial(field, fun=program.function(second_by_nesting))
        expected = np.stack(jax.device_get(nested_ode_jet(field_, t0, y0, None, order)))
        if np.all(np.isfinite(actual)) and not np.all(np.isfinite(expected)):
            raise Skipped("JAX's is not finite, ours is")
        check_same(program, [expected], [actual], "ode_jet, nested")
    jet = ft.partial(eqx_taylor.filter_jet, factorial_scaled=False)
    slope, terms = jax.jit(lambda t, y, terms: jet(
        lambda t, y: field(t, y, None), (t, y), ([jnp.ones_like(t), None, None], terms)
    ))(t0, y0, list(actual[1:]))  # fmt: skip
    slopes = np.stack(jax.device_get([slope, *terms[:-1]]))
    shape = (-1,) + (1,) * (slopes.ndim - 1)
    known = actual[1:] * np.arange(1, order + 1).reshape(shape).astype(y0.dtype)
    check_same(program, [slopes], [known], "ode_jet")
    return True


def reduced(program: Program, fails: Callable[[Program], bool]) -> Program:
    """The first line that fails, with no more than it needs."""
    for index in range(len(program.lines)):
        part = program.upto(index)
        if fails(part):
            return part
    return program
