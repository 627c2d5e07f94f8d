"""Small files of a folder that may be anybody's, read without waiting and without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_MOST = 2**24


def read_bounded(file: Path, most: int = _MOST) -> bytes:
    """Returns what a file holds.

    A pipe would keep its reader waiting, a device has no end, and a file with holes is as long as
    whoever made it liked.

    Args:
        file: To read; a link is followed.
        most: Bytes that it may have.

    Raises:
        OSError: It can't be read, is no file, or is longer.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(file))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(file))
        with os.fdopen(os.dup(descriptor), "rb") as opened:
            return opened.read(most)
    finally:
        os.close(descriptor)
