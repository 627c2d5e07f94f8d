"""How commands end."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

import pytest

from dynat_ray.cli import run
from dynat_ray.errors import UserError


def _end(error: Exception) -> int:
    def main(argv: Sequence[str]) -> str:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _end(UserError("a sentence\nover two lines")) == 2
    assert capsys.readouterr().err == "error: a sentence over two lines\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert _end(OSError(number, "No room", "there/file")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: nothing more can be written: No room (there/file)")
    assert message.count("\n") == 1


def test_other_errors_of_the_system_are_not_hidden() -> None:
    def main(argv: Sequence[str]) -> str:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        run(main)


def test_an_argument_that_is_no_text_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--out", "\udcff\udcfe.json"])
    with pytest.raises(SystemExit) as ended:
        run(lambda argv: "done")
    assert ended.value.code == 2
    message = r"error: the argument '\udcff\udcfe.json' is not UTF-8; give another name"
    assert capsys.readouterr().err == f"{message}\n"
