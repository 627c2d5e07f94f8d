"""Runs evaluations in a process that writes down what it does outside of itself.

Usage: `python -m tests.watched LOG OUT ARGUMENTS...`, each of ARGUMENTS a JSON list of a command's
own. Into LOG goes how each command ended, and all that it should not have done: connections beyond
this machine, processes, files written outside of OUT, code run from anywhere but where Python's own
and installed code is.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod"), 1),
    **dict.fromkeys(("os.chown", "os.utime", "os.mkfifo"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
}
_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


class Watch:
    """An audit hook.

    Attributes:
        seen: What was done that should not have been.
    """

    def __init__(self, out: Path) -> None:
        self.seen: list[str] = []
        self._out = os.path.realpath(out)
        self._code = [os.path.realpath(each) for each in (sys.prefix, sys.base_prefix)]
        self._code.append(str(Path(__file__).resolve().parents[1]))

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "exec":
            given = (given[0].co_filename,)
        if self._is_wrong(event, given):
            self.seen.append(f"{event} {given!r:.200}")

    def _is_wrong(self, event: str, given: tuple[Any, ...]) -> bool:
        if event.startswith("socket."):
            return not self._is_local(event, given)
        if event == "open":
            return self._writes(given) and not self._is_out(given[0])
        if event in _CHANGES:
            return not all(map(self._is_out, given[: _CHANGES[event]]))
        if event == "exec":
            return not self._is_installed(given[0])
        return event in _PROCESSES

    def _is_local(self, event: str, given: tuple[Any, ...]) -> bool:
        if event not in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
            return True
        address = given[0] if event == "socket.getaddrinfo" else given[1]
        if isinstance(address, str | bytes) and event != "socket.getaddrinfo":
            return True  # A socket of this machine, by a path.
        host = address[0] if isinstance(address, tuple) else address
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @staticmethod
    def _writes(given: tuple[Any, ...]) -> bool:
        _, mode, flags = given
        return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITES)

    def _is_out(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        place = os.path.realpath(os.fsdecode(path))
        return place in (os.devnull, self._out) or place.startswith(self._out + os.sep)

    def _is_installed(self, file: str) -> bool:
        if file.startswith("<"):
            return True
        return os.path.realpath(file).startswith(tuple(self._code))


def main(log: str, out: str, *commands: str) -> None:
    """Runs the commands under watch."""
    from dynat_ray.errors import UserError
    from dynat_ray.evaluate import main as evaluate

    watch, ends = Watch(Path(out)), []
    sys.addaudithook(watch)
    for command in commands:
        before = len(watch.seen)
        try:
            end = f"written {evaluate(json.loads(command))}"
        except UserError as error:
            end = f"error: {' '.join(str(error).split())}"
        except BaseException as error:
            end = f"traceback: {type(error).__name__}: {error}"
        ends.append({"end": end, "seen": watch.seen[before:]})
    Path(log).write_text(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
