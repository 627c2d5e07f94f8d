"""The run that most of these tests make: they make several each, so it is half of the usual one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.settings import build_config
from tests.small_run import SMALL


def _config(digits: Path) -> RunConfig:
    settings = {"data.limit": 100, "data.path": str(digits), "cluster.workers": 2}
    return build_config([{**SMALL, **settings, "cluster.gpu": False}])


@pytest.fixture
def small_config(digits: Path) -> RunConfig:
    """A run of 90 images, in two steps an epoch; 10 more are held out."""
    return _config(digits)


@pytest.fixture(scope="module")
def shared_config(digits: Path) -> RunConfig:
    """The same, for what tests of a module share; nobody changes it."""
    return _config(digits)
