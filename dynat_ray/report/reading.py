"""What a run folder holds, as far as the run has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynat_ray.config import RunConfig
from dynat_ray.data import DatasetInfo, load_info
from dynat_ray.errors import UserError
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.description import run_facts
from dynat_ray.storage.environment import read_environment
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import read_run_config

# Characters of a class name below a picture.
_LONGEST_CLASS = 60

# Values `(N,)` by column of a `samples/*.parquet`; columns that the method lacks are left out.
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Attributes:
        folder: Where it is.
        config: Its settings.
        info: Its data set; None if that is not there any more.
        environment: Content of `environment.json`; empty if there is none.
        metrics: A line for each epoch done.
        results: Content of `results.json`; empty before the last evaluation.
        sample_files: Per-sample values by epoch.
    """

    folder: Path
    config: RunConfig
    info: DatasetInfo | None
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, Any]
    sample_files: dict[int, Path]

    def facts(self) -> dict[str, str]:
        """Returns what the run is, a short line for each fact."""
        last = self.metrics[-1] if self.metrics else {}
        measured = {name: last[name] for name in ("precision", "device_name") if name in last}
        facts = self.environment | measured
        return run_facts(self.config, self.info, facts)

    def series(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the epochs (counted from 1) that have a value of a metric, and the values."""
        found = [
            (line["epoch"] + 1, line[name]) for line in self.metrics if line.get(name) is not None
        ]
        pairs = np.array(found, dtype=np.float64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def last_samples(self) -> tuple[int, Columns]:
        """Returns the last epoch with per-sample values (from 0, -1: none) and those values.

        Where compute has ended the run inside an epoch, which saw a part of the samples, that is
        the one before, if there is one.
        """
        if not self.sample_files:
            return -1, {}
        parts = {line["epoch"] for line in self.metrics if line["epochs_done"] < line["epoch"] + 1}
        epoch = max(self.sample_files.keys() - parts or self.sample_files)
        return epoch, read_samples(self.sample_files[epoch])

    def class_name(self, label: int) -> str:
        """Returns a class's name, or its number where the data set is not there."""
        if self.info is not None and 0 <= label < self.info.num_classes:
            return shown_text(self.info.classes[label], _LONGEST_CLASS)
        return f"class {label}"


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        UserError: It has no `config.yaml` that can be read.
    """
    config = read_run_config(folder)
    try:
        info = load_info(config.data.path)
    except UserError:
        info = None
    files = {
        int(file.stem.removeprefix("epoch_")): file
        for file in sorted((folder / "samples").glob("epoch_*.parquet"))
        if file.stem.removeprefix("epoch_").isdecimal() and _is_whole(file)
    }
    return Run(
        folder=folder,
        config=config,
        info=info,
        environment=read_environment(folder),
        metrics=read_metrics(folder / "metrics.jsonl"),
        results=read_json(folder / "results.json"),
        sample_files=files,
    )


def read_samples(file: Path, columns: list[str] | None = None) -> Columns:
    """Reads per-sample values.

    Args:
        file: Parquet file of an epoch.
        columns: Which; None: all.
    """
    table = pq.read_table(file, columns=columns)
    return {
        name: table[name].to_numpy()
        for name in table.column_names
        if len(table) and table[name].null_count == 0
    }


def _is_whole(file: Path) -> bool:
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return False
    return True
