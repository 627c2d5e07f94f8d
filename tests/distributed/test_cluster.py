"""A local Ray: nobody else reaches it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import services
from ray.util.state import list_nodes

from dynat_ray.distributed import cluster, local_environment
from dynat_ray.distributed.cluster import connect, require_everywhere
from dynat_ray.errors import UserError
from tests.programs import said, started

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_local_ray_listens_on_loopback_only() -> None:
    ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())
    own = psutil.Process()
    addresses = [
        (process.name(), connection.laddr.ip)
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(addresses) > 5
    loopback = ("127.", "::1", "::ffff:127.")
    assert [each for each in addresses if not each[1].startswith(loopback)] == []


def test_on_one_machine_no_training_has_a_process_that_looks_for_drained_nodes() -> None:
    assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"


def test_its_processes_ask_it_for_states_where_a_second_ray_runs() -> None:
    """Ray Train frees what the workers of a dead controller held by what it hears then."""

    def nodes_known_to_a_worker() -> list[str]:
        assert services.find_gcs_addresses()
        services.find_gcs_addresses = lambda: {"127.0.0.1:1", "127.0.0.1:2"}  # type: ignore[assignment]
        return [node.node_id for node in list_nodes()]

    known = ray.get(ray.remote(num_cpus=0)(nodes_known_to_a_worker).remote())
    assert known == [node["NodeID"] for node in ray.nodes()]


def test_a_path_that_one_of_two_machines_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = ray.nodes() * 2
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    require_everywhere([tmp_path])
    with pytest.raises(UserError, match=r"has no .*/missing; prepared data must lie"):
        require_everywhere([tmp_path, tmp_path / "missing"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_while_ray_starts_leaves_nothing(
    number: int, status: int
) -> None:
    program = started(
        "import threading, time\n"
        "from dynat_ray import interrupt\n"
        "from dynat_ray.cli import run\n"
        "from dynat_ray.distributed.cluster import connect\n"
        "from dynat_ray.processes import descendants\n"
        "interrupt._SECONDS_TO_END = 600\n"
        "def tell():\n"
        "    while not descendants():\n"
        "        time.sleep(0.01)\n"
        "    print('ready', flush=True)\n"
        "def main(argv):\n"
        "    threading.Thread(target=tell, daemon=True).start()\n"
        "    connect()\n"
        "    time.sleep(600)\n"
        "run(main)\n"
    )
    processes = psutil.Process(program.pid).children(recursive=True)
    program.send_signal(number)
    _, errors = said(program)
    assert (program.returncode, errors) == (status, ["stopped"])
    _, left = psutil.wait_procs(processes, timeout=10)
    assert processes
    assert left == []


@pytest.mark.parametrize("failures", [1, 9])
def test_a_start_that_takes_too_long_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """On a machine that has no core to spare Ray gives up after half a minute."""
    attempts = []

    def start(**_: object) -> None:
        attempts.append(1)
        if len(attempts) <= failures:
            raise Exception("The current node timed out during startup. This could ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if failures == 1:
        connect()
        assert len(attempts) == 2
    else:
        with pytest.raises(UserError, match="other work takes all of its cores"):
            connect()
        assert len(attempts) == 3


@pytest.mark.parametrize(
    ("word", "given"),
    [
        ({}, "own"),
        ({"RAY_AUTH_MODE": ""}, "own"),
        ({"RAY_AUTH_TOKEN": "of another cluster"}, "own"),
        ({"RAY_AUTH_MODE": "token"}, "own"),
        ({"RAY_AUTH_MODE": "Token", "RAY_AUTH_TOKEN": "mine"}, "mine"),
        ({"RAY_AUTH_MODE": "disabled"}, None),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine"}, "mine"),
    ],
)
def test_each_cluster_has_a_token_of_its_own_unless_the_user_has_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, word: dict[str, str], given: str | None
) -> None:
    seen: list[dict[str, str]] = []
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in word.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(dict(os.environ)))
    monkeypatch.setattr(local_environment, "has_token", lambda: "RAY_AUTH_TOKEN" in os.environ)
    before = dict(os.environ)
    connect()
    connect()
    tokens = [each.get("RAY_AUTH_TOKEN") for each in seen]
    if given == "own":
        assert [len(token or "") for token in tokens] == [64, 64]
        assert tokens[0] != tokens[1]
        assert [each.get("RAY_AUTH_MODE") for each in seen] in ([None, None], ["token"] * 2)
    else:
        assert tokens == [given, given]
        assert [each["RAY_AUTH_MODE"] for each in seen] == [word["RAY_AUTH_MODE"]] * 2
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    assert [os.environ.get(name) for name in names] == [before.get(name) for name in names]


@pytest.mark.parametrize("address", ["", "127.0.0.1:6379"])
def test_a_token_that_is_not_there_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def refuse(**_: object) -> None:
        raise ray.exceptions.AuthenticationError("there is no token")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(cluster, "_require_listener", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match="there is no token; Ray looks for"):
        connect()


def test_a_folder_for_sockets_that_others_can_open_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    connect()
    folder = tmp_path / f"ray-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(UserError, match="others can't open"):
        connect()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="others can't open"):
        connect()


def test_paths_of_sockets_are_short_enough(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Where the user's folder for temporary files has a long name, as on a Mac."""
    places: list[str | None] = []
    names = ("RAY_TMPDIR", "TMPDIR")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: places.extend(map(os.environ.get, names)))
    for name in names:
        monkeypatch.delenv(name, raising=False)
    own = f"/tmp/ray-{os.getuid()}"
    for length, place in ((49, None), (110, own)):
        # Not within `tmp_path`, which is longer.
        folder = f"/tmp/{os.getpid()}-".ljust(length, "x")
        Path(folder).mkdir()
        request.addfinalizer(partial(shutil.rmtree, folder))
        monkeypatch.setattr(tempfile, "tempdir", folder)
        places.clear()
        connect()
        assert places[0] == own
        assert Path(places[1] or "").parent == Path(place or folder)
        assert not set(names) & os.environ.keys()


def test_the_address_of_the_dashboard_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """People export it for `ray job submit`."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match="no address of a cluster"):
        connect()
