"""Conversion of series to arguments of a JAX function, and back: to a flat list of the
coefficients, up to some order, that may be nonzero."""

from collections.abc import Iterable, Sequence
from typing import Any

from .._core.series import given, mask, orders, Series, Support
from .._core.walk import Walk


def looking_ahead(walk: Walk, inputs: Sequence[Series], jaxprs) -> list[int]:
    """Finds the positions of the operands whose values ahead are passed as well, to
    functions whose decisions depend on them."""
    moving = [i for i, series in enumerate(inputs) if series.moves_ahead]
    if moving and walk.decides_ahead and any(map(walk.decisions, jaxprs)):
        return moving
    return []


def pack(
    inputs: Sequence[Series],
    supports: Sequence[Support],
    stop: int,
    ahead: Sequence[int] = (),
) -> list[Any]:
    arrays = [
        series.dense(k)
        for series, support in zip(inputs, supports)
        for k in orders(support & mask(stop))
    ]
    return arrays + [inputs[i].ahead for i in ahead]


def unpack(
    avals: Sequence[Any],
    supports: Sequence[Support],
    stop: int,
    arrays: Sequence[Any],
    ahead: Sequence[int] = (),
) -> list[Series]:
    remaining = iter(arrays)
    unpacked = []
    for aval, support in zip(avals, supports):
        terms: list[Any] = [None] * (stop + 1)
        for k in orders(support & mask(stop)):
            terms[k] = next(remaining)
        unpacked.append(given(aval, terms, support))
    look_ahead(unpacked, ahead, remaining)
    return unpacked


def look_ahead(
    series: Sequence[Series], ahead: Sequence[int], values: Iterable[Any]
) -> None:
    """Sets the values ahead of some series."""
    for i, value in zip(ahead, values):
        series[i].look_ahead(lambda value=value: value)


def copies(
    inputs: Sequence[Series], stop: int, ahead: Sequence[int] = ()
) -> list[Series]:
    """Computes all coefficients up to `stop`, and some values ahead, and copies the
    series, so that they can be used inside another function."""
    copied = [
        given(series.aval, [series[k] for k in range(stop + 1)], series.support)
        for series in inputs
    ]
    look_ahead(copied, ahead, [inputs[i].ahead for i in ahead])
    return copied
