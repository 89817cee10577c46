"""Polynomials in LLVM's language."""

from typing import Any

from .emit import Numbers


def with_increment(x: Numbers, terms: list[Any], s: Any) -> tuple[Any, Any]:
    """Computes a polynomial `p`, and `s p'(s)`. Of the sums of the odd and the even
    orders, `o` and `e`, it takes the derivatives along Horner's rule."""

    def horner(terms):
        total, slope = x.constant(0.0), x.constant(0.0)
        for i, term in enumerate(reversed(terms)):
            if i > 1:
                slope = x.fma(slope, square, total)
            elif i == 1:
                slope = total
            total = term if i == 0 else x.fma(total, square, term)
        return total, slope

    # p = c0 + s o(s^2) + s^2 e(s^2)
    square, two = x.mul(s, s), x.constant(2.0)
    odd, odd_slope = horner(terms[1::2])
    even, even_slope = horner(terms[2::2])
    y = x.fma(x.fma(even, s, odd), s, terms[0])
    # p' = o + 2 s^2 o' + 2 s (e + s^2 e')
    of_odd = x.fma(x.mul(two, square), odd_slope, odd)
    of_even = x.fma(square, even_slope, even)
    slope = x.fma(x.mul(two, s), of_even, of_odd)
    return y, x.mul(slope, s)


def polynomial(x: Numbers, terms: list[Any], s: Any) -> Any:
    """Computes a polynomial; its first coefficient is added last. Odd and even orders
    are summed apart, and half as many operations wait for each other."""

    def horner(terms):
        total = None
        for term in reversed(terms):
            total = term if total is None else x.fma(total, square, term)
        return total

    square = x.mul(s, s)
    odd, even = horner(terms[1::2]), horner(terms[2::2])
    if odd is None:
        return terms[0]
    if even is not None:
        odd = x.fma(even, s, odd)
    return x.fma(odd, s, terms[0])


def compensated(x: Numbers, terms: list[Any], s: Any, rest: Any) -> tuple[Any, Any]:
    """Computes a polynomial, and what is left beyond its last digit, as
    `evaluate_compensated` does in `_core/polynomial.py`."""

    def two_sum(a, b):
        total = x.add(a, b)
        of_b = x.sub(total, a)
        of_a = x.sub(a, x.sub(total, of_b))
        return total, x.add(of_a, x.sub(b, of_b))

    total, power = terms[0], s
    for term in terms[1:]:
        total, error = two_sum(total, x.mul(term, power))
        rest = x.add(rest, error)
        power = x.mul(power, s)
    return two_sum(total, rest)
