"""Names that other people chose, as they may be shown."""

from __future__ import annotations

import pytest

from dynat_ray.shown_text import shown_text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tench, Tinca tinca", "tench, Tinca tinca"),
        ("$x_$ {{ }} <b> %s \\n", "$x_$ {{ }} <b> %s \\n"),
        ("שלום 日本語 é 😀", "שלום 日本語 é 😀"),
        ("👩\u200d🔬 \u06cc\u200c\u062e", "👩\u200d🔬 \u06cc\u200c\u062e"),
        (" a\n\tb\r\nc\u2028d ", "a b c d"),
        ("\x1b[2J\x9b31m\x07\x00", "\ufffd[2J\ufffd31m\ufffd\ufffd"),
        ("photo\u202egnp.exe\u2066", "photo\ufffdgnp.exe\ufffd"),
        ("\ud800\ufffe\uffff\ufdd0", "\ufffd" * 4),
        ("", ""),
    ],
)
def test_only_characters_that_show_themselves_are_left(name: str, shown: str) -> None:
    assert shown_text(name) == shown


def test_the_middle_of_a_long_name_is_left_out() -> None:
    assert shown_text("runs/first" + "/a" * 100 + "/last", 15) == "runs/firs…/last"
    assert len(shown_text("x" * 300, 32)) == 32
    assert shown_text("x" * 32, 32) == "x" * 32
    assert shown_text("x" * 300) == "x" * 300
