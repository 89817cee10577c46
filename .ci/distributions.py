"""What a wheel and an sdist contain, against the checkout that they were built from.

    python .ci/distributions.py CHECKOUT FOLDER

The wheel has the package and its metadata, and nothing else; the sdist has all that the
tests and the documentation need, which is every file but those that run checks
elsewhere.
"""

import email
import pathlib
import re
import sys
import tarfile
import zipfile


# At the start of a path: what concerns the place where the repository is kept.
_NOT_IN_SDIST = (".ci/", ".github/", ".git/")


def _wheel(path: pathlib.Path) -> set[str]:
    with zipfile.ZipFile(path) as file:
        return set(file.namelist())


def _sdist(path: pathlib.Path) -> set[str]:
    """Without the folder that all of it is in."""
    with tarfile.open(path) as file:
        return {x.name.partition("/")[2] for x in file.getmembers() if x.isfile()}


def _assert_links(wheel: pathlib.Path) -> None:
    """Where the project has an address, all links of the description lead there."""
    with zipfile.ZipFile(wheel) as file:
        [name] = [x for x in file.namelist() if x.endswith(".dist-info/METADATA")]
        about = email.message_from_bytes(file.read(name))
    urls = [x.partition(", ")[2] for x in about.get_all("Project-URL", [])]
    links = re.findall(r"\]\(([^)\s]+)\)", str(about.get_payload()))
    relative = [x for x in links if not x.startswith(("https://", "#"))]
    if not links or (urls and relative):
        raise SystemExit(f"{wheel.name}: links that lead nowhere on PyPI: {relative}")
    print(f"{wheel.name}: {len(links)} links, {len(relative)} of them relative; {urls}")


def _assert_same(what: str, found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        raise SystemExit(
            f"{what}: without reason {sorted(found - wanted)}; "
            f"missing {sorted(wanted - found)}"
        )
    print(f"{what}: {len(found)} files, as they should be.")


def main(checkout: pathlib.Path, folder: pathlib.Path) -> None:
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = {
        path.relative_to(checkout).as_posix()
        for path in checkout.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    metadata = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}
    package = {name for name in files if name.startswith("eqx_taylor/")}
    assert {"eqx_taylor/py.typed", "eqx_taylor/__main__.py"} <= package
    _assert_same(wheel.name, _wheel(wheel), package | {f"{info}/{x}" for x in metadata})
    _assert_links(wheel)
    source = {name for name in files if not name.startswith(_NOT_IN_SDIST)}
    _assert_same(sdist.name, _sdist(sdist), source | {"PKG-INFO"})


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
