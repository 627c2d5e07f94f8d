"""How a command ends on Ctrl-C (SIGINT) and SIGTERM, whatever it is in the middle of.

Python calls the handler of a signal only when the main thread comes back from the library that it
is in, which may take minutes, and libraries put handlers of their own in the place of ours. So each
signal also goes through a pipe to a thread: it tells those who want to know, and ends the process
itself if the main thread has not done so in time, or at once if a second signal comes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from dynat_ray.command_line import line_with

USER_MISTAKE = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# From the signal on; the rest of 15 is for `_clean_up`, which may take so long for each of its own.
_SECONDS_TO_END = 11.0
_SECONDS_TO_CLEAN_UP = 2.5
# A terminal, a job and whoever watches over it may pass on one and the same signal.
_ONE_SIGNAL = 0.5
# For the main thread to come out of what swallowed an interrupt.
_UNTIL_AGAIN = 0.05


@dataclass
class _Command:
    """What this process, as a command, knows of its end.

    Attributes:
        listening: It is a command.
        running: It is past its imports; before, there is nothing to end but the process.
        number: The first signal that came; 0: none.
        when: That came.
        graceful: The main thread looks for signals itself.
        patient: It is saving something.
        interrupted_by: The signal that interrupted the main thread, which may learn of it before
            the thread that watches does; 0: none.
        said: It was said that the command was stopped.
        line: How to go on.
        on_signal: Called when a signal comes.
        at_end: Called before the end, the last first.
    """

    listening: bool = False
    running: bool = False
    number: int = 0
    when: float = 0.0
    graceful: bool = False
    patient: bool = False
    interrupted_by: int = 0
    lost: bool = False
    own: int = 0
    pipe: int = -1
    said: bool = False
    line: str = ""
    on_signal: list[Callable[[], object]] = field(default_factory=list)
    at_end: list[Callable[[], object]] = field(default_factory=list)


_command = _Command()
_caught_up = threading.Event()
_cleaning_up = threading.Lock()


def listen() -> None:
    """Has this process, a command, end as this module says. Only on the main thread, once."""
    if _command.listening:
        return
    _command.listening = True
    read, _command.pipe = os.pipe()
    os.set_blocking(_command.pipe, False)
    signal.set_wakeup_fd(_command.pipe, warn_on_full_buffer=False)
    take_signals_back()
    sys.unraisablehook = _notice_lost(sys.unraisablehook)
    # A child that is told to end must not tell its parent so, from its first moment on.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_forget)
    threading.Thread(target=_watch, args=(read,), daemon=True).start()


def is_being_started(package: str) -> bool:
    """Returns whether the interpreter is about to run a module of a package (`python -m`)."""
    if sys.argv[:1] != ["-m"] or "-m" not in sys.orig_argv:
        return False
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    return module.startswith(f"{package}.")


def run() -> None:
    """Says that the command begins: a signal interrupts it from now on."""
    listen()
    _command.running = True
    if _command.number:
        raise KeyboardInterrupt


def take_signals_back() -> None:
    """Puts the handlers of a command back, after a library has put its own in their place."""
    if _command.listening and threading.current_thread() is threading.main_thread():
        for each in _SIGNALS:
            signal.signal(each, _interrupt)


def is_command() -> bool:
    """Returns whether this process is a command that listens to signals."""
    return _command.listening


def received() -> int:
    """Returns the signal that came first; 0: none."""
    return _command.number or _command.interrupted_by


def received_so_far() -> int:
    """Returns the signal that came first, also one that only a library's handler has seen; or 0."""
    if _command.listening:
        os.write(_command.pipe, b"\0")
        _caught_up.wait(_ONE_SIGNAL)
    return received()


def status() -> int:
    """Returns what a shell calls the exit of a process that the signal ended."""
    return 128 + (received() or signal.SIGINT)


@contextmanager
def going_on(*options: str) -> Iterator[None]:
    """While its context lasts, a command that is stopped can be gone on with.

    Args:
        options: What its line needs for that, such as `--resume`; those that it has are left out.
    """
    before, _command.line = _command.line, line_with(options)
    yield
    # Not where it was stopped, since it says so at its very end.
    _command.line = before


@contextmanager
def on_signal(tell: Callable[[], object]) -> Iterator[None]:
    """While its context lasts, `tell` is called when a signal comes, in a thread of its own."""
    _command.on_signal.append(tell)
    try:
        yield
    finally:
        _command.on_signal.remove(tell)


