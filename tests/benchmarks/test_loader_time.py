from __future__ import annotations

import pytest

from dynat_ray.benchmarks.loader_time import measure


@pytest.mark.parametrize("kind", ["memory", "auto"])
def test_it_measures_what_it_says(kind: str) -> None:
    found = measure(kind=kind, images=600, epochs=2, threads=1)  # type: ignore[arg-type]
    speed = found["images_per_second"]
    assert found["images"] == 600
    assert found["loader"] == "memory" or kind == "auto"
    assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    assert len(found["memory_bytes"]) == 2
    assert found["memory_growth_bytes"] == found["memory_bytes"][1] - found["memory_bytes"][0]
