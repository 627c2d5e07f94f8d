"""What Ray starts as a worker: asks `fork_server` for a process, and ends as that does.

It imports nothing of Ray or of this package, so that it starts at once. Where workers have an
environment of their own, as Ray Train's do, Ray first starts another program, which imports Ray to
set a few variables: this is started in the place of that, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import socket
import sys
from pathlib import Path

ADDRESS = "DYNAT_RAY_FORK_SERVER"
"""Environment variable: the socket at which the process that forks is asked."""

RAYS = "DYNAT_RAY_WORKER_PROGRAM"
"""Environment variable: path of Ray's own program for a worker."""

SETS_UP = "DYNAT_RAY_SETUP_PROGRAM"
"""Environment variable: path of Ray's own program that starts one in an environment of its own."""

OOM_SCORE = Path("/proc/self/oom_score_adj")
LONGEST_ANSWER = 64


def main() -> None:
    """Runs Ray's program, with the arguments of this process, in a forked one."""
    own_environment = sys.argv[0] in sys.argv[1:]
    if own_environment:
        _set_up()
    address, program = os.environ.pop(ADDRESS), os.environ.pop(RAYS)
    os.environ.pop(SETS_UP, None)
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
            if own_environment:
                # Python and the allocator read their variables when they start.
                os.execv(sys.executable, [sys.executable, *sys.argv])
            runpy.run_path(program, run_name="__main__")
            return
        try:
            status = int(server.recv(LONGEST_ANSWER) or 1)
        except ConnectionError:
            status = 1
    sys.exit(status if status >= 0 else 128 - status)


def _set_up() -> None:
    """Makes environment and arguments those of the worker, of which the arguments tell.

    What is more than variables is left to Ray's own program.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, arguments = parser.parse_known_args()
    context = json.loads(given.serialized_runtime_env_context)
    variables = context.pop("env_vars", None) or {}
    more = context.pop("py_executable", None) not in (None, sys.executable)
    if more or any(context.values()) or given.language != "PYTHON" or arguments[0] != sys.argv[0]:
        os.execv(sys.executable, [sys.executable, os.environ[SETS_UP], *sys.argv[1:]])
    for name, value in variables.items():
        # As Ray: variables in values stand for what they are, and unknown ones for nothing.
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    sys.argv[:] = arguments


if __name__ == "__main__":
    main()
