"""The pages of the documentation: their code runs, as their readers would run it, and
prints what they show; and what they say of messages and of files is so."""

import ast
import contextlib
import importlib.util
import io
import pathlib
import re
from collections.abc import Iterator

import jax
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import as_a_reader
from pages import assert_same_output


_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = _ROOT / "docs"
# Those of the examples show a script, which `test_examples.py` runs; the last one is
# run by `test_rules_of_ones_own.py`.
_ELSEWHERE = ("examples/", "devdocs/adding_a_rule.md")


def _text(page):
    return (_DOCS / page).read_text(encoding="utf-8")


def _pages():
    for path in sorted(_DOCS.rglob("*.md")):
        page = path.relative_to(_DOCS).as_posix()
        if "```python" in _text(page) and not page.startswith(_ELSEWHERE):
            yield page


_PART = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>.*?)")?\n(?P<code>.*?)^```$'
    r'|^<div class="grid" markdown>$|^</div>$',
    re.MULTILINE | re.DOTALL,
)


def _is_missing(title):
    """Whether this is for another library, which is not installed."""
    others = ("folx", "heyoka", "probdiffeq")
    return title in others and importlib.util.find_spec(title) is None


@pytest.mark.sample(5)
@pytest.mark.parametrize("page", list(_pages()))
@as_a_reader()
def test_code_of_a_page(page):
    """Block after block: later ones use the names of those before. Two that stand side
    by side do not know of each other, and compute the same."""
    names = {"__name__": "__main__"}
    sides: list[dict] | None = None
    printed = None
    for part in _PART.finditer(_text(page)):
        language, title, code = part.group("language", "title", "code")
        if language is None and part[0] != "</div>":
            sides = []
        elif language is None:
            assert sides is not None
            _assert_same_results(names, sides)
            names, sides = sides[-1], None
        elif language == "text" and printed is not None:
            assert_same_output(code, printed)
        elif language == "python" and not _is_missing(title):
            inside = names if sides is None else dict(names)
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, page, "exec"), inside)
            printed = output.getvalue()
            if sides is not None:
                sides.append(inside)
        else:
            printed = None  # What follows is not of a program that was run.


def _assert_same_results(names, sides):
    """Of all that both have assigned."""
    if len(sides) < 2:  # The other one is not Python, or not installed.
        return
    one, other = sides
    compared = 0
    for name in one.keys() & other.keys():
        if name in names and one[name] is names[name]:
            continue
        leaves = [jtu.tree_leaves(side[name]) for side in (one, other)]
        for a, b in zip(*leaves):
            if isinstance(a, jax.Array):
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
                compared += 1
    assert compared > 0


# -- the front page


def _measured(text):
    """The figures of ours and of the others, row by row."""
    _, _, section = text.partition("\n## Measured\n")
    section, _, _ = section.partition("\n## ")
    rows = re.findall(r"^\| .* \| (.*) \| (.*) \| .*\|$", section, re.MULTILINE)
    return rows[1:]


def test_front_page_has_figures_of_the_readme():
    readme = _measured((_ROOT / "README.md").read_text(encoding="utf-8"))
    front_page = _measured(_text("index.md"))
    assert len(front_page) > 5 and set(front_page) <= set(readme)
    # Those that are lost are not left out.
    assert sum(ours.startswith("**") for ours, _ in front_page) == sum(
        ours.startswith("**") for ours, _ in readme
    )


# -- the page of messages


_ERRORS = {"TypeError", "ValueError", "NotImplementedError", "warn"}


def _messages() -> Iterator[tuple[str, list[str]]]:
    """Of every error and warning: where it is, and the words of its message that do not
    depend on what was given."""
    for path in sorted((_ROOT / "eqx_taylor").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            statement.targets[0].id: statement.value.value
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and isinstance(statement.value, ast.Constant)
        }
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", None))
            # Of Equinox's functions the message is the third argument, or has a name.
            of_keywords = [x.value for x in call.keywords if x.arg == "msg"]
            if name == "error_if" and len(call.args) == 3:
                message = call.args[2]
            elif name == "nondifferentiable_backward" and of_keywords:
                [message] = of_keywords
            elif name in _ERRORS:
                message = call.args[0]
            else:
                continue
            words = []
            for node in ast.walk(message):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    words.append(node.value)
                elif isinstance(node, ast.Name) and node.id in constants:
                    words.append(str(constants[node.id]))
            yield f"{path.relative_to(_ROOT)}:{call.lineno}", words


def _explains(heading, words):
    parts = [part.strip() for part in heading.split("…") if part.strip()]
    return all(any(part in text for text in words) for part in parts)


# No user can meet it: a table of our own is wrong.
_OUR_OWN = "` has two reasons."


def test_every_message_is_explained():
    headings = re.findall(r"^### (.*)$", _text("errors.md"), re.MULTILINE)
    messages = [m for m in _messages() if _OUR_OWN not in m[1]]
    assert len(messages) > 60
    unexplained = [
        f"{where}: {' … '.join(words)}"
        for where, words in messages
        if not any(_explains(heading, words) for heading in headings)
    ]
    assert not unexplained, "\n".join(
        ["A heading of docs/errors.md must have words of each of these:", *unexplained]
    )
    for heading in headings:
        assert any(_explains(heading, words) for _, words in messages), (
            f"docs/errors.md explains {heading!r}, which is no message"
        )


# -- the page of references


def test_references():
    """Each work is once on the page, and each is linked to."""
    anchors = re.findall(r"^### .* \{#(\w+)\}$", _text("references.md"), re.MULTILINE)
    keys = re.findall(r"^@\w+\{(\w+),$", _text("references.md"), re.MULTILINE)
    assert anchors == keys and len(set(keys)) == len(keys) > 10
    linked = set()
    for folder, kind in [("docs", "*.md"), ("eqx_taylor", "*.py")]:
        for path in (_ROOT / folder).rglob(kind):
            text = path.read_text(encoding="utf-8")
            assert "```bibtex" not in text or path.name == "references.md", path
            linked |= set(re.findall(r"\[[^][]*\]\[(\w+)\]", text))
    assert set(keys) <= linked


# -- the page of files


def _imports(path):
    """Files of the package that a file imports."""
    package = _ROOT / "eqx_taylor"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parents[node.level - 1]
        names = [node.module] if node.module else [alias.name for alias in node.names]
        for name in names:
            target = folder / name.replace(".", "/")
            target = target / "__init__.py" if target.is_dir() else target
            yield target.with_suffix(".py").relative_to(package).as_posix()


def test_imports_go_downwards():
    """As the map of files has them, which has all of them."""
    package = _ROOT / "eqx_taylor"
    listed = re.findall(
        r"^\| `([\w/]+\.py)` \|", _text("devdocs/architecture.md"), re.MULTILINE
    )
    files = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    assert sorted(listed) == sorted(files)
    for name in files:
        for imported in _imports(package / name):
            assert listed.index(name) < listed.index(imported), (name, imported)


@pytest.mark.parametrize("folder", ["_core", "_rules", "_sums", "_derivatives"])
def test_derivatives_know_nothing_of_odes(folder):
    package = _ROOT / "eqx_taylor"
    for path in (package / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *names]
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "diffrax" not in {name.split(".")[0] for name in names}, path
        assert not [x for x in _imports(path) if x.startswith("_ode/")], path
