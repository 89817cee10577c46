"""What the tests compare with: nested derivatives, high precision and counts.

Nothing here but `jet` is Taylor mode in JAX. The reference for ODEs is Taylor arithmetic with 40
digits, which is itself compared with mpmath's derivatives in `test_ode_jet.py`.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import jax.tree_util as jtu
import mpmath
import numpy as np
import pytest

import eqx_taylor
from eqx_taylor._programs.inspect import nested as derivatives


# -- derivatives by nesting: `derivatives` is by `jvp` of `jvp` of ...


def polynomial(primal: Any, terms: Sequence[Any], t: Any) -> Any:
    """The curve with these derivatives at zero."""
    for k, term in enumerate(terms, 1):
        if term is not None:
            primal = primal + term * (t**k / math.factorial(k)).astype(primal.dtype)
    return primal


def nested_jet(fun: Callable, primals: Sequence[Any], series: Sequence[Any]) -> list:
    """The value of `fun` along a curve and its derivatives, as a list over orders."""

    def along(t):
        return fun(*[polynomial(x, terms, t) for x, terms in zip(primals, series)])

    [order] = {len(terms) for terms in series}
    return jax.jit(derivatives(along, order))(jnp.zeros((), jnp.result_type(float)))


def nested_ode_jet(field: Callable, t0: Any, y0: Any, args: Any, order: int) -> list:
    """Normalised coefficients of the solution, as a list over orders: Picard's iteration,
    each turn of which makes one more of them right."""

    def slopes(t0, y0, terms):
        def along(t):
            y = jtu.tree_map(lambda x, *rest: polynomial(x, rest, t), y0, *terms)
            return field(t0 + t, y, args)

        return derivatives(along, order - 1)(jnp.zeros_like(t0))

    @jax.jit
    def coefficients(t0, y0):
        def turn(k, terms):
            # The others are left alone: they may not be finite yet.
            return [
                jtu.tree_map(
                    lambda new, old: jnp.where(j == k, new.astype(old.dtype), old),
                    *pair,
                )
                for j, pair in enumerate(zip(slopes(t0, y0, terms), terms))
            ]

        terms = [jtu.tree_map(jnp.zeros_like, y0)] * order
        terms = [y0, *jax.lax.fori_loop(0, order, turn, terms)]
        return [
            jtu.tree_map(lambda x: x / math.factorial(k), term)
            for k, term in enumerate(terms)
        ]

    return coefficients(*jtu.tree_map(jnp.asarray, (t0, y0)))


def random_series(primals: Sequence[Any], order: int, seed: int = 0) -> list[list[Any]]:
    """For each primal (an array) as many terms of its shape and dtype."""
    rng = np.random.default_rng(seed)

    def term(x):
        value = rng.uniform(0.5, 1.0, np.shape(x)) * rng.choice([-1, 1], np.shape(x))
        if jnp.iscomplexobj(x):
            value = value + 1j * rng.uniform(-1, 1, np.shape(x))
        return jnp.asarray(value, jnp.asarray(x).dtype)

    return [[term(x) for _ in range(order)] for x in primals]


def jet(fun: Callable, points: Sequence[Any], series: Sequence[Any], **kwargs) -> list:
    """What is tested, as a list over orders."""
    value, terms = eqx_taylor.filter_jet(fun, tuple(points), tuple(series), **kwargs)
    return [value, *terms]


# -- comparisons


def assert_close(actual: Any, expected: Any, ulps: float = 50, scale: Any = None):
    """Leaf by leaf: an error of at most `ulps` roundings of the largest entry.

    Structures, shapes and dtypes must be equal too. `scale` replaces the size of the
    largest entry of `expected`, for values that are sums of much larger ones.
    """
    assert jtu.tree_structure(actual) == jtu.tree_structure(expected)
    for a, e in zip(jtu.tree_leaves(actual), jtu.tree_leaves(expected)):
        # Not JAX, which would compile each of these operations.
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape, f"shape {a.shape}, expected {e.shape}"
        assert a.dtype == e.dtype, f"dtype {a.dtype}, expected {e.dtype}"
        if np.array_equal(a, e):
            continue
        kind = e.dtype if jnp.issubdtype(e.dtype, jnp.inexact) else jnp.float64
        eps = float(jnp.finfo(kind).eps)
        wide = np.complex128 if np.iscomplexobj(e) else np.float64
        a, e = a.astype(wide), e.astype(wide)
        size = np.max(np.abs(e)) if scale is None else scale
        error = np.max(np.abs(a - e))
        # Not `>`, which is false for NaN.
        assert error <= ulps * eps * size, (
            f"error {error / size / eps:.3g} ulps, allowed {ulps}\n{a}\nexpected {e}"
        )


def assert_same_bits(actual: Any, expected: Any):
    """Leaf by leaf, dtypes and signs of zeros too; but one NaN is like another."""
    leaves = [jtu.tree_leaves(x) for x in (actual, expected)]
    for a, e in zip(*leaves, strict=True):
        a, e = (np.where(x == x, x, np.nan).astype(x.dtype) for x in map(np.asarray, (a, e)))  # fmt: skip
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        assert a.tobytes() == e.tobytes(), (a, e)


def assert_orders_close(actual: Sequence, expected: Sequence, ulps: float = 50):
    """As `assert_close`, in roundings of the largest entry of any order up to this."""
    assert len(actual) == len(expected)
    for k, (a, e) in enumerate(zip(actual, expected)):
        assert_close(a, e, ulps, scale=largest(expected[: k + 1]))


def largest(tree: Any) -> float:
    return max(float(np.max(np.abs(x), initial=0)) for x in jtu.tree_leaves(tree))


def relative_error(actual: Any, expected: Sequence[Any]) -> float:
    """The largest, coefficient by coefficient, against mpmath's numbers."""
    errors = [
        abs((mpmath.mpf(float(a)) - e) / e)
        for a, e in zip(actual, expected, strict=True)
    ]
    return float(max(errors))


