"""Prints the page on primitives, from the table of rules and from those of the tests:

python docs/generate_primitives.py > docs/primitives.md
"""

import pathlib
import sys

from eqx_taylor._core.rule import OTHERWISE, RULES


# The tables are those of the tests.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import primitive_coverage as coverage  # noqa: E402


_HEAD = """\
<!-- Made by generate_primitives.py: change the tables there, and make it again. -->

# Supported primitives

A function that is differentiated is evaluated as a program of primitives: those of JAX,
and the few that Equinox and Lineax add. (Optimistix and Diffrax have none of their
own.) This page lists how each is differentiated, in JAX 0.10 to 0.12. Not every version
has all of them, and some are internal to JAX, or to kernels for one kind of hardware.

A test finds all primitives of the installed versions, and fails if one is missing on
this page. Another has a program for each that can be differentiated, and compares its
derivatives with nested forward mode. A third asks JAX whether the primitives listed
without a derivative have none.

A function with a `jax.custom_jvp` is differentiated by that rule, at every order. You
can write [a custom rule](devdocs/adding_a_rule.md) for such a function, or for a
primitive.
"""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(name: str) -> str:
    return f"`{name}`"


def page() -> str:
    differentiated = {name for name in RULES if isinstance(name, str)} - {OTHERWISE}
    differentiated |= coverage.DERIVED | coverage.REFERENCES
    kinds = {name: coverage.kind(name) for name in differentiated}
    zero = dict(coverage.ZERO)
    for name, kind in kinds.items():
        if kind == "zero":
            zero[name] = "Has slope zero by JAX's convention: a step."
    moving = sorted(differentiated - set(zero))

    parts = [_HEAD]
    parts.append("## Kinds of rules\n")
    parts.append(
        _table(("Rule", "Coefficients of the result"), list(coverage.KINDS.items()))
    )
    parts.append("## Primitives with coefficients of every order\n")
    rows = [(coverage.package(n), _code(n), kinds[n]) for n in moving]
    parts.append(_table(("Package", "Primitive", "Rule"), rows))
    parts.append("## Primitives whose derivatives are zero\n")
    rows = [(coverage.package(n), _code(n), "zero", zero[n]) for n in sorted(zero)]
    parts.append(_table(("Package", "Primitive", "Rule", "Reason"), rows))
    parts.append(
        "## Not differentiated\n\nIf an operand of one of these primitives depends on "
        "the differentiated arguments, an error says so.\nOther operands, such as the "
        "result of `jax.lax.stop_gradient`, are allowed.\n"
    )
    refused = coverage.UNSUPPORTED
    rows = [(coverage.package(n), _code(n), "none", refused[n]) for n in refused]
    parts.append(_table(("Package", "Primitive", "Rule", "Reason"), rows))
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
