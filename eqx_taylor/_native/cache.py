"""Compiled programs on disk, by their content."""

import functools as ft
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import llvmlite


# A folder for machine code, or an empty string for none.
VARIABLE = "EQX_TAYLOR_CACHE_DIR"


def digest_of(content: Sequence[object]) -> str:
    """The name of a program, which is compiled from this content by these files."""
    content = [*content, _sources(), llvmlite.__version__]
    return hashlib.sha256("\n".join(map(str, content)).encode()).hexdigest()


def kept(digest: str, compiled: Callable[[], bytes]) -> bytes:
    """Returns what is on disk for a program. What is not there is compiled."""
    code = _read(digest)
    if code is None:
        code = compiled()
        _write(digest, code)
    return code


@ft.lru_cache(maxsize=1)
def _sources() -> str:
    """The content of the files that write programs: a change of them makes machine code
    on disk outdated."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path | None:
    """The folder of machine code; `None` if none is wanted."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "eqx_taylor"


def _read(digest: str) -> bytes | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        content = (folder / digest).read_bytes()
    except OSError:
        return None
    # A file that was cut short is none.
    checksum, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == checksum else None


def _write(digest: str, code: bytes) -> None:
    folder = cache_folder()
    if folder is None:
        return
    # Other processes see the whole file, or none.
    content = hashlib.sha256(code).digest() + code
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, folder / digest)
        finally:  # If the disk is full it is still there.
            Path(name).unlink(missing_ok=True)
    except OSError:
        pass  # Without a cache it is compiled the next time, too.
