"""What a local Ray finds in its environment while it starts: folders and a token of its own."""

from __future__ import annotations

import atexit
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dynat_ray import interrupt
from dynat_ray.distributed.forked_worker import ADDRESS, RAYS, SETS_UP
from dynat_ray.distributed.ray_internals import forget_token, has_token, shut_down
from dynat_ray.errors import UserError
from dynat_ray.owned_folder import owned_folder
from dynat_ray.temporary import LASTING

# Paths of sockets have at most 103 characters on some systems, and Ray adds 68 to its folder's.
_LONGEST_BASE = 23
# Python's own sockets, which Ray's dashboard has there, add 32, and the scratch folder 21.
_LONGEST_TMPDIR = 49
_SCRATCH = "dynat-ray-ray-"
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
# Where Ray's processes ask for the state of others. Left to find it, they look for any Ray on the
# machine, and give up if there are two.
STATE_API = "RAY_API_SERVER_ADDRESS"


@contextmanager
def own_environment() -> Iterator[Path]:
    """While its context lasts, a Ray that starts has a token and a folder that are its user's own.

    Ray's processes inherit both and this one remembers them, so that they need not stay in the
    environment, where a later cluster or command would take them for the user's.
    """
    names = (
        *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "TMPDIR"),
        *(LASTING, _COMPILED, STATE_API, ADDRESS, RAYS, SETS_UP),
    )
    before = {name: os.environ.get(name) for name in names}
    private = _private_folder()
    os.environ["RAY_TMPDIR"] = str(private)
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary)) > _LONGEST_TMPDIR:
        temporary = private
    os.environ[LASTING] = str(temporary)
    os.environ.setdefault(_COMPILED, str(temporary / f"torchinductor-{os.getuid()}"))
    scratch = _scratch(temporary)
    os.environ["TMPDIR"] = str(scratch)
    _set_token()
    try:
        yield scratch
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _scratch(parent: Path) -> Path:
    """Returns the folder for temporary files of Ray's processes, which ends with this one.

    Ray kills them, and so they leave what they have there.
    """
    owned = ExitStack()
    folder = owned.enter_context(owned_folder(parent, _SCRATCH))

    def end() -> None:
        shut_down()
        owned.close()

    atexit.register(end)
    # Called after what ends Ray, which is added later.
    interrupt.at_end(owned.close)
    return folder


def _set_token() -> None:
    """Has the environment give Ray a token that nobody else knows.

    `RAY_AUTH_MODE` is the user's word: `disabled` starts Ray without a token, `token` with the
    user's, where there is one. Without a word Ray itself asks for tokens, and would write one into
    the user's home.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if not mode:
        os.environ.pop("RAY_AUTH_MODE", None)
    forget_token()
    if not mode or (mode == "token" and not has_token()):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        forget_token()


def _private_folder() -> Path:
    """Returns the folder for Ray's sockets and logs, which Ray itself lets everybody write to.

    Raises:
        UserError: Somebody else made it.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    if "RAY_TMPDIR" not in os.environ and len(str(base)) > _LONGEST_BASE:
        base = Path("/tmp")
    base.mkdir(parents=True, exist_ok=True)
    folder = base / f"ray-{os.getuid()}"
    with suppress(FileExistsError):  # Whatever it is, it is looked at next.
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(
            f"{folder} is no folder of yours that others can't open, so Ray's sockets would not be "
            "safe there; remove it, or set RAY_TMPDIR to a folder of yours"
        )
    return folder
