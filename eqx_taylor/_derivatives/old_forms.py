"""Deprecated forms of calls, which are accepted for one more release, with a
warning."""

import functools as ft
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar


_P = ParamSpec("_P")
_T = TypeVar("_T")


def takes_old_form(name: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Lets a function `new(fun, x, order)` accept calls in its form before version 0.1,
    `new(fun, order)(x)`, in which the order was called `name`."""

    def decorator(new: Any) -> Any:
        @ft.wraps(new)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *(kwargs[k] for k in ("fun", name) if k in kwargs)]
            if len(given) != 2 or "x" in kwargs or "order" in {*kwargs} - {name}:
                return new(*args, **kwargs)
            fun, order = given
            more = {k: x for k, x in kwargs.items() if k not in ("fun", name)}
            caller = new.__name__
            warnings.warn(
                f"{caller}: `{caller}(fun, {name})(x)` is now `{caller}(fun, x, "
                "order)`. The old form goes with the next release.",
                DeprecationWarning,
                stacklevel=2,
            )

            def at_point(x, *args, **kwargs):
                return new(fun, x, order, *args, **more, **kwargs)

            return at_point

        return wrapper

    return decorator
