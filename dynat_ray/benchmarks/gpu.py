"""What a GPU is measured with in nine minutes, in one process without Ray.

Each part stands by itself, so that what fails or is cut off costs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynat_ray.benchmarks import attack_time, profile, step_time, stopping
from dynat_ray.benchmarks import speedrun as speed_run
from dynat_ray.benchmarks.win import require_same_settings
from dynat_ray.data import load_info
from dynat_ray.distributed.progress import ProgressPrinter
from dynat_ray.settings import Settings, build_config, read_recipe
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.final_models import is_trained
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import check_run
from dynat_ray.training.trainer import train

# So many epochs give the accuracy of the middle of a run, and take half a minute on an H200.
_EPOCHS = 5
_BATCH = 512
# Of AutoAttack against pyautoattack; of the speed run's tests.
_ATTACKED, _TESTED = 256, 1000
_SPEEDRUN_BATCH, _SPEEDRUN_ATTACKS = 250, ("clean", "pgd-20", "autoattack-sampled")
# A few images have several batches, whichever part uses them.
_FEWEST_BATCHES = 10


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be measured.

    Attributes:
        data: Prepared data set.
        folder: Of the trained model that two parts share; one that is there is used again.
        device: Where; on a GPU all steps are compiled.
        rounds: How often each loop is timed.
        images: At most so many training images, and test images; 0: as many as nine minutes allow.
        epochs: Of the trained model and of the speed run; None: 5, and the recipe's.
        width: Channels of the networks' first stage.
        earlier: JSON file with plain PGD-AT, to show beside the speed run; None: there is none.
    """

    data: Path
    folder: Path
    device: str
    rounds: int
    images: int = 0
    epochs: int | None = None
    width: int = 64
    earlier: Path | None = None

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled."""
        return self.device == "cuda"

    def batch(self, most: int) -> int:
        """Returns the size of a batch: `most`, or fewer where images are few."""
        return max(2, min(most, self.images // _FEWEST_BATCHES)) if self.images else most

    def settings(self, batch: int) -> Settings:
        """Returns what the runs have in common."""
        return {
            "data.path": str(self.data.resolve()),
            "data.loader": "memory",
            "data.limit": self.images,
            "model.kwargs": {"base_width": self.width},
            "train.batch_size": self.batch(batch),
            "cluster.workers": 1,
        }


def step(asked: Asked, *, batch_size: int) -> dict[str, Any]:
    """Times a training step against all loops, see `step_time.measure`."""
    found = step_time.measure(
        batch_size=asked.batch(batch_size),
        rounds=asked.rounds,
        device=asked.device,
        compiled=asked.compiled,
        width=asked.width,
    )
    ratios = found["ratios"].items()
    return found | {"ratios": {f"{name}, batch {batch_size}": each for name, each in ratios}}


def dynat_by_pgd_at(asked: Asked) -> dict[str, Any]:
    """Times DynAT's step by PGD-AT's on a half-trained model, see `stopping.measure`."""
    return stopping.measure(
        _half_trained(asked),
        batch_size=asked.batch(_BATCH),
        rounds=asked.rounds,
        device=asked.device,
        compiled=asked.compiled,
    )


def autoattack(asked: Asked) -> dict[str, Any]:
    """Times AutoAttack against pyautoattack on a half-trained model, see `attack_time.measure`."""
    return attack_time.measure(
        run=_half_trained(asked),
        images=min(_ATTACKED, asked.images or _ATTACKED),
        rounds=1,
        device=asked.device,
        on_ray=False,
    )


def wide_resnet(asked: Asked) -> dict[str, Any]:
    """Profiles a step of `wide_resnet28_10` against what the hardware allows at least."""
    found = profile.measure(
        model="wide_resnet",
        batch_size=asked.batch(_BATCH),
        device=asked.device,
        compiled=asked.compiled,
        depth=28,
        widen=max(1, 10 * asked.width // 64),
    )
    print(profile.table(found), end="")
    return found


def speedrun(asked: Asked) -> dict[str, Any]:
    """Trains and attacks `cifar10-speedrun`; plain PGD-AT beside it is that of an earlier file."""
    reference = {} if asked.earlier is None else speed_run.stored_reference(asked.earlier)
    own = asked.settings(_SPEEDRUN_BATCH) | {"train.compile": asked.compiled}
    if asked.epochs:
        own["train.epochs"] = asked.epochs
    found = speed_run.measure(
        asked.data,
        device=asked.device,
        samples=min(_TESTED, asked.images or _TESTED),
        settings=own,
        attacks=_SPEEDRUN_ATTACKS,
        reference=False,
    )
    if reference:
        found["reference"] = reference
    print(speed_run.table(found), end="")
    return found


def _half_trained(asked: Asked) -> Path:
    """Returns the folder of a model of DynAT that two parts share; whoever is first trains it."""
    folder = asked.folder / "dynat"
    own: Settings = {
        "method.name": "dynat",
        "optim.lr": 0.3,
        "optim.schedule": "one-cycle",
        "train.epochs": asked.epochs or _EPOCHS,
    }
    recipe = read_recipe("cifar10-preactresnet18")
    config = build_config([recipe, asked.settings(_BATCH), own])
    check_run(config, load_info(asked.data))
    require_same_settings(folder, config)
    open_run_folder(folder, config, resume=True)
    if not is_trained(folder, RunLength.of(config.train)):
        with ProgressPrinter(folder, config):
            train(config, LocalSession(folder, torch.device(asked.device)))
    return folder
