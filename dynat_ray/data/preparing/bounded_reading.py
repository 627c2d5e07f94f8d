"""Reading archives in bounded pieces, whatever sizes they declare."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import Any, BinaryIO

PIECE = 2**17
"""Bytes that are read at once."""
_DECODER_MEMORY = 2**28
"""Bytes of memory that an xz file may ask for; the files of `xz -9` take 65 MiB."""


class Suspicious(Exception):
    """An archive asks for more than any real one does. `str()` goes on from its name."""


class MeteredReader(io.BufferedReader):
    """A file of which only so many bytes may be read before the next `allow`.

    `tarfile` and `zipfile` read each header whole, however long it says it is: a pax header of
    gigabytes, a chain of thousands, a map of a sparse file that never ends. They all read here.
    """

    def __init__(self, raw: Any, *, most: int) -> None:
        """Takes a file, decompressed, and the position beyond which nothing is read."""
        super().__init__(raw, PIECE)
        self._most = most
        self._allowed = 0

    def allow(self, count: int) -> None:
        """Lets `count` bytes be read from here on; what was left before does not count."""
        self._allowed = count

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BufferedReader`. Raises `Suspicious` for more than is allowed."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(min(PIECE, self._allowed + 1)), b""))
        if size > self._allowed + 1:
            raise _long_header()
        data = super().read(size)
        self._allowed -= len(data)
        if self._allowed < 0:
            raise _long_header()
        return data

    def seek(self, target: int, whence: int = io.SEEK_SET, /) -> int:
        """See `io.BufferedReader`. Raises `Suspicious` beyond the last position."""
        if whence == io.SEEK_SET and target > self._most:
            raise Suspicious("unpacks to far more than its own size; unpack it yourself")
        return super().seek(target, whence)


def open_tar(archive: Path, most: int) -> MeteredReader:
    """Opens a tar file (plain, gz, bz2 or xz) so that what is read is the plain one."""
    with archive.open("rb") as file:
        start = file.read(6)
    raw: Any
    if start.startswith(b"\x1f\x8b"):
        raw = gzip.GzipFile(archive)
    elif start.startswith(b"BZh"):
        raw = bz2.BZ2File(archive)
    elif start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        raw = _XzReader(archive.open("rb"))
    else:
        raw = io.FileIO(archive)
    return MeteredReader(raw, most=most)


def _long_header() -> Suspicious:
    return Suspicious("has longer headers than image files need; unpack it yourself")


class _XzReader(io.RawIOBase):
    """An xz file, forwards. `lzma.LZMAFile` takes as much memory as the file asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = _xz_decoder()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, target: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_CUR:
            target += self._position
        if whence == io.SEEK_END or target < self._position:
            raise io.UnsupportedOperation("it leads backwards")
        while target > self._position and self.read(min(PIECE, target - self._position)):
            pass
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        data = b""
        while not data:
            more = b""
            if self._decoder.eof:
                more = self._next_stream()
                if not more:
                    return 0
                self._decoder = _xz_decoder()
            elif self._decoder.needs_input:
                more = self._file.read(PIECE)
                if not more:
                    raise EOFError("it ends too early")
            data = self._decode(more, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _next_stream(self) -> bytes:
        """Returns the beginning of the stream that follows after padding, nothing if none does."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest and (more := self._file.read(PIECE)):
            rest = more.lstrip(b"\0")
        return rest

    def _decode(self, more: bytes, most: int) -> bytes:
        try:
            return self._decoder.decompress(more, most)
        except lzma.LZMAError as error:
            if "limit" in str(error):
                need = f"takes more than {_DECODER_MEMORY >> 20} MiB of memory to decompress"
                raise Suspicious(f"{need}; unpack it yourself") from None
            raise


def _xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_DECODER_MEMORY)
