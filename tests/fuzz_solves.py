"""Random equations whose fields are not smooth, against what is known of their solutions:

    python tests/fuzz_solves.py 200 --seed 0

Fields that follow an interpolated input, with steps on its knots, in both directions of
time; that have a kink where a step begins; powers of what is clamped, at the edge, below
it, and on the way across. Every solution is a closed form, put together from pieces, and
each piece is compared with `diffrax.Dopri8`, too. A mismatch is printed with the number
that makes it again; status 1 if there is any.
"""

import argparse
import collections
import math
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import conftest as conftest  # the settings of the tests, before JAX is imported
import diffrax as dx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from eqx_taylor import TaylorController, TaylorSolver


class Equation(NamedTuple):
    """`y' = field(t, y)` from `y(ts[0]) = y0`, and `y` at all of `ts`."""

    kind: str
    field: Callable[[Any, Any], Any]
    ts: list[float]
    y0: float
    exact: list[float]
    # Where steps end: at `ts`, or where the controller says.
    fixed: bool
    dtype: str
    # An error of so many tolerances, or roundings with fixed steps.
    allowed: float
    text: str


# -- y' = a y + u(t), with u a polynomial on every piece


def _after_piece(y, a, poly, h):
    """`y(h)` of `y' = a y + poly(s)`: a polynomial, and an exponential."""
    y, a, h = mpmath.mpf(y), mpmath.mpf(a), mpmath.mpf(h)
    poly = [mpmath.mpf(c) for c in poly]
    if a == 0:
        return y + sum(c * h ** (k + 1) / (k + 1) for k, c in enumerate(poly))
    # q' = a q + poly, from the highest coefficient downwards.
    q = [mpmath.mpf(0)] * (len(poly) + 1)
    for k in range(len(poly) - 1, -1, -1):
        q[k] = ((k + 1) * q[k + 1] - poly[k]) / a
    value = sum(c * h**k for k, c in enumerate(q))
    return value + (y - q[0]) * mpmath.exp(a * h)


def _shifted(poly, d):
    """The coefficients of `poly(s + d)`."""
    n = len(poly)
    return [
        sum(poly[j] * math.comb(j, k) * mpmath.mpf(d) ** (j - k) for j in range(k, n))
        for k in range(n)
    ]


def _interpolated(rng: random.Random) -> Equation:
    dtype = rng.choice(["float64", "float64", "float32"])
    number = np.dtype(dtype).type
    count = rng.randint(3, 6)
    spacing = rng.choice([0.5, 0.25, 0.1, 0.3, 1 / 3])
    even = rng.random() < 0.5
    start = rng.choice([0.0, 0.0, 1.0, -0.7])
    gaps = [spacing if even else rng.randint(10, 60) / 100 for _ in range(count)]
    knots = np.asarray(start + np.cumsum([0.0, *gaps]), dtype)
    values = np.asarray([rng.randint(-20, 20) / 10 for _ in knots], dtype)
    way = rng.choice(["linear", "linear", "cubic", "interp", "step"])
    a = number(rng.choice([0.0, 0.0, -1.0, 0.5]))
    backward = rng.random() < 0.4
    h = np.diff(knots).astype(float)
    if way == "cubic":
        coefficients = dx.backward_hermite_coefficients(jnp.asarray(knots), jnp.asarray(values))  # fmt: skip
        path = dx.CubicInterpolation(jnp.asarray(knots), coefficients)
        # (d, c, b, a), highest power first.
        pieces = [[float(c[i]) for c in coefficients[::-1]] for i in range(count)]
    else:
        path = dx.LinearInterpolation(jnp.asarray(knots), jnp.asarray(values))
        rise = np.diff(values.astype(float)) / h
        pieces = [[float(values[i]), float(rise[i])] for i in range(count)]
    if way == "step":
        # Continuous all the same: a kink at every knot.
        pieces = [[0.0, 1.0 if i % 2 == 0 else -1.0] for i in range(count)]
        level = 0.0
        for i, piece in enumerate(pieces):
            piece[0] = level
            level += piece[1] * float(h[i])
        inner = jnp.asarray(knots)

        def u(t):
            i = jnp.clip(jnp.searchsorted(inner, t, side="right") - 1, 0, count - 1)
            rows = jnp.asarray(pieces, dtype)[i]
            return rows[0] + rows[1] * (t - inner[i])

    elif way == "interp":

        def u(t):
            return jnp.interp(t, jnp.asarray(knots), jnp.asarray(values))

    else:

        def u(t):
            return path.evaluate(t, left=not backward) if backward else path.evaluate(t)

    y0 = rng.randint(-10, 10) / 10
    exact, y = [y0], mpmath.mpf(y0)
    for i in range(count)[:: -1 if backward else 1]:
        length = mpmath.mpf(float(knots[i + 1])) - mpmath.mpf(float(knots[i]))
        if backward:
            turned = [-c * (-1) ** k for k, c in enumerate(_shifted(pieces[i], length))]
            y = _after_piece(y, -float(a), turned, length)
        else:
            y = _after_piece(y, float(a), pieces[i], length)
        exact.append(float(y))
    return Equation(
        f"{way} input" + (", backward" if backward else ""),
        lambda t, y: a * y + u(t),
        [float(t) for t in (knots[::-1] if backward else knots)],
        y0, exact, True, dtype, 5e3,
        f"{way}, knots {knots.tolist()}, values {values.tolist()}, {a=}, {backward=}",
    )  # fmt: skip


