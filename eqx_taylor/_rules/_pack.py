"""Series across the border of a JAX function: the coefficients that may be nonzero,
in a flat list of arrays."""

from collections.abc import Sequence
from typing import Any

from .._series import given, orders, Series, Support


def pack(inputs: Sequence[Series], supports: Sequence[Support]) -> list[Any]:
    return [
        series.dense(k)
        for series, support in zip(inputs, supports)
        for k in orders(support)
    ]


def unpack(
    avals: Sequence[Any], supports: Sequence[Support], arrays: Sequence[Any]
) -> list[Series]:
    remaining = iter(arrays)
    unpacked = []
    for aval, support in zip(avals, supports):
        terms: list[Any] = [None] * support.bit_length()
        for k in orders(support):
            terms[k] = next(remaining)
        unpacked.append(given(aval, terms))
    return unpacked
