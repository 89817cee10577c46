"""Whether all files agree on the version that a tag names; prints what is new in it.

    python .ci/release.py v0.1.0

A release is prepared by a commit that gives the version in `pyproject.toml`,
`eqx_taylor/__init__.py`, `CITATION.cff` and `CHANGELOG.md`, the last two with the date,
and made by a tag on it. Before the first one, `pyproject.toml` has the address of the
project: without it, the links of the README would lead nowhere on PyPI.
"""

import pathlib
import re
import sys
import tomllib


_ROOT = pathlib.Path(__file__).parents[1]


def _read(name: str) -> str:
    return (_ROOT / name).read_text(encoding="utf-8")


def _one(pattern: str, name: str) -> str:
    found = re.findall(pattern, _read(name), re.MULTILINE)
    if len(found) != 1:
        raise SystemExit(f"{name}: {len(found)} lines are like {pattern!r}, and not 1")
    return found[0]


def notes(tag: str) -> str:
    """What the changelog says of the version, or an error that says what is wrong."""
    version = tag.removeprefix("v")
    project = tomllib.loads(_read("pyproject.toml"))["project"]
    missing = {"Documentation", "Repository"} - project.get("urls", {}).keys()
    if missing:
        raise SystemExit(
            f"pyproject.toml has no address in [project.urls] for {sorted(missing)}"
        )
    versions = {
        "the tag": version,
        "pyproject.toml": project["version"],
        "__init__.py": _one(r'^__version__ = "(.*)"$', "eqx_taylor/__init__.py"),
        "CITATION.cff": _one(r"^version: (.*)$", "CITATION.cff"),
    }
    if len(set(versions.values())) > 1:
        raise SystemExit(f"the versions differ: {versions}")
    entry = re.search(
        rf"^## {re.escape(version)} - (.*)\n((?:(?!## ).*\n)*)",
        _read("CHANGELOG.md"),
        re.MULTILINE,
    )
    if entry is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", entry[1]):
        raise SystemExit(f"CHANGELOG.md has no heading `## {version} - YYYY-MM-DD`")
    date = _one(r"^date-released: (.*)$", "CITATION.cff")
    if date != entry[1]:
        raise SystemExit(f"CHANGELOG.md says {entry[1]}, and CITATION.cff {date}")
    return entry[2].strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(notes(sys.argv[1]))
