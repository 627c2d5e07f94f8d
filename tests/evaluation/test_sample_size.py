"""How many images a difference takes: simulated, and as docs/evaluation.md says it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from dynat_ray.evaluation.matched_pairs import matched_pairs_interval
from dynat_ray.evaluation.sample_size import images_needed

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_table_is_what_is_computed() -> None:
    _, _, table = PAGE.read_text().partition("\n| seeds |")
    table, _, _ = table.partition("\n\n")
    rows = re.findall(r"^\| (\d+)(?: \([^)]*\))? \| (.*) \|$", table, re.MULTILINE)
    assert [int(seeds) for seeds, _ in rows] == [1, 3, 5, 10]
    for seeds, cells in rows:
        wanted = []
        for deviation in (0.3, 0.5):
            for differ in (0.1, 0.2):
                needed = images_needed(
                    1.0, seeds=int(seeds), differ=differ, seed_deviation=deviation
                )
                # Rounded up to hundreds.
                wanted.append(f"{100 * math.ceil(needed / 100):,}" if needed else "never")
        assert cells.split(" | ") == wanted


def test_four_of_five_are_found() -> None:
    random = np.random.default_rng(0)
    images = images_needed(5.0, seeds=1, differ=0.2, seed_deviation=0)
    assert images is not None
    counts = random.multinomial(images, [0.125, 0.075, 0.8], size=300)
    found = [matched_pairs_interval(int(a), int(b), images)[0] > 0 for a, b, _ in counts]
    # The exact interval is a little longer than the formula has it.
    assert 0.72 <= np.mean(found) <= 0.84


@pytest.mark.parametrize("seeds", [2, 3])
def test_too_few_seeds_are_called_so(seeds: int) -> None:
    assert images_needed(1.0, seeds=seeds, differ=0.1, seed_deviation=2.0) is None
