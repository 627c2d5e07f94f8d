"""A local Ray obeys its own command and nobody else, on none of its ports, and ends with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

NOBODY = 65534
# A run's own needs of Ray: tasks, placement groups, the State API, flags in the store of keys.
COMMAND = """
import json, tempfile, time
import ray
from ray.util.placement_group import placement_group
from ray.util.state import list_placement_groups
from dynat_ray.cli import run
from dynat_ray.distributed.cluster import connect
from dynat_ray.distributed.ray_internals import read_flag, set_flag

def main(argv):
    connect()
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    set_flag("a-flag")
    address = ray.get_runtime_context().gcs_address
    print(json.dumps({
        "address": address,
        "answer": ray.get(ray.remote(num_cpus=0)(lambda: read_flag("a-flag") == "set").remote()),
        "groups": len(list_placement_groups(address=address)),
        "temporary": ray.get(ray.remote(num_cpus=0)(lambda: tempfile.mkdtemp()).remote()),
    }), flush=True)
    ray.wait([ray.remote(num_cpus=0)(lambda: time.sleep(600)).remote()])

run(main)
"""
STRANGER = """
import sys
import ray

try:
    ray.init(address=sys.argv[1], log_to_driver=False)
    print("obeyed", ray.get(ray.remote(num_cpus=0)(lambda: 42).remote()))
except BaseException as error:
    print("refused", type(error).__name__)
"""
OTHER_USER = """
import os, socket, sys

os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
CALLS = [
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/Exit",
    "/ray.rpc.ReporterService/GetTraceback",
]
# Without these a stranger looks for the cluster on another address, and takes minutes to despair.
NEEDED = {
    "PATH": os.environ["PATH"],
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    # Three attempts, a second after one another, instead of twenty.
    "RAY_NUM_REDIS_GET_RETRIES": "3",
}
# The dashboard's pages, below /static/, need no token.
JOBS = [
    "/api/jobs/",
    "/api/job_agent/jobs/",
    "/static/../api/jobs/",
    "/static/%2e%2e/api/jobs/",
    "//api/jobs/",
]


@dataclass
class Started:
    """A command with its Ray."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    folder: Path

    def family(self) -> list[psutil.Process]:
        command = psutil.Process(self.process.pid)
        return [command, *command.children(recursive=True)]

    def ports(self) -> list[int]:
        return sorted(
            {
                connection.laddr.port
                for process in self.family()
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
        )

    def token(self) -> str:
        """As Ray's processes know it."""
        tokens = set()
        for process in self.family():
            # One that has just ended says nothing.
            with suppress(psutil.Error, OSError):
                tokens.add(process.environ().get("RAY_AUTH_TOKEN"))
        (token,) = tokens - {None}
        assert token is not None
        return token


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    # Paths of sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            env=_environment(folder),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said, (folder / "errors").read_text()
    yield Started(process, json.loads(said), folder)
    # Unless the last test below has done so.
    process.terminate()
    process.communicate(timeout=60)
    shutil.rmtree(folder)


def _environment(folder: Path) -> dict[str, str]:
    """This process's, without its word on tokens."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    places = {"HOME": folder / "home", "RAY_TMPDIR": folder, "TMPDIR": folder / "tmp"}
    return own | {name: str(place) for name, place in places.items()}


def test_the_command_itself_is_obeyed(started: Started) -> None:
    assert started.said["answer"] is True
    assert started.said["groups"] == 1


def test_the_token_is_in_no_file_and_no_argument(started: Started) -> None:
    token = started.token()
    assert len(token) == 64
    assert not any(token in " ".join(each.cmdline()) for each in started.family())
    files = [each for each in started.folder.rglob("*") if each.is_file() and not each.is_symlink()]
    assert len(files) > 10
    assert [each for each in files if token.encode() in each.read_bytes()] == []
    assert not (started.folder / "home" / ".ray").exists()


def test_nobody_else_reaches_its_sockets_and_logs(started: Started) -> None:
    (folder,) = started.folder.glob("ray-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.glob("ray/session_*/sockets/*"))
    names = {each.name for each in started.folder.iterdir()}
    assert names == {folder.name, "errors", "home", "tmp"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_does_not_get_to_its_sockets(started: Started) -> None:
    sockets = [each for each in started.folder.rglob("*") if each.is_socket()]
    assert len(sockets) > 1
    done = subprocess.run(
        [sys.executable, "-c", OTHER_USER, str(NOBODY), *map(str, sockets)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["PermissionError"] * len(sockets)


def test_no_stranger_gets_a_task_done(started: Started) -> None:
    words: list[dict[str, str]] = [
        {},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": started.token()},
    ]
    strangers = [
        subprocess.Popen(
            [sys.executable, "-c", STRANGER, started.said["address"]],
            env=NEEDED | word,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for word in words
    ]
    said = [stranger.communicate(timeout=120)[0].strip() for stranger in strangers]
    assert said[3] == "obeyed 42", "the only one who knows the token"
    assert [each for each in said[:3] if "obeyed" in each] == []
    assert all(
        "refused" in each or stranger.returncode != 0
        for each, stranger in zip(said[:3], strangers, strict=False)
    )


def test_no_port_takes_a_job(started: Started) -> None:
    token, sprung = started.token(), started.folder / "sprung"
    taken = []
    for port in started.ports():
        for path in JOBS:
            for headers in ({}, {"Authorization": "Bearer x"}, {"X-Ray-Authorization": "Bearer x"}):
                body = json.dumps({"entrypoint": f"touch {sprung}"})
                status = _ask(port, "POST", path, body, headers)
                if status is not None and status < 400:
                    taken.append((port, path, headers))
    assert taken == []
    assert not sprung.exists()
    known = {"Authorization": f"Bearer {token}"}
    assert 200 in {_ask(port, "GET", JOBS[0], None, known) for port in started.ports()}


def _ask(
    port: int, method: str, path: str, body: str | None, headers: dict[str, str]
) -> int | None:
    """Returns the status; None: this port talks no HTTP."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, headers | {"Content-Type": "application/json"})
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def test_no_port_answers_a_call(started: Started) -> None:
    answered = [
        (port, call, word)
        for port in started.ports()
        for call in CALLS
        for word in ("", "Bearer x", "Bearer ")
        if _call(port, call, word) == grpc.StatusCode.OK
    ]
    assert answered == []
    word = f"Bearer {started.token()}"
    answers = {_call(port, call, word) for port in started.ports() for call in CALLS[:4]}
    assert grpc.StatusCode.OK in answers


def _call(port: int, name: str, word: str) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(name, lambda each: each, lambda each: each)
        try:
            call(b"", timeout=2, metadata=[("authorization", word)] if word else None)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_when_the_command_gets_sigterm_it_says_one_word_and_leaves_nothing(
    started: Started,
) -> None:
    """The last, since it ends it: workers are killed, and their temporary files go too."""
    temporary = started.folder / "tmp"
    assert Path(started.said["temporary"]).is_relative_to(temporary)
    assert list(temporary.glob("dynat-ray-*")) != []
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(timeout=60) == 143
    assert (started.folder / "errors").read_text() == "stopped\n"
    assert list(temporary.glob("dynat-ray-*")) == []