# -- kinks where a step begins


def _kink(rng: random.Random) -> Equation:
    """`y' = c + b k(y - y0)` or `c y + b k(t - t0)`, with a kink `k` at the start."""
    dtype = rng.choice(["float64", "float64", "float32"])
    number = np.dtype(dtype).type
    y0, t0 = rng.choice([0.0, 0.0, 0.5, -0.25]), rng.choice([0.0, 0.5, 0.25])
    b, c = rng.choice([1.0, -0.5, 2.0]), rng.choice([1.0, -1.0, 0.5, -0.5])
    name, left, right = rng.choice(
        [("relu", 0.0, 1.0), ("abs", -1.0, 1.0), ("minimum", 1.0, 0.0),
         ("leaky_relu", 0.01, 1.0), ("where", 0.5, 2.0), ("clip", 0.0, 1.0)]
    )  # fmt: skip
    kinks: dict[str, Callable] = dict(
        relu=lambda x: jnp.maximum(x, 0),
        abs=jnp.abs,
        minimum=lambda x: jnp.minimum(x, 0),
        leaky_relu=jax.nn.leaky_relu,
        where=lambda x: jnp.where(x > 0, 2 * x, x / 2),
        clip=lambda x: jnp.clip(x, 0, 50),
    )
    kink, steps = kinks[name], rng.choice([4, 8, 10])
    forward = rng.random() < 0.7
    end = 1.0 if forward else -1.0
    ts = [t0 + end * i / steps for i in range(steps + 1)]
    ts = [float(number(t)) for t in ts]
    spans = [mpmath.mpf(t) - mpmath.mpf(ts[0]) for t in ts]
    if rng.random() < 0.6:
        # The side into which it goes has one slope, and keeps it.
        side = right if c * end > 0 else left
        rate = b * side
        shapes = [c * (mpmath.expm1(rate * s) / rate if rate else s) for s in spans]
        exact = [y0 + float(x) for x in shapes]

        def field(t, y):
            return number(c) + number(b) * kink(y - number(y0))

        text = f"c + b {name}(y - y0)"
    else:
        side = right if forward else left
        exact = [float(_after_piece(y0, c, [0, b * side], s)) for s in spans]

        def field(t, y):
            return number(c) * y + number(b) * kink(t - number(t0))

        text = f"c y + b {name}(t - t0)"
    if any(abs(y) > 1e3 for y in exact):
        return _kink(rng)
    return Equation(
        "kink of the state" if "y - y0" in text else "kink in time",
        field, ts, y0, exact, True, dtype, 5e3,
        f"{text}: {b=}, {c=}, {y0=}, t {ts[0]} to {ts[-1]}, {steps} steps",
    )  # fmt: skip


# -- powers of what is clamped


def _clamped(rng: random.Random) -> Equation:
    """`y' = -c - k max(y, 0)^p`, from above the edge, from it and from below."""
    p = rng.choice([0.5, 1.5, 2.5, 3.0, 2.0, 1.0])
    c, k = rng.choice([0.1, 0.5, 1.0]), rng.choice([1.0, 0.5])
    form = rng.choice(["maximum", "relu", "clip"])
    y0 = rng.choice([0.0, -0.5, 1.0, 1.0, 0.25])
    if y0 <= 0:
        arrival = mpmath.mpf(0)
    else:
        arrival = mpmath.quad(lambda y: 1 / (c + k * y**p), [0, y0 / 64, y0 / 8, y0])
    t1 = float(arrival) + rng.choice([0.5, 2.0, 5.0])
    exact = [y0, float(min(y0, 0) - c * (mpmath.mpf(t1) - arrival))]

    def field(t, y):
        above = dict(
            maximum=lambda: jnp.maximum(y, 0), relu=lambda: jax.nn.relu(y),
            clip=lambda: jnp.clip(y, 0, 1e3),
        )[form]()  # fmt: skip
        return -c - k * above**p

    return Equation(
        "clamped power" + ("" if y0 > 0 else " at its edge" if y0 == 0 else " below it"),
        field, [0.0, t1], y0, exact, False, "float64", 50,
        f"-{c} - {k} {form}(y)^{p}, from {y0} to {t1}",
    )  # fmt: skip


