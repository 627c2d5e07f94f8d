"""How the values of one searched setting are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from dynat_ray.errors import UserError, unknown_name

# Values of a range that a grid search tries, unless the space says otherwise.
_GRID_POINTS = 3
_KINDS = ("uniform", "loguniform", "int", "logint", "choice")


class Distribution(Protocol):
    """The values that a setting may take."""

    def draw(self, generator: np.random.Generator) -> Any:
        """Returns a random value."""
        ...

    def grid(self) -> list[Any]:
        """Returns the values that a grid search tries."""
        ...

    def extremes(self) -> list[Any]:
        """Returns values that must all be allowed for the whole distribution to be."""
        ...

    def describe(self) -> str:
        """Returns the distribution as a person would write it."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: Smallest value.
        high: Largest value.
        whole: Whole numbers only.
        log: Evenly spread in the logarithm.
        points: How many values a grid search tries.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False
    points: int = _GRID_POINTS

    def draw(self, generator: np.random.Generator) -> Any:
        """Returns a random value."""
        # Whole numbers: each owns the unit interval around it.
        margin = 0.5 if self.whole else 0.0
        low, high = self._scale(self.low - margin), self._scale(self.high + margin)
        return self._unscale(generator.uniform(low, high))

    def grid(self) -> list[Any]:
        """Returns `points` values, evenly spread, the ends among them."""
        between = np.linspace(self._scale(self.low), self._scale(self.high), self.points)[1:-1]
        values = [self.low, *map(self._unscale, between), self.high]
        return list(dict.fromkeys(map(self._typed, values)))

    def extremes(self) -> list[Any]:
        """Returns both ends and the middle."""
        middle = (self._scale(self.low) + self._scale(self.high)) / 2
        return [self._typed(self.low), self._unscale(middle), self._typed(self.high)]

    def position(self, value: float) -> float:
        """Returns where a value lies between `low` (0) and `high` (1)."""
        low, high = self._scale(self.low), self._scale(self.high)
        return (self._scale(value) - low) / (high - low)

    def describe(self) -> str:
        """Returns the ends, such as `0.1 to 10, log`."""
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"

    def _scale(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    def _unscale(self, place: float) -> Any:
        value = math.exp(place) if self.log else float(place)
        return self._typed(min(max(value, self.low), self.high))

    def _typed(self, value: float) -> Any:
        return round(value) if self.whole else float(value)


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
        values: At least two.
    """

    values: tuple[Any, ...]

    def draw(self, generator: np.random.Generator) -> Any:
        """Returns a random value."""
        return self.values[int(generator.integers(len(self.values)))]

    def grid(self) -> list[Any]:
        """Returns all values."""
        return list(self.values)

    def extremes(self) -> list[Any]:
        """Returns all values."""
        return list(self.values)

    def describe(self) -> str:
        """Returns the values, such as `sgd or adamw`."""
        return " or ".join(map(str, self.values))


def read_distribution(key: str, content: Mapping[str, Any]) -> Distribution:
    """Reads `{uniform: [0, 1]}` and the like.

    Args:
        key: The setting, for messages.
        content: What the space file says.

    Raises:
        UserError: An unknown kind, a range that is not one, too few values to choose from.
    """
    kinds = [name for name in content if name != "points"]
    if len(kinds) != 1:
        raise UserError(f"{key}: give one of {', '.join(_KINDS)}, such as {{uniform: [0, 1]}}")
    (kind,) = kinds
    if kind not in _KINDS:
        raise unknown_name(f"distribution of {key}", str(kind), _KINDS)
    values = content[kind]
    if kind == "choice":
        if not isinstance(values, list) or len(values) < 2 or "points" in content:
            raise UserError(f"{key}: choice needs a list of at least two values, not {values!r}")
        return Choice(tuple(values))
    if not isinstance(values, list) or len(values) != 2:
        raise UserError(f"{key}: {kind} needs [smallest, largest], not {values!r}")
    low, high = (_number(key, value) for value in values)
    whole, log = kind in ("int", "logint"), kind in ("loguniform", "logint")
    if not low < high:
        raise UserError(
            f"{key}: {kind} [{values[0]}, {values[1]}] is no range; the smaller value comes first"
        )
    if log and low <= 0:
        raise UserError(f"{key}: {kind} needs values above 0, not {values[0]}")
    if whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{key}: {kind} needs whole numbers, not {values!r}")
    points = content.get("points", _GRID_POINTS)
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise UserError(f"{key}: points is {points!r}; it must be a whole number, at least 2")
    return Range(low, high, whole=whole, log=log, points=points)


def _number(key: str, value: Any) -> float:
    """Reads `0.1`, `1e-3` (text, in YAML) and `8/255`."""
    try:
        if not isinstance(value, (int, float, str)) or isinstance(value, bool):
            raise ValueError
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{key}: {value!r} is not a number such as 0.1 or 8/255") from None
    return number
