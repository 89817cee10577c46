"""Storage of coefficients: which coefficients of a series XLA stores, and in which
form.

If XLA considers an array cheap, it computes the array again in every loop that uses it.
This is too often for a series under construction, whose coefficients enter all higher
orders: the outer Solar System takes up to twice the time on a CPU. Rules do not depend
on this file.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .jax import explicit_sharding, materialise
from .rule import Cost
from .terms import Term


@dataclass(frozen=True)
class StoragePolicy:
    """The choice of what is stored, with its thresholds, for one platform. The defaults
    are for a CPU; `benchmarks/engine.py` disables them one after the other.

    **Fields:**

    - `stores`: whether anything is stored at all.
    - `stores_what_is_used_once`: whether a coefficient with a single use is stored,
        too, instead of being fused with it.
    - `stores_slow`: whether values that take longer to compute than to load are stored.
    - `small`: the number of entries below which an array may be computed again.
    - `side_by_side`: the number of sums of products that are computed side by side; a
        power of two.
    - `long`: the number of entries up to which the last axes of an array are joined.
    """

    stores: bool = True
    stores_what_is_used_once: bool = False
    stores_slow: bool = True
    small: int = 8
    side_by_side: int = 4
    long: int = 64

    def store(self, x: Any) -> Any:
        return materialise(x) if self.stores else x

    def join_axes(self, x: Any) -> Any:
        """Joins the last axes of an array until the last has `long` entries or more, so
        that a loop over it is fast. It joins no more axes, as leading axes may be
        divided among devices."""
        shape = list(x.shape)
        while len(shape) > 1 and shape[-1] < self.long:
            last = shape.pop()
            shape[-1] *= last
        if len(shape) == x.ndim or explicit_sharding(jax.typeof(x)):
            return x
        return jax.lax.reshape(x, shape)


_POLICY = ContextVar("storage policy", default=StoragePolicy())


def policy() -> StoragePolicy:
    """Returns the current policy."""
    return _POLICY.get()


@contextlib.contextmanager
def storage_policy(other: StoragePolicy) -> Iterator[None]:
    """Returns a context with another policy."""
    token = _POLICY.set(other)
    try:
        yield
    finally:
        _POLICY.reset(token)


class Storage:
    """The record of the uses of the coefficients of one series, and of which of them
    are stored."""

    __slots__ = ("sources", "uses", "cost", "_pending", "_stored", "_forms")

    def __init__(self, cost: Cost = Cost.WORK):
        self.cost: Cost = cost
        # The storages of the operands, if coefficient `k` needs only their coefficient
        # `k`, and next to no work; `None` if it needs products with all lower orders.
        self.sources: Sequence[Storage] | None = None
        # The number of uses by later equations; one that is not fused counts twice.
        self.uses: int = 0
        # Orders, as the bits of an integer: of coefficients that take work, which XLA
        # would repeat for each use; and of those that are stored.
        self._pending = 0
        self._stored = 0
        # Coefficients and their forms for products, by order and shape.
        self._forms: dict[Any, tuple[Any, Any]] = {}

    @property
    def is_slow(self) -> bool:
        """Whether the first coefficient takes longer to compute than to load."""
        return self.cost is Cost.SLOW and policy().stores_slow

    def forget(self, k: int) -> None:
        """Forgets coefficient `k` and those above it."""
        self._pending &= (1 << k) - 1
        self._stored &= (1 << k) - 1

    def once(self, k: int, term: Term, known: bool) -> Term:
        """Stores coefficient `k`, which has just been computed, if XLA would compute it
        repeatedly. A coefficient that is used once is faster if it is fused with its
        use, and so are all but the first of a series that is `known`."""
        sources = self.sources
        if known and k > 0:
            return term
        if term is None or not (
            sources is None or any(source._pending >> k & 1 for source in sources)
        ):
            return term
        # Coefficient 0 is computed before all of its uses are known.
        is_used_once = k > 0 and self.uses == 1
        if is_used_once and not policy().stores_what_is_used_once:
            self._pending |= 1 << k
            return term
        self._stored |= 1 << k
        return policy().store(term)

    def before_products(self, k: int, term: Term, is_cheap: bool) -> Term:
        """Stores coefficient `k` before it is multiplied by many other orders, unless
        it is a view of a stored one, or is cheap for another reason."""
        bit = 1 << k
        pending = self._pending & bit
        is_cheap = is_cheap or self.cost is Cost.VIEW
        if self._stored & bit or is_cheap and not pending:
            return term
        self._stored |= bit
        self._pending &= ~bit
        return policy().store(term)

    def in_form(self, k: int, term: Any, shape: tuple[Any, ...]) -> Any:
        """Broadcasts coefficient `k` to a shape, and joins its axes."""
        known, form = self._forms.get((k, shape), (None, None))
        if known is not term:
            form = term
            if shape != term.shape:
                form = policy().store(jnp.broadcast_to(term, shape))
            # It is stored again in this form, as XLA would undo the reshape otherwise.
            if (joined := policy().join_axes(form)) is not form:
                form = policy().store(joined)
            self._forms[k, shape] = term, form
        return form
