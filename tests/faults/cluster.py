"""A Ray cluster of its own for a test: `ray start --head` on free ports, with a token."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

_PROGRAMS = Path(sys.executable).parent
_PATIENCE = 60
_COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
    *("rsync_exclude", "rsync_filter"),
)


def free_port() -> int:
    """Returns a port of loopback that nobody listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


class Head:
    """A head node on loopback while its context lasts; whatever it started ends with it.

    Args:
        cpus: Of the node.
        environment: More variables for its processes.
        workers: Kinds of nodes that it may start, as in a file for `ray up`; they are processes of
            this machine.
    """

    def __init__(
        self,
        cpus: int = 2,
        environment: dict[str, str] | None = None,
        workers: dict[str, Any] | None = None,
    ) -> None:
        # Ray's socket paths must stay short.
        self.folder = Path(tempfile.mkdtemp(prefix="head", dir="/tmp"))
        self.home = self.folder / "home"
        self.home.mkdir()
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        self.port, self.dashboard = free_port(), f"http://127.0.0.1:{(web := free_port())}"
        self._web = web
        self._cpus = cpus
        self._workers = workers
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "DYNAT_RAY_"))},
            "PATH": f"{_PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            **(environment or {}),
        }

    def __enter__(self) -> Head:
        command = [
            *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
            *(f"--port={self.port}", f"--dashboard-port={self._web}", "--dashboard-host=127.0.0.1"),
            *(f"--num-cpus={self._cpus}", f"--temp-dir={self.folder / 'ray'}", "--num-gpus=0"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            *(f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000"),
        ]
        if self._workers:
            command.append(f"--autoscaling-config={self._autoscaling()}")
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        self._process = subprocess.Popen(
            command,
            env=self.environment,
            stdout=(self.folder / "start.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        for _ in range(2 * _PATIENCE):
            if self._answers():
                return self
            time.sleep(0.5)
        log = (self.folder / "start.log").read_text()
        self.__exit__(None, None, None)
        raise RuntimeError(f"the head did not start: {log}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes():
            process.kill()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _autoscaling(self) -> Path:
        """Writes what `ray.cluster_utils.AutoscalingCluster` would.

        That itself can't be used: it stops every Ray of the machine, and the file that it starts
        from is not installed.
        """
        content = {
            "cluster_name": "fake",
            "max_workers": 8,
            "provider": {
                "type": "fake_multinode",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "gcs_address": f"127.0.0.1:{self.port}",
            },
            "available_node_types": {
                "ray.head.default": {
                    "resources": {"CPU": self._cpus},
                    "node_config": {},
                    "max_workers": 0,
                },
                **(self._workers or {}),
            },
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 5,
            **{key: {} for key in ("auth", "docker", "file_mounts")},
            **{key: [] for key in _COMMANDS},
        }
        file = self.folder / "autoscaling.json"
        file.write_text(json.dumps(content))
        return file

    def processes(self) -> list[psutil.Process]:
        """Returns all living processes of this cluster, jobs and workers included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RAY_AUTH_TOKEN_PATH") == str(self.folder / "token"):
                    found.append(process)
            except psutil.Error:
                continue
        return [each for each in found if each.pid != os.getpid()]

    def named(self, words: str) -> list[psutil.Process]:
        """Returns the processes whose command line has these words."""
        found = []
        for process in self.processes():
            try:
                if words in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ray(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a `ray job` command against the cluster."""
        group, name, *rest = arguments
        return subprocess.run(
            ["ray", group, name, "--address", self.dashboard, *rest],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )

    def ask(self, path: str) -> dict[str, Any]:
        """Returns the dashboard's answer, which a `ray job` command would take a second for."""
        request = urllib.request.Request(self.dashboard + path)
        request.add_header("Authorization", f"Bearer {(self.folder / 'token').read_text()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: dict[str, Any] = json.loads(answer.read())
        return content

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            return False
        try:
            urllib.request.urlopen(f"{self.dashboard}/api/version", timeout=2)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
        return True


def kill(process: psutil.Process) -> None:
    """Ends a process as a lost machine would: at once, without a word."""
    os.kill(process.pid, signal.SIGKILL)
