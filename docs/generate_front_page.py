"""Draws the picture of the front page, from two of the examples:

python docs/generate_front_page.py docs/images/front_page.png
"""

import importlib.util
import pathlib
import sys


_EXAMPLES = pathlib.Path(__file__).parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(path, polynomials, steps, of_polynomials, of_steps):
    """From the two examples, and what their `main` returned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    network, p, radius = (
        of_polynomials[k] for k in ("network", "of_network", "radius")
    )
    polynomials.draw_network(left, network, p, radius)
    left.set(title="A network along a line, and its Taylor polynomials")
    found = of_steps["found"]["Arenstorf", "TaylorSolver"]
    steps.draw_orbit(right, *found)
    right.set(
        title=f"An orbit around Earth and Moon in {len(found[1]) - 1} steps",
        aspect="equal",
    )
    figure.savefig(path, dpi=110)


def main(path):
    modules = [load(name) for name in ("taylor_polynomials", "step_sizes")]
    draw(path, *modules, *[module.main() for module in modules])


if __name__ == "__main__":
    main(sys.argv[1])
