"""An object store on this machine that answers as late as a far one: moto, behind a pause."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

    answer = DomainDispatcherApplication(create_backend_app)

    def late(environment: Any, start: Any) -> Any:
        time.sleep(seconds_per_request)
        return answer(environment, start)

    class Silent(WSGIRequestHandler):
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
