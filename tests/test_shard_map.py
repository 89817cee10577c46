"""Inside of `jax.shard_map`, on eight devices: see `shard_map_cases.py`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


SCRIPT = pathlib.Path(__file__).with_name("shard_map_cases.py")


# The others take minutes.
_SHORT = {"nested", "sums"}


@pytest.mark.parametrize(
    "section",
    [
        pytest.param(section, marks=[] if section in _SHORT else pytest.mark.slow)
        for section in (
            "table",
            "public",
            "nested",
            "sums",
            "solves",
            "shardings",
            "refused",
        )
    ],
)
def test_on_eight_devices(section):
    root = str(SCRIPT.parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, str(SCRIPT), section],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    faults = json.loads(result.stdout)
    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())