KINDS = (_interpolated, _interpolated, _kink, _clamped)


def random_equation(rng: random.Random) -> Equation:
    return rng.choice(KINDS)(rng)


def solved(equation: Equation) -> tuple[np.ndarray, dx.RESULTS]:
    ts = jnp.asarray(equation.ts, equation.dtype)
    if equation.fixed:
        order = 8 if equation.dtype == "float32" else 18
        controller: Any = dx.StepTo(ts=ts)
    else:
        order, controller = 8, TaylorController(rtol=_TOLERANCE, atol=_TOLERANCE)
    solution = dx.diffeqsolve(
        dx.ODETerm(lambda t, y, args: equation.field(t, y)),
        TaylorSolver(order=order),
        ts[0],
        ts[-1],
        None,
        jnp.asarray(equation.y0, equation.dtype),
        saveat=dx.SaveAt(ts=ts),
        stepsize_controller=controller,
        max_steps=2000,
        throw=False,
    )
    return np.asarray(solution.ys), solution.result


_TOLERANCE = 1e-6
# The error that is allowed to Dopri8, in its tolerances: each step may make one, and
# next to the edges of powers it makes many. Chosen; a wrong form is wrong by far more.
_DOPRI8 = 100


def check_closed_form(equation: Equation) -> None:
    """Compares the closed form with a Runge-Kutta method: from each of the `ts`, and the
    value there, to the next one, so that knots and kinks are where steps begin."""
    ts, ys = (jnp.asarray(x, equation.dtype) for x in (equation.ts, equation.exact))
    tol = 1e-5 if equation.dtype == "float32" else 1e-9
    term = dx.ODETerm(lambda t, y, args: equation.field(t, y))
    controller = dx.PIDController(rtol=tol, atol=tol)
    for t0, t1, y0, y1 in zip(ts, ts[1:], ys, ys[1:]):
        solution = dx.diffeqsolve(
            term, dx.Dopri8(), t0, t1, None, y0, stepsize_controller=controller
        )
        [end], size = solution.ys, 1 + abs(float(y0)) + abs(float(y1))
        if not abs(float(end) - float(y1)) <= _DOPRI8 * tol * size:
            raise AssertionError(f"closed form: {y1} at {t1}; by Dopri8 {end}")


def check(equation: Equation) -> None:
    ys, result = solved(equation)
    if result != dx.RESULTS.successful:
        raise AssertionError(f"ended with: {result}")
    size = max(1.0, float(np.max(np.abs(equation.exact))))
    unit = float(jnp.finfo(equation.dtype).eps) if equation.fixed else _TOLERANCE
    error = float(np.max(np.abs(ys.astype(float) - equation.exact))) / size / unit
    if not error <= equation.allowed:  # Not `>`, which is false for NaN.
        what = "roundings" if equation.fixed else "tolerances"
        raise AssertionError(f"{error:.3g} {what}: {ys} instead of {equation.exact}")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("equations", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    args = parser.parse_args(argv)
    warnings.simplefilter("error")
    tried: collections.Counter[str] = collections.Counter()
    wrong: collections.Counter[str] = collections.Counter()
    for n in range(args.first, args.first + args.equations):
        equation = random_equation(random.Random(f"{args.seed} {n}"))
        tried[equation.kind] += 1
        try:
            check_closed_form(equation)
            check(equation)
        except Exception as e:
            wrong[equation.kind] += 1
            message = str(e).splitlines()[0] if str(e) else repr(e)
            print(
                f"--seed {args.seed} --first {n}: {equation.kind}, {equation.dtype}: "
                f"{equation.text}\n    {type(e).__name__}: {message[:300]}",
                flush=True,
            )
    for kind, count in sorted(tried.items()):
        print(f"{kind}: {count} equations, {wrong[kind]} mismatches")
    print(f"{args.equations} equations, {sum(wrong.values())} mismatches, seed {args.seed}")  # fmt: skip
    return int(sum(wrong.values()) > 0)


if __name__ == "__main__":
    sys.exit(main())
