"""Machine code: compiled by LLVM, once for each program, and kept on disk."""

import ctypes
import functools as ft
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import llvmlite.binding as llvm

from .cache import digest_of, kept


class Machine:
    """LLVM's compiler for the processor that this process runs on."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._features = llvm.get_host_cpu_features()
        self._options: dict[str, Any] = dict(
            cpu=llvm.get_host_cpu_name(),
            features=self._features.flatten(),
            opt=3,
            jit=True,
        )
        # The engine keeps the target machine that it is made with.
        self._engine = llvm.create_mcjit_compiler(
            llvm.parse_assembly(""), self._target_machine()
        )
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}

    def _target_machine(self) -> llvm.TargetMachine:
        target = llvm.Target.from_default_triple()
        return target.create_target_machine(**self._options)

    @property
    def vector_bytes(self) -> int:
        """The size of the processor's vectors."""
        for name, size in [("avx512f", 64), ("avx2", 32)]:
            if self._features.get(name):
                return size
        return 16

    def target(self, key: str, text: Callable[[], str], function: str) -> str:
        """Makes a function of a module known to XLA, and returns its name there.

        **Arguments:**

        - `key`: a string which stands for the content of the module.
        - `text`: returns the module, and is called if its machine code is not on disk.
        - `function`: the name of the function in the module.
        """
        digest = digest_of([key, sys.platform, *self._options.values()])
        with self._lock:
            if digest not in self._names:
                name = f"eqx_taylor_{digest[:32]}"
                code = kept(digest, lambda: self._compiled(text(), function, name))
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
                self._engine.finalize_object()
                _register(name, self._engine.get_function_address(name))
                self._names[digest] = name
            return self._names[digest]

    def _compiled(self, text: str, function: str, name: str) -> bytes:
        machine = self._target_machine()
        module = llvm.parse_assembly(text)
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        module.get_function(function).name = name
        module.verify()
        # Programs have their vectors already. At level 3, with its search for more,
        # they are no faster (Lorenz, the outer Solar System, Pleiades, an MLP: 0.94 to
        # 1.01 of the time), and take twice as long in these passes.
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        options.loop_vectorization, options.slp_vectorization = True, False
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        return machine.emit_object(module)


def _register(name: str, address: int) -> None:
    pointer = ctypes.CFUNCTYPE(None)(address)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(pointer), platform="cpu")


_only_one = threading.Lock()


def machine() -> Machine:
    # XLA refuses a second function of the same name.
    with _only_one:
        return _machine()


@ft.lru_cache(maxsize=1)
def _machine() -> Machine:
    return Machine()


def has_threads() -> bool:
    return sys.platform != "win32"


def number_of_threads() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
