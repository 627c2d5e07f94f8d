"""One owner at a time for the folder of a run, search or comparison, and for an evaluation's file.

Whoever wants to write puts a claim beside it (`dynat_ray.storage.claims`) and then looks whose
claims there are: of two who come at once, at least one sees the other and steps back, and who sees
nobody is the owner. An owner gives signs of life. One that has died without a word is noticed at
once on its own machine, where its process is looked up; from elsewhere after a minute without a
sign, by the clock of whoever waits, since the clocks of machines differ.

No lock of the system is used: shared file systems do not keep them reliably, object stores have
none.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dynat_ray.atomic_files import make_folder
from dynat_ray.errors import Stopped, UserError
from dynat_ray.interrupt import at_end, end_with, is_command, not_at_end, on_signal
from dynat_ray.object_store import join, split_address
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.claims import (
    Claim,
    Claims,
    FolderClaims,
    StoreClaims,
    read_claim,
    with_beat,
)
from dynat_ray.storage.mirror import Mirror

_SECONDS_BETWEEN_BEATS = 10.0
# Of an owner elsewhere: several beats, and the time for which NFS may show an old file.
_SILENCE = 60.0
# For an owner that was told to end, and may be writing a large checkpoint.
_PATIENCE = 900.0
# For one that is about to find out whether it is alone.
_MOMENT = 5.0
_SECONDS_BETWEEN_LOOKS = 0.5


@contextmanager
def lease(path: Path, kind: str, *, wait: bool) -> Iterator[None]:
    """Keeps all other processes from a folder or file while its context lasts.

    Args:
        path: Folder or file to own; it need not exist, and may be mirrored in an object store.
        kind: What it is of, such as `run`.
        wait: For an owner that is ending or may be dead (`--resume`); else any is refused.

    Raises:
        UserError: It is another process's, or no claim can be written.
    """
    mirror = Mirror.of(path)
    if mirror is not None:
        with store_lease(*split_address(mirror.address), kind, wait=wait):
            yield
        return
    made = [each for each in path.parents if not each.exists()]
    try:
        make_folder(path.parent)
    except OSError as error:
        raise _unwritable(kind, path, error) from None
    try:
        with _held(FolderClaims(path), kind, str(path), wait=wait):
            yield
    finally:
        # A command that was refused has made nothing.
        for each in made:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def store_lease(parent: str, name: str, kind: str, *, wait: bool) -> Iterator[None]:
    """Does the same for a folder in an object store.

    Args:
        parent: Address of what holds it.
        name: The folder's.
        kind: What it is of.
        wait: As above.
    """
    with _held(StoreClaims(parent, name), kind, join(parent, name), wait=wait):
        yield


@contextmanager
def _held(claims: Claims, kind: str, path: str, *, wait: bool) -> Iterator[None]:
    what = f"the {kind} {shown_text(path)}"
    own = Claim()
    try:
        dead = _Waiting(claims, what, wait=wait).claim(own)
    except OSError as error:
        raise _unwritable(kind, path, error) from None
    beats = _Beats(claims, own, what, dead)
    with on_signal(beats.tell_ending), beats:
        yield


def _unwritable(kind: str, path: object, error: OSError) -> UserError:
    return UserError(f"the {kind}'s folder {path} can't be written: {error}")


class _Waiting:
    """Who is in the way, and for how long.

    Args:
        claims: All.
        what: Is claimed, for people.
        wait: For an owner that is ending or may be dead.
    """

    def __init__(self, claims: Claims, what: str, *, wait: bool) -> None:
        self._claims, self._what, self._wait = claims, what, wait
        self._began = time.monotonic()
        # What each claim held when it last changed, when that was, and whether it ever did.
        self._seen: dict[str, tuple[bytes, float, bool]] = {}
        self._said: set[str] = set()

    def claim(self, own: Claim) -> list[str]:
        """Returns, when this process is the owner, the names of the claims in whose place it is.

        Raises:
            UserError: Somebody else is, and will not end soon.
        """
        while True:
            living, _ = self._look()
            if not living:
                self._claims.write(own.encode())
                try:
                    living, dead = self._look()
                    if not living:
                        self._claims.rewrite(with_beat(own, 0, ending=False).encode())
                        for name in dead:
                            self._claims.remove(name)
                        return dead
                except BaseException:
                    self._claims.remove()
                    raise
                self._claims.remove()
            for name, claim in living.items():
                self._wait_for(name, claim)
            # Two who step back for each other must not come back together.
            time.sleep(_SECONDS_BETWEEN_LOOKS * random.uniform(0.2, 1.0))

    def _look(self) -> tuple[dict[str, Claim], list[str]]:
        """Returns the claims of the living by name, and the names of the others'."""
        now = time.monotonic()
        living, dead = {}, []
        for name, content in self._claims.others().items():
            before, since, _ = self._seen.get(name, (content, now, False))
            if content != before:
                self._seen[name] = (content, now, True)
            else:
                self._seen.setdefault(name, (content, now, False))
            claim = read_claim(content)
            silent = not claim.is_near and content == before and now - since > _SILENCE
            if claim.is_dead or silent:
                dead.append(name)
            else:
                living[name] = claim
        return living, dead

    def _wait_for(self, name: str, claim: Claim) -> None:
        """Returns if it makes sense to wait for the end of an owner, and says so once."""
        waited = time.monotonic() - self._began
        if not claim.owner and waited < _MOMENT:
            return
        alive = claim.is_near or self._seen[name][2]
        if not self._wait or (alive and not claim.ending) or waited > _PATIENCE:
            raise UserError(
                f"{self._what} is in use by {claim}; wait for its end, or give another name"
            )
        why = (
            "which was told to end"
            if claim.ending
            else f"which may be dead: its place is taken after {_SILENCE:g} s without a sign of it"
        )
        if name not in self._said:
            self._said.add(name)
            print(f"waiting: {self._what} is held by {claim}, {why}", file=sys.stderr, flush=True)


