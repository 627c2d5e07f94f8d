"""Sending a mirrored folder to its store while other work goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

from dynat_ray.storage.mirror import Mirror


class BackgroundPush:
    """Sends what is new in a folder, on a thread of its own.

    Args:
        mirror: Of the folder; nobody else pushes it.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def begin(self) -> Future[None]:
        """Has all that the folder holds now sent, without waiting for it."""
        # One that has not begun yet will send it.
        if self._last is None or self._last.running() or self._last.done():
            self._last = self._thread.submit(self._mirror.push)
        return self._last

    def wait(self) -> None:
        """Returns when all that the folder holds now was sent, or could not be: see `check`."""
        wait([self.begin()])

    def check(self) -> None:
        """Raises `UserError` if what was sent last did not arrive.

        What did not arrive before is sent again each time.
        """
        if self._last is not None and self._last.done():
            self._last.result()
