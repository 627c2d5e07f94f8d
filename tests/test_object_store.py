"""What is said of a store that fails."""

from __future__ import annotations

import pytest

from dynat_ray.object_store import store_error


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
