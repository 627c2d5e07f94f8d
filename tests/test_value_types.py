"""What a value may be: how it is read from text, what is refused and in which words."""

from __future__ import annotations

from typing import Literal

import pytest

from dynat_ray.errors import UserError
from dynat_ray.value_types import (
    AboveZeroToOne,
    ClosedUnitInterval,
    Finite,
    MinusOneOrMore,
    MinusOneToOne,
    NonNegative,
    NonNegativeInt,
    OneOrMore,
    OpenUnitInterval,
    Positive,
    PositiveInt,
    Seed,
    WorkerRange,
    ZeroToHalf,
    ZeroUpToOne,
    check_value,
    describe_type,
)


@pytest.mark.parametrize(
    ("hint", "allowed", "refused"),
    [
        (PositiveInt, [1, 7], [0, -1, 1.5, True, "many"]),
        (NonNegativeInt, [0, 7], [-1, 0.5]),
        (MinusOneOrMore, [-1, 0, 7], [-2]),
        (Seed, [0, 2**63 - 1], [-1, 2**63]),
        (Finite, [-1e9, 0.0, 1e9], [float("inf"), float("nan"), "x", True]),
        (NonNegative, [0.0, 1e9], [-1e-9, float("inf"), float("nan")]),
        (Positive, [1e-9, 1e9], [0, -1e-9, float("inf")]),
        (OneOrMore, [1.0, 1e9], [0.999, float("inf")]),
        (ClosedUnitInterval, [0.0, 1.0], [-1e-9, 1.001]),
        (OpenUnitInterval, [1e-9, 0.999], [0, 1]),
        (ZeroUpToOne, [0.0, 0.999], [-1e-9, 1]),
        (AboveZeroToOne, [1e-9, 1.0], [0, 1.001]),
        (ZeroToHalf, [0.0, 0.5], [-1e-9, 0.501]),
        (MinusOneToOne, [-1.0, 1.0], [-1.001, 1.001]),
        (int, [-3, 0], [0.5, "many", True]),
        (float, [-3.5, 0.0], ["many", True]),
        (tuple[int, int], [(1, 2)], ["many"]),
        (PositiveInt | WorkerRange, [3, "1..4", "auto"], [0, 1.5, "1..", "automatic"]),
    ],
)
def test_ends_of_ranges(hint: object, allowed: list[object], refused: list[object]) -> None:
    for value in allowed:
        found = check_value("key", value, hint)
        assert (found, type(found)) == (value, type(value))
    for value in refused:
        with pytest.raises(UserError) as caught:
            check_value("key", value, hint)
        assert str(caught.value) == f"key is {value!r}; it must be {describe_type(hint)}"


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("8/255", NonNegative, 8 / 255),
        ("1e-3", Finite, 1e-3),
        ("8/255", float, 8 / 255),
        ("3", PositiveInt, 3),
        ("3", PositiveInt | WorkerRange, 3),
        ("3", str, "3"),
        ("", str, ""),
        ("false", bool, False),
        ("null", Finite | None, None),
        ("1/2", Finite | None, 0.5),
        ("a, b", list[str], ["a", "b"]),
        ("[]", list[str], []),
        ("[1/4, 0.5]", list[OpenUnitInterval], [0.25, 0.5]),
        ("0.5", list[OpenUnitInterval], [0.5]),
        ("{a: {b: 1}}", dict[str, object], {"a": {"b": 1}}),
        ("off", Literal["auto", "off"], "off"),
        (False, Literal["auto", "off"], "off"),
        ("true", Literal["auto"] | bool, True),
    ],
)
def test_text_is_read(text: object, hint: object, value: object) -> None:
    found = check_value("key", text, hint)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("hint", [PositiveInt, str, bool, list[str], dict[str, object]])
def test_nothing_is_no_value_unless_it_may_be(hint: object) -> None:
    with pytest.raises(UserError, match="key has no value"):
        check_value("key", None, hint)
    assert check_value("key", None, Finite | None) is None


def test_what_was_given_stays_as_it_is() -> None:
    given: dict[str, object] = {"sizes": ["1", "2"], "name": "1e3"}
    kept = {"sizes": ["1", "2"], "name": "1e3"}
    check_value("key", given, dict[str, object])
    assert given == kept


def test_what_was_read_before_is_told_from_what_is_equal() -> None:
    """And whoever changes what came back has changed nothing for others."""
    assert check_value("k", 1, PositiveInt) == 1
    with pytest.raises(UserError, match="k is True"):
        check_value("k", True, PositiveInt)
    assert check_value("k", True, bool) is True
    with pytest.raises(UserError, match="k is 1;"):
        check_value("k", 1, bool)
    for hint, text in ((list[str], "a,b"), (dict[str, object], "{a: [1]}")):
        first = check_value("k", text, hint)
        before = repr(first)
        first.clear()
        assert repr(check_value("k", text, hint)) == before
