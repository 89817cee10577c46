"""Taylor polynomials along a line, as objects."""

from collections.abc import Callable
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Real

from .._core.check import check_integer
from .._core.custom_types import Coefficients, PyTree
from .._core.polynomial import evaluate
from .argument import Argument
from .derivatives import stacked


class TaylorPolynomial(eqx.Module):
    r"""The polynomial $p(s) = \sum_{k=0}^K c_k s^k$, whose coefficients are PyTrees of
    arrays. [`eqx_taylor.taylor_polynomial`][] returns one.

    Coefficients are normalised by the factorial: $c_k = p^{(k)}(0)/k!$.

    **Arguments:**

    - `coefficients`: a PyTree of arrays, each with a leading axis over the orders
        $0, \ldots, K$.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import TaylorPolynomial
        >>> p = TaylorPolynomial(jnp.array([1.0, 2.0, 3.0]))  # 1 + 2 s + 3 s^2
        >>> p.order
        2
        >>> print(p(2.0), p.evaluate(jnp.array([0.0, 1.0])))
        17.0 [1. 6.]
        >>> print(p.derivative().coefficients)
        [2. 6.]
        >>> print(p.integral().coefficients)
        [0. 1. 1. 1.]
        ```
    """

    coefficients: Coefficients

    @property
    def order(self) -> int:
        """The order $K$, an integer."""
        return jtu.tree_leaves(self.coefficients)[0].shape[0] - 1

    def evaluate(self, s: ArrayLike) -> PyTree[Array]:
        """Evaluates the polynomial by Horner's rule. `p(s)` is the same as
        `p.evaluate(s)`.

        **Arguments:**

        - `s`: a real or complex scalar, or an array of any shape.

        **Returns:**

        A PyTree of arrays, whose first axes are those of `s`.
        """
        s = jnp.asarray(s)

        def at(s):
            def leaf(c):
                if jnp.iscomplexobj(s) and not jnp.iscomplexobj(c):
                    c = jax.lax.complex(c, jnp.zeros_like(c))
                return evaluate(list(c), s) if len(c) > 1 else c[0]

            return jtu.tree_map(leaf, self.coefficients)

        for _ in range(s.ndim):
            at = jax.vmap(at)
        return at(s)

    __call__ = evaluate

    def derivative(self, n: int = 1) -> "TaylorPolynomial":
        """Differentiates the polynomial `n` times.

        **Arguments:**

        - `n`: a non-negative integer.

        **Returns:**

        A polynomial of order $K - n$. If $n$ is larger than $K$, the polynomial zero,
        of order 0.

        **Raises:**

        `TypeError` or `ValueError` if `n` is not a non-negative integer.
        """
        n = check_integer("TaylorPolynomial.derivative", "n", n, 0)

        def slope(c):
            for _ in range(n):
                k = jnp.arange(c.shape[0]).astype(c.dtype)
                c = (k.reshape(-1, *[1] * (c.ndim - 1)) * c)[1:]
                if c.shape[0] == 0:
                    return jnp.zeros((1, *c.shape[1:]), c.dtype)
            return c

        return TaylorPolynomial(jtu.tree_map(slope, self.coefficients))

    def integral(self) -> "TaylorPolynomial":
        r"""Integrates the polynomial: $\int_0^s p(r) dr$.

        **Returns:**

        A polynomial of order $K + 1$, which is zero at $s = 0$.
        """

        def area(c):
            k = jnp.arange(1, c.shape[0] + 1).astype(c.dtype)
            c = c / k.reshape(-1, *[1] * (c.ndim - 1))
            return jnp.concatenate([jnp.zeros_like(c[:1]), c])

        return TaylorPolynomial(jtu.tree_map(area, self.coefficients))

    def radius_of_convergence(self) -> Real[Array, ""]:
        r"""Estimates the radius of convergence of the series: the distance from $s = 0$
        to the nearest singularity in the complex plane.

        If the nearest singularity is algebraic or logarithmic, and is real or one of a
        pair $\rho e^{\pm i \theta}$, the coefficients satisfy

        $$
        k c_k \approx (a k + a') c_{k-1} + (b k + b') c_{k-2},
        $$

        where $z^2 - a z - b$ has a root of size $1 / \rho$ (Chang and Corliss 1980).
        The four numbers $a, a', b, b'$ are fitted by least squares to the upper half of
        the coefficients of all arrays together. For entire functions and polynomials
        the estimate is very large or infinite. It improves with the order: at order 20
        its error is about one per cent if one singularity or pair is nearer than all
        others, and larger if several are at the same distance.

        **Returns:**

        A real scalar of the precision of the coefficients. It has derivative zero.

        **Raises:**

        `ValueError` if the order is less than 4.

        !!! example

            ```pycon
            >>> import jax.numpy as jnp
            >>> from eqx_taylor import taylor_polynomial
            >>> # The poles of 1/(1 + x^2) are at ±i, the square root of 2 from 1.
            >>> p = taylor_polynomial(lambda x: 1 / (1 + x**2), 1.0, 1.0, 20)
            >>> print(f"{p.radius_of_convergence():.3f}")
            1.414
            ```

        **Reference:** [Chang and Corliss (1980)][chang1980ratio].
        """
        if self.order < 4:
            raise ValueError(
                "TaylorPolynomial.radius_of_convergence: four numbers are fitted to "
                "the coefficients, which takes an order of at least 4; got order "
                f"{self.order}."
            )
        columns, leaves = [], jtu.tree_leaves(self.coefficients)
        for c in leaves:
            c = jax.lax.stop_gradient(c).reshape(c.shape[0], -1)
            parts = [c.real, c.imag] if jnp.iscomplexobj(c) else [c]
            columns += [part.astype(jnp.result_type(float)) for part in parts]
        dtype = jnp.finfo(jnp.result_type(*leaves)).dtype
        return _radius(jnp.concatenate(columns, axis=1)).astype(dtype)


