"""What is said of a store that fails."""

from __future__ import annotations

import pytest
from pyarrow.fs import FileSystem

from dynat_ray.object_store import open_store, store_error


@pytest.mark.parametrize(
    "reason",
    [
        "When reading information for key 'x' in bucket 'b': AWS Error ACCESS_DENIED during "
        "HeadObject operation: No response body.",
        "When listing: AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2 operation",
        "AWS Error UNKNOWN (HTTP status 400) during GetObject: ExpiredToken: The provided "
        "token has expired.",
    ],
)
def test_keys_that_are_refused_are_said_to_be(reason: str) -> None:
    found = str(store_error("s3://b/x", OSError(reason), "try again"))
    assert found.startswith("the store s3://b/x refuses the keys of this machine: they are missing")


def test_no_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "once/upon")
    error = OSError("no route for AKIA123\nwith once/upon")
    found = str(store_error("s3://b/x", error, "try again"))
    assert "no route for ... with ...; look at" in found
    assert found.endswith("then try again")


@pytest.fixture
def somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has stores be at an address, so that nobody is asked where a bucket is."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(
    "address",
    [
        *("s3://b", "s3://b/", "s3://b/x%20y", "s3://b//x", "s3://b-c.d/x.y/", "s3://b/a+b=c"),
        *("s3://b/x?region=eu-west-1&scheme=http", "s3://b/?region=eu-west-1", "s3://b/x#y"),
    ],
)
def test_an_address_means_what_it_means_to_the_library(address: str) -> None:
    (system, path), (expected, there) = open_store(address), FileSystem.from_uri(address)
    assert (system.equals(expected), path) == (True, there.rstrip("/"))


@pytest.mark.usefixtures("somewhere")
def test_a_bucket_is_opened_once_for_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = open_store("s3://b/x"), open_store("s3://b/y")
    assert (one[0] is other[0], one[1], other[1]) == (True, "b/x", "b/y")
    assert open_store("s3://c/x")[0] is not one[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:8")
    assert not open_store("s3://b/x")[0].equals(one[0])
