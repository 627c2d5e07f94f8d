"""Numbers such as `8/255`: how they are read, how a radius is written, which are possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dynat_ray.errors import UserError

_TOLERANCE = 1e-9


def parse_number(text: str) -> float:
    """Returns a number written as a decimal or a fraction, such as `0.5`, `1e-3` or `8/255`.

    Raises:
        ValueError: It is none.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except ZeroDivisionError:
        raise ValueError(f"'{text}' divides by zero") from None


def parse_norm_radii(texts: Sequence[str], allowed: Sequence[str], key: str) -> dict[str, float]:
    """Returns radii by norm, of texts such as `L2:0.5`.

    Args:
        texts: One for each norm.
        allowed: Norms that there may be.
        key: What the user calls them.

    Raises:
        UserError: One is something else, is not allowed, or comes twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        norm, _, radius = text.partition(":")
        try:
            eps = parse_number(radius)
        except ValueError:
            eps = 0.0
        if norm not in allowed or norm in found or not 0 < eps < math.inf:
            raise UserError(
                f"{key} has '{text}'; each must be one of {', '.join(allowed)}, given once, with a "
                f"radius above 0, such as {allowed[-1]}:0.5"
            )
        require_possible(eps, norm, key)
        found[norm] = eps
    return found


def format_radius(eps: float, norm: str) -> str:
    """Returns a radius as people write it, to three digits: in 255ths under Linf."""
    return f"{255 * eps:.3g}/255" if norm == "Linf" else f"{eps:.3g}"


def exact_radius(eps: float) -> str:
    """Returns a radius as leaderboards write it: `8/255` where it is one, else a decimal."""
    in_255ths = round(255 * eps)
    if in_255ths and abs(255 * eps - in_255ths) < _TOLERANCE * 255:
        return f"{in_255ths}/255"
    return f"{eps:g}"


def require_possible(eps: float, norm: str, key: str = "eps") -> None:
    """Refuses a radius under Linf that is larger than any two pixels are apart.

    Args:
        eps: Radius, in units of [0, 1] pixels.
        norm: `Linf`, `L2` or `L1`.
        key: What the user calls it.

    Raises:
        UserError: It is too large.
    """
    if norm == "Linf" and eps > 1:
        raise UserError(
            f"{key} {eps:g} under Linf is more than all of [0, 1], where pixels are; 8/255 is usual"
        )
