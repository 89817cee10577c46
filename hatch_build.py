"""The README of a distribution. PyPI shows it alone, so its links lead to the files of
the repository, at the version that is built."""

import pathlib
import re
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


# `](target`, where the target is a file here: no address, and no place on the page.
_TO_A_FILE = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def absolute_links(text: str, repository: str, version: str) -> str:
    """Markdown whose links to files are links to the tag `v{version}`."""

    def absolute(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        # The bytes of a picture; a page of a text.
        kind = "raw" if image else "blob"
        address = f"{repository.rstrip('/')}/{kind}/v{version}/{target}"
        return f"{image}[{words}]({address})"

    return _TO_A_FILE.sub(absolute, text)


class Readme(MetadataHookInterface):
    """Hatchling calls it for whatever `pyproject.toml` calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (pathlib.Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        if repository is not None:
            text = absolute_links(text, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
