"""Unbiased estimates of differential operators in many dimensions."""

import math
from collections.abc import Callable
from typing import Any, Literal, overload, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from .._core.check import check_integer, check_key
from .._core.custom_types import PyTree
from .argument import Argument


# At run time these are strings for beartype, because the functions themselves have the
# better message for an unknown one.
if TYPE_CHECKING:
    _Sampling = Literal["rademacher", "normal", "sphere", "sparse"]
    _SamplingOfFourths = Literal["sphere", "normal", "sparse"]
else:
    _Sampling = _SamplingOfFourths = str


class Estimate(eqx.Module):
    """An estimate from random samples, as [`eqx_taylor.stochastic_laplacian`][] and
    [`eqx_taylor.stochastic_biharmonic`][] return it.

    **Fields:**

    - `mean`: the estimate, a PyTree.
    - `variance`: the variance of `mean`, a PyTree of the same structure. It is
        estimated from the differences between batches, and is NaN if there is a single
        batch.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import Estimate
        >>> estimate = Estimate(mean=jnp.array(3.0), variance=jnp.array(0.04))
        >>> print(estimate.standard_error)
        0.2
        ```
    """

    mean: PyTree[Array]
    variance: PyTree[Array]

    @property
    def standard_error(self) -> PyTree[Array]:
        """The square root of the variance."""
        return jtu.tree_map(jnp.sqrt, self.variance)


