"""A store that is watched, and that fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

Refuse = Callable[[str], tuple[str, str] | None]
_BODY = "<Error><Code>{}</Code><Message>somebody may not do this</Message></Error>"


@contextmanager
def watched(server: ThreadedMotoServer, refuse: Refuse = lambda asked: None) -> Iterator[list[str]]:
    """Gives the method and path of each request that is made while its context lasts.

    Args:
        server: The store.
        refuse: Takes such a request; returns status and code of the refusal, None: it is answered.
    """
    made: list[str] = []
    answer = server._server.app  # type: ignore[union-attr]

    def app(environment: dict[str, Any], start: Any) -> Any:
        made.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
        if refusal := refuse(made[-1]):
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            start(refusal[0], [("Content-Type", "application/xml")])
            return [_BODY.format(refusal[1]).encode()]
        return answer(environment, start)

    server._server.app = app  # type: ignore[union-attr]
    try:
        yield made
    finally:
        server._server.app = answer  # type: ignore[union-attr]


class Objects:
    """The objects below an address, by name.

    Args:
        url: Of the server.
        address: `s3://BUCKET/PREFIX`.
    """

    def __init__(self, url: str, address: str) -> None:
        self._client = boto3.client("s3", endpoint_url=url)
        self._bucket, _, self._prefix = address.removeprefix("s3://").partition("/")

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + "/")
        keys = [each["Key"].removeprefix(self._prefix + "/") for each in found.get("Contents", [])]
        return sorted(filter(None, keys))

    def read(self, name: str) -> bytes:
        key = f"{self._prefix}/{name}"
        body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        return body.read()  # type: ignore[no-any-return]

    def write(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=content)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")

    def copy_from(self, other: Objects) -> None:
        """Takes over all objects of another address."""
        for name in other.names():
            source = {"Bucket": other._bucket, "Key": f"{other._prefix}/{name}"}
            key = f"{self._prefix}/{name}"
            self._client.copy_object(Bucket=self._bucket, Key=key, CopySource=source)
