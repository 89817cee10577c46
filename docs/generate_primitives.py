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

# Primitives

A function that is differentiated is read as a program of primitives: those of JAX, and
the few that Equinox and Lineax add. (Optimistix and Diffrax have none of their own.)
Here is what becomes of each, in JAX 0.10 to 0.12. Not every version has all of them,
and some are internal to JAX, or to kernels for one kind of hardware.

A test finds all primitives of the versions that are installed, and fails where one is
not on this page. Another has a program for each that can be differentiated, and
compares its derivatives with nested forward mode. One more asks JAX whether those that
are said to have no derivative have none.

Functions with a `jax.custom_jvp` are differentiated by what it says, at every order.
Both they and primitives can be given
[a rule of one's own](devdocs/adding_a_rule.md).
"""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(name: str) -> str:
    return f"`{name}`"


def page() -> str:
    differentiated = {name for name in RULES if isinstance(name, str)} - {OTHERWISE}
    # Of the package itself.
    differentiated = {x for x in differentiated if not x.startswith("eqx_taylor")}
    differentiated |= coverage.DERIVED | coverage.REFERENCES
    kinds = {name: coverage.kind(name) for name in differentiated}
    zero = dict(coverage.ZERO)
    for name, kind in kinds.items():
        if kind == "zero":
            zero[name] = "Has slope zero by JAX's convention: a step."
    moving = sorted(differentiated - set(zero))

    parts = [_HEAD]
    parts.append("## What is done\n")
    parts.append(_table(("How", "What it is"), list(coverage.KINDS.items())))
    parts.append("## With coefficients of every order\n")
    rows = [(coverage.package(n), _code(n), kinds[n]) for n in moving]
    parts.append(_table(("Package", "Primitive", "How"), rows))
    parts.append("## With no coefficient but the first\n")
    rows = [(coverage.package(n), _code(n), "zero", zero[n]) for n in sorted(zero)]
    parts.append(_table(("Package", "Primitive", "How", "Why"), rows))
    parts.append(
        "## Not differentiated\n\nWhere an operand of one of these moves, there is an "
        "error that says so. What does not move, such as the result of\n"
        "`jax.lax.stop_gradient`, may be given to all of them.\n"
    )
    refused = coverage.UNSUPPORTED
    rows = [(coverage.package(n), _code(n), "none", refused[n]) for n in refused]
    parts.append(_table(("Package", "Primitive", "How", "Why"), rows))
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
