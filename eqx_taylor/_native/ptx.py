"""NVIDIA's assembly language: written by LLVM, and assembled by XLA or the driver for
the GPU that there is."""

import functools as ft
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding as llvm

from .arithmetic import INTRINSICS, LIBRARY
from .atoms import NotNative


# The least that is asked of a GPU: PTX of an older architecture runs on newer ones.
ARCHITECTURE, VERSION = "sm_60", "ptx60"

_lock = threading.Lock()


@ft.lru_cache(maxsize=1)
def _target() -> llvm.Target:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple("nvptx64-nvidia-cuda")


def compiled(text: str, kernels: tuple[str, ...]) -> str:
    """Compiles a module in LLVM's language to PTX, in which there are these kernels."""
    with _lock:
        machine = _target().create_target_machine(
            cpu=ARCHITECTURE, features=f"+{VERSION}", opt=3
        )
        module = llvm.parse_assembly(text)
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        declared = {f.name: f for f in module.functions if f.is_declaration}
        known = {name: of for name, of in _functions() if name in declared}
        for name, of_library in known.items():
            declared[name].name = of_library
        if known:
            module.link_in(_library(machine))
        for function in module.functions:
            if not function.is_declaration and function.name not in kernels:
                function.linkage = "internal"
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = False
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        return machine.emit_assembly(module)


def _functions() -> Iterator[tuple[str, str]]:
    """The names of functions, and those which NVIDIA's have."""
    # A GPU has instructions for these.
    for name in INTRINSICS - {"sqrt", "fabs", "floor"}:
        yield f"llvm.{name}.f64", f"__nv_{name}"
        yield f"llvm.{name}.f32", f"__nv_{name}f"
    for name in LIBRARY:
        yield name, f"__nv_{name}"
        yield f"{name}f", f"__nv_{name}f"


def _library(machine: llvm.TargetMachine) -> llvm.ModuleRef:
    library = llvm.parse_bitcode(check_library().read_bytes())
    library.triple = machine.triple
    library.data_layout = str(machine.target_data)
    return library


def check_library() -> Path:
    """Returns where NVIDIA's functions are, which come with CUDA."""
    for path in _places():
        if path.is_file():
            return path
    raise NotNative(
        "CUDA's `libdevice.10.bc`, which has the functions of GPUs, is not found: "
        "install jax[cuda13] or jax[cuda12], or set CUDA_HOME"
    )


def _places() -> Iterator[Path]:
    inside = Path("nvvm", "libdevice", "libdevice.10.bc")
    if (home := os.environ.get("CUDA_HOME")) is not None:
        yield Path(home) / inside
    # The wheels that JAX installs.
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for part in ("cu13", "cuda_nvcc", "cu12"):
            yield Path(folder) / part / inside
    yield Path("/usr/local/cuda") / inside
