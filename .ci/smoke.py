"""Whether what was installed works: run by its Python, where no checkout is.

    python .ci/smoke.py README.md

The Python examples of the file, `python -m eqx_taylor`, and how long the import takes.
"""

import contextlib
import importlib.metadata
import io
import pathlib
import re
import subprocess
import sys
import tempfile

import jax

import eqx_taylor


# What importing the library may take beyond importing Diffrax, in seconds; or, on a
# machine that is slow or busy, as a part of what Diffrax takes.
_IMPORT_TIME, _IMPORT_PART = 0.3, 0.3

_TIME_IMPORT = """
import time
start = time.process_time()
import diffrax
between = time.process_time()
import eqx_taylor
print(time.process_time() - between, between - start)
"""


def _python(*arguments: str) -> str:
    """What Python prints, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


def main(readme: pathlib.Path) -> None:
    place = pathlib.Path(eqx_taylor.__file__).parent
    assert place.is_relative_to(sys.prefix), f"{place} is not what was installed"
    assert importlib.metadata.version("eqx_taylor") == eqx_taylor.__version__
    assert (place / "py.typed").is_file()

    text = readme.read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 2
    for example in examples:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(example, readme.name, "exec"), {"__name__": "__main__"})
        assert printed.getvalue(), example

    table = _python("-m", "eqx_taylor", "--years", "1", "--order", "8")
    assert re.search(r"^TaylorSolver\(order=8\) +\d+ ", table, re.MULTILINE), table

    timings = [_python("-c", _TIME_IMPORT).split() for _ in range(3)]
    time, of_diffrax = (min(map(float, column)) for column in zip(*timings))
    assert time < max(_IMPORT_TIME, _IMPORT_PART * of_diffrax), (time, of_diffrax)
    print(
        f"eqx_taylor {eqx_taylor.__version__} works with Python "
        f"{sys.version.split()[0]}, JAX {jax.__version__} and Diffrax "
        f"{importlib.metadata.version('diffrax')}. Importing it takes {time:.2f} s, "
        f"and Diffrax {of_diffrax:.2f} s."
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
