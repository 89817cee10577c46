"""Random programs of numbers to order 20, against ball arithmetic with 60 digits.

What accuracy can be asked for is computed beside the values: how large the terms are
that enter the sums for each coefficient, and what roundings in them do to the results
(`Ball.error`, first-order error analysis with series in the place of numbers).
"""

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import flint
import jax
import jax.numpy as jnp
import numpy as np
from fuzz_programs import Mismatch
from jax import lax

import eqx_taylor


# -- the reference


class Ball(NamedTuple):
    """A series, numbers of the size of the terms of its sums, and its roundings: an
    error of so many times eps in each coefficient is what is to be expected."""

    exact: Any
    sizes: np.ndarray
    error: np.ndarray


def _coefficients(series, order: int) -> list[Any]:
    return [series[k] for k in range(order + 1)]


def _sizes(series, order: int) -> np.ndarray:
    return np.array([float(abs(series[k]).mid()) for k in range(order + 1)])


def _product(a, b):
    return np.convolve(a, b)[: len(a)]


def _composed(ball: Ball, fun: Callable[[Any], Any], own: float = 1) -> Ball:
    """`fun(x)`: its Taylor coefficients `c_n` at `x_0`, by their sizes, give

        sizes of y = Σ_n |c_n| d^n,   error of y = (Σ_n n |c_n| d^{n-1}) error of x,

    where `d` has the sizes of `x` but for `x_0`; and the roundings of `y` come on top.
    """
    order = len(ball.sizes) - 1
    kind = type(ball.exact)
    local = _sizes(fun(kind([ball.exact[0], 1])), order)
    d = ball.sizes.copy()
    d[0] = 0
    sizes, slope = np.zeros(order + 1), np.zeros(order + 1)
    for n in range(order, -1, -1):
        slope = _product(slope, d) + sizes
        sizes = _product(sizes, d)
        sizes[0] += local[n]
    error = _product(slope, ball.error) + sizes
    error[0] += (own - 1) * sizes[0]
    return Ball(fun(ball.exact), sizes, error)


def _mul(a: Ball, b: Ball) -> Ball:
    sizes = _product(a.sizes, b.sizes)
    error = _product(a.error, b.sizes) + _product(a.sizes, b.error) + sizes
    return Ball(a.exact * b.exact, sizes, error)


def _add(a: Ball, b: Ball) -> Ball:
    sizes = a.sizes + b.sizes
    return Ball(a.exact + b.exact, sizes, a.error + b.error + sizes)


def _sub(a: Ball, b: Ball) -> Ball:
    return _add(a, b)._replace(exact=a.exact - b.exact)


def _div(a: Ball, b: Ball) -> Ball:
    return _mul(a, _composed(b, lambda x: 1 / x))


def _pow(a: Ball, b: Ball) -> Ball:
    return _composed(_mul(b, _composed(a, lambda x: x.log())), lambda x: x.exp())


def _atan2(a: Ball, b: Ball) -> Ball:
    return _composed(_div(a, b), lambda x: x.atan())


def _power(ball: Ball, exponent: Any) -> Ball:
    """`x ** r`, by `x y' = r x' y`: the terms of the sums that this makes

        y_k = Σ_{j=1..k} (r j - (k - j)) x_j y_{k-j} / (k x_0)

    are smaller than those of a composition, which is not forgiven where there need not
    be one."""
    order, x0 = len(ball.sizes) - 1, ball.exact[0]
    if isinstance(exponent, int):
        power = ball.exact**exponent if exponent > 0 else (1 / ball.exact) ** -exponent
    else:
        number = flint.acb if isinstance(exponent, complex) else flint.arb
        power = (ball.exact.log() * number(exponent)).exp()
    true, x = _sizes(power, order), ball.sizes
    sizes, error = true.copy(), np.zeros(order + 1)
    error[0] = true[0] * (1 + abs(exponent) * ball.error[0] / x[0])
    x0 = float(abs(x0).mid())
    for k in range(1, order + 1):
        terms = [(abs(exponent * j - (k - j)) / (k * x0), j) for j in range(1, k + 1)]
        sizes[k] = max(true[k], sum(w * x[j] * true[k - j] for w, j in terms))
        error[k] = sizes[k] * (1 + ball.error[0] / x0) + sum(
            w * (x[j] * error[k - j] + ball.error[j] * true[k - j]) for w, j in terms
        )
    return Ball(power, sizes, error)


# -- the table


