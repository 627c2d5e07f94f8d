"""An object store on this machine that answers as late as a far one: moto, behind a pause."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BUCKET = "benchmark"


@contextmanager
def loopback_store(seconds_per_request: float) -> Iterator[str]:
    """Gives the address of an empty bucket; keys and endpoint are in the environment meanwhile.

    Args:
        seconds_per_request: Before each answer.

    Raises:
        ModuleNotFoundError: moto is not installed.
    """
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    answer = _Ranges(DomainDispatcherApplication(create_backend_app))

    def late(environment: Any, start: Any) -> Any:
        time.sleep(seconds_per_request)
        return answer(environment, start)

    class Silent(WSGIRequestHandler):
        # A connection serves several requests, as those of real stores do.
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Leaves out the line that each request would have."""

    server = make_server("127.0.0.1", 0, late, threaded=True, request_handler=Silent)
    before = dict(os.environ)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        boto3.client("s3").create_bucket(Bucket=_BUCKET)
        yield f"s3://{_BUCKET}"
    finally:
        server.shutdown()
        server.server_close()
        os.environ.clear()
        os.environ.update(before)


class _Ranges:
    """Serves ranges of objects; moto, which serves all else, copies a whole object for each.

    Args:
        answer: Moto.
    """

    def __init__(self, answer: Callable[[Any, Any], Any]) -> None:
        self._answer = answer
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __call__(self, environment: Any, start: Any) -> Any:
        path, method = environment["PATH_INFO"], environment["REQUEST_METHOD"]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", environment.get("HTTP_RANGE", ""))
        if method not in ("GET", "HEAD"):
            self._objects.pop(path, None)
        if method != "GET" or wanted is None:
            return self._answer(environment, start)
        with self._lock:
            if path not in self._objects:
                whole = {key: each for key, each in environment.items() if key != "HTTP_RANGE"}
                self._objects[path] = b"".join(self._answer(whole, lambda *_: None))
        content, first = self._objects[path], int(wanted[1])
        piece = content[first : int(wanted[2]) + 1]
        where = f"bytes {first}-{first + len(piece) - 1}/{len(content)}"
        start(
            "206 Partial Content",
            [("Content-Length", str(len(piece))), ("Content-Range", where)],
        )
        return [piece]


@contextmanager
def empty_cache() -> Iterator[Path]:
    """Gives a folder that is `$DYNAT_RAY_CACHE` meanwhile."""
    before = os.environ.get("DYNAT_RAY_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DYNAT_RAY_CACHE"] = cache
        try:
            yield Path(cache)
        finally:
            if before is None:
                del os.environ["DYNAT_RAY_CACHE"]
            else:
                os.environ["DYNAT_RAY_CACHE"] = before
