"""Durations in words."""

from __future__ import annotations


def describe_seconds(seconds: float) -> str:
    """Returns a duration such as `1 h 05 min`, `2 min 10 s` or `8 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole} s"
