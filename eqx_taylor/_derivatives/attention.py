"""Attention, and its jets, in memory that is linear in the number of tokens.

The softmax is computed online, over blocks of keys (Rabe and Staats 2021), for one
block of queries after the other. This is written as loops in JAX. A jet of them carries
two series: of the sums of exponentials, and of the sums of values that these weigh. The
maximum that is subtracted from the scores is taken at the point. So rescaling
multiplies a series by a scalar, and there is a single division of series, at the end.
"""

import functools as ft
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import ArrayLike

from .._core.jax import explicit_sharding, joint_axes, vary


# The numbers of queries and of keys in a block. Memory is proportional to their
# product. For 1024 tokens, the time of orders 0 to 4 does not depend measurably on them
# from 64 to 256 (`python -m benchmarks.attention --blocks`).
QUERIES = 128
KEYS = 128


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: Any = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: str | None = None,
    return_residual: bool = False,
) -> Any:
    r"""Computes what `jax.nn.dot_product_attention` does, in memory that is linear in
    the number of tokens. This holds for the value, for jets of every order, and for
    gradients of all of these.

    $$\mathrm{softmax}\left(s\, q k^T + b\right) v$$

    The arguments are those of `jax.nn.dot_product_attention`, and the values are equal
    up to rounding: to switch, change the import. There is one score for each pair of
    tokens; the scores are computed in blocks, and never stored as a whole.

    In the shapes below, B is the number of batches, T of queries, S of keys, N of heads
    (of size H), and K of heads of keys and values.

    **Arguments:**

    - `query`: an array of shape `(B, T, N, H)`, or `(T, N, H)`.
    - `key`, `value`: arrays of shape `(B, S, K, H)`, or `(S, K, H)`. N is a multiple of
        K; each head of keys serves N / K heads of queries.
    - `bias`: an array that is added to the scores. It has up to four axes, which
        broadcast to `(B, N, T, S)`.
    - `mask`: a boolean array of such a shape, with `True` for the pairs of a query and
        a key that attend to each other. A query without any such key returns the mean
        of all values, as in JAX.
    - `scale`: the factor of the scores; $1/\sqrt H$ by default.
    - `is_causal`: whether each query attends only to keys up to its own position.
    - `query_seq_lengths`, `key_value_seq_lengths`: the numbers of tokens of each batch
        that are used, as int32 arrays of shape `(B,)`.
    - `local_window_size`: the numbers of keys before and after its own position to
        which a query attends. One integer stands for both.
    - `implementation`: `None` or `"xla"`. `"cudnn"` calls JAX's function, which has no
        jets.
    - `return_residual`: whether to return the logarithm of the sum of exponentials,
        too. It has no derivative.

    **Returns:**

    An array of the shape and dtype of `query`. With `return_residual=True`, a pair of
    this array and the logarithms, in its shape without the last axis.

    Scores, weights and sums are float32 if the arguments have half precision, and
    float64 if they are float64. (JAX computes the softmax of float64 in float32.)

    **Raises:**

    The errors of `jax.nn.dot_product_attention` for arguments that do not fit.

    !!! example

        ```pycon
        >>> import jax
        >>> from eqx_taylor import dot_product_attention, filter_jet
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> q, k, v, direction = [jax.random.normal(i, (1024, 2, 16)) for i in keys]
        >>> attend = lambda q: dot_product_attention(q, k, v, is_causal=True)
        >>> y, derivatives = filter_jet(attend, (q,), ([direction, None, None],))
        >>> [d.shape for d in derivatives]
        [(1024, 2, 16), (1024, 2, 16), (1024, 2, 16)]
        ```

    **Reference:** [Rabe and Staats (2021)][rabe2021selfattention].
    """
    options = dict(
        is_causal=is_causal,
        local_window_size=local_window_size,
        implementation=implementation,
        return_residual=return_residual,
    )
    arrays = _as_arrays([query, key, value, bias, mask])
    lengths = _as_arrays([query_seq_lengths, key_value_seq_lengths])

    def dense(arrays, lengths, scale):
        return jax.nn.dot_product_attention(
            *arrays,
            scale=scale,
            query_seq_lengths=lengths[0],
            key_value_seq_lengths=lengths[1],
            **options,
        )

    if implementation == "cudnn":
        return dense(arrays, lengths, scale)
    # JAX checks the arguments, and relies on promotion itself.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        jax.eval_shape(dense, arrays, lengths, scale)
    problem = _problem(arrays, lengths, scale, is_causal, local_window_size)
    if problem is None:
        return dense(arrays, lengths, scale)
    output, residual = _attention(problem)
    output = output.reshape(arrays[0].shape)
    if return_residual:
        residual = lax.stop_gradient(residual).astype(output.dtype)
        return output, residual.reshape(output.shape[:-1])
    return output