def _radius(c):
    """Estimates the radius of convergence from coefficients `c[k]`, each a vector."""
    order = c.shape[0] - 1
    k = jnp.arange(order + 1).astype(c.dtype)
    # By the root test, the coefficients neither grow nor decay much in this unit of s.
    sizes = jnp.max(jnp.abs(c), axis=1)[-2:]
    roots = jnp.where(sizes > 0, sizes, 1) ** (-1 / k[-2:])
    unit = jnp.min(jnp.where(sizes > 0, roots, jnp.inf))
    unit = jnp.where(jnp.isfinite(unit), unit, 1)
    c = c * (unit**k)[:, None]

    first = max(2, min(order // 2, order - 3))
    rows, right = [], []
    for n in range(first, order + 1):
        # Equations have the same weight, whatever the size of their coefficients.
        size = jnp.max(jnp.abs(c[n - 2 : n + 1]))
        a, b, y = (c[i] / jnp.where(size > 0, size, 1) for i in (n - 1, n - 2, n))
        rows.append(jnp.stack([a, a / n, b, b / n], axis=1))
        right.append(y)
    solution, *_ = jnp.linalg.lstsq(jnp.concatenate(rows), jnp.concatenate(right))
    half, b = solution[0] / 2, solution[2]
    inside = half**2 + b
    real = jnp.abs(half) + jnp.sqrt(jnp.where(inside > 0, inside, 0))
    root = jnp.where(inside < 0, jnp.sqrt(jnp.where(inside < 0, -b, 1)), real)
    return jnp.where(root > 0, unit / jnp.where(root > 0, root, 1), jnp.inf)


@overload
def taylor_polynomial(
    fun: Callable[..., PyTree],
    x: PyTree,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: Literal[False] = False,
    **kwargs: Any,
) -> TaylorPolynomial: ...


@overload
def taylor_polynomial(
    fun: Callable[..., PyTree],
    x: PyTree,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: Literal[True],
    **kwargs: Any,
) -> tuple[TaylorPolynomial, PyTree]: ...


def taylor_polynomial(
    fun: Callable[..., PyTree],
    x: PyTree,
    v: PyTree,
    order: int,
    *args: Any,
    has_aux: bool = False,
    **kwargs: Any,
) -> Any:
    r"""Computes the Taylor polynomial of $f(x + s v)$ in $s$.

    Its coefficients are normalised: $c_k$ is the derivative of order $k$ with respect
    to $s$ at $s = 0$, divided by $k!$.

    **Arguments:**

    - `fun`: the function, called as `fun(x, *args, **kwargs)`. It takes a PyTree `x`
        and returns a PyTree.
    - `x`: the point, a PyTree of floating-point or complex arrays of any shapes.
    - `v`: the direction, a PyTree of the structure and shapes of `x`, with `None` in
        place of leaves that are constant.
    - `order`: the order $K \geq 0$ of the polynomial.
    - `args`, `kwargs`: further arguments of `fun`, which are not differentiated.
    - `has_aux`: whether `fun` returns a pair `(y, aux)`, of which only `y` is
        differentiated.

    **Returns:**

    An [`eqx_taylor.TaylorPolynomial`][], which can be evaluated, differentiated and
    integrated, and estimates its radius of convergence. Its values have the structure
    of what `fun` returns, with `None` in place of leaves that are not differentiable.
    With `has_aux=True`, a pair of the polynomial and `aux`.

    **Raises:**

    `TypeError` or `ValueError` if the order is not a non-negative integer, if `x` has
    integers, or if the direction does not fit the point.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import taylor_polynomial
        >>> p = taylor_polynomial(jnp.exp, 0.0, 1.0, 4)
        >>> print(p.coefficients)  # 1 / k!
        [1.         1.         0.5        0.16666667 0.04166667]
        >>> print(p(0.1), jnp.exp(0.1))
        1.1051708 1.105171
        ```

    **Reference:** [Griewank and Walther (2008), Chapter 13][griewank2008evaluating].
    """
    order = check_integer("taylor_polynomial", "order", order, 0)
    argument = Argument("taylor_polynomial", fun, x, args, kwargs, has_aux=has_aux)
    terms = argument.along(argument.direction(v), order)
    return argument.with_aux(TaylorPolynomial(stacked(terms)))
