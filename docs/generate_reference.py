"""How mkdocstrings reads the docstrings of the API reference, and shows signatures."""

import inspect
import re

import griffe


class NoInheritedInit(griffe.Extension):
    """A class whose `__init__` is made for it, as those of Equinox modules are, says
    nothing about it: not what `object` has to say."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs) -> None:
        init = cls.members.get("__init__")
        if init is not None and init.docstring is not None:
            if init.docstring.value == inspect.getdoc(object.__init__):
                init.docstring = None


# What the names of types stand for, as it is written where a module is inspected.
_NUMBER = "Union[Real[Array, ''], Real[ndarray, ''], number, int, float"
_STATE = (
    "PyTree[Shaped[Array, '?*y'] | Shaped[ndarray, '?*y'] | bool | number | bool | int"
    " | float | complex, Y]"
)
_ARRAY_LIKE = "Array, ndarray, bool, number, bool, int, float, complex"
_NAMES = {
    f"{_NUMBER}, NoneType]": "RealScalarLike | None",
    f"{_NUMBER}]": "RealScalarLike",
    _STATE: "Y",
    f"Union[{_ARRAY_LIKE}, NoneType]": "ArrayLike | None",
    f"Union[{_ARRAY_LIKE}]": "ArrayLike",
    "Union[Key[Array, ''], UInt32[Array, 2], UInt32[Array, 4]]": "PRNGKeyArray",
}
_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z]|number\b|ndarray\b|bool)")
# A type variable, which is shown without what marks it.
_VARIABLE = re.compile(r"~_?(\w+)|\b_([A-Z])\b")


class ShortTypes(griffe.Extension):
    """Types are shown by their names, not by what these stand for, and without the
    modules that they come from."""

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        for parameter in func.parameters:
            parameter.annotation = _short(parameter.annotation)
        func.returns = _short(func.returns)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs) -> None:
        attr.annotation = _short(attr.annotation)


def _short(annotation):
    if annotation is None:
        return None
    text = _MODULES.sub("", str(annotation)).replace('"', "'")
    for long, name in _NAMES.items():
        text = text.replace(long, name)
    return _VARIABLE.sub(lambda found: found[1] or found[2], text)
