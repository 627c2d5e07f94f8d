"""What Ray starts as a worker: asks `fork_server` for a process, and ends as that does.

It imports nothing of Ray or of this package, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
from pathlib import Path

ADDRESS = "DYNAT_RAY_FORK_SERVER"
"""Environment variable: the socket at which the process that forks is asked."""

RAYS = "DYNAT_RAY_WORKER_PROGRAM"
"""Environment variable: path of Ray's own program for a worker."""

OOM_SCORE = Path("/proc/self/oom_score_adj")
LONGEST_ANSWER = 64


def main() -> None:
    """Runs Ray's program, with the arguments of this process, in a forked one."""
    address, program = os.environ.pop(ADDRESS), os.environ.pop(RAYS)
    # As if Python had been started with it.
    sys.argv[0], sys.path[0] = program, str(Path(program).parent)
    request = {
        "arguments": sys.argv,
        "environment": {**os.environ},
        "folder": os.getcwd(),
        # Ray has workers end before anything else where memory is short.
        "oom_score_adj": OOM_SCORE.read_text(),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        except OSError:
            # There is no server, or the environment too large: as Ray does it, only slower.
            runpy.run_path(program, run_name="__main__")
            return
        try:
            status = int(server.recv(LONGEST_ANSWER) or 1)
        except ConnectionError:
            status = 1
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