class Function(NamedTuple):
    # Python, of `{0}` (and `{1}`).
    text: str
    # Of flint's series; of `Ball`s where there are two operands.
    exact: Callable[..., Any]
    # Of the primal values.
    domain: Callable[..., bool] = lambda *x: True
    # Whether it is also a function of complex numbers.
    holomorphic: bool = True
    # Roundings in JAX's own value.
    own: float = 1
    # The exponent, where it is an argument of the program.
    exponent: int | float | complex | None = None


def _tanh(x):
    return 1 - 2 / ((2 * x).exp() + 1)


def _sinh(x):
    return (x.exp() - (-x).exp()) / 2


def _cosh(x):
    return (x.exp() + (-x).exp()) / 2


def _log2() -> Any:
    return flint.arb.const_log2()


def _exact(number: float):
    return flint.arb(number)


def _positive(x, *_):
    return np.real(x) > 0.1


def _is_small(bound):
    return lambda x: abs(x) < bound


UNARY = [
    Function("jnp.sin({0})", lambda x: x.sin()),
    Function("jnp.cos({0})", lambda x: x.cos()),
    Function("jnp.tan({0})", lambda x: x.tan(), _is_small(1.3)),
    Function("jnp.exp({0})", lambda x: x.exp()),
    Function("lax.exp2({0})", lambda x: (x * _log2()).exp()),
    Function("lax.expm1({0})", lambda x: x.exp() - 1),
    Function("jnp.log({0})", lambda x: x.log(), _positive),
    Function(
        "lax.log1p({0})",
        lambda x: (1 + x).log(),
        lambda x: np.real(x) > -0.8,
        own=130,  # On JAX 0.10, at -0.41.
    ),
    Function("jnp.tanh({0})", _tanh, lambda x: np.isrealobj(x) or abs(x) < 1),
    Function("jnp.sinh({0})", _sinh),
    Function("jnp.cosh({0})", _cosh),
    Function("lax.logistic({0})", lambda x: 1 / (1 + (-x).exp()), lambda x: np.isrealobj(x) or abs(x) < 2),
    Function("jax.nn.softplus({0})", lambda x: (1 + x.exp()).log(), holomorphic=False),
    Function("jax.nn.silu({0})", lambda x: x / (1 + (-x).exp()), holomorphic=False),
    Function("jnp.arctan({0})", lambda x: x.atan(), holomorphic=False),
    Function("jnp.arcsin({0})", lambda x: x.asin(), _is_small(0.9), False),
    Function("jnp.arccos({0})", lambda x: x.acos(), _is_small(0.9), False),
    Function("jnp.arcsinh({0})", lambda x: (x + (1 + x * x).sqrt()).log(), _is_small(0.9)),
    Function("jnp.arccosh({0})", lambda x: (x + (x * x - 1).sqrt()).log(), lambda x: x > 1.1, False),
    Function("jnp.arctanh({0})", lambda x: ((1 + x) / (1 - x)).log() / 2, _is_small(0.9)),
    Function("jnp.sqrt({0})", lambda x: x.sqrt(), _positive),
    Function("lax.rsqrt({0})", lambda x: x.rsqrt(), _positive),
    Function("jnp.cbrt({0})", lambda x: (x.log() / 3).exp(), _positive, False),
    Function("({0}) ** 0.7", lambda x: (x.log() * _exact(0.7)).exp(), _positive),
    Function("({0}) ** -1.5", lambda x: x.rsqrt() / x, _positive),
    Function("({0}) ** 2", lambda x: x * x),
    Function("({0}) ** 2.0", lambda x: x * x),
    Function("({0}) ** 3", lambda x: x * x * x),
    Function("({0}) ** 7", lambda x: x * x * x * (x * x * x) * x),
    Function("({0}) ** -2", lambda x: 1 / (x * x), lambda x: abs(x) > 0.1),
    Function("jnp.reciprocal({0})", lambda x: 1 / x, lambda x: abs(x) > 0.1),
    Function("lax.erf({0})", lambda x: x.erf(), holomorphic=False),
    Function("lax.erfc({0})", lambda x: x.erfc(), holomorphic=False),
    Function("jax.nn.gelu({0}, approximate=False)", lambda x: x * (1 + (x * _exact(0.5).sqrt()).erf()) / 2, holomorphic=False),
    Function("lax.lgamma({0})", lambda x: x.lgamma(), lambda x: x > 0.3 and abs(x - 1) > 0.2 < abs(x - 2), False),
    Function("jnp.abs({0})", lambda x: x if x[0] > 0 else -x, lambda x: abs(x) > 1e-3, False),
    Function("jax.nn.relu({0})", lambda x: x if x[0] > 0 else 0 * x, lambda x: abs(x) > 1e-3, False),
    Function("1.5 - {0}", lambda x: _exact(1.5) - x),
    Function("0.75 * ({0})", lambda x: _exact(0.75) * x),
    Function("0.5 / ({0})", lambda x: _exact(0.5) / x, lambda x: abs(x) > 0.1),
    Function("({0}) / 1.25", lambda x: x / _exact(1.25)),
]  # fmt: skip
BINARY = [
    Function("{0} + {1}", _add),
    Function("{0} - {1}", _sub),
    Function("{0} * {1}", _mul),
    Function("({0}) / ({1})", _div, lambda x, y: abs(y) > 0.1),
    Function("({0}) ** ({1})", _pow, lambda x, y: np.real(x) > 0.1 and abs(y) < 4),
    Function("jnp.arctan2({0}, {1})", _atan2, lambda x, y: y > 0.1, False),
]


