"""Addresses of object stores (`s3://`, `gs://`)."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow.fs as stores

from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path

AnswerT = TypeVar("AnswerT")

_SCHEMES = ("s3", "gs", "gcs")
_KEY = re.compile(r"(?i)key|secret|token|passw|credential|signature|@")
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_REFUSED = re.compile(
    r"(?i)ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|EXPIRED"
    r"|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION|HTTP response code 40[13]"
)
# What asking again does not help against.
_FINAL = re.compile(
    r"(?i)NO_SUCH_BUCKET|INVALID_BUCKET|INVALID_PARAMETER|HTTP response code 40[04]"
)
# Addresses in which nothing is escaped: the path is what stands there.
_PLAIN = re.compile(r"s3://(?P<path>[\w.-]+(/[\w./=+~-]*)?)(?P<options>\?.*)?", re.ASCII)
# Before each time that a store which is away is asked again; about a minute in all.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


def is_address(text: str) -> bool:
    """Returns whether `text` names an object store and not a folder.

    Raises:
        UserError: It holds a password, which would end up in files and logs; or it names a kind of
            store that there is not.
    """
    parts = urlsplit(text)
    if not re.match(r"(?i)[a-z0-9+]+://", text):
        return False
    options = _decoded(f"{parts.query}#{parts.fragment}")
    if "@" in _decoded(parts.netloc) or _KEY.search(options):
        raise UserError(
            f"the address {parts.scheme}://... holds a key; give keys through the environment of "
            "the cluster's machines (AWS_ACCESS_KEY_ID and its like) or their roles, since "
            "addresses are written into files and logs"
        )
    if parts.scheme not in _SCHEMES:
        raise UserError(f"'{parts.scheme}://' is no object store; there are s3:// and gs://")
    return True


def _decoded(text: str) -> str:
    """Returns `text` without percent signs, however often they were put over one another."""
    while (plain := unquote(text)) != text:
        text = plain
    return text


def open_store(
    address: str, *, seconds_without_answer: float | None = None
) -> tuple[stores.FileSystem, str]:
    """Returns the file system of an address, and the path in it.

    Args:
        address: Of a store.
        seconds_without_answer: How long a request to S3 may transfer nothing; None: 3, which a
            server that copies a large object to another place may need longer for.

    Raises:
        UserError: It can't be opened.
    """
    found = _PLAIN.fullmatch(address)
    try:
        if found is None:
            system, path = stores.FileSystem.from_uri(address)
        else:
            path, options = found["path"], found["options"] or ""
            bucket = f"s3://{path.partition('/')[0]}{options}"
            system = _bucket(bucket, os.getpid(), tuple(sorted(_settings())))
    except (OSError, ValueError) as error:
        raise UserError(f"the store {address} can't be opened: {error}") from None
    if seconds_without_answer is not None and isinstance(system, stores.S3FileSystem):
        # An address has no word for it.
        make, (options,) = system.__reduce__()
        system = make({**options, "request_timeout": seconds_without_answer})
    return system, path.rstrip("/")


@lru_cache(maxsize=8)
def _bucket(address: str, process: int, settings: object) -> stores.FileSystem:
    """Returns a bucket's file system, of which a process needs one for the same settings.

    A new one looks the bucket's region up, and reads all the machine's certificates (30 ms).
    """
    system, _ = stores.FileSystem.from_uri(address)
    return system


def _settings() -> Iterator[tuple[str, str]]:
    return ((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))


def user_place(text: Path | str) -> Path | str:
    """Returns an address as it is, and a path with a home folder in the place of `~`.

    Raises:
        UserError: As `is_address`.
    """
    return text if is_address(str(text)) else user_path(text)


def absolute_place(text: Path | str) -> str:
    """Returns an address as it is, and a path as it means the same in any working directory.

    Raises:
        UserError: As `is_address`.
    """
    return str(text) if is_address(str(text)) else str(user_path(text).resolve())


def say_waiting(address: str) -> None:
    """Tells that a store is away."""
    print(
        f"waiting: {address} does not answer; asking again for a minute",
        file=sys.stderr,
        flush=True,
    )


def patiently(
    ask: Callable[[], AnswerT],
    address: str,
    advice: str,
    *,
    pause: Callable[[float], object] = time.sleep,
    say: Callable[[str], object] = say_waiting,
) -> AnswerT:
    """Returns what a store answers, which is asked again for a minute if it is away.

    Args:
        ask: Asks it.
        address: What it is asked for.
        advice: See `store_error`.
        pause: Returns after so many seconds, or raises what ends the asking.
        say: Told the address when the store is found to be away.

    Raises:
        FileNotFoundError: There is no such object.
        OSError: The disk of this machine fails.
        UserError: The store does not answer, or refuses to.
    """
    for attempt, seconds in enumerate((*_PAUSES, None)):
        try:
            return ask()
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno:
                raise
            reason = str(error)
            if seconds is None or _REFUSED.search(reason) or _FINAL.search(reason):
                raise store_error(address, error, advice) from None
        if attempt == 0:
            say(address)
        pause(seconds)
    raise AssertionError


def join(address: str, name: str) -> str:
    """Returns the address of something below another; options after `?` stay at the end."""
    base, mark, options = address.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}" if name != "." else address


def split_address(address: str) -> tuple[str, str]:
    """Returns the address of what holds something, and its name there: the reverse of `join`."""
    base, mark, options = address.partition("?")
    parent, _, name = base.rstrip("/").rpartition("/")
    return parent + mark + options, name


def store_error(address: str, error: OSError, advice: str) -> UserError:
    """Returns what to tell of a store that failed, in one line that holds no keys.

    Args:
        address: What was asked for.
        error: What Arrow raised.
        advice: What the user can do, the end of the sentence.
    """
    reason = " ".join(str(error).split())
    for name in _SECRETS:
        if value := os.environ.get(name):
            reason = reason.replace(value, "...")
    if _REFUSED.search(reason):
        return UserError(
            f"the store {address} refuses the keys of this machine: they are missing, wrong or "
            "expired, or may not do this; set AWS_ACCESS_KEY_ID and its like, or the machine's role"
        )
    return UserError(
        f"the store {address} does not answer as it should: {reason[:300]}; look at the "
        f"address, the keys and the network, then {advice}"
    )
