"""A benchmark's own process starts as workers do."""

from __future__ import annotations

import os

from dynat_ray.benchmarks.turns import in_environment


def test_a_process_of_its_own_has_the_variables() -> None:
    name = "DYNAT_RAY_TEST_VARIABLE"
    assert in_environment({name: "1"}, os.getenv, name) == "1"
    assert name not in os.environ
    assert in_environment({}, os.getpid) != os.getpid()
