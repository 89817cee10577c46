"""Forms of calls that are accepted for one more release, with a warning."""

import functools as ft
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar


_P = ParamSpec("_P")
_T = TypeVar("_T")


def takes_old_form(name: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Lets a function `new(fun, x, order)` take calls of its form before version 0.1,
    `new(fun, order)(x)`, where the order was called `name`."""

    def decorator(new: Any) -> Any:
        @ft.wraps(new)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 2 and "order" not in kwargs:
                fun, order = args
            elif len(args) == 1 and name in kwargs and "x" not in kwargs:
                [fun], order = args, kwargs[name]
            else:
                return new(*args, **kwargs)
            caller = new.__name__
            warnings.warn(
                f"{caller}: `{caller}(fun, {name})(x)` is now `{caller}(fun, x, "
                "order)`. The old form goes with the next release.",
                DeprecationWarning,
                stacklevel=2,
            )

            def at_point(x, *args, **kwargs):
                return new(fun, x, order, *args, **kwargs)

            return at_point

        return wrapper

    return decorator
