"""An identity function that has only a reverse mode, and its own message in forward
mode.

If a `jax.custom_vjp` is differentiated in forward mode, JAX's message does not say what
was differentiated.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import equinox as eqx
import jax.extend.core as jex
import jax.tree_util as jtu
from jax.interpreters import ad, batching, mlir


def reverse_only(tree: Any, refuse: Callable[[], NoReturn]) -> Any:
    """Returns a PyTree unchanged. If it is differentiated in forward mode, `refuse` is
    called when the derivative is computed, and raises an error."""

    def identity(x):
        if eqx.is_inexact_array(x):
            return _identity_p.bind(x, refuse=refuse)
        return x

    return jtu.tree_map(identity, tree)


_identity_p = jex.Primitive("eqx_taylor_reverse_only")
# The tangent of the identity. In reverse mode it is only transposed, never evaluated.
_tangent_p = jex.Primitive("eqx_taylor_reverse_only_tangent")


def _same(x: Any, *, refuse: Any) -> Any:
    del refuse
    return x


def _refused(*args: Any, refuse: Any) -> Any:
    del args
    refuse()


def _jvp(primals: Any, tangents: Any, *, refuse: Any) -> Any:
    # Not the primitive again: forward mode over reverse mode is allowed.
    [x], [dx] = primals, tangents
    if type(dx) is not ad.Zero:
        dx = _tangent_p.bind(dx, refuse=refuse)
    return x, dx


def _batched(args: Any, axes: Any, *, refuse: Any) -> Any:
    return _identity_p.bind(*args, refuse=refuse), axes[0]


def _transposed(bar: Any, x: Any, *, refuse: Any) -> Any:
    del x, refuse
    return [bar]


for _p in (_identity_p, _tangent_p):
    _p.def_abstract_eval(_same)
_identity_p.def_impl(_same)
_tangent_p.def_impl(_refused)
batching.primitive_batchers[_identity_p] = _batched
# As with JAX's own such primitive, it is batched only in order to be evaluated.
batching.primitive_batchers[_tangent_p] = _refused
ad.primitive_jvps[_identity_p] = _jvp
ad.deflinear2(_tangent_p, _transposed)
mlir.register_lowering(_identity_p, mlir.lower_fun(_same, multiple_results=False))
mlir.register_lowering(_tangent_p, _refused)
