"""An S3 server on loopback: one for all tests of a process.

It is the session's only one, since its address is in the environment, where a second one would take
its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import boto3
import pytest
from moto import backends
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def server() -> Iterator[ThreadedMotoServer]:
    """The server, for who looks into it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    modules = list(backends.list_of_moto_modules())
    with pytest.MonkeyPatch.context() as patch:
        # At each request it would look into hundreds of folders for them.
        patch.setattr(backends, "list_of_moto_modules", lambda: modules)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def s3(server: ThreadedMotoServer) -> Iterator[str]:
    """The server's URL; keys and endpoint are in the environment, as on a cluster's machines."""
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "once-upon-a-time")
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield url


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest) -> str:
    """Address of a bucket of the test's own."""
    name = f"b-{abs(hash(request.node.nodeid)):x}"
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket=name)
    return f"s3://{name}"


def names(s3: str, address: str) -> list[str]:
    """Returns the keys below an address, without it."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3)
    found = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [each["Key"] for page in found for each in page.get("Contents", [])]
    return [key.removeprefix(prefix).lstrip("/") for key in keys if not key.endswith("/")]