# An exponent that is an argument: nothing is known of it while tracing.
EXPONENTS: list[int | float | complex] = [
    -2, -1, 0, 1, 2, 3, 5, -1.5, -0.5, 0.5, 0.75, 1.5, 2.5, -3.25, 4.5,
]  # fmt: skip
COMPLEX_EXPONENTS: list[int | float | complex] = [2j, -1.5j, 0.5 + 1j, -1 + 0.5j]


def _of_exponent(exponent: int | float | complex) -> Function:
    def domain(x):
        if isinstance(exponent, int) and exponent >= 0:
            return abs(x) > 0.1 or exponent > 0 and np.isrealobj(x)
        return np.real(x) > 0.1

    return Function("({0}) ** {p}", lambda x: x, domain, exponent=exponent)


class Step(NamedTuple):
    function: Function
    operands: tuple[int, ...]


class ScalarProgram(NamedTuple):
    """Value 0 is the input; each step makes one more. The last is the result."""

    steps: tuple[Step, ...]
    # Coefficients, not derivatives.
    terms: list[Any]
    dtype: str
    jitted: bool

    @property
    def order(self):
        return len(self.terms) - 1

    @property
    def exponents(self) -> dict[str, int | float | complex]:
        """The arguments that do not move, by their names."""
        return {
            f"p{i}": step.function.exponent
            for i, step in enumerate(self.steps, 1)
            if step.function.exponent is not None
        }

    @property
    def source(self) -> str:
        lines = [f"def program({', '.join(['v0', *self.exponents])}):"]
        for i, (function, operands) in enumerate(self.steps, 1):
            text = function.text.format(*[f"v{j}" for j in operands], p=f"p{i}")
            lines.append(f"    v{i} = {text}")
        return "\n".join([*lines, f"    return v{len(self.steps)}"])

    def function(self) -> Callable[[Any], Any]:
        namespace = dict(jax=jax, jnp=jnp, lax=lax)
        exec(self.source, namespace)
        return namespace["program"]

    def __repr__(self):
        x, *terms = [
            "None" if t is None else f"jnp.asarray({t!r}, '{self.dtype}')"
            for t in self.terms
        ]
        exponents = [
            f"jnp.asarray({e!r}, '{self.dtype}')" for e in self.exponents.values()
        ]
        call = (
            f"jax.jit(lambda *p: eqx_taylor.filter_jet(lambda x: program(x, *p), ({x},), "
            f"([{', '.join(terms)}],), factorial_scaled=False))({', '.join(exponents)})"
        )
        return f"{self.source}\n{call}"


