"""The device, and what drives it."""

import datetime
import importlib.metadata
import importlib.util
import shutil
import subprocess
from typing import Any

import jax

import eqx_taylor

from .._report import cpu_model, versions


PEERS = ("folx", "probdiffeq")
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu")


def devices() -> tuple[Any, Any]:
    """The device of the measurements, and the CPU."""
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms and "cpu" not in platforms.split(","):
        # The CPU is what values are compared with.
        jax.config.update("jax_platforms", platforms + ",cpu")
    return jax.devices()[0], jax.devices("cpu")[0]


def _driver() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = found.stdout.split()
    return lines[0] if found.returncode == 0 and lines else None


def described(device: Any) -> dict[str, Any]:
    kind = device.device_kind
    is_cpu = device.platform == "cpu"
    try:
        memory = (device.memory_stats() or {}).get("bytes_limit")
    except Exception:
        memory = None
    return dict(
        # JAX calls every CPU "cpu".
        kind=cpu_model() if is_cpu else kind,
        platform=device.platform,
        memory=memory,
        driver=None if is_cpu else _driver(),
        runtime=None if is_cpu else getattr(device.client, "platform_version", None),
    )


def _plugins() -> dict[str, str]:
    found = {}
    for name in PLUGINS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def setting(device: Any, sizes: str) -> dict[str, Any]:
    """What the line `run` of a record has."""
    return dict(
        date=datetime.date.today().isoformat(),
        profile=sizes,
        device=described(device),
        host=cpu_model(),
        # From a checkout, it is not installed.
        versions=versions() | {"eqx_taylor": eqx_taylor.__version__} | _plugins(),
        missing=[n for n in PEERS if importlib.util.find_spec(n) is None],
    )
