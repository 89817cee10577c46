"""What the files of the built site say, without a browser: the reference shows nothing
of Python's own, and the search leads to what people look for."""

import html
import json
import pathlib
import re
from collections.abc import Iterator


# What is typed into the field of the search, and the page that is to be found by the
# title of one of its sections. (In the search, titles count a thousand times as much as
# texts.)
SEARCHES = {
    "PINN": "pinns/",
    "Laplacian": "derivatives/",
    "event": "events/",
    "how to cite": "citing/",
    "stiff": "faq/",
    "NaN": "faq/",
    "neural ODE": "regularization/",
    "benchmarks": "benchmarks/",
    "migration": "migrating/",
    "changelog": "changelog/",
}

# The methods that a page of the reference describes by themselves.
_DESCRIBED = {"__call__", "__getitem__"}
_INTERNALS = re.compile(
    r"__\w+__|~\w+|\b_\w+|\bNoneType\b|\bUnion\[|\b(?:typing|jaxtyping)\.|"
    r"\bobject at 0x|<(?:class|function|factory)\b"
)
# Headings of what is documented, and signatures.
_SHOWN = re.compile(
    r'<h\d [^>]*class="doc doc-heading".*?</h\d>'
    r'|<div class="[^"]*doc-signature[^"]*".*?</div>',
    re.DOTALL,
)
_TAG = re.compile(r"<[^>]*>")


def _text(markup: str) -> str:
    return html.unescape(_TAG.sub("", markup))


def internals(markup: str) -> list[str]:
    """What a page of the reference shows that only Python needs to know."""
    found = []
    for part in _SHOWN.findall(markup):
        found += [x for x in _INTERNALS.findall(_text(part)) if x not in _DESCRIBED]
    return found


def _finds(query: str, page: str, entries: list[dict]) -> bool:
    words = query.lower().split()
    return any(
        entry["location"].partition("#")[0] == page
        # The last word may be the beginning of one.
        and all(f" {word}" in f" {_text(entry['title']).lower()}" for word in words)
        for entry in entries
    )


def faults(site: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Pairs of a page and what is wrong with it."""
    pages = sorted((site / "api").rglob("*.html"))
    signatures = 0
    for path in pages:
        markup = path.read_text(encoding="utf-8")
        signatures += len(_SHOWN.findall(markup))
        for what in internals(markup):
            yield path.relative_to(site).as_posix(), f"shows Python's own `{what}`"
    if signatures < 100:
        yield "api", f"has only {signatures} headings and signatures"
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    entries = json.loads(index)["docs"]
    for query, page in SEARCHES.items():
        if not _finds(query, page, entries):
            yield page, f"is not found by the title of a section that has `{query}`"
