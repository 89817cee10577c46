"""What is around the library: what importing it brings along, and that the files that
say the same thing say the same."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib
import types

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


# -- the README on PyPI, and the site


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hatch_build(monkeypatch):
    """The hook. Hatchling, which calls it, is only where distributions are built."""
    stub = types.ModuleType("hatchling.metadata.plugin.interface")

    class Hook:
        def __init__(self, root, config):
            self.root = root

    stub.MetadataHookInterface = Hook
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return _load("hatch_build", "hatch_build.py")


_LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_of_the_readme_on_pypi(hatch_build):
    """Those that lead to files lead to them in the repository, at the version."""
    links = _LINK.findall(_read("README.md"))
    files = [x for x in links if not x.startswith(("https://", "#"))]
    assert len(files) > 10
    for file in files:
        assert (ROOT / file.partition("#")[0]).is_file(), file
    metadata = dict(version="1.2.0", urls=dict(Repository="https://host/owner/name/"))
    hatch_build.Readme(ROOT, {}).update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    of_pypi = _LINK.findall(metadata["readme"]["text"])
    assert len(of_pypi) == len(links)
    base = "https://host/owner/name/blob/v1.2.0/"
    for before, after in zip(links, of_pypi):
        if before.endswith(".png"):
            assert after == base.replace("blob", "raw") + before
        else:
            assert after == (base + before if before in files else before)


def test_readme_without_an_address(hatch_build):
    metadata = dict(version="1.2.0")
    hatch_build.Readme(ROOT, {}).update(metadata)
    assert metadata["readme"]["text"] == _read("README.md")


@pytest.fixture
def generate_site():
    pytest.importorskip("yaml")  # It comes with MkDocs.
    return _load("generate_site", "docs/generate_site.py")


def test_site_takes_the_address_from_one_place(generate_site, monkeypatch):
    urls = dict(Documentation="https://docs/", Repository="https://host/owner/name")
    project = dict(version="1.2.0", urls=urls)
    monkeypatch.setattr(generate_site, "project", lambda: project)
    config = types.SimpleNamespace(site_url="", repo_url=None, repo_name=None)
    generate_site.on_config(config)
    assert config.site_url == "https://docs/" and "1.2.0" in config.copyright
    assert (config.repo_url, config.repo_name) == (urls["Repository"], "owner/name")
    assert "    url     = {https://host/owner/name},\n" in generate_site.bibtex()
    project["urls"] = {}
    # As `mkdocs serve` sets it.
    config = types.SimpleNamespace(site_url="http://127.0.0.1:8000/", repo_url=None)
    generate_site.on_config(config)
    assert config.site_url == "http://127.0.0.1:8000/" and config.repo_url is None
    assert "url " not in generate_site.bibtex()


def test_the_address_is_nowhere_else():
    """Neither here nor in a page: what it will be is one line."""
    for name in ("README.md", "CITATION.cff", "mkdocs.yml", ".ci/release.py"):
        if (ROOT / name).exists():
            assert not re.search(r"https://[^ )]*eqx_taylor", _read(name)), name


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
    module = _load("release", ".ci/release.py")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    (tmp_path / "eqx_taylor").mkdir()
    for name, text in {
        "pyproject.toml": '[project]\nversion = "1.2.0"\n[project.urls]\n'
        'Documentation = "https://docs.example"\nRepository = "https://example"\n',
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
        ("pyproject.toml", "Repository", "Repo", "no address .* for .'Repository'."),
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
