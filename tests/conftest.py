import os


# Before JAX is imported. pytest-xdist's workers fill the cores already: a second thread
# in each of them costs more than it brings.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
# Most of the time is compilation; LLVM's optimisations are a good part of that. Set it
# to 0 to test what users run, as `.ci/run` does where roundings matter.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import gc  # noqa: E402
import random  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import PRNGKeyArray  # noqa: E402


jax.config.update("jax_enable_x64", True)
# Conversions and broadcasts that were not asked for are errors.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_left_alone() -> Iterator[None]:
    """JAX keeps what it has traced and compiled, and Python's garbage collector would go
    through all of that again and again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def getkey() -> Callable[[], PRNGKeyArray]:
    """A function that returns another `jax.random` key every time it is called.

    The keys are the same in every run of a test.
    """
    # `random` and not `jax.random`, which would have to be split and kept.
    generator = random.Random(0)
    return lambda: jax.random.key(generator.randint(0, 2**31 - 1))
