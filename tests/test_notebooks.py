"""The notebooks of the documentation: what they compute is right, and what pages and
files for Jupyter are made of them."""

import importlib.util
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from helpers import as_a_reader


_DOCS = pathlib.Path(__file__).parents[1] / "docs"


def _load_generator():
    path = _DOCS / "generate_notebooks.py"
    spec = importlib.util.spec_from_file_location("generate_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = _load_generator()
_SCRIPTS = sorted(notebooks.FOLDER.glob("*.py"))


def _run(name):
    """The names that a notebook assigns, and all that it prints. It has pictures."""
    script = (notebooks.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    names = {"__name__": "__main__"}
    with as_a_reader():
        cells = notebooks.execute(notebooks.parse(script), names)
    assert any(cell.pictures for cell in cells)
    return names, "".join(cell.text for cell in cells)


@pytest.mark.slow
def test_first_steps():
    names, printed = _run("first_steps")
    assert "[   1.   -0.   -2.    0.   24.   -0. -720.]" in printed
    assert "radius of convergence: 1.000" in printed
    # The period of a pendulum by an elliptic integral.
    quarter = mpmath.ellipk(mpmath.sin(mpmath.pi / 6) ** 2) / mpmath.sqrt(9.81)
    passes = np.asarray(names["passes"])
    quarters = float(quarter) * np.arange(1, 2 * len(passes), 2)
    np.testing.assert_allclose(passes, quarters, rtol=1e-7)
    of_solves = [
        float(x) for x in re.findall(r"(\S+), by a difference (\S+)", printed)[0]
    ]
    assert abs(of_solves[0] - of_solves[1]) < 2e-5
    mlp, x, v = names["mlp"], names["x"], names["v"]
    derivative = mlp_along = lambda t: mlp(x + t * v)
    for along in names["along"]:
        derivative = jax.jacfwd(derivative)
        np.testing.assert_allclose(along, derivative(jnp.array(0.0)), rtol=1e-10)
    assert mlp_along(0.0) == names["value"]
    trace = jnp.trace(jax.hessian(mlp)(x))
    assert f"Laplacian: {trace:.5f}" in printed


def _burgers(viscosity, modes=48):
    """u at t = 1 and at 2 * modes places from -1 on, as a sum of waves in space."""
    number = 2 * modes
    x = -1 + 2 * np.arange(number) / number
    k = np.pi * np.fft.fftfreq(number, 1 / number)
    keep = np.abs(k) < 2 / 3 * np.max(np.abs(k))

    def field(t, u):
        waves = np.fft.fft(u) * keep
        slope = np.fft.ifft(1j * k * waves).real
        return -u * slope + viscosity * np.fft.ifft(-(k**2) * waves).real

    start = -np.sin(np.pi * x)
    found = scipy.integrate.solve_ivp(
        field, (0, 1), start, "DOP853", rtol=1e-10, atol=1e-12
    )
    return x, found.y[:, -1]


@pytest.mark.slow
def test_pinn():
    names, printed = _run("pinn")
    assert printed.count("True") == 2
    x, expected = _burgers(names["VISCOSITY"])
    with as_a_reader():
        jax.config.update("jax_enable_x64", True)
        points = jnp.array(np.stack([np.ones_like(x), x], axis=1))
        found = jax.vmap(names["solution"])(points)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    exact = names["exact"](np.ones_like(x), x)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_n_body():
    """Its events, by SciPy's solver and bisection."""
    names, printed = _run("n_body")
    assert "below 1e-13: True" in printed
    G, masses = names["G"], names["MASSES"]

    def field(t, y):
        x, v = y.reshape(2, 3, 3)
        d = x[None] - x[:, None]
        r3 = (np.sum(d**2, axis=-1) + np.eye(3)) ** 1.5
        pull = np.sum((G * masses / r3)[:, :, None] * d, axis=1)
        return np.concatenate([v.ravel(), pull.ravel()])

    def lead(t, y):
        x, _ = y.reshape(2, 3, 3)
        jupiter, saturn = x[1] - x[0], x[2] - x[0]
        return saturn[0] * jupiter[1] - saturn[1] * jupiter[0]

    def outwards(t, y):
        x, v = y.reshape(2, 3, 3)
        return np.dot(x[1] - x[0], v[1] - v[0])

    lead.direction = outwards.direction = 1
    start = np.concatenate([names["POSITIONS"].ravel(), names["VELOCITIES"].ravel()])
    found = scipy.integrate.solve_ivp(
        field,
        (0, 200),
        start,
        "DOP853",
        rtol=1e-12,
        atol=1e-14,
        events=[lead, outwards],
    )
    for expected, name in zip(found.t_events, ["conjunctions", "perihelia"]):
        np.testing.assert_allclose(names[name], expected, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_regularised_neural_ode():
    """Solutions by SciPy, and their third derivatives by differences."""
    names, _ = _run("regularised_neural_ode")
    before, after = np.asarray(names["evaluations"])
    assert after < 0.8 * before
    starts, targets = map(np.asarray, (names["STARTS"], names["TARGETS"]))
    ends, regularisers = [], []
    for which in range(2):
        layers = [
            [np.asarray(a[which], float) for a in (layer.weight, layer.bias)]
            for layer in names["fields"].mlp.layers
        ]

        def field(t, z):
            h = np.stack([z, np.full_like(z, t)])
            h = np.tanh(layers[0][0] @ h + layers[0][1][:, None])
            return np.squeeze(layers[1][0] @ h) + layers[1][1]

        found = scipy.integrate.solve_ivp(
            field, (0, 1), starts, "DOP853", rtol=1e-10, atol=1e-10, dense_output=True
        )
        ends.append(found.y[:, -1])
        # The field along solutions is z', so that its second difference is z'''.
        ts = np.linspace(0, 1, 2001)
        rates = np.stack([field(t, found.sol(t)) for t in ts])
        third = np.diff(rates, 2, axis=0) / np.diff(ts)[0] ** 2
        regularisers.append(np.mean(third**2))
    errors = np.sqrt(np.mean((np.array(ends) - targets) ** 2, axis=1))
    np.testing.assert_allclose(np.sqrt(names["errors"][:, -1]), errors, rtol=0.05)
    np.testing.assert_allclose(names["regularisers"][:, -1], regularisers, rtol=0.2)
    assert np.all(errors < 0.1) and regularisers[1] < regularisers[0] / 10


@pytest.mark.slow
def test_helium():
    names, printed = _run("helium")
    assert "without repulsion: -4.0000" in printed
    # Above the exact energy, and below that of products of orbitals (Hartree and Fock).
    assert -2.9037 - 3 * names["error"] < names["energy"] < -2.8617
    assert names["error"] < 0.002
    psi, x = names["psi"], names["x"][:8]

    @jax.vmap
    def expected(x):
        def flat(x):
            return psi(x.reshape(2, 3))

        gradient = jax.grad(flat)(x.ravel())
        laplacian = jnp.trace(jax.hessian(flat)(x.ravel()))
        r1, r2 = jnp.linalg.norm(x, axis=1)
        potential = -2 / r1 - 2 / r2 + 1 / jnp.linalg.norm(x[0] - x[1])
        return -(laplacian + gradient @ gradient) / 2 + potential

    with as_a_reader():
        found = jax.vmap(lambda x: names["local_energy"](psi, x))(x)
        np.testing.assert_allclose(found, expected(x), rtol=2e-4)


def test_all_notebooks_are_tested_and_have_a_page():
    tests = pathlib.Path(__file__).read_text(encoding="utf-8")
    navigation = (_DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for path in _SCRIPTS:
        assert f'_run("{path.stem}")' in tests
        assert f": notebooks/{path.stem}.md\n" in navigation


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_end_in_reason_and_next_step(path):
    """Short cells, and at the end no further script."""
    cells = notebooks.parse(path.read_text(encoding="utf-8"))
    assert max(cell.source.count("\n") for cell in cells if cell.is_code) < 50
    assert sum(cell.source.count("\n") for cell in cells if cell.is_code) < 150
    assert not cells[-1].is_code and "## Next\n" in cells[-1].source
    for target in re.findall(r"\]\(([\w./]+)\.md", cells[-1].source):
        is_notebook = (notebooks.FOLDER / f"{target}.py").is_file()
        assert is_notebook or (notebooks.FOLDER / f"{target}.md").is_file(), target


# -- what is made of a script

_SCRIPT = """\
# %% [markdown]
# # A title
#
# Text with [a link](../faq.md#numbers).

# %%
x = 2
print(x)

# %% [markdown]
# ## A section

# %%
import matplotlib.pyplot as plt
plt.plot([x, 3])
plt.title("A line")


# %%
y = x + 1
"""


@pytest.fixture(scope="module")
def cells():
    names = {}
    found = notebooks.execute(notebooks.parse(_SCRIPT), names)
    assert names["y"] == 3
    return found


def test_page(cells):
    text, pictures = notebooks.page("name", cells)
    assert text.startswith(
        "# A title\n\n*A notebook, which ran when this page was made:"
    )
    assert "](name.ipynb)" in text and "](name.py)" in text
    assert "[a link](../faq.md#numbers)" in text
    assert "```python\nx = 2\nprint(x)\n```\n\n```text\n2\n```\n\n## A section" in text
    assert "![A line](name_3_0.png)" in text and text.endswith("y = x + 1\n```\n")
    assert pictures["name_3_0.png"].startswith(b"\x89PNG")


def test_file_for_jupyter(cells):
    found = json.loads(notebooks.ipynb(cells, "https://docs/"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    kinds = [cell["cell_type"] for cell in found["cells"]]
    assert kinds == ["markdown", "code", "markdown", "code", "code"]
    text, printing, _, drawing, _ = found["cells"]
    assert "".join(text["source"]).endswith("[a link](https://docs/faq/#numbers).")
    assert printing["outputs"][0]["text"] == ["2\n"]
    assert "image/png" in drawing["outputs"][0]["data"]
    assert "Text with a link." in notebooks.ipynb(cells)


@pytest.mark.parametrize(
    "script, error",
    [("# %% a title\nx = 1\n", ValueError), ("# %%\nx =\n", SyntaxError)],
)
def test_a_script_that_is_no_notebook(script, error):
    with pytest.raises(error):
        notebooks.parse(script)


def test_a_notebook_that_fails(tmp_path, monkeypatch):
    """The build of the site ends with its name and the traceback."""
    monkeypatch.setattr(notebooks, "_CACHE", tmp_path / "cache")
    script = tmp_path / "broken.py"
    script.write_text("# %%\nraise OSError('no such thing')\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"broken\.py[^$]*no such thing"):
        notebooks.executed(script)
    script.write_text("# %%\nprint('right')\n", encoding="utf-8")
    assert [cell.text for cell in notebooks.executed(script)] == ["right\n"]
    # From the cache: nothing runs.
    monkeypatch.setattr(notebooks.subprocess, "run", None)
    assert [cell.text for cell in notebooks.executed(script)] == ["right\n"]
