"""What the first worker leaves in the run folder after each epoch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dynat_ray.errors import UserError
from dynat_ray.storage.links import inner_folder, refuse_links
from dynat_ray.storage.metrics import write_metrics
from dynat_ray.training.telemetry import EpochRecord


class RunWriter:
    """Writes an epoch's metrics at once, and its samples on a thread while training goes on.

    A million rows take seconds, in which large clusters train an epoch.

    Args:
        folder: The run's folder.
        training_samples: Size of the training set.

    Raises:
        UserError: The folder holds links through which files elsewhere would be written.
    """

    def __init__(self, folder: Path, training_samples: int) -> None:
        refuse_links(folder)
        self._folder = folder
        self._training_samples = training_samples
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._samples: Future[None] | None = None

    def write_metrics(self, line: dict[str, Any]) -> None:
        """Writes an epoch's metrics.

        Args:
            line: What `metrics.jsonl` is to say of it.

        Raises:
            UserError: The folder can't be written.
        """
        try:
            write_metrics(self._folder / "metrics.jsonl", line)
        except OSError as error:
            raise self._error(error) from error

    def write_samples(self, epoch: int, record: EpochRecord) -> None:
        """Begins to write an epoch's samples.

        Args:
            epoch: Its number, from 0.
            record: Its samples; nobody changes them any more.

        Raises:
            UserError: The folder can't be written, or could not since the last call.
        """
        self.wait()
        try:
            file = inner_folder(self._folder, "samples") / f"epoch_{epoch:04d}.parquet"
        except OSError as error:
            raise self._error(error) from error
        self._samples = self._thread.submit(record.write, file, self._training_samples)

    def wait(self) -> None:
        """Returns when all samples are written: an epoch's belong to the checkpoint after it.

        Raises:
            UserError: They can't be written.
        """
        if self._samples is None:
            return
        try:
            self._samples.result()
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()

    def _error(self, error: OSError) -> UserError:
        return UserError(
            f"the run folder {self._folder} can't be written: {error}; free some space and run the "
            "same command with --resume"
        )
