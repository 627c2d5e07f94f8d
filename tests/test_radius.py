"""Numbers such as 8/255: read, written, and refused where no attack could use them."""

from __future__ import annotations

import pytest

from dynat_ray.config import ThreatConfig
from dynat_ray.errors import UserError
from dynat_ray.radius import exact_radius, format_radius, parse_number, require_possible


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8/255", 8 / 255),
        (" 0.5 / 255 ", 0.5 / 255),
        ("-1/4", -0.25),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("3", 3.0),
    ],
)
def test_fractions_and_decimals_are_read(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "many", "8/0", "8/255/2", "8/", "/255", "8/2.5.5"])
def test_anything_else_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse_number(text)


@pytest.mark.parametrize(
    ("eps", "norm", "text"),
    [(8 / 255, "Linf", "8/255"), (0.05, "Linf", "12.8/255"), (0.5, "L2", "0.5"), (0, "L2", "0")],
)
def test_a_radius_is_written_in_255ths_under_linf(eps: float, norm: str, text: str) -> None:
    assert format_radius(eps, norm) == text


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.5, "0.5"), (0.031, "0.031")])
def test_exact_radius(eps: float, text: str) -> None:
    assert exact_radius(eps) == text


def test_no_radius_under_linf_reaches_beyond_all_pixels() -> None:
    require_possible(1.0, "Linf")
    require_possible(3.0, "L2")
    with pytest.raises(UserError, match="eps 8 under Linf"):
        require_possible(8.0, "Linf")
    with pytest.raises(UserError, match="threat.eps 8 under Linf"):
        ThreatConfig(eps=8)
    assert ThreatConfig(norm="L2", eps=8).eps == 8
