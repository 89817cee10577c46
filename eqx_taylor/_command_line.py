"""The options of `python -m eqx_taylor`.

`--help`, `--version` and wrong options do not need JAX, which takes seconds to import.
But Python imports a package before its `__main__`. So `eqx_taylor` imports this file
first, which answers these options if the command is running.
"""

import argparse
import pathlib
import sys
from typing import NoReturn


# The number of years after which the positions are stored, so that no reference is
# computed.
YEARS = 1000.0


class _OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _years(text: str) -> float:
    years = float(text)
    if not 0 < years <= 1e6:
        raise argparse.ArgumentTypeError(
            f"must be more than 0 and at most 1e6 years, but is {text}"
        )
    return years


def _order(text: str) -> int:
    order = int(text)
    if not 1 <= order <= 64:
        raise argparse.ArgumentTypeError(f"must be from 1 to 64, but is {text}")
    return order


def _rtol(text: str) -> float:
    rtol = float(text)
    # Below 1e-15 rounding exceeds the tolerance; above 1e-2 planets are lost.
    if not 1e-15 <= rtol <= 1e-2:
        raise argparse.ArgumentTypeError(f"must be from 1e-15 to 1e-2, but is {text}")
    return rtol


def _plot_file(text: str) -> pathlib.Path:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise argparse.ArgumentTypeError(
            "needs matplotlib: run `pip install matplotlib`, or leave --plot out"
        ) from None
    path = pathlib.Path(text)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in one of {', '.join('.' + x for x in sorted(formats))}"
        )
    # Check now, rather than after the run, whether the file can be written.
    is_new = not path.exists()
    try:
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as e:
        raise argparse.ArgumentTypeError(
            f"cannot write {text!r}: {e.strerror}"
        ) from None
    return path


# `argparse` names a type by its function when `float(text)` and `int(text)` fail.
_years.__name__ = "number of years"
_order.__name__ = "whole number"
_rtol.__name__ = "number"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the options; `argv` is the command line, `sys.argv` if not given."""
    parser = _OneLineParser(
        prog="python -m eqx_taylor",
        description=(
            "Integrate the outer Solar System with Diffrax's Dopri8 and Tsit5 and with "
            "TaylorSolver, and print the cost and the error of each of them. Longer "
            "computations show their progress on stderr."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--years",
        type=_years,
        default=YEARS,
        help=f"time to cover ({YEARS:g}); for any other time a reference is computed",
    )
    parser.add_argument(
        "--order", type=_order, default=20, help="the order of TaylorSolver (20)"
    )
    parser.add_argument(
        "--rtol",
        type=_rtol,
        default=1e-14,
        help="relative tolerance of all three (1e-14)",
    )
    parser.add_argument(
        "--plot",
        type=_plot_file,
        metavar="FILE",
        help="solve once more with each solver, and draw the orbits and the energy "
        "error over time; needs matplotlib",
    )
    version = sys.modules["eqx_taylor"].__version__
    parser.add_argument("--version", action="version", version=f"eqx_taylor {version}")
    return parser.parse_args(argv)


def _is_what_runs() -> bool:
    """Returns whether the package is imported for `python -m eqx_taylor`. While Python
    looks for the module that `-m` names, `sys.argv[0]` is "-m"."""
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == __spec__.parent


if _is_what_runs():
    # This exits if there is nothing to run. Otherwise `__main__` parses them again.
    parse()
