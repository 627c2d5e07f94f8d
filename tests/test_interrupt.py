"""How a command ends on a signal, whatever it is in the middle of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import said, started, started_module

# Without PyTorch, which `cli` imports; what `cli.run` does on signals.
BEGIN = """
import os, signal, sys, threading, time
from dynat_ray import interrupt
from dynat_ray.errors import Stopped

def ready():
    print("ready", flush=True)

def run(main):
    try:
        interrupt.run()
        print(main(sys.argv[1:]))
    except Stopped as stopped:
        interrupt.say_stopped(str(stopped))
        interrupt.end_stopped()

"""
SLEEPS = """
from dynat_ray import cli
interrupt._SECONDS_TO_CLEAN_UP = 0.5

def main(arguments):
    interrupt.at_end(lambda: print("cleaned", flush=True))
    # It does not come back; the others still have their turn.
    interrupt.at_end(lambda: time.sleep(60))
    with interrupt.going_on("--name", "one", "--resume"):
        ready()
        time.sleep(60)

cli.run(main)
"""
# A library that the main thread does not come back from, and whose handler is in place of ours.
DEAF = """
import ctypes
interrupt._SECONDS_TO_END = 0.5

def main(arguments):
    signal.signal(signal.SIGINT, lambda *arguments: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if arguments else lambda *arguments: None)
    ready()
    ctypes.CDLL(None).usleep(60_000_000)
    while True:
        ctypes.CDLL(None).sleep(60)

run(main)
"""
# A library whose own handler ends the interpreter.
ENDS = """
from dynat_ray import cli

def main(arguments):
    signal.signal(signal.SIGINT, lambda *arguments: sys.exit(1))
    signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(1))
    ready()
    time.sleep(60)

cli.run(main)
"""
SAVES = """
interrupt._SECONDS_TO_END = 0.2

def main(arguments):
    with interrupt.graceful():
        ready()
        while not interrupt.received():
            time.sleep(0.01)
        interrupt.take_your_time()
        time.sleep(1)
        print("saved", flush=True)
    raise Stopped("a checkpoint is written")

run(main)
"""
FORKS = """
def main(arguments):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(0.5)
    return "written"

run(main)
"""
# Python lets no exception through where it calls these.
SWALLOWED = """
from dynat_ray import cli
interrupt._SECONDS_TO_END = 600

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[2]))

def main(arguments):
    ready()
    if arguments[0] == "fork":
        os.register_at_fork(after_in_parent=Finalised().__del__)
        if os.fork() == 0:
            os._exit(0)
    else:
        Finalised()
    time.sleep(60)

cli.run(main)
"""
LIMITED = """
def main(arguments):
    with interrupt.time_limit(0.2, "nobody answers"):
        time.sleep(60)

run(main)
"""
# The thread that watches has not had its turn yet when the main thread is interrupted.
SLOW_TO_WATCH = """
from dynat_ray import cli
interrupt._watch = lambda read: time.sleep(60)

def main(arguments):
    ready()
    time.sleep(60)

cli.run(main)
"""
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_it_says_that_it_stopped_and_how_to_go_on(number: int, status: int) -> None:
    program = started(BEGIN + SLEEPS, "--trials", "3", "--resume")
    program.send_signal(number)
    out, errors = said(program)
    assert program.returncode == status
    assert out == ["cleaned"]
    (line,) = errors
    assert line == "stopped: go on with: python -c --trials 3 --resume --name one"


@pytest.mark.parametrize("library", [DEAF, ENDS], ids=["deaf", "ends"])
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_library_that_takes_the_signal_over_does_not_keep_it(
    number: int, status: int, library: str
) -> None:
    program = started(BEGIN + library)
    program.send_signal(number)
    _, errors = said(program)
    assert program.returncode == status
    assert errors == ["stopped"]


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_the_main_thread_may_learn_of_a_signal_first(number: int, status: int) -> None:
    program = started(BEGIN + SLOW_TO_WATCH)
    program.send_signal(number)
    _, errors = said(program)
    assert (program.returncode, errors) == (status, ["stopped"])


@pytest.mark.parametrize("where", ["fork", "finaliser"])
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_an_interrupt_that_python_swallows_is_raised_again(
    where: str, number: int, status: int
) -> None:
    program = started(BEGIN + SWALLOWED, where, str(int(number)))
    _, errors = said(program)
    assert (program.returncode, errors) == (status, ["stopped"])


def test_a_second_signal_ends_at_once() -> None:
    program = started(BEGIN + DEAF.replace("0.5", "600"))
    program.send_signal(signal.SIGINT)
    # One signal may come twice.
    program.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(1)
    program.send_signal(signal.SIGTERM)
    _, errors = said(program)
    assert program.returncode == 143
    assert errors == ["stopped"]


def test_what_is_being_saved_is_waited_for() -> None:
    program = started(BEGIN + SAVES)
    program.send_signal(signal.SIGTERM)
    out, errors = said(program)
    assert program.returncode == 143
    assert out == ["saved"]
    assert errors == ["stopped: a checkpoint is written"]


def test_the_end_of_a_child_is_not_the_commands() -> None:
    program = subprocess.run(
        [sys.executable, "-c", BEGIN + FORKS], capture_output=True, text=True, check=False
    )
    assert (program.returncode, program.stdout) == (0, "written\n"), program.stderr


def test_a_wait_that_has_a_limit() -> None:
    program = subprocess.run(
        [sys.executable, "-c", BEGIN + LIMITED], capture_output=True, text=True, check=False
    )
    assert (program.returncode, program.stderr) == (2, "error: nobody answers\n")


def test_names_that_a_terminal_can_not_show(tmp_path: Path) -> None:
    program = "from dynat_ray import cli; cli.run(lambda arguments: arguments[0])"
    done = subprocess.run(
        [sys.executable, "-c", program, "rün"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"r?n\n"), done.stderr


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_also_while_it_imports(tmp_path: Path, number: int, status: int) -> None:
    """PyTorch takes seconds; one that never comes back stands in for it."""
    (tmp_path / "torch.py").write_text("print('ready', flush=True)\nimport time\ntime.sleep(60)\n")
    program = started_module("dynat_ray.train", path=tmp_path)
    program.send_signal(number)
    _, errors = said(program)
    assert (program.returncode, errors) == (status, ["stopped"])
