"""C++ code that is compiled on first use, for the processor it runs on.

`torch.utils.cpp_extension.load` takes as long to compile it, but needs ninja in the path, and its
cache would hand one processor's code to another that shares the home folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

# Formats that numbers may have in the package's own code, as its functions' names end.
FORMATS = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_FOLDER = Path(__file__).parent / "native"
_TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
_FLAGS = ["-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared"]
_NO_COMPILER = "there is no C++ compiler (g++) in the path, and CXX is not set"
# Why a source file could not be loaded.
_failures: dict[Path, str] = {}


def library(name: str) -> ctypes.CDLL | None:
    """Loads `native/NAME.cpp`; None where that is not possible, or `_unsuitable_processor`."""
    return None if _unsuitable_processor() else load(_FOLDER / f"{name}.cpp")


def why_unavailable() -> str | None:
    """Returns why a library can't be loaded, or could not be; None: nothing is known against it."""
    failures = (reason for source, reason in _failures.items() if source.parent == _FOLDER)
    return _unsuitable_processor() or next(failures, None) or (None if compiler() else _NO_COMPILER)


def _unsuitable_processor() -> str:
    """Returns why the code's speed on such a processor was never measured; empty: it was."""
    machine = platform.machine()
    if machine.lower() not in ("x86_64", "amd64"):
        return f"there are none for {machine} processors"
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "this processor has no AVX2"
    return ""


def function(
    library: ctypes.CDLL | None,
    name: str,
    arguments: str,
    dtype: torch.dtype,
    factors: torch.dtype | None = None,
) -> Any:
    """Returns a library's function for numbers of a format; None if it has none.

    Args:
        library: From `library`.
        name: Without its ending.
        arguments: A letter for each: `p` a pointer, `n` an int64, `i` an int, `f` a float.
        dtype: The format.
        factors: In which they are multiplied, if not in their own.
    """
    full_name = f"{name}_{FORMATS.get(dtype)}"
    if factors not in (None, dtype):
        full_name += f"_by_{FORMATS[factors]}"
    found = getattr(library, full_name, None)
    if found is not None:
        found.restype = None
        found.argtypes = [_TYPES[letter] for letter in arguments]
    return found


@cache
def load(source: Path) -> ctypes.CDLL | None:
    """Compiles a C++ file and loads it; what was compiled before is taken from a cache.

    The cache is one folder, see `cache_folder`. Machines may share it: each kind of processor and
    compiler has a file of its own.

    Args:
        source: The file to compile, which needs the standard library, OpenMP and headers of its own
            folder alone.

    Returns:
        The library; None, with a warning, where there is no compiler (`$CXX`, or `g++` or `c++` in
        the path) or it fails.
    """
    try:
        return ctypes.CDLL(str(_compiled(source)))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
    except OSError as error:
        reason = str(error)
    _failures[source] = reason
    warnings.warn(
        f"{source.name} could not be compiled; what it would do is slower on this CPU: {reason}",
        stacklevel=2,
    )
    return None


def compiler() -> str | None:
    """Returns the command of the C++ compiler, perhaps with arguments; None if there is none."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def _compiled(source: Path) -> Path:
    found = compiler()
    if found is None:
        raise FileNotFoundError(_NO_COMPILER)
    command = [*shlex.split(found), *_FLAGS]
    # What a compiler defines names its version and all that the processor can do.
    defined = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    headers = sorted(source.parent.glob("*.h"))
    parts = [shlex.join(command).encode(), defined]
    parts += [file.read_bytes() for file in (source, *headers)]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    target = cache_folder() / f"{source.stem}-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            unfinished = Path(folder) / target.name
            _run([*command, str(source), "-o", str(unfinished)])
            unfinished.replace(target)  # at once: others may be waiting for the same file
    return target


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


def cache_folder() -> Path:
    """Returns where compiled code is kept: `dynat-ray/native` in `$XDG_CACHE_HOME` or `~/.cache`.

    It is not where data sets are kept, which others may be able to write to. Where it can't be
    written (there is no home), it is one folder of this user's among the temporary ones.

    Raises:
        PermissionError: That folder is somebody else's, who could put code of theirs there.
    """
    try:
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache_home / "dynat-ray" / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # the second: there is no home
        pass
    folder = Path(tempfile.gettempdir()) / f"dynat-ray-native-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder that this user alone can write to")
    return folder