@overload
def stochastic_laplacian(
    fun: Callable[..., PyTree],
    x: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    num_samples: int,
    batch_size: int | None = None,
    sampling: _Sampling = "rademacher",
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> Estimate: ...


@overload
def stochastic_laplacian(
    fun: Callable[..., PyTree],
    x: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    num_samples: int,
    batch_size: int | None = None,
    sampling: _Sampling = "rademacher",
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[Estimate, PyTree]: ...


def stochastic_laplacian(
    fun: Callable[..., PyTree],
    x: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    num_samples: int,
    batch_size: int | None = None,
    sampling: _Sampling = "rademacher",
    has_aux: bool = False,
    **kwargs: Any,
) -> Any:
    r"""Estimates the Laplacian $\sum_d \partial^2 f / \partial x_d^2$ without bias,
    from second derivatives along random directions.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of real arrays of any shapes.
    - `key`: a `jax.random.key`.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `num_samples`: the number of directions, a multiple of `batch_size`.
    - `batch_size`: the number of directions that are computed at once; `None` (the
        default) means all of them. The sum over a batch is propagated as one vector, as
        in [`eqx_taylor.laplacian`][]. Batches are computed one after the other, so only
        one of them needs memory. The differences between batches give the variance.
    - `sampling`: the distribution of the directions.
        - `"rademacher"` (the default): each entry is 1 or -1. The variance comes from
            the off-diagonal entries of the Hessian alone.
        - `"normal"`: the entries are normally distributed.
        - `"sphere"`: directions are uniformly distributed on the sphere.
        - `"sparse"`: each direction is a coordinate axis; those of a batch are
            distinct. The variance comes from the differences between the diagonal
            entries of the Hessian.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    An [`eqx_taylor.Estimate`][], whose `mean`, `variance` and `standard_error` have the
    structure and shapes of what `fun` returns. With `has_aux=True`, a pair of the
    estimate and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if `x` has integers or is complex, if `key` is not a
    key, if `num_samples` or `batch_size` is not a positive integer or they do not fit
    each other, or if `sampling` is unknown.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import laplacian, stochastic_laplacian
        >>> x, key = jnp.ones(1000), jax.random.key(0)
        >>> fun = lambda x: jnp.sin(jnp.sum(x**2) / 1000)
        >>> estimate = stochastic_laplacian(fun, x, key, num_samples=64, batch_size=8)
        >>> # The error is a few standard errors at most.
        >>> bool(abs(estimate.mean - laplacian(fun, x)) < 4 * estimate.standard_error)
        True
        ```

    **References:**
    [Shi et al. (2024)][shi2024stochastic];
    [Hutchinson (1989)][hutchinson1989stochastic].
    """
    caller = "stochastic_laplacian"
    argument = Argument(caller, fun, x, args, kwargs, real=True, has_aux=has_aux)
    count, batch = _batches(argument, key, num_samples, batch_size)
    size = argument.size
    if sampling == "sparse" and batch > size:
        raise ValueError(
            f"stochastic_laplacian: `x` has {size} coordinates, of which a batch "
            f"cannot have {batch} distinct ones. Choose a smaller `batch_size`; or "
            "use the exact `laplacian`, which costs no more."
        )

    def sample(key):
        if sampling == "sparse":
            places = jax.random.choice(key, size, (batch,), replace=False)
            return _units(places, size), np.full(batch, 2 * size / batch)
        rows = _directions(argument, key, (batch, size), sampling)
        return rows, np.full(batch, 2 / batch)

    _check_sampling(argument, sampling, ("rademacher", "normal", "sphere", "sparse"))
    return _estimate(argument, key, count, 2, sample)


@overload
def stochastic_biharmonic(
    fun: Callable[..., PyTree],
    x: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    num_samples: int,
    batch_size: int | None = None,
    sampling: _SamplingOfFourths = "sphere",
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> Estimate: ...


@overload
def stochastic_biharmonic(
    fun: Callable[..., PyTree],
    x: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    num_samples: int,
    batch_size: int | None = None,
    sampling: _SamplingOfFourths = "sphere",
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[Estimate, PyTree]: ...


def stochastic_biharmonic(
    fun: Callable[..., PyTree],
    x: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    num_samples: int,
    batch_size: int | None = None,
    sampling: _SamplingOfFourths = "sphere",
    has_aux: bool = False,
    **kwargs: Any,
) -> Any:
    r"""Estimates $\Delta^2 f = \sum_{d, e} \partial^4 f / \partial x_d^2 \partial
    x_e^2$ without bias, from fourth derivatives along random directions.

    If the entries of a direction $v$ are normally distributed, then $\mathbb{E} (v
    \cdot \partial)^4 = 3 \Delta^2$; if $v$ is uniformly distributed on the unit sphere,
    it is $3 \Delta^2 / (D (D + 2))$.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of real arrays of any shapes.
    - `key`: a `jax.random.key`.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `num_samples`: the number of samples, a multiple of `batch_size`.
    - `batch_size`: the number of samples that are computed at once; `None` (the
        default) means all of them. See [`eqx_taylor.stochastic_laplacian`][].
    - `sampling`: the kind of sample.
        - `"sphere"` (the default): a sample is a direction, uniformly distributed on
            the sphere.
        - `"normal"`: a sample is a direction with normally distributed entries. The
            variance is larger.
        - `"sparse"`: a sample is $\partial^4 / \partial x_d^2 \partial x_e^2$ for two
            random coordinates, computed exactly from four directions.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    An [`eqx_taylor.Estimate`][], whose `mean`, `variance` and `standard_error` have the
    structure and shapes of what `fun` returns. With `has_aux=True`, a pair of the
    estimate and `aux`.

    **Raises:**

    The same errors as [`eqx_taylor.stochastic_laplacian`][].

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import stochastic_biharmonic
        >>> x, key = jnp.ones(100), jax.random.key(0)
        >>> fun = lambda x: jnp.sum(x**2) ** 2  # The same in all directions.
        >>> estimate = stochastic_biharmonic(fun, x, key, num_samples=64, batch_size=8)
        >>> bool(abs(estimate.mean / (8 * 100 * 102) - 1) < 1e-4)  # 8 D (D + 2)
        True
        ```

    **Reference:** [Shi et al. (2024)][shi2024stochastic].
    """
    caller = "stochastic_biharmonic"
    argument = Argument(caller, fun, x, args, kwargs, real=True, has_aux=has_aux)
    count, batch = _batches(argument, key, num_samples, batch_size)
    size = argument.size

    def sample(key):
        if sampling == "sparse":
            # a² b² = ((a + b)⁴ + (a - b)⁴ - 2 a⁴ - 2 b⁴) / 12, for a = b too.
            places = jax.random.randint(key, (2, batch), 0, size)
            a, b = (_units(row, size) for row in places)
            weights = np.repeat([1.0, 1.0, -2.0, -2.0], batch)
            rows = jnp.concatenate([a + b, a - b, a, b])
            return rows, weights * (2 * size**2 / batch)
        rows = _directions(argument, key, (batch, size), sampling)
        # Directions on the sphere have length √D.
        moment = 3 * size / (size + 2) if sampling == "sphere" else 3
        return rows, np.full(batch, math.factorial(4) / moment / batch)

    _check_sampling(argument, sampling, ("sphere", "normal", "sparse"))
    return _estimate(argument, key, count, 4, sample)


def _batches(
    argument: Argument, key: Any, num_samples: Any, batch_size: Any
) -> tuple[int, int]:
    """Checks the arguments, and returns the number of batches and the size of each."""
    caller = argument.caller
    check_key(caller, key)
    samples = check_integer(caller, "num_samples", num_samples, 1)
    if batch_size is None:
        return 1, samples
    batch = check_integer(caller, "batch_size", batch_size, 1)
    if samples % batch != 0:
        raise ValueError(
            f"{caller}: `num_samples` must be a multiple of `batch_size`; got "
            f"{samples} and {batch}."
        )
    return samples // batch, batch


def _check_sampling(argument: Argument, sampling: Any, known: tuple[str, ...]) -> None:
    if sampling not in known:
        raise ValueError(
            f"{argument.caller}: `sampling` must be one of "
            f"{', '.join(map(repr, known))}; got {sampling!r}."
        )


def _directions(argument, key, shape, sampling) -> Array:
    """Draws rows of random numbers with mean 0 and variance 1."""
    dtype = argument.dtype
    if sampling == "rademacher":
        return jax.random.rademacher(key, shape, dtype)
    rows = jax.random.normal(key, shape, dtype)
    if sampling == "sphere":
        length = jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))
        rows = rows * (math.sqrt(shape[1]) / length)
    return rows


def _units(places: Array, size: int) -> Array:
    return (places[:, None] == jnp.arange(size)[None, :]).astype(float)


def _estimate(argument: Argument, key: Any, count: int, order: int, sample) -> Any:
    """Computes an estimate from `count` batches. `sample(key)` returns directions and
    their weights."""

    def batch(key):
        rows, weights = sample(key)
        found = argument.weighted_sums(argument.split(rows), {order: weights})
        return found[order]

    if count == 1:
        mean = batch(key)
        variance = jtu.tree_map(lambda y: jnp.full_like(y, jnp.nan), mean)
        return argument.with_aux(Estimate(mean, variance))
    keys = jax.random.split(key, count)
    values = lax.map(batch, keys)
    estimate = Estimate(
        jtu.tree_map(lambda y: jnp.mean(y, axis=0), values),
        jtu.tree_map(lambda y: jnp.var(y, axis=0, ddof=1) / count, values),
    )
    return argument.with_aux(estimate)
