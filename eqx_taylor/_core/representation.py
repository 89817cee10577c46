"""The representation of objects: the calls that make them."""

import inspect
from typing import Any


def as_call(obj: Any, **fields: str) -> str:
    """Writes an object as the call that makes it, with the arguments that differ from
    their defaults. `fields` has the names of fields that differ from their arguments'
    names. An argument without a field is left out."""
    shown = []
    for name, parameter in inspect.signature(type(obj)).parameters.items():
        field = fields.get(name, name)
        if name in fields.values() or not hasattr(obj, field):
            continue
        value = getattr(obj, field)
        if not _is_same(value, parameter.default):
            shown.append(f"{name}={value!r}")
    return f"{type(obj).__name__}({', '.join(shown)})"


def _is_same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    # An array is never a default, and may be traced.
    return type(value) is type(default) and bool(value == default)
