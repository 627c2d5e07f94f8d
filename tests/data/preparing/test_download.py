"""Downloads: the right file whole, or none."""

from __future__ import annotations

import hashlib
import io
import urllib.request
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import pytest

from dynat_ray.data.preparing import public_files
from dynat_ray.data.preparing.download import PublicFile, download

CONTENT = bytes(range(256)) * 9000
FILE = PublicFile(
    hashlib.sha256(CONTENT).hexdigest(), ("https://host/data/a.bin", "http://host/data/a.bin")
)


class Answer(io.BytesIO):
    """What a server sends."""

    headers: ClassVar[dict[str, str]] = {}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has `answers` answer; returns what was asked for."""
    asked: list[str] = []

    def urlopen(request: Any, timeout: float) -> Answer:
        asked.append(request.full_url)
        answer = answers[request.full_url]
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer)

    answers.clear()
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


answers: dict[str, bytes | Exception] = {}


def test_a_file_is_downloaded_once(asked: list[str], tmp_path: Path) -> None:
    answers[FILE.urls[0]] = CONTENT
    for _ in range(2):
        assert download(FILE, tmp_path) == tmp_path / "a.bin"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked == [FILE.urls[0]]


def test_one_that_is_damaged_here_is_downloaded_anew(asked: list[str], tmp_path: Path) -> None:
    answers[FILE.urls[0]] = CONTENT
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    assert download(FILE, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("sent", [CONTENT[:-1], CONTENT + b"x", b"", b"x" + CONTENT[1:]])
def test_another_file_is_not_kept(asked: list[str], tmp_path: Path, sent: bytes) -> None:
    answers.update({FILE.urls[0]: URLError("refused"), FILE.urls[1]: sent})
    with pytest.raises(OSError, match=r"https://host.*refused.*http://host.*SHA-256"):
        download(FILE, tmp_path)
    assert asked == list(FILE.urls)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_its_place_is_not_followed(asked: list[str], tmp_path: Path) -> None:
    answers[FILE.urls[0]] = CONTENT
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.bin").symlink_to(tmp_path / "victim")
    assert not download(FILE, tmp_path / "cache").is_symlink()
    assert (tmp_path / "victim").read_text() == "mine"


def test_public_files_come_by_https_where_they_can_and_have_a_digest() -> None:
    files = [
        *public_files.MNIST.values(),
        *public_files.SVHN.values(),
        public_files.CIFAR10,
        public_files.CIFAR100,
        public_files.TINY_IMAGENET,
    ]
    assert len({file.sha256 for file in files}) == len(files) == 9
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.urls[0].startswith("https://")
