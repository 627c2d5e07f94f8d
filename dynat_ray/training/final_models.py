"""The two models that a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from dynat_ray.acceleration.network_copy import copied
from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.models import Classifier, load_model, save_model
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.state import Progress
from dynat_ray.training.step import Networks

_TRAINED = "trained.json"


def save_models(
    run_folder: Path, model: Classifier, networks: Networks, progress: Progress, units: float
) -> None:
    """Writes `model/` (best on the validation split) and `model_last/`, then that both are there.

    Without a validation split the last model is also the best.

    Args:
        run_folder: The run's folder.
        model: For the architecture; its weights stay as they are.
        networks: Holds the last weights, averaged where there is an average.
        progress: Epochs done, and the best weights.
        units: Units of compute spent, a training image.
    """
    chosen = copied(model)
    chosen.load_state_dict(networks.evaluated.state_dict())
    save_model(chosen, run_folder / "model_last")
    if progress.best.weights:
        chosen.load_state_dict(progress.best.weights)
    save_model(chosen, run_folder / "model")
    last = {"epoch": progress.epoch - 1, "forward_units": units}
    atomic_write_text(run_folder / _TRAINED, json.dumps(last) + "\n")


def is_trained(run_folder: Path, length: RunLength) -> bool:
    """Returns whether both models are there, whole, and were trained for so long."""
    try:
        spent = length.spent(read_json(run_folder / _TRAINED))
        for name in ("model", "model_last"):
            load_model(run_folder / name)
    except (KeyError, TypeError, ValueError, OverflowError):  # a `UserError` is a ValueError
        return False
    return length.is_reached(spent)


def recorded_epochs(run_folder: Path) -> int:
    """Returns how many epochs the run was trained for when it saved its models; 0: it did not."""
    epoch = read_json(run_folder / _TRAINED).get("epoch")
    return epoch + 1 if isinstance(epoch, int) else 0
