"""A set of many small parts in a store of the test's own, and the same one in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from dynat_ray.data.preparing import prepare_dataset
from tests.data.stores import Objects
from tests.data.streamed.streaming import be_small_and_quick, made_source, no_threads_left


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    be_small_and_quick(monkeypatch, tmp_path / "cache")
    with no_threads_left():
        yield


@pytest.fixture(scope="session")
def prepared(s3: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A set's address and folder, which no test may change."""
    root = tmp_path_factory.mktemp("streamed")
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket="prepared-once")
    address, folder = "s3://prepared-once/set", root / "local"
    with pytest.MonkeyPatch.context() as patch:
        be_small_and_quick(patch, root / "cache")
        for place in (address, folder):
            prepare_dataset(made_source(root, 0), place, progress=False)
    return address, folder


@pytest.fixture
def address(prepared: tuple[str, Path], bucket: str, s3: str) -> str:
    """The set in a bucket of the test's own."""
    Objects(s3, f"{bucket}/set").copy_from(Objects(s3, prepared[0]))
    return f"{bucket}/set"


@pytest.fixture
def local(prepared: tuple[str, Path]) -> Path:
    return prepared[1]
