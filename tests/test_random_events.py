"""Events of random conditions: which is first, where, and all of them; against dense
sampling of the solution that is returned, and of closed forms or SciPy's solution.
`python -m benchmarks.random_events` is the same for more of them.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.random_events import KINDS, run


# Problem, order, dtype, directions, tolerances.
CASES = dict(
    circle=("circle", 8, jnp.float64, False, [1e-3, 1e-6, 1e-11]),
    circle_directions=("circle", 4, jnp.float64, True, [1e-2, 1e-4]),
    lorenz=("lorenz", 12, jnp.float64, True, [1e-5, 1e-13]),
    kepler=("kepler", 20, jnp.float64, False, [1e-3, 1e-8, 1e-14]),
    large_state=("oscillators", 8, jnp.float64, True, [1e-3, 1e-7]),
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(6)
def test_random_events(name):
    """Alone, in lanes, and by `find_events`: products and other functions of the state
    that cross zero, that touch it, or nearly do. At loose tolerances a series that ends
    at the order of the solution has other roots."""
    problem, order, dtype, directed, tols = CASES[name]
    rng = np.random.default_rng(0)
    cases = 12
    tally, wrong = run(problem, order, tols, cases, rng, dtype=dtype, directed=directed)
    kinds = ["all", "exact"] if directed else KINDS
    assert [tally[k] for k in kinds] == [cases * len(tols)] * len(kinds)
    assert wrong == []
