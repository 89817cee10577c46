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


# What importing the library may take beyond importing Diffrax, in seconds: the
# processor's, as it may have other things to do.
_IMPORT_TIME = 0.3

_TIME_IMPORT = """
import time, diffrax
start = time.process_time()
import eqx_taylor
print(time.process_time() - start)
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

    time = min(float(_python("-c", _TIME_IMPORT)) for _ in range(3))
    assert time < _IMPORT_TIME, f"the import takes {time:.2f} s"
    print(
        f"eqx_taylor {eqx_taylor.__version__} works with Python "
        f"{sys.version.split()[0]}, JAX {jax.__version__} and Diffrax "
        f"{importlib.metadata.version('diffrax')}; after Diffrax it takes {time:.2f} s "
        "to import."
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
