"""Rules of targets that are linear in one operand, or in each of two."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

from .._core.convolution import convolve, convolve_square
from .._core.jax import bind
from .._core.protocols import JaxprEqn
from .._core.recurrence import outputs
from .._core.rule import Cost, otherwise, register, Target
from .._core.series import CONSTANT, primal_values, product_support, Series, Support
from .._core.walk import Walk


def define_linear(
    *targets: Target, operands: slice = slice(None), fused: bool = True
) -> None:
    """Declares that targets are jointly linear in some operands while the others are
    constant.

    Each coefficient that is not zero takes one application: `y_k = p(x_k)`. If the
    other operands are not constant, the JVP of the target is used instead. Operators
    that sum over directions, such as [`eqx_taylor.laplacian`][], apply the target to
    the sum, and not in each direction.

    **Arguments:**

    - `targets`: one or more targets. A target is a `jax.extend.core.Primitive`, the
        name of one, or a function with a `jax.custom_jvp` whose `defjvp` has been
        called.
    - `operands`: the operands in which the target is jointly linear; by default all of
        them.
    - `fused`: whether the target is cheap enough to be computed again at each use, as
        XLA does when it fuses operations into one loop. Pass `False` for a target that
        takes time by itself, such as a Fourier transform.

    **Returns:**

    `None`. The rule applies to everything that is traced afterwards.

    **Raises:**

    `TypeError` if a target is none of these. `ValueError` if the `defjvp` of a function
    has not been called, or if no primitive has the name.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def smooth(x):
        ...     return (x + jnp.roll(x, 1)) / 2
        >>> @smooth.defjvp
        ... def _(primals, tangents):
        ...     return smooth(*primals), smooth(*tangents)
        >>> rules.define_linear(smooth)
        >>> x, v = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 0.0])
        >>> y, (first, second) = filter_jet(smooth, (x,), ([v, None],))
        >>> print(y, first, second)
        [2.  1.5 2.5] [0.5 0.5 0. ] [0. 0. 0.]
        ```
    """
    cost = Cost.FUSED if fused else Cost.WORK
    declaration = register(*targets, kind="linear", linear=operands, cost=cost)
    declaration(ft.partial(_linear_rule, operands=operands))


def define_affine(
    target: Target, linear_part: Callable[[Any], Any], *, operands: slice
) -> None:
    """Declares that a target is linear up to a constant, which is in a parameter.
    `linear_part` returns the equation without the constant."""
    rule = ft.partial(_linear_rule, operands=operands, linear_part=linear_part)

    def linear(eqn: JaxprEqn):
        # A sum over directions would contain the constant once, not once per direction.
        return operands if linear_part(eqn) is eqn else slice(0)

    register(target, kind="linear", linear=linear, cost=Cost.FUSED)(rule)


def _linear_rule(
    walk: Walk,
    eqn: JaxprEqn,
    inputs: Sequence[Series],
    *,
    operands,
    linear_part=lambda eqn: eqn,
) -> list[Series]:
    linear = range(len(inputs))[operands]
    if any(i not in linear and not s.is_constant for i, s in enumerate(inputs)):
        return otherwise(walk, eqn, inputs)

    def compute(k):
        if all(inputs[i][k] is None for i in linear):
            return [None] * len(eqn.outvars)
        args = [s.dense(k) if i in linear else s[0] for i, s in enumerate(inputs)]
        return bind(linear_part(eqn), args)

    return outputs(eqn, inputs, joined_support(inputs), compute)


def define_bilinear(
    *targets: Target, operands: tuple[int, int] = (0, 1), symmetric: bool = False
) -> None:
    """Declares that targets are products of two operands, linear in each, while the
    others are constant.

    Then `y_k = Σ_j a_j b_{k-j}` for coefficients normalised by the factorial. If the
    other operands are not constant, the JVP of the target is used instead.

    **Arguments:**

    - `targets`: one or more targets. A target is a `jax.extend.core.Primitive`, the
        name of one, or a function with a `jax.custom_jvp` whose `defjvp` has been
        called.
    - `operands`: the positions of the two operands.
    - `symmetric`: whether the product is elementwise and commutative. A square then
        takes only half of the products.

    **Returns:**

    `None`. The rule applies to everything that is traced afterwards.

    **Raises:**

    `TypeError` if a target is none of these. `ValueError` if the `defjvp` of a function
    has not been called, or if no primitive has the name.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import filter_jet, rules
        >>> @jax.custom_jvp
        ... def cross(a, b):
        ...     return jnp.cross(a, b)
        >>> @cross.defjvp
        ... def _(primals, tangents):
        ...     (a, b), (da, db) = primals, tangents
        ...     return cross(a, b), cross(da, b) + cross(a, db)
        >>> rules.define_bilinear(cross)
        >>> a, b = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
        >>> y, (first, second) = filter_jet(cross, (a, b), ([b, None], [a, None]))
        >>> print(y, first, second)
        [0. 0. 1.] [0. 0. 0.] [ 0.  0. -2.]
        ```
    """
    rule = ft.partial(_bilinear_rule, operands=operands, symmetric=symmetric)
    cost = _cost_of_product if symmetric else Cost.WORK
    register(*targets, kind="product", factors=operands, cost=cost)(rule)


def _cost_of_product(inputs: Sequence[Series]) -> Cost:
    """Finds the cost of an elementwise product. A product with a constant is fused."""
    return Cost.FUSED if any(series.is_constant for series in inputs) else Cost.WORK


def _bilinear_rule(
    walk: Walk, eqn: JaxprEqn, inputs: Sequence[Series], *, operands, symmetric
) -> list[Series]:
    a, b = (inputs[i] for i in operands)
    if any(not s.is_constant for i, s in enumerate(inputs) if i not in operands):
        return otherwise(walk, eqn, inputs)

    # In JAX 0.10 a product may have another dtype than its operands.
    elementwise = symmetric and eqn.params.get("out_dtype") is None

    def product(x, y):
        args = primal_values(inputs)
        for i, value in zip(operands, (x, y)):
            args[i] = value
        return bind(eqn, args)[0]

    def compute(k):
        if elementwise and a is b:
            term = convolve_square(a, k)
        else:
            term = convolve(lax.mul if elementwise else product, a, b, k)
        return [term, *[None] * (len(eqn.outvars) - 1)]

    # Its other outputs, if any, are the pattern of a sparse product.
    support = product_support(a.support, b.support, walk.order)
    supports = [support, *[CONSTANT] * (len(eqn.outvars) - 1)]
    return outputs(eqn, inputs, supports, compute)


def joined_support(inputs: Sequence[Series]) -> Support:
    """Finds the support of a sum of series."""
    return ft.reduce(lambda support, series: support | series.support, inputs, 0)