class _Beats:
    """An owner's signs of life; they end the process if somebody has taken its place.

    Args:
        claims: All.
        own: Its claim.
        what: It owns, for people.
        dead: Names of the claims in whose place it is.
    """

    def __init__(self, claims: Claims, own: Claim, what: str, dead: Sequence[str]) -> None:
        self._claims, self._own, self._what, self._dead = claims, own, what, dead
        self._beat, self._ending, self._over = 0, False, False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        at_end(self._release)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if is_command() and kind is not None and issubclass(kind, (KeyboardInterrupt, Stopped)):
            # What this process has started may still write: it comes after the end of that.
            return
        not_at_end(self._release)
        self._release()

    def _release(self) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()
        with suppress(OSError):
            self._claims.remove()

    def tell_ending(self) -> None:
        """Lets others know that this process was told to end."""
        self._ending = True
        self._wake.set()

    def _go_on(self) -> None:
        while True:
            self._wake.wait(_SECONDS_BETWEEN_BEATS)
            self._wake.clear()
            if self._over:
                return
            self._beat += 1
            claim = with_beat(self._own, self._beat, ending=self._ending)
            try:
                self._claims.rewrite(claim.encode())
                self._look_for_a_successor()
            except FileNotFoundError:
                end_with(
                    f"{self._what} was taken over by another process, since this one had not been "
                    f"heard of for {_SILENCE:g} s"
                )
                return
            except OSError:
                # The disk or store may be back at the next beat.
                continue

    def _look_for_a_successor(self) -> None:
        """Raises `FileNotFoundError` if another owns it.

        A store writes what was removed a moment ago anew: the claim of an owner that had been taken
        for dead is back, beside that of its successor, which removes it again.
        """
        for name, content in self._claims.others().items():
            if name in self._dead:
                self._claims.remove(name)
            elif read_claim(content).owner:
                raise FileNotFoundError(name)
