"""All that there is to measure, in the order of the table."""

from collections.abc import Callable, Iterator

from . import _checks, _ensembles, _networks
from ._steps import Sizes, Step


SECTIONS: dict[str, Callable[[Sizes], Iterator[Step]]] = {
    "right": _checks.right,
    "precision": _networks.precision,
    "jets": _networks.jets,
    "laplacian": _networks.laplacians,
    "lorenz": _ensembles.lorenz,
    "neural_ode": _networks.neural_ode,
    "solar": _ensembles.solar,
    "blocks": _ensembles.blocks,
    "compile": _ensembles.compiling,
}


def plan(sizes: Sizes) -> list[Step]:
    return [step for make in SECTIONS.values() for step in make(sizes)]
