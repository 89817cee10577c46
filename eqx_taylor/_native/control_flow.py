"""Loops and branches. Loops are written out: their number of passes has to be known."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.jax import close, scan_params, while_params
from .given import Given
from .values import as_objects, is_known


def _scan(reader: Any, eqn: Any, operands: Sequence[Any]) -> list[Any]:
    params = scan_params(eqn)
    consts = operands[: params.num_consts]
    carry = operands[params.num_consts :][: params.num_carry]
    xs = operands[params.num_consts + params.num_carry :]
    rows = []
    passes = range(params.length)
    for i in reversed(passes) if params.reverse else passes:
        inputs = [*consts, *carry, *(_row(reader, x, i) for x in xs)]
        outs = reader.read(params.jaxpr, inputs)
        carry = outs[: params.num_carry]
        rows.append(outs[params.num_carry :])
    if params.reverse:
        rows.reverse()
    if not rows:
        scanned = eqn.outvars[params.num_carry :]
        return [*carry, *(np.zeros(v.aval.shape, v.aval.dtype) for v in scanned)]
    return [*carry, *(_stacked(reader, eqn, column) for column in zip(*rows))]


def _row(reader: Any, x: Any, i: int) -> Any:
    if not isinstance(x, Given):
        return x[i, ...]
    like = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    row = reader.givens.compute(lambda x: x[i], x, like=like)
    row.entries = x.entries[i, ...]
    return row


def _stacked(reader: Any, eqn: Any, rows: Sequence[Any]) -> Any:
    if all(map(is_known, rows)):
        return np.stack(rows)
    if all(is_known(x) or isinstance(x, Given) for x in rows):
        like = jax.ShapeDtypeStruct((len(rows), *rows[0].shape), rows[0].dtype)
        out = reader.givens.compute(lambda *xs: jnp.stack(xs), *rows, like=like)
        if all(isinstance(x, Given) for x in rows):
            out.entries = np.stack([x.entries for x in rows])
        return out
    rows = [reader.materialised(eqn, x) for x in rows]
    return np.stack([as_objects(x, x.shape) for x in rows])


def _cond(reader: Any, eqn: Any, operands: Sequence[Any]) -> list[Any]:
    index, *operands = operands
    branches = [close(branch) for branch in eqn.params["branches"]]
    last = len(branches) - 1
    if is_known(index):
        return reader.read(branches[int(np.clip(index, 0, last))], operands)
    if not isinstance(index, Given):
        raise reader.refused(eqn, "its predicate depends on the time or the state")
    # All branches are computed, and one is chosen at run time.
    outs = [reader.read(branch, operands) for branch in branches]
    like = jax.ShapeDtypeStruct((), index.dtype)
    if index.dtype != bool:
        index = reader.givens.compute(lambda i: jnp.clip(i, 0, last), index, like=like)
    return [reader.chosen(eqn, index, column) for column in zip(*outs)]


def _while(reader: Any, eqn: Any, operands: Sequence[Any]) -> list[Any]:
    cond, of_cond, body, of_body = while_params(eqn)
    of_both = of_cond + of_body
    carry = list(operands[of_both:])
    while True:
        [goes_on] = reader.read(cond, [*operands[:of_cond], *carry])
        if isinstance(goes_on, Given):
            raise reader.refused(eqn, "its length depends on the arguments")
        if not is_known(goes_on):
            raise reader.refused(eqn, "its length depends on the time or the state")
        if not goes_on:
            return carry
        carry = reader.read(body, [*operands[of_cond:of_both], *carry])


HANDLERS: dict[str, Callable[..., list[Any]]] = {
    "scan": _scan,
    "cond": _cond,
    "while": _while,
}
