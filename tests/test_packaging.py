"""What is around the library: what importing it brings along, and that the files that
say the same thing say the same."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest


ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _read(name):
    return (ROOT / name).read_text(encoding="utf-8")


_NEW_MODULES = """
import sys
import diffrax
before = set(sys.modules)
import eqx_taylor, eqx_taylor.__main__
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - sys.stdlib_module_names))
print(*[name for name in sys.modules if name.startswith("scipy.")])
"""


def test_import_brings_nothing_along():
    """Nothing that is optional, nor what takes long: whoever has imported Diffrax has
    imported all that is not ours."""
    first, scipy = subprocess.run(
        [sys.executable, "-c", _NEW_MODULES],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()
    # JAX's own may be more of them: its extensions.
    assert set(first.split()) <= {"eqx_taylor", "jax"}
    assert scipy == ""


def _pins(extra):
    requirements = PROJECT["project"]["optional-dependencies"][extra]
    pairs = [re.split(r"(?:\[.*\])?==", x) for x in requirements if "==" in x]
    return dict(pairs)


def test_versions_are_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert f'__version__ = "{version}"\n' in _read("eqx_taylor/__init__.py")
    assert f"\nversion: {version}\n" in _read("CITATION.cff")
    newest = re.search(r"^## (\S+) - (.*)$", _read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None and newest[1] == version
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", newest[2])


def test_changelog_has_the_usual_sections():
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    sections = re.findall(r"^### (.*)$", _read("CHANGELOG.md"), re.MULTILINE)
    assert sections and set(sections) <= known


def test_commits_are_checked_by_the_same_ruff():
    config = _read(".pre-commit-config.yaml")
    assert re.findall(r"\[ruff==(.*)\]", config) == [_pins("dev")["ruff"]]


# -- what the sdist does not have

_ci = pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="not of the checkout")


@_ci
def test_workflow_is_what_ci_runs():
    """All of its commands are parts of `.ci/run`, and all parts are run: so that what
    passes here passes there."""
    workflow = _read(".github/workflows/ci.yml")
    commands = re.findall(r"^ *- run: (.*)$", workflow, re.MULTILINE)
    assert len(re.findall(r"\brun:", workflow)) == len(commands)
    used = set()
    for command in commands:
        program, *parts = command.removeprefix("bash ").split()
        assert program == ".ci/run" and parts
        used |= set(parts)
    [known] = re.findall(r"^parts=\((.*)\)$", _read(".ci/run"), re.MULTILINE)
    assert used == set(known.split())


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The script, for a release that is in order."""
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci/release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    (tmp_path / "eqx_taylor").mkdir()
    for name, text in {
        "pyproject.toml": '[project]\nversion = "1.2.0"\n',
        "eqx_taylor/__init__.py": '__version__ = "1.2.0"\n',
        "CITATION.cff": "version: 1.2.0\ndate-released: 2030-01-02\n",
        "CHANGELOG.md": "# Changelog\n\n## 1.2.0 - 2030-01-02\n\n### Added\n\n- This.\n"
        "\n## 1.1.0 - 2029-01-02\n\n- That.\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return module


@_ci
def test_notes_of_a_release(release):
    assert release.notes("v1.2.0") == "### Added\n\n- This.\n"


@_ci
@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("pyproject.toml", "1.2.0", "1.3.0", "versions differ"),
        ("eqx_taylor/__init__.py", "1.2.0", "1.3.0", "versions differ"),
        ("CITATION.cff", "1.2.0", "1.3.0", "versions differ"),
        ("CITATION.cff", "2030-01-02", "2030-01-03", "says 2030-01-02"),
        ("CHANGELOG.md", "2030-01-02", "unreleased", "no heading"),
        ("CHANGELOG.md", "## 1.2.0", "## 1.2.1", "no heading"),
    ],
)
def test_release_that_is_not_in_order(release, tmp_path, name, old, new, message):
    path = tmp_path / name
    path.write_text(path.read_text(encoding="utf-8").replace(old, new))
    with pytest.raises(SystemExit, match=message):
        release.notes("v1.2.0")


@_ci
def test_tag_of_another_version(release):
    with pytest.raises(SystemExit, match="versions differ"):
        release.notes("v1.2.1")
