"""What `check_site.py` looks for in the files of the site, on pages that are made up."""

import json

import pytest
import site_files


def _page(signature):
    return (
        '<h2 id="eqx_taylor.f" class="doc doc-heading"><code>f</code></h2>'
        f'<div class="doc-signature highlight"><pre>{signature}</pre></div>'
        "<p>Its <code>__init__</code> is not in the signature.</p>"
    )


@pytest.mark.parametrize(
    "signature, found",
    [
        ("f(x: ArrayLike, v: PyTree[Shaped[Array, '?*y'], Y]) -&gt; T", []),
        ("<b>__getitem__</b>(k: Any)", []),
        ("f(x: Any) -&gt; ~_T", ["~_T"]),
        ("<b>_field</b>_defaults: dict", ["_field_defaults"]),
        ("f(x: typing.Any)", ["typing."]),
        ("f(x: Union[Array, NoneType])", ["Union[", "NoneType"]),
        ("f(x=&lt;factory&gt;)", ["<factory"]),
        ("f(x=&lt;function g at 0x1&gt;)", ["<function"]),
    ],
)
def test_internals(signature, found):
    assert site_files.internals(_page(signature)) == found


def _site(folder, titles):
    (folder / "api").mkdir()
    (folder / "api/index.html").write_text(100 * _page("f(x)"), encoding="utf-8")
    (folder / "search").mkdir()
    entries = [dict(location=page, title=t, text="") for page, t in titles]
    index = json.dumps(dict(docs=entries))
    (folder / "search/search_index.json").write_text(index, encoding="utf-8")
    return list(site_files.faults(folder))


def test_searches(tmp_path, monkeypatch):
    monkeypatch.setattr(site_files, "SEARCHES", {"how to cite": "citing/"})
    [(page, fault)] = _site(
        tmp_path, [("citing/", "Citation"), ("faq/", "How to cite")]
    )
    assert page == "citing/" and "`how to cite`" in fault


def test_titles_may_be_of_sections_and_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(site_files, "SEARCHES", {"laplacian": "derivatives/"})
    titles = [("derivatives/#of-pdes", "<code>Laplacians</code>, and residuals")]
    assert _site(tmp_path, titles) == []
