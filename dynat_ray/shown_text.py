"""Names of other people's making, as pages, figures and terminals show them."""

from __future__ import annotations

import re
import unicodedata

_JOINERS = "\u200c\u200d"
"""Invisible, but part of how some scripts and emoji are written."""
_NO_CHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")
"""What XML does not allow."""


def shown_text(text: str, longest: int = 0) -> str:
    """Returns text as one line of characters that only show themselves.

    Control characters (a terminal obeys them), marks that turn the direction of writing (they
    reorder what stands beside a name), halves of characters and what XML does not allow become
    U+FFFD; white space becomes single spaces.

    Args:
        text: A name, or a line that has some.
        longest: Characters beyond which the middle is left out, since names often begin alike;
            0: never.
    """
    line = " ".join(text.split())
    if not line.isascii() or not line.isprintable():
        line = "".join(char if _is_harmless(char) else "\ufffd" for char in line)
    if 0 < longest < len(line):
        end = longest // 3
        line = f"{line[: longest - end - 1]}…{line[len(line) - end :]}"
    return line


def _is_harmless(char: str) -> bool:
    kind = unicodedata.category(char)
    if kind in ("Cc", "Cf", "Cs"):
        return char in _JOINERS
    return kind != "Cn" or not _NO_CHARACTER.match(char)
