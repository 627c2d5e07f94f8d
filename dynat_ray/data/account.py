"""What became of the images of a source: kept, left out, converted, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dynat_ray.shown_text import shown_text

_EXAMPLES = 5
_SHOWN_EXAMPLES = 3
_SHOWN_CLASSES = 20
_LONGEST_NAME = 160


@dataclass(kw_only=True)
class Finding:
    """Images, or files that are none, that something was done to.

    Attributes:
        what: What they are, or what was done to them.
        count: How many.
        examples: The first few, by name.
    """

    what: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Tally:
    """Counts what was done to how many, and keeps some of their names."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}

    def add(self, what: str, name: str, count: int = 1) -> None:
        """Counts `count` more, of which one is called `name`."""
        finding = self._findings.setdefault(what, Finding(what=what))
        finding.count += count
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(shown_text(name))

    def include(self, other: Tally) -> None:
        """Counts what another one has counted."""
        for each in other.findings():
            for example in each.examples:
                self.add(each.what, example, 0)
            self._findings[each.what].count += each.count

    def findings(self) -> list[Finding]:
        """Returns what was counted, the first first."""
        return list(self._findings.values())


@dataclass(kw_only=True)
class Account:
    """What `dataset.json` keeps of the images of a source.

    Attributes:
        counts: Images of each class that were stored, by split.
        left_out: What was not, and why.
        converted: What was not stored as it was.
        warnings: What a person should look at, a sentence each.
        notes: What is as it should be, but perhaps not as expected.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: list[Finding] = field(default_factory=list)
    converted: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns it as lines for a terminal."""
        lines = [f"{split}: {_counted(classes)}" for split, classes in self.counts.items()]
        lines += [f"left out, {_described(each)}" for each in self.left_out]
        lines += [f"converted, {_described(each)}" for each in self.converted]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return [shown_text(line) for line in lines]


def read_account(values: Any) -> Account:
    """Returns an account from what a description of unknown origin holds.

    Raises:
        TypeError: It is none.
    """
    account = Account(**values)
    for name in ("left_out", "converted"):
        setattr(account, name, [Finding(**each) for each in getattr(account, name)])
    findings = [*account.left_out, *account.converted]
    texts = [*account.warnings, *account.notes, *account.counts]
    numbers = [each.count for each in findings]
    for finding in findings:
        texts += [finding.what, *finding.examples]
    for classes in account.counts.values():
        texts += classes
        numbers += classes.values()
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise TypeError("a number is none")
    return account


def listed(names: Iterable[str], count: int, shown: int = _SHOWN_EXAMPLES) -> str:
    """Returns the first of `count` names as a person would list them."""
    first = [shown_text(name, _LONGEST_NAME) for name in list(names)[:shown]]
    more = count - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more > 0 else "")


def _described(finding: Finding) -> str:
    return f"{finding.what}: {finding.count:,} ({listed(finding.examples, finding.count)})"


def _counted(classes: dict[str, int]) -> str:
    if len(classes) <= _SHOWN_CLASSES:
        return ", ".join(f"{shown_text(name, 40)} {count:,}" for name, count in classes.items())
    fewest, most = min(classes.values()), max(classes.values())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{sum(classes.values()):,} images, {each} in each of {len(classes):,} classes"