def _as_arrays(given: Sequence[Any]) -> list[Any]:
    return [x if x is None else jnp.asarray(x) for x in given]


class _Problem(NamedTuple):
    """Attention with all axes. The N heads are K groups of G: the queries of a group
    share a head of keys."""

    query: Any  # (B, K, G, T, H)
    key: Any  # (B, K, S, H)
    value: Any  # (B, K, S, H)
    # These broadcast to (B, K, G, T, S).
    bias: Any
    mask: Any
    scale: Any
    is_causal: bool
    window: tuple[int, int] | None
    # The numbers of queries and keys that are used, of shape (B,).
    lengths: Sequence[Any]


def _problem(arrays, lengths, scale, is_causal, window) -> _Problem | None:
    """Brings the arguments into one form. Returns `None` for cases that are left to
    JAX's function."""
    given = [x for x in (*arrays, *lengths) if x is not None]
    if any(explicit_sharding(jax.typeof(x)) is not None for x in given):
        return None  # Reshaping would change the axes along which arrays are sharded.
    if not all(isinstance(n, int) for x in given for n in x.shape):
        return None  # A symbolic number of tokens cannot be divided into blocks.
    if not jnp.issubdtype(arrays[0].dtype, jnp.floating):
        return None
    query, key, value, bias, mask = map(_with_four_axes, arrays)
    batch, queries, heads, size = query.shape
    _, keys, groups, _ = key.shape
    if 0 in query.shape or 0 in key.shape:
        return None

    def grouped(x):
        split = (1, 1) if x.shape[1] == 1 else (groups, heads // groups)
        return x.reshape(x.shape[0], *split, *x.shape[2:])

    for x in (bias, mask):
        full = (batch, heads, queries, keys)
        if x is not None and any(n not in (1, m) for n, m in zip(x.shape, full)):
            return None
    if window is not None and not isinstance(window, tuple):
        window = (window, window) if isinstance(window, int) else tuple(window)
    query = query.reshape(batch, queries, groups, heads // groups, size)
    return _Problem(
        query.transpose(0, 2, 3, 1, 4),
        key.transpose(0, 2, 1, 3),
        value.transpose(0, 2, 1, 3),
        None if bias is None else grouped(bias),
        None if mask is None else grouped(mask),
        1 / np.sqrt(size) if scale is None else scale,
        bool(is_causal),
        window,
        lengths,
    )


def _with_four_axes(x) -> Any:
    return x if x is None else x.reshape((1,) * (4 - x.ndim) + x.shape)


def _attention(p: _Problem) -> tuple[Any, Any]:
    """Computes the output, of shape (B, T, K, G, H), and logarithms, (B, T, K, G)."""
    queries = p.query.shape[-2]
    length = min(QUERIES, queries)
    count = -(-queries // length)
    number = jnp.arange(count, dtype=jnp.int32)
    blocks, fixed = _blocked({"bias": p.bias, "mask": p.mask}, -2, count, length)
    blocks |= {"number": number, "query": _blocks(p.query, -2, count, length)}

    def of_queries(block):
        return _of_queries(p, fixed | block, length)

    if count == 1:
        output, residual = of_queries(_first(blocks))
    else:
        of_queries = jax.checkpoint(of_queries, prevent_cse=False)
        output, residual = lax.map(of_queries, blocks)
        output, residual = _joined(output, -2), _joined(residual, -1)
    output = output[..., :queries, :].transpose(0, 3, 1, 2, 4)
    residual = residual[..., :queries].transpose(0, 3, 1, 2)
    if p.lengths[0] is not None:
        place = np.arange(queries, dtype=np.int32)[None]
        is_used = place < p.lengths[0][:, None]
        output = output * is_used[..., None, None, None].astype(output.dtype)
    return output, residual


def _of_queries(p: _Problem, block: dict[str, Any], rows: int) -> tuple[Any, Any]:
    """Loops over the blocks of keys, for one block of queries."""
    keys = p.key.shape[-2]
    length = min(KEYS, keys)
    count = -(-keys // length)
    query, first_row = block["query"], block["number"] * rows
    of_pairs = {"bias": block["bias"], "mask": block["mask"]}
    blocks, fixed = _blocked(of_pairs, -1, count, length)
    for name, x in (("key", p.key), ("value", p.value)):
        blocks[name] = _blocks(x, -2, count, length)
    blocks["number"] = jnp.arange(count, dtype=jnp.int32)

    def add(sums, block):
        block = fixed | block
        first_column = block["number"] * length
        row = first_row + np.arange(rows, dtype=np.int32).reshape(1, 1, 1, -1, 1)
        column = np.arange(length, dtype=np.int32).reshape(1, 1, 1, 1, -1)
        column = first_column + column
        scores = _scores(p, query, block["key"], block["bias"])
        scores = _masked(p, scores, block["mask"], row, column)
        if count * length > keys:
            scores = jnp.where(column < keys, scores, -jnp.inf)
        return _added(sums, scores, block["value"])

    def turn(sums, block):
        if not _may_skip(p):
            return add(sums, block), None
        # Some pair of the block attends if those in these two corners do.
        first_column = block["number"] * length
        last_row = jnp.minimum(first_row + rows, p.query.shape[-2]) - 1
        last_column = jnp.minimum(first_column + length, keys) - 1
        attends = ft.reduce(
            jnp.logical_and,
            _by_place(p, (last_row, first_row), (first_column, last_column)),
        )
        return lax.cond(attends, add, lambda sums, _: sums, sums, block), None

    if count == 1:
        sums = add(None, _first(blocks))
    else:
        dtype = _dtype_of_sums(query)
        top = jnp.full(query.shape[:-1], -jnp.inf, dtype)
        zeros = jnp.zeros(query.shape[:-1], dtype), jnp.zeros(query.shape, dtype)
        given = [x for x in (*p[:6], *p.lengths) if isinstance(x, jax.Array)]
        axes = joint_axes(map(jax.typeof, given))
        sums = tuple(vary(x, axes) for x in (top, *zeros))
        # Reverse mode computes the scores of a block again, instead of storing them.
        sums, _ = lax.scan(jax.checkpoint(turn, prevent_cse=False), sums, blocks)
    top, total, weighted = sums
    output = (weighted / total[..., None]).astype(query.dtype)
    return output, _finite(top) + jnp.log(lax.stop_gradient(total))


def _dtype_of_sums(query) -> Any:
    return jnp.float64 if query.dtype == jnp.float64 else jnp.float32


def _scores(p: _Problem, query, key, bias) -> Any:
    dtype = _dtype_of_sums(query)
    # As in JAX's function, this keeps the dtypes of the products of gradients
    # consistent. What JAX uses for float16 is not available on CPUs.
    is_short = query.dtype == jnp.bfloat16
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if is_short else None
    scores = jnp.einsum(
        "bkgth,bksh->bkgts",
        query,
        key,
        precision=precision,
        preferred_element_type=dtype,
    )
    scores = scores * jnp.array(p.scale, dtype=dtype)
    return scores if bias is None else (scores + bias).astype(dtype)


def _masked(p: _Problem, scores, mask, row, column) -> Any:
    """Replaces the scores of pairs that do not attend by a large negative number. It is
    finite, so that a query that attends to no key has equal weights."""
    attends = [] if mask is None else [mask]
    attends.extend(_by_place(p, (row, row), (column, column)))
    for place, length in zip((row, column), p.lengths):
        if length is not None:
            attends.append(place < length[:, None, None, None, None])
    if not attends:
        return scores
    low = jnp.array(-0.7 * float(jnp.finfo(jnp.float32).max), scores.dtype)
    return jnp.where(ft.reduce(jnp.logical_and, attends), scores, low)


def _by_place(p: _Problem, rows: tuple[Any, Any], columns: tuple[Any, Any]):
    """Yields the conditions on the positions of a pair. The first row and column are
    those of the pair for conditions that forbid late keys, the second for conditions
    that forbid early ones."""
    if p.is_causal:
        yield rows[0] >= columns[0]
    if p.window is not None:
        before, after = p.window
        yield rows[0] >= columns[0] - after
        yield rows[1] <= columns[1] + before


def _may_skip(p: _Problem) -> bool:
    """Returns whether blocks in which no pair attends can be skipped. They can if every
    query attends to some key: masked scores then have weight zero."""
    others = (p.bias, p.mask, *p.lengths)
    if any(x is not None for x in others) or not (p.is_causal or p.window):
        return False
    row, last = np.arange(p.query.shape[-2]), p.key.shape[-2] - 1
    before, after = p.window or (len(row), last)
    first_key = np.maximum(row - before, 0)
    last_key = np.minimum(row if p.is_causal else last, np.minimum(row + after, last))
    return bool(np.all(first_key <= last_key))


def _added(sums: tuple[Any, Any, Any] | None, scores, value) -> tuple[Any, Any, Any]:
    """Adds a block of keys to three results: the maximum of the scores, the sum of
    exponentials, and the sum of the values that these weigh. Both sums are divided by
    the exponential of the maximum at the point, which is not differentiated: their
    quotient does not depend on it."""
    top = jnp.max(lax.stop_gradient(scores), axis=-1)
    if sums is not None:
        top = lax.stop_gradient(jnp.maximum(top, sums[0]))
    exponentials = jnp.exp(scores - _finite(top)[..., None])
    total = jnp.sum(exponentials, axis=-1)
    # JAX rounds weights to the dtype of the values. Coefficients of exponentials must
    # not be rounded, as most of their digits cancel in the quotient: in bfloat16 the
    # error was 5 % at order 2.
    is_short = value.dtype != scores.dtype
    weighted = jnp.einsum(
        "bkgts,bksh->bkgth",
        exponentials,
        value.astype(scores.dtype),
        precision=lax.Precision.HIGH if is_short else None,
    )
    if sums is not None:
        factor = lax.stop_gradient(jnp.exp(sums[0] - _finite(top)))
        total = sums[1] * factor + total
        weighted = sums[2] * factor[..., None] + weighted
    return top, total, weighted


def _finite(top) -> Any:
    """Returns the maximum, or zero if it is infinite: a bias may be minus infinity in a
    whole block of keys."""
    return lax.stop_gradient(jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top)))


# -- blocks along an axis, which is negative: counted from the last


def _blocks(x, axis: int, count: int, length: int) -> Any:
    """Splits an axis, padded with zeros, into blocks along a new first axis."""
    axis += x.ndim
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, count * length - x.shape[axis])
    x = jnp.pad(x, pads) if pads[axis][1] > 0 else x
    x = x.reshape(*x.shape[:axis], count, length, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _blocked(arrays: dict[str, Any], axis: int, count: int, length: int):
    """Returns the arrays in blocks, and those that are the same in all of them."""
    split = [name for name, x in arrays.items() if x is not None and x.shape[axis] > 1]
    fixed = {name: x for name, x in arrays.items() if name not in split}
    return {name: _blocks(arrays[name], axis, count, length) for name in split}, fixed


def _joined(x, axis: int) -> Any:
    """Joins blocks along the first axis to one axis again: the inverse of `_blocks`."""
    x = jnp.moveaxis(x, 0, axis - 1)
    axis += x.ndim
    return x.reshape(*x.shape[: axis - 1], -1, *x.shape[axis + 1 :])


def _first(blocks: dict[str, Any]) -> dict[str, Any]:
    return {name: x[0] for name, x in blocks.items()}