def random_scalar_program(rng: random.Random) -> ScalarProgram:
    dtype = rng.choice([*["float64"] * 6, "float32", "complex128", "complex128"])
    holomorphic = dtype == "complex128"

    def number():
        # Whole multiples of 1/128, and so exact in all of the types.
        value = rng.randint(-192, 192) / 128
        return complex(value, rng.randint(-96, 96) / 128) if holomorphic else value

    order = rng.randint(1, 20)
    kind = rng.choice(["line", "sparse", "sparse", "dense", "dense", "exponential"])
    missing = dict(line=1.0, sparse=0.8, dense=0.2, exponential=0.0)[kind]
    terms = [number()] + [
        None if rng.random() < missing else number() for _ in range(order)
    ]
    if kind == "line":
        terms[1] = number()
    elif kind == "exponential":
        # Of a function that is not a polynomial: coefficients of all orders, which fall.
        rate, size = number(), terms[0]
        terms = [size * rate**k / math.factorial(k) for k in range(order + 1)]
        terms = [np.asarray(term).astype(dtype)[()].item() for term in terms]
    if all(term is None for term in terms[1:]):
        terms[rng.randint(1, order)] = number()
    values = [np.asarray(terms[0]).astype(_wide(dtype))[()]]
    steps: list[Step] = []
    length = rng.randint(1, 8)
    for _ in range(20 * length):
        if len(steps) == length:
            break
        table = BINARY if rng.random() < 0.4 else UNARY
        function = rng.choice(table)
        if table is UNARY and rng.random() < 0.15:
            more = COMPLEX_EXPONENTS if holomorphic else []
            function = _of_exponent(rng.choice(EXPONENTS + more))
        arity = 2 if table is BINARY else 1
        # Mostly what is new, so that few values are left unused.
        operands = tuple(
            rng.choice([len(values) - 1, rng.randrange(len(values))])
            for _ in range(arity)
        )
        points = [values[j] for j in operands]
        if holomorphic and not function.holomorphic or not function.domain(*points):
            continue
        text = function.text.format(
            *[f"p[{j}]" for j in range(arity)], p=repr(function.exponent)
        )
        arrays = [jnp.asarray(point) for point in points]
        value = np.asarray(eval(text, dict(jax=jax, jnp=jnp, lax=lax, p=arrays)))[()]
        if np.isfinite(value) and 1e-3 < abs(value) < 20:
            steps.append(Step(function, operands))
            values.append(value)
    return ScalarProgram(tuple(steps), terms, dtype, rng.random() < 0.05)


def _wide(dtype):
    return "complex128" if np.dtype(dtype).kind == "c" else "float64"


def reference(program: ScalarProgram) -> Ball:
    flint.ctx.dps = 60
    flint.ctx.cap = program.order + 1
    kind = flint.acb_series if program.dtype == "complex128" else flint.arb_series
    exact = kind([term or 0 for term in program.terms])
    order = program.order
    balls = [Ball(exact, _sizes(exact, order), np.zeros(order + 1))]
    for function, operands in program.steps:
        points = [balls[j] for j in operands]
        if function.exponent is not None:
            balls.append(_power(points[0], function.exponent))
        elif len(points) == 2:
            balls.append(function.exact(*points))
        else:
            balls.append(_composed(points[0], function.exact, function.own))
    return balls[-1]


def check_scalar(program: ScalarProgram, allowed: float = 50) -> float:
    """An error of `allowed (k + 1)` roundings at order `k`. Returns the largest, in
    roundings, divided by `k + 1`."""
    expected = reference(program)
    x, *terms = [
        None if term is None else jnp.asarray(term, program.dtype)
        for term in program.terms
    ]
    fun = program.function()
    exponents = {k: jnp.asarray(p, program.dtype) for k, p in program.exponents.items()}

    def jet(x, terms, exponents):
        return eqx_taylor.filter_jet(
            lambda x: fun(x, **exponents), (x,), (terms,), factorial_scaled=False
        )

    # An exponent is a number like any other unless it is traced.
    jitted = program.jitted or exponents
    value, series = jax.device_get(
        (jax.jit(jet) if jitted else jet)(x, terms, exponents)
    )
    eps = float(jnp.finfo(program.dtype).eps)
    worst = 0.0
    for k, actual in enumerate([value, *series]):
        if actual.dtype != program.dtype:
            raise Mismatch(f"order {k}: dtype {actual.dtype}")
        exact = expected.exact[k]
        error = float(abs(exact - type(exact)(actual.item())).mid())
        unit = eps * (k + 1) * expected.error[k]
        # What underflows is as good as zero.
        if error > allowed * unit + float(jnp.finfo(program.dtype).tiny):
            raise Mismatch(
                f"order {k}: {actual!r} instead of {exact}; error {error:.3g}, "
                f"{error / unit if unit else np.inf:.3g} times what its roundings may be"
            )
        if unit:
            worst = max(worst, error / unit)
    return worst


def reduced_scalar(program: ScalarProgram, fails) -> ScalarProgram:
    """Up to the first value that is wrong, and of as low an order as that."""
    for length in range(1, len(program.steps) + 1):
        part = program._replace(steps=program.steps[:length])
        if fails(part):
            break
    else:
        return program
    for order in range(1, part.order):
        lower = part._replace(terms=part.terms[: order + 1])
        if any(term is not None for term in lower.terms[1:]) and fails(lower):
            return lower
    return part
