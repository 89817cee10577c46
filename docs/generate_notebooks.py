"""Runs the notebooks of the documentation, and makes of each a page and a file for
Jupyter. MkDocs calls `on_files` when it builds the site. By hand:

    python docs/generate_notebooks.py docs/notebooks/first_steps.py first_steps.ipynb

A notebook is a script in the percent format, which VS Code, PyCharm and Jupyter (with
Jupytext) open as a notebook: a line `# %%` begins a cell of code, `# %% [markdown]` one
of text, in comments. No package but Matplotlib is needed for this. (mkdocs-jupyter and
nbconvert need a kernel and some fifty packages, and their pages fetch scripts from
elsewhere.)
"""

import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple


_DOCS = pathlib.Path(__file__).parent
_ROOT = _DOCS.parent
FOLDER = _DOCS / "notebooks"
# What was printed and drawn, by what it was made of: a page that is built again, as by
# `mkdocs serve`, waits only for the notebooks that have changed.
_CACHE = _ROOT / ".cache/notebooks"


class Cell(NamedTuple):
    is_code: bool
    source: str
    # What it prints; PNG files in base64, each with what is to be seen in it.
    text: str = ""
    pictures: tuple[tuple[str, str], ...] = ()


# -- the script


def parse(script: str) -> list[Cell]:
    cells = []
    for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        mark, _, source = part.partition("\n")
        source = source.strip("\n")
        if mark.strip() == "[markdown]":
            lines = [re.sub(r"^# ?", "", line) for line in source.splitlines()]
            cells.append(Cell(False, "\n".join(lines)))
        elif mark.strip():
            raise ValueError(f"a cell begins with {mark!r}, and not with `# %%`")
        elif source:
            ast.parse(source)
            cells.append(Cell(True, source))
    return cells


def execute(cells: list[Cell], names: dict) -> list[Cell]:
    """The cells with what they print and draw. `names` receives what they assign."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = []
    for cell in cells:
        if not cell.is_code:
            done.append(cell)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, "<notebook>", "exec"), names)
        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        pictures = tuple(map(_picture, figures))
        pyplot.close("all")
        done.append(cell._replace(text=printed.getvalue(), pictures=pictures))
    return done


def _picture(figure) -> tuple[str, str]:
    titles = "; ".join(axes.get_title() for axes in figure.axes if axes.get_title())
    assert titles, "a figure needs a title, by which it is described"
    file = io.BytesIO()
    # Without the version of Matplotlib in the file.
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode(), titles


# -- what is made of it


def page(name: str, cells: list[Cell]) -> tuple[str, dict[str, bytes]]:
    """In Markdown, with the pictures by their file names."""
    parts, pictures = [], {}
    for number, cell in enumerate(cells):
        if not cell.is_code:
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        if cell.text:
            parts.append(f"```text\n{cell.text.rstrip()}\n```")
        for k, (data, titles) in enumerate(cell.pictures):
            file = f"{name}_{number}_{k}.png"
            pictures[file] = base64.b64decode(data)
            parts.append(f"![{titles}]({file})")
    title, _, rest = parts[0].partition("\n")
    assert title.startswith("# "), "a notebook begins with a heading"
    download = (
        f"*A notebook, which ran when this page was made: download it [for "
        f"Jupyter]({name}.ipynb) or [as a script]({name}.py).*"
    )
    return "\n\n".join([title, download, rest.strip(), *parts[1:]]) + "\n", pictures


_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([\w/]+)\.md(#[^)]*)?\)")


def ipynb(cells: list[Cell], documentation: str | None = None) -> str:
    """The file for Jupyter, version 4.5 of its format. Links to pages lead to the
    documentation; where that has no address yet, words are left of them."""

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.groups()
        if documentation is None:
            return words
        return f"[{words}]({documentation.rstrip('/')}/{target}/{anchor or ''})"

    listed = []
    for number, cell in enumerate(cells):
        source = cell.source if cell.is_code else _LINK.sub(link, cell.source)
        entry: dict = {
            "id": f"cell-{number}",
            "cell_type": "code" if cell.is_code else "markdown",
            "metadata": {},
            "source": source.splitlines(keepends=True),
        }
        if cell.is_code:
            outputs = []
            if cell.text:
                lines = cell.text.splitlines(keepends=True)
                outputs.append(dict(output_type="stream", name="stdout", text=lines))
            for data, titles in cell.pictures:
                shown = {"image/png": data, "text/plain": [titles]}
                picture = dict(output_type="display_data", data=shown, metadata={})
                outputs.append(picture)
            entry |= {"execution_count": None, "outputs": outputs}
        listed.append(entry)
    kernel = dict(name="python3", display_name="Python 3", language="python")
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = dict(cells=listed, metadata=metadata, nbformat=4, nbformat_minor=5)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


# -- when the site is built


def _key(path: pathlib.Path) -> str:
    """Of all that what it prints depends on, but for the versions of other packages."""
    found = hashlib.sha256()
    package = sorted((_ROOT / "eqx_taylor").rglob("*.py"))
    for file in [path, pathlib.Path(__file__), *package]:
        found.update(file.read_bytes())
    return found.hexdigest()[:24]


def executed(path: pathlib.Path) -> list[Cell]:
    """In a process of its own; or from the cache."""
    kept = _CACHE / f"{path.stem}-{_key(path)}.json"
    if not kept.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        for old in _CACHE.glob(f"{path.stem}-*.json"):
            old.unlink()
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        command = [sys.executable, __file__, str(path), str(kept)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"{path.name}:\n{done.stderr.decode()}")
    found = json.loads(kept.read_text(encoding="utf-8"))
    return [Cell(c, s, t, tuple(map(tuple, p))) for c, s, t, p in found]


def on_files(files, *, config):
    from mkdocs.structure.files import File

    scripts = sorted(FOLDER.glob("*.py"))
    with ThreadPoolExecutor(2) as pool:
        notebooks = dict(zip(scripts, pool.map(executed, scripts)))
    for path, cells in notebooks.items():
        text, pictures = page(path.stem, cells)
        documentation = config.site_url or None
        made: dict[str, str | bytes] = {
            f"{path.stem}.md": text,
            f"{path.stem}.ipynb": ipynb(cells, documentation),
            **pictures,
        }
        for name, content in made.items():
            uri = f"{FOLDER.name}/{name}"
            files.append(File.generated(config, uri, content=content))
    return files


def main(script: str, target: str) -> None:
    cells = execute(parse(pathlib.Path(script).read_text(encoding="utf-8")), {})
    text = json.dumps(cells) if target.endswith(".json") else ipynb(cells)
    pathlib.Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
