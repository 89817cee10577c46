import os


# Before JAX is imported. pytest-xdist's workers fill the cores already: a second thread
# in each of them costs more than it brings.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
# Most of the time is compilation; LLVM's optimisations are a good part of that. Set it
# to 0 to test what users run, as `.ci/run` does where roundings matter.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import collections  # noqa: E402
import gc  # noqa: E402
import random  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jaxtyping  # noqa: E402
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
def without_types() -> Iterator[None]:
    """Without jaxtyping's checks, which would be first: users do not have them, and the
    messages must be our own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def getkey() -> Callable[[], PRNGKeyArray]:
    """A function that returns another `jax.random` key every time it is called.

    The keys are the same in every run of a test.
    """
    # `random` and not `jax.random`, which would have to be split and kept.
    generator = random.Random(0)
    return lambda: jax.random.key(generator.randint(0, 2**31 - 1))


# -- which tests run
#
# `python -m pytest` alone leaves out what takes long, so that whoever has just cloned
# this sees within a quarter of an hour that it works. What takes long is marked `slow`, and of
# long tables only some cases are not: `sample(every)` marks all others.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="Run what takes long as well, which is left out where no tests are named.",
    )


_HOW_TO_RUN_ALL = "`python -m pytest -n 2 --all` runs all of them"


def _is_quick(config: pytest.Config) -> bool:
    """Whether no tests were named, in any of the ways in which one may."""
    named = any(config.getoption(x, None) for x in ("all", "-m", "-k", "--last-failed"))
    return not named and config.args_source is not pytest.Config.ArgsSource.ARGS


def pytest_report_header(config: pytest.Config) -> list[str]:
    if not _is_quick(config):
        return ["tests: all that were asked for, however long they take"]
    return [
        "tests: some of every kind, in a quarter of an hour on two cores",
        "left out: most cases of long tables, scripts of the documentation, gradients "
        "of some solves (marked `slow`)",
        f"          {_HOW_TO_RUN_ALL}",
    ]


# For each file the number of its tests that are left out, and of all.
_COUNTS = pytest.StashKey[dict[str, list[int]]]()


# Before `-m slow` selects.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    cases: collections.Counter[str] = collections.Counter()
    for item in items:
        if (sample := item.get_closest_marker("sample")) is not None:
            [every] = sample.args
            test = item.nodeid.partition("[")[0]
            if cases[test] % every != 0:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1
    if _is_quick(config):
        counts = config.stash[_COUNTS] = {}
        kept, left_out = [], []
        for item in items:
            is_slow = item.get_closest_marker("slow") is not None
            (left_out if is_slow else kept).append(item)
            count = counts.setdefault(item.path.stem.removeprefix("test_"), [0, 0])
            count[0] += is_slow
            count[1] += 1
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


# With `-n` the workers collect, and another process prints.


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["counts"] = config.stash.get(_COUNTS, None)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if (counts := getattr(node, "workeroutput", {}).get("counts")) is not None:
        node.config.stash[_COUNTS] = counts


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash.get(_COUNTS, {})
    if counts:
        left_out, total = (sum(part) for part in zip(*counts.values()))
        terminalreporter.section(f"{left_out} of {total} tests were left out")
        files = [f"{name} {n}/{of}" for name, (n, of) in counts.items() if n > 0]
        terminalreporter.write_line("In test_*: " + ", ".join(files) + ".")
        terminalreporter.write_line(f"{_HOW_TO_RUN_ALL}.")
