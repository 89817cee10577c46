"""What the site says of the project: version, address and how to cite it. MkDocs calls
these functions when it builds the site."""

import pathlib
import tomllib
import urllib.parse

import yaml


_ROOT = pathlib.Path(__file__).parents[1]
# Where the entry stands on the page `citing.md`.
_ENTRY = "<!-- The entry for BibTeX -->"


def project() -> dict:
    """The table `[project]`."""
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


def on_config(config):
    about = project()
    urls = about.get("urls", {})
    config.copyright = f"eqx_taylor {about['version']}"
    # `mkdocs serve` has an address of its own.
    config.site_url = config.site_url or urls.get("Documentation", "")
    if "Repository" in urls:
        config.repo_url = urls["Repository"]
        config.repo_name = urllib.parse.urlsplit(urls["Repository"]).path.strip("/")
    return config


def on_page_markdown(markdown, *, page, **kwargs):
    if page.file.src_uri == "citing.md":
        assert _ENTRY in markdown
        return markdown.replace(_ENTRY, f"```bibtex\n{bibtex()}\n```")
    return markdown


def bibtex() -> str:
    """The entry for BibTeX, of `CITATION.cff`."""
    text = (_ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = yaml.safe_load(text)
    authors = " and ".join(f"{{{author['name']}}}" for author in cited["authors"])
    fields = {
        "author": authors,
        "title": f"{cited['title']}: {cited['abstract'].rstrip('.')}",
        "version": cited["version"],
        "year": str(cited["date-released"])[:4] if "date-released" in cited else None,
        "license": cited["license"],
        "url": project().get("urls", {}).get("Repository"),
    }
    lines = [f"    {k:<8}= {{{v}}},\n" for k, v in fields.items() if v is not None]
    return f"@software{{eqx_taylor,\n{''.join(lines)}}}"
