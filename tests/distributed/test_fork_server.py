"""The process that forks: what it imports, and what a program has that is run in a forked one."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray._private.utils import update_envs

from dynat_ray.distributed import fork_server as module
from dynat_ray.distributed.fork_server import PROGRAM, ForkServer, can_fork
from dynat_ray.distributed.forked_worker import ADDRESS, OOM_SCORE, RAYS, SETS_UP
from dynat_ray.training.freed_memory import KEEP_FREED_MEMORY

pytestmark = pytest.mark.skipif(not can_fork(), reason="Ray's own way is taken here")

SERVER = "NUMBER_OF_THE_SERVER"
# Comes before what the server does. Asked once, a GPU could be used in no forked process.
NO_GPUS = """
import torch

asked = []

def ask(*_):
    asked.append("for GPUs")
    raise AssertionError("asked for GPUs")

for name in ("_cuda_getDeviceCount", "_cuda_init"):
    setattr(torch._C, name, ask)
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = ask
torch.asked = asked
"""
# What a forked process has from the server.
IMPORTED = """
import json, sys
import torch
from dynat_ray.distributed.fork_server import _IMPORTS
wanted = {"ray", *_IMPORTS}
print(json.dumps([torch.asked, sorted(wanted - sys.modules.keys())]))
"""
SHOW = """
import json, os, sys
import __main__
print(json.dumps([
    sys.argv[1:], os.environ["WORD"], os.getcwd(), __main__.__file__, "torch" in sys.modules,
    "DYNAT_RAY_FORK_SERVER" in os.environ,
]))
print("beside", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
# By how much resident memory falls when 30 MiB are freed, in MiB. The second time glibc keeps them.
FREE = """
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

block = bytearray(b"x") * (30 << 20)
before = resident()
del block
print(before - resident())
"""
WAIT = """
import pathlib, os, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables under which a program is forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ADDRESS, "")
        for name in (RAYS, SETS_UP):
            patch.setenv(name, "")
        patch.setattr(module, "_START", NO_GPUS + module._START)
        fork_server = ForkServer(tmp_path_factory.mktemp("fork"), "", "")
        yield {ADDRESS: os.environ[ADDRESS], SERVER: str(fork_server._process.pid)}
        fork_server._process.stdin.close()  # type: ignore[union-attr]
        assert fork_server._process.wait(60) == 0


@pytest.fixture
def fork(server: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        path = tmp_path / "program.py"
        path.write_text(program)
        return subprocess.Popen(
            [sys.executable, PROGRAM, *arguments],
            env={**os.environ, **server, RAYS: str(path), **variables},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def wait_for(file: Path) -> int:
    for _ in range(600):
        if file.exists() and (text := file.read_text()):
            return int(text)
        time.sleep(0.1)
    raise AssertionError("it did not start")


def gone(process: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(process):
            return True
        time.sleep(0.1)
    return False


def test_what_is_imported_is_nothing_of_ray_and_asks_for_no_gpu(
    fork: Callable[..., subprocess.Popen[str]],
) -> None:
    out, errors = fork(IMPORTED).communicate(timeout=60)
    assert not errors
    assert json.loads(out) == [[], ["ray"]]


@pytest.mark.parametrize("there", [True, False], ids=["forked", "without the server"])
@pytest.mark.parametrize("status", [0, 3])
def test_a_program_has_what_it_was_started_with(
    fork: Callable[..., subprocess.Popen[str]], tmp_path: Path, there: bool, status: int
) -> None:
    variables = {} if there else {ADDRESS: str(tmp_path / "nobody")}
    process = fork(SHOW, str(status), "b c", WORD="word", **variables)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors == "beside\n"
    file = str(tmp_path / "program.py")
    assert json.loads(out) == [[str(status), "b c"], "word", str(tmp_path), file, there, False]


@pytest.mark.parametrize("there", [True, False], ids=["forked", "without the server"])
@pytest.mark.parametrize("more", [{}, {"command_prefix": ["exec", "false", "&&"]}])
def test_a_program_may_have_an_environment_of_its_own(
    fork: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    there: bool,
    more: dict[str, list[str]],
) -> None:
    """And what is more than an environment is left to Ray's own program."""
    rays = tmp_path / "rays.py"
    rays.write_text("import json, sys; print(json.dumps(['by Ray', *sys.argv[1:]]))")
    variables = {SETS_UP: str(rays)} | ({} if there else {ADDRESS: str(tmp_path / "nobody")})
    words = {"WORD": "a ${OTHER} ${NOBODY_AT_ALL}b", "NEW": "$OTHER", "PYTHONOPTIMIZE": "1"}
    context = {"env_vars": words, "py_executable": sys.executable, **more}
    asked = [f"--serialized-runtime-env-context={json.dumps(context)}", "--language=PYTHON"]
    process = fork(SHOW, PROGRAM, "0", "--b=c", *asked, WORD="before", OTHER="word", **variables)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    if more:
        assert json.loads(out) == ["by Ray", PROGRAM, "0", "--b=c", *asked]
        return
    file = str(tmp_path / "program.py")
    assert json.loads(out) == [["0", "--b=c"], "a word b", str(tmp_path), file, there, False]


@pytest.mark.usefixtures("local_ray")
def test_variables_are_what_ray_makes_of_them() -> None:
    given = {"WORD": "a ${HOME} ${NOBODY_AT_ALL}b", "NEW": "$HOME"}
    task = ray.remote(num_cpus=0, runtime_env={"env_vars": given})(lambda: dict(os.environ))
    found = ray.get(task.remote())
    with pytest.MonkeyPatch.context() as patch:
        for name in given:
            patch.setenv(name, "")
        update_envs(given)
        assert {name: found[name] for name in given} == {name: os.environ[name] for name in given}
    assert not {ADDRESS, RAYS, SETS_UP} & found.keys()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its allocator is set")
@pytest.mark.parametrize(("there", "keep"), [(True, True), (False, True), (False, False)])
def test_the_allocator_is_as_the_environment_says(
    fork: Callable[..., subprocess.Popen[str]], tmp_path: Path, there: bool, keep: bool
) -> None:
    variables = {} if there else {ADDRESS: str(tmp_path / "nobody")}
    process = fork(FREE, **variables, **(KEEP_FREED_MEMORY if keep else {}))
    out, errors = process.communicate(timeout=60)
    assert not errors
    assert (int(out) < 15) == keep


def test_an_error_is_shown_and_is_a_status(fork: Callable[..., subprocess.Popen[str]]) -> None:
    process = fork("1 / 0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.endswith("ZeroDivisionError: division by zero\n")


def test_who_asked_ends_as_the_forked_process_and_the_other_way_round(
    fork: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = fork(WAIT, str(tmp_path / "first"))
    os.kill(wait_for(tmp_path / "first"), signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    process = fork(WAIT, str(tmp_path / "second"))
    child = wait_for(tmp_path / "second")
    process.kill()
    assert gone(child)


def test_both_ending_at_once_do_no_harm(
    fork: Callable[..., subprocess.Popen[str]], server: dict[str, str], tmp_path: Path
) -> None:
    asking = fork(WAIT, str(tmp_path / "first"))
    child = wait_for(tmp_path / "first")
    forking = int(server[SERVER])
    os.kill(forking, signal.SIGSTOP)
    try:
        os.kill(child, signal.SIGKILL)
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
        asking.kill()
        asking.wait(60)
    finally:
        os.kill(forking, signal.SIGCONT)
    assert gone(child)
    process = fork(SHOW, "0", WORD="word", OMP_NUM_THREADS="2,1", MALLOC_ARENA_MAX="many")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(out)[-2], "it was not forked"


class _Where:
    def threads(self) -> tuple[list[str], int, int]:
        import torch

        score = int(OOM_SCORE.read_text())
        return psutil.Process().parent().cmdline(), torch.get_num_threads(), score


@pytest.mark.usefixtures("local_ray")
def test_ray_has_its_workers_from_there_and_they_end_with_it() -> None:
    actor = ray.remote(num_cpus=0)(_Where).remote()
    parent, threads, score = ray.get(actor.threads.remote())
    assert "fork_server" in " ".join(parent)
    assert threads == 1
    (forking,) = (
        each for each in psutil.Process().children(recursive=True) if each.cmdline() == parent
    )
    sockets = [each.laddr for each in forking.net_connections("unix") if each.laddr]
    assert sockets
    assert all(Path(each).parent.stat().st_mode & 0o077 == 0 for each in sockets)
    assert score > int(OOM_SCORE.read_text()), "where memory is short it would outlive this process"
