"""What a setting's value may be: restricted types, and one check of a value against its type.

A field annotated with one of the types below holds a plain `int`, `float` or `str` for type
checkers and at run time. The restriction is jsonargparse's; the words are for error messages and
`--help`.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse import typing as library
from jsonargparse.typing import restricted_number_type, restricted_string_type

from dynat_ray.errors import UserError
from dynat_ray.radius import parse_number
from dynat_ray.strict_yaml import GivenTwice, load_yaml


@dataclass(frozen=True)
class Restriction:
    """What `Annotated` adds to a plain type.

    Attributes:
        type: jsonargparse's restricted type, which checks.
        allowed: What it allows, in words.
    """

    type: type
    allowed: str


def _number(base: type, *restrictions: tuple[str, float], allowed: str) -> Restriction:
    return Restriction(restricted_number_type(None, base, list(restrictions)), allowed)


_FINITE = ("<", math.inf)
_LONGEST_KEPT = 100

PositiveInt = Annotated[int, Restriction(library.PositiveInt, "a whole number, at least 1")]
NonNegativeInt = Annotated[int, Restriction(library.NonNegativeInt, "a whole number, 0 or more")]
MinusOneOrMore = Annotated[int, _number(int, (">=", -1), allowed="a whole number, -1, 0 or more")]
Seed = Annotated[
    int, _number(int, (">=", 0), ("<", 2**63), allowed="a whole number, 0 or more, below 2^63")
]
Finite = Annotated[float, _number(float, (">", -math.inf), _FINITE, allowed="a finite number")]
NonNegative = Annotated[
    float, _number(float, (">=", 0), _FINITE, allowed="a finite number, 0 or more")
]
Positive = Annotated[
    float, _number(float, (">", 0), _FINITE, allowed="a finite number, more than 0")
]
OneOrMore = Annotated[
    float, _number(float, (">=", 1), _FINITE, allowed="a finite number, at least 1")
]
AboveOne = Annotated[
    float, _number(float, (">", 1), _FINITE, allowed="a finite number, more than 1")
]
ClosedUnitInterval = Annotated[float, Restriction(library.ClosedUnitInterval, "a number in [0, 1]")]
OpenUnitInterval = Annotated[float, Restriction(library.OpenUnitInterval, "a number in (0, 1)")]
ZeroUpToOne = Annotated[float, _number(float, (">=", 0), ("<", 1), allowed="a number in [0, 1)")]
AboveZeroToOne = Annotated[float, _number(float, (">", 0), ("<=", 1), allowed="a number in (0, 1]")]
ZeroToHalf = Annotated[
    float, _number(float, (">=", 0), ("<=", 0.5), allowed="a number in [0, 0.5]")
]
MinusOneToOne = Annotated[
    float, _number(float, (">=", -1), ("<=", 1), allowed="a number in [-1, 1]")
]
WorkerRange = Annotated[
    str,
    Restriction(
        restricted_string_type("WorkerRange", r"(auto|\d+\.\.\d+)$"),
        "a range such as 1..4, or auto",
    ),
]


def check_value(key: str, value: object, hint: object) -> Any:
    """Returns `value` as a plain value of the type `hint`.

    Text is read as YAML, numbers also as fractions, lists also with commas between their items.

    Args:
        key: What the user calls it, such as `train.epochs`.
        value: As a person, YAML or a program gave it.
        hint: A type, such as those of this module, `bool`, a `Literal` or a list or union of them.

    Raises:
        UserError: It is none; the message names the key, the value and what is allowed.
    """
    if value == "" and hint is not str:
        value = None
    try:
        if _is_kept(value):
            # Programs check the same few values again and again, and the library takes its time.
            read = deepcopy(_read_once(hint, repr(value), value))
        else:
            read = _read(value, hint)
    except ArgumentError:
        raise UserError(f"{key} is {value!r}; it must be {describe_type(hint)}") from None
    if read is None and NoneType not in get_args(hint):
        raise UserError(f"{key} has no value; give it one, or leave it out for its default")
    return _plain(read)


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises `UserError` naming `key`, its `value` and what is `allowed`, unless `condition`."""
    if not condition:
        raise UserError(f"{key} is {value!r}; it must be {allowed}")


def describe_type(hint: object) -> str:
    """Returns what a type allows, in words, such as `a whole number, at least 1`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        restriction: Restriction = arguments[1]
        return restriction.allowed
    if origin is Literal:
        names = ", ".join(map(str, arguments))
        return f"one of {names}" if len(arguments) > 1 else names
    if origin in (Union, UnionType):
        return ", or ".join(map(describe_type, arguments))
    if origin is list:
        return f"a list, each item {describe_type(arguments[0])}"
    if origin is dict:
        return "a mapping such as {name: value}"
    words: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number such as 0.1 or 8/255",
        str: "text",
        NoneType: "null",
    }
    return words.get(hint, str(hint))


def _read(value: object, hint: object) -> Any:
    return _parser(hint).parse_object({"value": _read_text(value, hint)})["value"]


@lru_cache(maxsize=2048)
def _read_once(hint: object, words: str, value: object) -> Any:
    """Returns what `_read` does; the words tell apart what is equal, as 1, 1.0 and true."""
    return _read(value, hint)


def _is_kept(value: object) -> bool:
    """Returns whether nobody can change a value, and to keep it costs little."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_KEPT
    return value is None or type(value) in (bool, int, float)


@cache
def _parser(hint: object) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=_checked_type(hint))
    return parser


def _checked_type(hint: object) -> Any:
    """Returns `hint` with jsonargparse's restricted types in place of the plain ones."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        restriction: Restriction = arguments[1]
        return restriction.type
    if origin is list:
        return list[_checked_type(arguments[0])]  # type: ignore[misc]
    if origin in (Union, UnionType):
        return Union[tuple(map(_checked_type, arguments))]  # noqa: UP007
    return hint


def _read_text(value: object, hint: object) -> object:
    """Reads what YAML leaves as text: fractions, `1e-3`, comma-separated lists."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _read_text(value, arguments[0])
    if origin is Literal and "off" in arguments:
        read = parse_text(value)
        return "off" if read is False else read  # which YAML takes for false
    if origin is list and value is not None:
        return [_read_text(each, arguments[0]) for each in _items(value)]
    if (arguments[0] if origin is Annotated else hint) is float and isinstance(value, str):
        try:
            return parse_number(value)
        except ValueError:
            return value
    if origin is dict:
        return deepcopy(parse_text(value))
    # jsonargparse reads text inside of containers in place.
    return deepcopy(value)


def _items(value: object) -> list[object]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_text(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if isinstance(value, list) else [value]


def parse_text(value: object) -> object:
    """Returns what a value says as YAML, if it is text; itself if that says nothing.

    Raises:
        UserError: It gives a key twice.
    """
    try:
        return load_yaml(value) if isinstance(value, str) else value
    except GivenTwice as error:
        raise UserError(f"'{value}' {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


def _plain(value: object) -> object:
    """Returns a value of a restricted type as one of the type that it restricts."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    for plain in (int, float, str):
        if isinstance(value, plain) and not isinstance(value, bool):
            return plain(value)
    return value
