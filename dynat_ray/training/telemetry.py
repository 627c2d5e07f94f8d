"""What is known of an epoch: values of every training sample, gathered from all workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dynat_ray.atomic_files import atomic_write, make_folder
from dynat_ray.collectives import gather_objects, rank
from dynat_ray.training.step import StepOutcome

# Columns of samples/*.parquet beside index and label; a method leaves out what it does not know.
COLUMNS = {
    "predicted": pa.int32(),
    "confidence_gap": pa.float32(),
    "skewness": pa.float32(),
    "eps": pa.float32(),
    "attack_steps": pa.int32(),
    "kl": pa.float32(),
    "fragility": pa.float32(),
    "weight": pa.float32(),
    "clean_loss": pa.float32(),
    "adversarial_loss": pa.float32(),
    "adversarial_gap": pa.float32(),
}


class SampleLog:
    """Collects per-sample values on the device and reads them when an epoch or checkpoint asks.

    Args:
        earlier: What was gathered of this epoch before, on rank 0.
    """

    def __init__(self, earlier: EpochRecord | None = None) -> None:
        self._earlier = earlier
        self._parts: list[dict[str, Tensor]] = []
        # The step, from 0, of each of them.
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._passes = 0

    def add(self, outcome: StepOutcome) -> None:
        """Takes in a step; nothing is copied to the host."""
        step = len(self._losses)
        self._losses.append(outcome.loss)
        self._passes += outcome.passes.image_gradients
        for part in outcome.parts:
            columns = {"index": part.prepared.batch.indices, "label": part.prepared.batch.labels}
            columns |= {name: value.detach() for name, value in part.record.items()}
            if (adversarial := part.prepared.adversarial) is not None:
                change = adversarial - part.prepared.batch.images
                columns["change"] = change.flatten(1).abs().amax(dim=1)
            self._parts.append(columns)
            self._steps.append(step)

    def gather(self, seconds: float, loader_seconds: float) -> EpochRecord | None:
        """Returns all workers' values of the epoch so far on rank 0, None on the others.

        They are in the order of their steps, and so the same, to the last digit of a mean, wherever
        a run was stopped and went on.

        Args:
            seconds: How long the steps took that were added here.
            loader_seconds: How long this worker waited for their images.
        """
        columns = {
            name: torch.cat([part[name] for part in self._parts]).float().cpu().numpy()
            if name not in ("index", "label")
            else torch.cat([part[name] for part in self._parts]).cpu().numpy()
            for name in (self._parts[0] if self._parts else {})
        }
        losses = torch.stack(self._losses).float().cpu() if self._losses else torch.zeros(0)
        steps = np.repeat(self._steps, [len(part["index"]) for part in self._parts])
        own = (columns, losses.numpy(), self._passes, loader_seconds, steps)
        everyone = gather_objects(own)
        if rank() != 0:
            return None
        by_step = np.argsort(np.concatenate([part[4] for part in everyone]), kind="stable")
        merged = {
            name: np.concatenate([part[0][name] for part in everyone])[by_step]
            for name in everyone[0][0]
        }
        record = EpochRecord(
            merged,
            losses=np.stack([part[1] for part in everyone], axis=1).ravel(),
            passes=sum(part[2] for part in everyone),
            seconds=seconds,
            loader_seconds=max(part[3] for part in everyone),
        )
        return record if self._earlier is None else self._earlier.joined(record)


class EpochRecord:
    """All samples of one epoch.

    Args:
        columns: Values `(N,)` by column, `index` and `label` among them.
        losses: Loss of every step and worker.
        passes: Gradients with respect to images, an attack's steps, summed over the samples.
        seconds: How long the epoch's steps took.
        loader_seconds: For how much of it they waited for images; of the worker that waited
            longest.
    """

    def __init__(
        self,
        columns: dict[str, np.ndarray],
        losses: np.ndarray,
        passes: int,
        seconds: float,
        loader_seconds: float,
    ) -> None:
        self.columns = columns
        self.losses = losses
        self.passes = passes
        self.seconds = seconds
        self.loader_seconds = loader_seconds

    def __len__(self) -> int:
        return len(self.columns["index"])

    @property
    def loss(self) -> float:
        """Mean loss of the epoch."""
        return float(self.losses.mean())

    def joined(self, later: EpochRecord) -> EpochRecord:
        """Returns this part of an epoch and a later one together."""
        columns = {
            name: np.concatenate([values, later.columns[name]])
            for name, values in self.columns.items()
            if name in later.columns
        }
        return EpochRecord(
            columns if later.columns else self.columns,
            np.concatenate([self.losses, later.losses]),
            self.passes + later.passes,
            self.seconds + later.seconds,
            self.loader_seconds + later.loader_seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the record as tensors and numbers, for a checkpoint."""
        return {
            "columns": {name: torch.from_numpy(values) for name, values in self.columns.items()},
            "losses": torch.from_numpy(self.losses),
            "passes": self.passes,
            "seconds": self.seconds,
            "loader_seconds": self.loader_seconds,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> EpochRecord:
        """Returns the record that `state_dict` described."""
        columns = {name: values.numpy() for name, values in state["columns"].items()}
        losses = state["losses"].numpy()
        return cls(columns, losses, state["passes"], state["seconds"], state["loader_seconds"])

    def mean(self, name: str) -> float | None:
        """Returns a column's mean, None if the method has no such column."""
        return float(self.columns[name].mean()) if name in self.columns else None

    def attacked_mean(self, name: str) -> float | None:
        """Returns a column's mean over the samples that have a budget, None without any."""
        attacked = self._attacked()
        if name not in self.columns or attacked is None or not attacked.any():
            return None
        return float(self.columns[name][attacked].mean())

    def attacked_share(self) -> float | None:
        """Returns the share of samples that have a budget, in percent."""
        attacked = self._attacked()
        return None if attacked is None else 100 * float(attacked.mean())

    def changed_share(self) -> float | None:
        """Returns the share of samples that an attack has changed, in percent; None without any."""
        attacked = self._attacked()
        if attacked is None or not {"change", "attack_steps"} <= self.columns.keys():
            return None
        changed = (self.columns["change"] > 0) & (self.columns["attack_steps"] > 0)
        return 100 * float((attacked & changed).mean())

    def _attacked(self) -> np.ndarray | None:
        return self.columns["eps"] > 0 if "eps" in self.columns else None

    def clean_accuracy(self) -> float | None:
        """Returns the share of correct clean predictions, in percent."""
        if "predicted" not in self.columns:
            return None
        return 100 * float((self.columns["predicted"] == self.columns["label"]).mean())

    def robust_accuracy(self) -> float | None:
        """Returns the share of samples that the training attack did not beat, in percent."""
        if "adversarial_gap" not in self.columns:
            return None
        return 100 * float((self.columns["adversarial_gap"] < 0).mean())

    def write(self, file: Path, training_samples: int) -> None:
        """Writes one row per training sample, by index, the last visit's values.

        Args:
            file: Parquet file, replaced as a whole.
            training_samples: Size of the training set; larger indices are extra images.
        """
        indices, last = np.unique(self.columns["index"][::-1], return_index=True)
        rows = (len(self) - 1 - last)[indices < training_samples]
        arrays = {
            "index": pa.array(self.columns["index"][rows], pa.int64()),
            "label": pa.array(self.columns["label"][rows], pa.int32()),
        }
        for name, kind in COLUMNS.items():
            if name in self.columns:
                arrays[name] = pa.array(self.columns[name][rows]).cast(kind, safe=False)
            else:
                arrays[name] = pa.nulls(len(rows), kind)
        make_folder(file.parent)
        with atomic_write(file) as partial:
            pq.write_table(pa.table(arrays), partial)
