"""Keeps the command's mirror of a run up to date while workers write to the store."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dynat_ray.distributed.polling import Poller
from dynat_ray.distributed.progress import NOTES
from dynat_ray.errors import UserError
from dynat_ray.storage.mirror import Mirror

_SECONDS_BETWEEN_POLLS = 2.0
_METRICS = "metrics.jsonl"
_SAMPLES = "samples"


def fetch_metrics(run_folder: Path) -> None:
    """Fetches metrics and notes of a run whose workers write to a store, if it answers.

    Who ends such a run from outside has to: its own process can't any more.
    """
    if mirror := Mirror.of(run_folder):
        with suppress(UserError):
            mirror.pull(only=(_METRICS, NOTES))


def fetch_measured(run_folder: Path) -> None:
    """Fetches samples, too, of which there are many."""
    fetch_metrics(run_folder)
    if samples := Mirror.of(run_folder / _SAMPLES):
        with suppress(UserError):
            samples.pull()


class Follower(Poller):
    """Fetches new metrics and notes while its context lasts, and everything when it ends.

    Args:
        mirror: Of the run's folder.
    """

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(_SECONDS_BETWEEN_POLLS)
        self._mirror = mirror

    def poll(self) -> None:
        """Fetches metrics and notes."""
        # The workers will say what is wrong with the store, if it lasts.
        with suppress(UserError):
            self._mirror.pull(only=(_METRICS, NOTES))

    def poll_last(self) -> None:
        """Fetches everything but events, which this process writes."""
        self._mirror.pull(leave=("tensorboard",))
