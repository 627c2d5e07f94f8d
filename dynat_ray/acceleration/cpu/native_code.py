"""C++ code that is compiled on first use, for the processor it runs on.

`torch.utils.cpp_extension.load` takes as long to compile it, but needs ninja in the path, and its
cache would hand one processor's code to another that shares the home folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dynat_ray.atomic_files import atomic_write
from dynat_ray.temporary import lasting_temporary_folder

# Formats that numbers may have in the package's own code, as its functions' names end.
FORMATS = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_FOLDER = Path(__file__).parent / "native"
_TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
_FLAGS = ["-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared"]
# What follows the code in a file of the cache: this, and the checksum of all before it. Loaders do
# not read that far.
_MARK = b"dynat-ray:sha256:"
_NO_COMPILER = "there is no C++ compiler (g++) in the path, and CXX is not set"
# Several times what the longest of ours takes a core: nobody waits for a process that is stopped.
_SECONDS_TO_WAIT = 120
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
        # A compiler that was killed says nothing itself.
        reason = error.stderr.decode(errors="replace").strip() or str(error)
    except (OSError, ValueError) as error:  # the second: CXX is no command
        reason = str(error) or type(error).__name__
    _failures[source] = reason
    warnings.warn(
        f"{source.name} could not be compiled or loaded; what it would do is slower on this CPU: "
        f"{reason}",
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
    if _is_intact(target):
        return target
    with _alone(target.parent), tempfile.TemporaryDirectory() as folder:
        if _is_intact(target):
            return target
        made = Path(folder) / target.name
        _run([*command, str(source), "-o", str(made)])
        code = made.read_bytes()
        # At once, since others may read the same file, and by nobody but this user.
        with atomic_write(target, mode=0o600) as partial:
            partial.write_bytes(code + _MARK + hashlib.sha256(code).digest())
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Has this machine's processes compile one after the other: the workers of a run need the same.

    Where there are no locks, as on some network drives, each compiles it, as each does that has
    waited for `_SECONDS_TO_WAIT`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _SECONDS_TO_WAIT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(descriptor)


def _is_intact(file: Path) -> bool:
    """Returns whether a file of the cache is there, is this user's alone, and is complete.

    The system ends a process that runs into the missing part of a library.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or _why_open_to_others(found):
            return False
        code, mark, checksum = opened.read().rpartition(_MARK)
    return bool(mark) and hashlib.sha256(code).digest() == checksum


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


def cache_folder() -> Path:
    """Returns where compiled code is kept: `dynat-ray/native` in `$XDG_CACHE_HOME` or `~/.cache`.

    It is not where data sets are kept, which others may be able to write to. Where it can't be
    written (there is no home), it is one folder of this user's among the temporary ones.

    Raises:
        PermissionError: One of these folders, or one above them, is open to others, who could put
            code of theirs there; or one of these is somebody else's.
    """
    try:
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folders = [cache_home / "dynat-ray", cache_home / "dynat-ray" / "native"]
        cache_home.mkdir(parents=True, exist_ok=True)
        for each in folders:
            each.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):  # the second: there is no home
        folders = []
    if folders:
        _require_unmoved(cache_home)
    for each in folders:
        _require_own(each)
    if folders and os.access(folders[-1], os.W_OK):
        return folders[-1]
    folder = lasting_temporary_folder() / f"dynat-ray-native-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    _require_unmoved(folder.parent)
    _require_own(folder)
    return folder


def _require_unmoved(folder: Path) -> None:
    """Raises `PermissionError` if anybody could put a folder of theirs in the place of one below.

    That is where everybody may write and, other than in `/tmp`, rename what others made.
    """
    for each in (folder, *folder.absolute().parents, *folder.resolve().parents):
        mode = each.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise _refused(each, f"its mode is {stat.S_IMODE(mode):o}")


def _require_own(folder: Path) -> None:
    """Raises `PermissionError` unless this user alone can write to a folder."""
    found = folder.lstat()
    reason = _why_open_to_others(found) if stat.S_ISDIR(found.st_mode) else "it is a link or a file"
    if reason:
        raise _refused(folder, reason)


def _refused(folder: Path, reason: str) -> PermissionError:
    return PermissionError(
        f"{folder} is not a folder that this user alone can write to: {reason}; code that is "
        "kept there is not loaded (remove it, or take from others what they may not)"
    )


def _why_open_to_others(found: os.stat_result) -> str:
    """Returns why others than this user, and the system's own, could write there; empty: none."""
    if found.st_uid not in (os.getuid(), 0):
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"its mode is {stat.S_IMODE(found.st_mode):o}"
    return ""
