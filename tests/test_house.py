"""Rules that the files themselves must keep."""

import ast
import pathlib
import re

import pytest


ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

_SHIPPED_FOLDERS = ("eqx_taylor", "tests", "benchmarks", "docs", ".ci", ".github")


def _shipped_files():
    """Every text file that is shipped: those at the top, and the folders' own."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in _SHIPPED_FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if "__pycache__" not in path.parts
        and path.suffix not in {".eqx", ".png", ".pyc", ".woff"}
        and path.name != ".git"
    ]


def test_only_one_file_knows_jax_internals():
    # Put together, so that this file does not name it either.
    private = "jax." + "_src"
    named_in = {
        path.relative_to(ROOT).as_posix()
        for path in _shipped_files()
        if path.suffix == ".py" and private in path.read_text(encoding="utf-8")
    }
    assert named_in <= {"eqx_taylor/_core/jax.py"}


def test_caches_are_bounded():
    """What lives as long as the process, and is filled by what users pass, has a size.
    (Caches that a function makes for itself go with it.)"""
    unbounded = re.compile(r"\bcache$|lru_cache\((maxsize=)?None\)")
    found = []
    for path in (ROOT / "eqx_taylor").rglob("*.py"):
        nodes = list(ast.parse(path.read_text(encoding="utf-8")).body)
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.ClassDef):
                nodes += node.body
            decorators = map(ast.unparse, getattr(node, "decorator_list", ()))
            found += [(path.name, d) for d in decorators if unbounded.search(d)]
    # JAX's own kind, which goes with the function and by `jax.clear_caches()`.
    assert found == [("transform.py", "lu.cache")]


# Openings of fragments, which only the name above completes.
_FRAGMENTS = frozenset(
    """
    Also And As At By Equal For From How In It Its Like Likewise Not Of Or So That
    Their Those To What When Where With Without
    """.split()
)


@pytest.mark.parametrize(
    "folder", ["_core", "_derivatives", "_ode", "_programs", "_rules", "_sums"]
)
def test_docstrings_have_a_subject(folder):
    kinds = ast.FunctionDef | ast.ClassDef | ast.Module
    for path in (ROOT / "eqx_taylor" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            first = text.split(maxsplit=1)[0] if text else ""
            assert first not in _FRAGMENTS, f"{path}: {text}"


def test_nothing_outside_the_repository_is_named():
    # The places that the files are likely to have been written in.
    outside = re.compile(
        "|".join((r"(?<!\w)/" + r"work\b", r"\.\./" + "shared", r"\." + "library"))
    )
    for path in _shipped_files():
        text = path.read_text(encoding="utf-8")
        found = outside.search(text)
        assert found is None, f"{path} names {found}"


def test_readme_has_two_commands():
    # `.ci/run` runs them.
    assert len(re.findall(r"^```sh\n", README, re.MULTILINE)) == 2


def _examples(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", _examples(README))
@pytest.mark.slow
def test_readme_example(example):
    exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})


def test_what_is_left_out_is_named():
    """Of every file that README's command does not run as a whole."""
    page = (ROOT / "docs/devdocs/testing.md").read_text(encoding="utf-8")
    _, _, table = page.partition("\n## What runs when\n")
    table, _, _ = table.partition("\n## ")
    mark = re.compile(r"pytest\.mark\.(slow\b|sample\()")
    files = sorted((ROOT / "tests").glob("test_*.py"))
    marked = {path.name for path in files if mark.search(path.read_text("utf-8"))}
    assert marked == set(re.findall(r"`(test_\w+\.py)`", table))
