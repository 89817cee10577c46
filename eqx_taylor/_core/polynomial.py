"""Evaluation of polynomials, with and without compensation for rounding errors."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from .terms import add


def evaluate(terms: Sequence[Any], s: Any) -> Any:
    """Computes `Σ_k terms[k] s^k`; `terms[0]` is added last.

    Odd and even orders are summed separately, by Horner's rule in `s²`, so that half as
    many operations wait for each other.
    """
    s = jnp.asarray(s, terms[0].dtype)
    odd, even = (_horner(terms[first::2], s * s) for first in (1, 2))
    return terms[0] + add(odd, None if even is None else even * s) * s


def _horner(terms: Sequence[Any], s: Any) -> Any:
    """Computes `Σ_k terms[k] s^k`; `None` if there are no terms."""
    total = None
    for term in reversed(terms):
        total = term if total is None else total * s + term
    return total


def evaluate_derivative(terms: Sequence[Any], s: Any) -> Any:
    """Computes `s p'(s) = Σ_k k terms[k] s^k` by Horner's rule."""
    return evaluate([k * term for k, term in enumerate(terms)], s)


def evaluate_compensated(terms: Sequence[Any], s: Any, rest: Any) -> tuple[Any, Any]:
    """Computes `rest + Σ_k terms[k] s^k`, and the part of it below its last digit.

    The rounding error of each addition is computed, and all of them are added at the
    end. This is the compensated summation of Kahan and Babuska in the form of Neumaier
    (1974).
    """
    s = jnp.asarray(s, terms[0].dtype)
    total, power = terms[0], s
    for term in terms[1:]:
        total, error = _two_sum(total, term * power)
        rest = rest + error
        power = power * s
    return _two_sum(total, rest)


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """Computes `a + b` and its exact rounding error, whichever is larger (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)
