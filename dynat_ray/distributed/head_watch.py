"""A command whose cluster has lost its head ends with a sentence.

Ray itself ends the process then, after a minute, with a trace of its own; some of its calls never
return.
"""

from __future__ import annotations

import os
import socket
import threading
import time

import ray

from dynat_ray import interrupt

_SECONDS_BETWEEN_LOOKS = 5.0
_CONNECT_SECONDS = 5.0
# Ray's, with a head that is being started again and has kept its state.
_PATIENCE = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112


def watch_head() -> None:
    """Ends this command, if it is one, when the head of its cluster has gone for good."""
    if interrupt.is_command():
        address = ray.get_runtime_context().gcs_address
        threading.Thread(target=_watch_head, args=(address,), daemon=True).start()


def _watch_head(address: str) -> None:
    last_heard = time.monotonic()
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        if not ray.is_initialized() or interrupt.received():
            return
        if _answers(address):
            last_heard = time.monotonic()
        elif time.monotonic() - last_heard > _PATIENCE - 2 * _SECONDS_BETWEEN_LOOKS:
            interrupt.end_with(
                f"the head of the Ray cluster ({address}) has gone; when there is a cluster again, "
                "the same command with --resume (and the same --name) goes on"
            )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
