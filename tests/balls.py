"""Ball arithmetic (python-flint) as the oracle of series: as many bits as it takes."""

import math

import flint
from flint import acb, acb_series, arb, arb_series


def to_ball(x):
    if isinstance(x, complex):
        return acb(x.real, x.imag)
    return arb(float(x))


def ball_series(terms):
    kind = acb_series if any(isinstance(x, complex) for x in terms) else arb_series
    return kind([to_ball(x) for x in terms])


def exact_terms(exact, terms, order):
    """Coefficients 0 to `order` of a function of a series, each known to 70 bits or
    too small for any floating-point number."""
    flint.ctx.cap = order + 1
    bits = 200
    while bits < 40000:
        flint.ctx.prec = bits
        try:
            found = exact(ball_series(terms))
        except ValueError:
            found = []  # Balls so wide that zero is in them.
        found = [found[k] for k in range(order + 1)] if found else found
        if found and all(_is_sharp(x) for x in found):
            return found
        bits *= 2
    raise ValueError(f"no oracle at {terms[0]}")


def _is_sharp(x):
    return x.rel_accuracy_bits() > 70 or (x.is_finite() and _radius(x) < 1e-320)


def _radius(x):
    parts = (x.real, x.imag) if isinstance(x, acb) else (x,)
    return max(float(part.rad()) for part in parts)


def size(x):
    """The absolute value, as a ball without a radius."""
    return abs(x).mid()


# -- how large the terms are of which a sum is made


def smooth_sizes(found):
    """`max(|f_n|, sqrt(|f_{n-1} f_{n+1}|))`: of coefficients, where none is small by
    chance. One fewer than were given."""
    sizes = [size(x) for x in found]
    inner = [
        max(b, (a * c).sqrt().mid()) for a, b, c in zip(sizes, sizes[1:], sizes[2:])
    ]
    return [sizes[0], *inner]


def curve_sizes(found, steps):
    """Sizes of coefficients along a curve `x_0 + Σ_j steps_j t^j`, and of what a
    rounding of each coefficient of the curve makes of them."""
    number = len(steps)
    steps = [to_ball(step) for step in steps]
    slopes, path = ([n * x for n, x in enumerate(y, 1)] for y in (found[1:], steps))
    inner = []
    for k in range(number):
        rest = sum((path[j] * inner[k - j] for j in range(1, k + 1)), arb(0))
        inner.append((slopes[k] - rest) / path[0])
    inner = smooth_sizes([*inner, inner[-1]])
    sizes = smooth_sizes(found)
    for k in range(1, number + 1):
        total = sum(size(steps[j - 1]) * inner[k - j] for j in range(1, k + 1))
        sizes[k] = max(sizes[k], total.mid())
    return sizes


def sizes_of(x):
    return arb_series([size(x[k]) for k in range(flint.ctx.cap)])


def in_product(*factors):
    """Those of `Σ_j f_j g_{k-j}`."""

    def sizes(x):
        return math.prod((sizes_of(f(x)) for f in factors), start=arb_series([1]))

    return sizes


def in_integral(slope):
    """Those of `y' = g x'`, from those of `g`."""
    return lambda x: (slope(x) * sizes_of(x.derivative())).integral()


def in_quotient(f, g):
    """Those of `g_0 q_k = f_k - Σ_j g_j q_{k-j}`."""

    def sizes(x):
        above, below = sizes_of(f(x)), sizes_of(g(x))
        return above / (2 * below[0] - below)

    return sizes


def in_logarithm(f):
    """Those of `f_0 y_k = f_k - Σ_j (j / k) y_j f_{k-j}`."""

    def sizes(x):
        y = sizes_of(f(x))
        return -(2 - y / y[0]).log()

    return sizes


# -- what balls have no name for


def exp2(x):
    return (x * arb(2).log()).exp()


def tanh(x):
    return 1 - 2 / ((2 * x).exp() + 1)


def sinh(x):
    return (x.exp() - (-x).exp()) / 2


def cosh(x):
    return (x.exp() + (-x).exp()) / 2


def logistic(x):
    return 1 / (1 + (-x).exp())


def softplus(x):
    return (1 + x.exp()).log()


def asinh(x):
    if isinstance(x, arb_series) and x[0] < 0:
        return -asinh(-x)
    if isinstance(x, acb_series):
        return (x + (1 + 1j * x).sqrt() * (1 - 1j * x).sqrt()).log()
    return (x + (1 + x * x).sqrt()).log()


def acosh(x):
    return (x + (x - 1).sqrt() * (x + 1).sqrt()).log()


def atanh(x):
    return ((1 + x).log() - (1 - x).log()) / 2


def cube_root(x):
    return power(arb(1) / 3)(x)


def power(r):
    def exact(x):
        if isinstance(x, arb_series) and x[0] < 0:
            # A cube root, or an integer exponent.
            sign = -1 if isinstance(r, arb) or r % 2 == 1 else 1
            return sign * ((-x).log() * r).exp()
        return (x.log() * r).exp()

    return exact


def normal(x):
    return (-x / arb(2).sqrt()).erfc() / 2


def erf_inv(x):
    y0 = x[0].erfinv()
    around = arb_series([y0, 1]).erf()
    around = around - around[0]
    inverse = arb_series([0, *[around[k] for k in range(1, flint.ctx.cap)]])
    return y0 + inverse.reversion()(
        arb_series([0, *[x[k] for k in range(1, flint.ctx.cap)]])
    )


def log_gamma(x):
    r = x.rgamma()
    return -(-r if r[0] < 0 else r).log()


def differentiated(exact, n):
    """The n-th derivative of a function, from its Taylor series."""

    def fun(x):
        cap = flint.ctx.cap
        flint.ctx.cap = cap + n
        y = exact(type(x)([x[0], 1]))
        for _ in range(n):
            y = y.derivative()
        y = type(x)([y[k] for k in range(cap)])
        flint.ctx.cap = cap
        h = type(x)([0, *[x[k] for k in range(1, cap)]])
        return y(h) if h.length() > 1 else y

    return fun


def bessel(order):
    """DLMF 10.29.5: `2^n I_v^(n) = Σ_k C(n, k) I_{v-n+2k}`."""

    def exact(x):
        cap = flint.ctx.cap
        values = {m: x[0].bessel_i(arb(abs(m))) for m in range(-cap, cap + 2)}
        terms = [
            sum(math.comb(n, k) * values[order - n + 2 * k] for k in range(n + 1))
            / (arb(2) ** n * math.factorial(n))
            for n in range(cap)
        ]
        return arb_series(terms)(arb_series([0, *[x[k] for k in range(1, cap)]]))

    return exact


def scaled_bessel(order):
    def exact(x):
        return bessel(order)(x) * (x if x[0] < 0 else -x).exp()

    return exact