# -- counts


def count_equations(fun: Callable, *args: Any) -> int:
    """Of the jaxpr of `fun`, and of those inside it."""
    return sum(count_primitives(fun, *args).values())


def count_primitives(fun: Callable, *args: Any) -> dict[str, int]:
    """How often each primitive occurs. Calls of jaxprs are not counted themselves."""
    counts: dict[str, int] = {}

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            inner = [*_jaxprs(eqn.params.values())]
            for inside in inner:
                visit(inside)
            if not (inner and eqn.primitive.name in ("jit", "pjit")):
                counts[eqn.primitive.name] = counts.get(eqn.primitive.name, 0) + 1

    visit(jax.make_jaxpr(fun)(*args).jaxpr)
    return counts


def _jaxprs(values):
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs(value)
        elif isinstance(value, jex.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jex.Jaxpr):
            yield value


# -- Taylor arithmetic with 40 digits

mpmath.mp.dps = 40


class MpSeries:
    """A truncated power series of mpmath numbers, by the school's formulas."""

    def __init__(self, terms: Sequence[Any]):
        self.terms = [mpmath.mpmathify(term) for term in terms]

    def _like(self, other: Any) -> "MpSeries":
        if isinstance(other, MpSeries):
            return other
        return MpSeries([other] + [0] * (len(self.terms) - 1))

    def __add__(self, other):
        return MpSeries(
            [a + b for a, b in zip(self.terms, self._like(other).terms, strict=True)]
        )

    def __neg__(self):
        return MpSeries([-a for a in self.terms])

    def __sub__(self, other):
        return self + -self._like(other)

    def __mul__(self, other):
        if not isinstance(other, MpSeries):
            return MpSeries([a * other for a in self.terms])
        a, b = self.terms, other.terms
        return MpSeries([mpmath.fdot(a[: k + 1], b[k::-1]) for k in range(len(a))])

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return self._like(other) - self

    def __pow__(self, exponent):
        """`x y' = r x' y`, for any constant exponent."""
        x, r = self.terms, mpmath.mpf(exponent)
        y = [x[0] ** r]
        for k in range(1, len(x)):
            y.append(
                mpmath.fsum((r * j - k + j) * x[j] * y[k - j] for j in range(1, k + 1))
                / (k * x[0])
            )
        return MpSeries(y)

    def composed(self, taylor: Sequence[Any]) -> "MpSeries":
        """`g(x)` by Horner's rule, from the Taylor coefficients of `g` at `x_0`."""
        h = MpSeries([0, *self.terms[1:]])
        total = self._like(taylor[-1])
        for coefficient in taylor[-2::-1]:
            total = total * h + coefficient
        return total

    def sin(self):
        s, c = mpmath.sin(self.terms[0]), mpmath.cos(self.terms[0])
        cycle = [s, c, -s, -c]
        return self.composed(
            [cycle[k % 4] / mpmath.factorial(k) for k in range(len(self.terms))]
        )

    def exp(self):
        e = mpmath.exp(self.terms[0])
        return self.composed([e / mpmath.factorial(k) for k in range(len(self.terms))])

    def tanh(self):
        e = (self * 2).exp()
        return (e - 1) * (e + 1) ** -1


def mp_ode_coefficients(
    field: Callable[[MpSeries, list[MpSeries]], list[MpSeries]],
    t0: float,
    y0: Sequence[float],
    order: int,
) -> list[list[Any]]:
    """Coefficients of the solution, for each component a list: Picard's iteration,
    each turn of which makes one more of them right."""
    terms = [[mpmath.mpf(float(y))] for y in y0]
    for k in range(order):
        t = MpSeries([mpmath.mpf(float(t0)), 1, *[0] * k][: k + 1])
        slopes = field(t, [MpSeries(y) for y in terms])
        for y, slope in zip(terms, slopes, strict=True):
            y.append(slope.terms[k] / (k + 1))
    return terms


def assert_raises(
    call: Callable[[], Any], kind: type[Exception], words: Sequence[str]
) -> None:
    """That it ends in an error of this kind, whose message has all of these words."""
    with pytest.raises(kind) as error:
        call()
    for word in words:
        assert word in str(error.value)


# -- settings


@contextlib.contextmanager
def as_a_reader():
    """JAX as it is by default. The code of pages and notebooks may change it."""
    settings = {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
