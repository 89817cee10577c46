"""The figures of an accelerator, by one command: `python -m benchmarks.gpu`."""

import pathlib


# Where results are appended to, and where the page looks for those of a GPU.
RECORDS = pathlib.Path(__file__).parents[1] / "records"
