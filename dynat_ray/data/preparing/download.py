"""Files from the network: none but those whose SHA-256 is known beforehand."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

_TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""
_CHUNK = 1 << 20


class PublicFile(NamedTuple):
    """A file of a public data set.

    Attributes:
        sha256: What it must be, wherever it comes from.
        urls: Where it is, tried in this order.
    """

    sha256: str
    urls: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name at its source and here."""
        return PurePosixPath(urlsplit(self.urls[0]).path).name


def download(file: PublicFile, folder: Path) -> Path:
    """Returns where `file` lies in `folder`, downloaded if it does not.

    Raises:
        OSError: It can't be downloaded; or what came is another file, and is not kept.
    """
    target = folder / file.name
    if target.is_file() and _sha256(target) == file.sha256:
        return target
    errors: list[str] = []
    for url in file.urls:
        try:
            _fetch(url, target, file.sha256)
            return target
        except OSError as error:
            errors.append(f"{url}: {error}")
    raise OSError("; ".join(errors))


def _fetch(url: str, target: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "dynat-ray"})
    # A new file of an unforeseen name; it takes its place when it is found to be the right one.
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with (
            open(number, "wb") as written,
            urllib.request.urlopen(request, timeout=_TIMEOUT) as answer,
        ):
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as bar:
                while chunk := answer.read(_CHUNK):
                    digest.update(chunk)
                    written.write(chunk)
                    bar.update(len(chunk))
        if digest.hexdigest() != sha256:
            raise OSError(f"what came has the SHA-256 {digest.hexdigest()}, not {sha256}")
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        digest = hashlib.sha256()
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()
