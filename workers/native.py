"""The native kernels: compiled once per machine if a C++ compiler is there, and else simply absent.

    python -m workers.native        builds them now and says what came of it (part of `make install`)

Nothing depends on them: without a compiler, or with `HEADSTART_NATIVE=0`, the engine runs on torch's operators alone.
The library lies in the user's cache folder under a name that changes with the source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native_src") / "kernels.cpp"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-fopenmp", "-Wno-psabi")
BUILD_SECONDS = 120.0
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The dtypes that there are kernels for."""

_SIGNATURES: dict[str, tuple[type, ...]] = {
    "pack": (c_void_p, c_void_p, c_int64, c_int64, c_void_p),
    "linear": (c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int, c_int),
    "attend": (*[c_void_p] * 7, *[c_int64] * 6, c_float, c_float, c_int),
    "rms_norm": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_float, c_int),
}


class Kernels:
    """The functions of one dtype; arguments are addresses and numbers as `native_src/kernels.cpp` declares them."""

    def __init__(self, library: ctypes.CDLL, dtype: str) -> None:
        self.pack, self.linear, self.attend, self.rms_norm = (_function(library, name, dtype) for name in _SIGNATURES)
        library.headstart_panel_columns.restype = c_int64
        self.panel_columns = int(library.headstart_panel_columns(0))


def _function(library: ctypes.CDLL, name: str, dtype: str) -> ctypes._NamedFuncPointer:
    function = library[f"headstart_{name}_{dtype}"]
    function.argtypes, function.restype = _SIGNATURES[name], None
    return function


def kernels(dtype: torch.dtype) -> Kernels | None:
    """The kernels for `dtype` on this machine's CPU, built at the first call; None if there are none."""
    library = _library() if dtype in DTYPES else None
    return Kernels(library, DTYPES[dtype]) if library else None


@cache
def _library() -> ctypes.CDLL | None:
    if os.environ.get("HEADSTART_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(build()))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("no native kernels, the engine runs on torch's operators: %s", error)
        return None


def build() -> Path:
    """The library, compiled if it is not there yet. Raises `OSError` or `SubprocessError` if it cannot be."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler (g++ or clang++)")
    library = _cache_folder() / f"kernels-{_identity(compiler)}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        _compile(compiler, library)
    return library


def _compile(compiler: str, library: Path) -> None:
    """In two steps: linked without -fopenmp, its OpenMP is the one that torch has loaded. The rename lets processes race."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        for command in ([compiler, *FLAGS, "-c", str(SOURCE), "-o", str(made)], [compiler, "-shared", str(made), "-o", str(linked)]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
            if done.returncode:
                raise OSError(f"{compiler} failed: {done.stderr.strip()[-500:]}")
        linked.replace(library)


def _identity(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=BUILD_SECONDS, check=True).stdout
    parts = (SOURCE.read_text(encoding="utf-8"), " ".join(FLAGS), version, platform.machine(), _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's model and instruction sets, where the system tells them: a cache folder may be shared by machines."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headstart"


def main() -> None:
    try:
        print(f"native kernels: {build()}")
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no native kernels, the engine will run on torch's operators: {error}")


if __name__ == "__main__":
    main()
