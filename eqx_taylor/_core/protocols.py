"""Protocols of JAX's programs: jaxprs, their equations and their variables.

JAX changes the classes of these every few versions. The names here are annotations, for
type checkers and readers. At run time they are `Any`: beartype refuses protocols that
are not `runtime_checkable`, and is slow with those that are.

A closed jaxpr of JAX 0.10 satisfies the protocol, but pyright does not know it (because
of `property(lambda`), so jaxprs from JAX are cast.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TYPE_CHECKING


if TYPE_CHECKING:

    class Aval(Protocol):
        """The type of an array. The types of other values (effects, references, PRNG
        keys) have some of its attributes."""

        # These are integers, but type checkers do not know it: JAX defines them by
        # `property(lambda`.
        ndim: Any
        size: Any

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> Any: ...
        @property
        def weak_type(self) -> bool: ...

    class Atom(Protocol):
        """An operand of an equation: a variable, or a literal."""

        @property
        def aval(self) -> Any: ...  # An `Aval`, nearly always.

    class Var(Atom, Protocol):
        """A variable, which is equal only to itself."""

        def __hash__(self) -> int: ...

    class Literal(Atom, Protocol):
        """A constant that is written where it is used."""

        @property
        def val(self) -> Any: ...

    class Primitive(Protocol):
        """An operation of JAX."""

        @property
        def name(self) -> str: ...
        @property
        def multiple_results(self) -> bool: ...
        def bind(self, *args: Any, **params: Any) -> Any: ...

    class JaxprEqn(Protocol):
        """An equation: a primitive with its parameters, applied to operands."""

        @property
        def primitive(self) -> Primitive: ...
        @property
        def params(self) -> dict[str, Any]: ...
        @property
        def invars(self) -> Sequence[Any]: ...  # `Atom`s.
        @property
        def outvars(self) -> Sequence[Var]: ...
        @property
        def effects(self) -> Any: ...
        # The context in which it was traced: the mesh, the precision, ...
        @property
        def ctx(self) -> Any: ...
        @property
        def source_info(self) -> Any: ...
        # A method that returns the same equation with other `params`, for example.
        @property
        def replace(self) -> Callable[..., Any]: ...

    class OpenJaxpr(Protocol):
        """A program whose constants are variables."""

        @property
        def constvars(self) -> Sequence[Var]: ...
        @property
        def invars(self) -> Sequence[Var]: ...
        @property
        def outvars(self) -> Sequence[Any]: ...  # `Atom`s.
        @property
        def eqns(self) -> Sequence[JaxprEqn]: ...
        @property
        def effects(self) -> Any: ...

    class Jaxpr(Protocol):
        """A program with its constants, which JAX calls closed."""

        @property
        def jaxpr(self) -> OpenJaxpr: ...
        @property
        def consts(self) -> Sequence[Any]: ...
        @property
        def eqns(self) -> Sequence[JaxprEqn]: ...
        @property
        def effects(self) -> Any: ...
        @property
        def in_avals(self) -> Sequence[Any]: ...  # `Aval`s.
        @property
        def out_avals(self) -> Sequence[Any]: ...

else:
    Aval = Atom = Var = Literal = Primitive = JaxprEqn = OpenJaxpr = Jaxpr = Any
