"""How mkdocstrings reads the docstrings of the API reference."""

import inspect

import griffe


class NoInheritedInit(griffe.Extension):
    """A class whose `__init__` is made for it, as those of Equinox modules are, says
    nothing about it: not what `object` has to say."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs) -> None:
        init = cls.members.get("__init__")
        if init is not None and init.docstring is not None:
            if init.docstring.value == inspect.getdoc(object.__init__):
                init.docstring = None