@contextmanager
def graceful() -> Iterator[None]:
    """While its context lasts, a signal does not interrupt: the main thread asks `received`."""
    _command.graceful = True
    take_signals_back()
    try:
        yield
    finally:
        _command.graceful = False


def take_your_time() -> None:
    """Lets the main thread end by itself, however long that takes: it is saving something."""
    _command.patient = True


def at_end(clean_up: Callable[[], object]) -> None:
    """Has `clean_up` called before a command ends that was stopped; the last added comes first."""
    _command.at_end.append(clean_up)


def not_at_end(clean_up: Callable[[], object]) -> None:
    """Takes back what `at_end` was told, unless the command is ending and has called it."""
    with suppress(ValueError):
        _command.at_end.remove(clean_up)


def say_stopped(words: str = "") -> None:
    """Says that the command was stopped and how to go on, once."""
    if _command.said:
        return
    _command.said = True
    parts = [words] if words else []
    if _command.line:
        parts.append(f"go on with: {_command.line}")
    _say(f"stopped: {'; '.join(parts)}" if parts else "stopped")


def end_stopped() -> NoReturn:
    """Ends a command that was stopped, and what it has started.

    The interpreter is not taken down: native threads of libraries may wait there for ever.
    """
    say_stopped()
    _leave(status())


def end_with(error: str) -> None:
    """Ends the command from any thread, with what the user can correct."""
    _say(f"error: {error}")
    _leave(USER_MISTAKE)


@contextmanager
def time_limit(seconds: float, error: str) -> Iterator[None]:
    """Ends a command with an error if the context lasts longer, in which nothing can be raised.

    Args:
        seconds: It may last.
        error: What the user can correct.
    """
    if not _command.listening:
        yield
        return
    timer = threading.Timer(seconds, end_with, [error])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _interrupt(number: int, frame: FrameType | None) -> None:
    first = not _command.interrupted_by or _command.lost
    if _command.running and not _command.graceful and first:
        _command.interrupted_by, _command.lost = number, False
        # Of all exceptions Ray passes on this one alone while it waits for something.
        raise KeyboardInterrupt


def _notice_lost(
    report: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    """Has an interrupt raised again that came while a fork or a finaliser was run."""

    def notice(unraisable: sys.UnraisableHookArgs) -> None:
        if _command.interrupted_by and unraisable.exc_type is KeyboardInterrupt:
            _command.lost = True
            threading.Thread(target=_interrupt_again, daemon=True).start()
        else:
            report(unraisable)

    return notice


def _interrupt_again() -> None:
    time.sleep(_UNTIL_AGAIN)
    _command.own += 1
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, _command.interrupted_by)


def _watch(read: int) -> None:
    while True:
        for number in os.read(read, 1):
            if number == 0:
                _caught_up.set()
            if number not in _SIGNALS:
                continue
            if _command.own:
                _command.own -= 1
                continue
            now = time.monotonic()
            if not _command.number:
                _command.number, _command.when = number, now
                if not _command.running:
                    end_stopped()
                threading.Thread(target=_tell, daemon=True).start()
                threading.Thread(target=_end_in_time, daemon=True).start()
            elif now - _command.when > _ONE_SIGNAL:
                say_stopped()
                os._exit(128 + number)


def _tell() -> None:
    for tell in list(_command.on_signal):
        tell()


def _end_in_time() -> None:
    time.sleep(_SECONDS_TO_END)
    while _command.patient:
        time.sleep(0.1)
    end_stopped()


def _leave(status: int) -> NoReturn:
    """Ends what the command has started, and itself; all has been said."""
    # Ray's native threads would go on to say what they lose.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _clean_up()
    os._exit(status)


def _clean_up() -> None:
    """Calls what `at_end` was told, and goes on to the next where one takes longer than it may."""
    # The main thread and the one that watches may both come to end the command.
    with _cleaning_up:
        while _command.at_end:
            thread = threading.Thread(target=_call, args=[_command.at_end.pop()], daemon=True)
            thread.start()
            thread.join(_SECONDS_TO_CLEAN_UP)


def _call(clean_up: Callable[[], object]) -> None:
    with suppress(Exception):
        clean_up()


def _forget() -> None:
    """Runs in a child: what the command listens to is not the child's."""
    if _command.listening:
        vars(_command).update(vars(_Command()))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock()


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _say(line: str) -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
