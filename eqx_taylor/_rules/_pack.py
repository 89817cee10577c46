"""Series across the border of a JAX function: the coefficients that may be nonzero, up
to some order, in a flat list of arrays."""

from collections.abc import Sequence
from typing import Any

from .._series import given, mask, orders, Series, Support


def pack(inputs: Sequence[Series], supports: Sequence[Support], stop: int) -> list[Any]:
    return [
        series.dense(k)
        for series, support in zip(inputs, supports)
        for k in orders(support & mask(stop))
    ]


def unpack(
    avals: Sequence[Any], supports: Sequence[Support], stop: int, arrays: Sequence[Any]
) -> list[Series]:
    remaining = iter(arrays)
    unpacked = []
    for aval, support in zip(avals, supports):
        terms: list[Any] = [None] * (stop + 1)
        for k in orders(support & mask(stop)):
            terms[k] = next(remaining)
        unpacked.append(given(aval, terms, support))
    return unpacked


def copies(inputs: Sequence[Series], stop: int) -> list[Series]:
    """With all coefficients up to `stop` in existence, so that they can be used inside
    of another function."""
    return [
        given(series.aval, [series[k] for k in range(stop + 1)], series.support)
        for series in inputs
    ]
