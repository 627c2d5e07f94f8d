"""Training on a device that is not the CPU: the same weights, and few waits for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dynat_ray.method_settings import method_settings
from dynat_ray.perturb import compaction as shrinking
from dynat_ray.settings import build_config
from dynat_ray.training.session import LocalSession
from dynat_ray.training.step import Stepper
from dynat_ray.training.trainer import train
from tests.processes import run_python
from tests.small_run import SMALL

SMALLER = {
    **SMALL,
    "data.limit": 88,
    "model.kwargs": {"layers": [1], "channels": [8], "stem_chs": 8},
    "attack.steps": 2,
    "optim.lr": 0.01,
    "train.epochs": 1,
    "train.batch_size": 40,
    "eval.steps": 1,
    # They round otherwise, which turns the signs of small gradients.
    "train.cpu_kernels": "off",
}
EXTRA: dict[str, dict[str, Any]] = {
    "gairat": {"method.start": 0.0, "method.start_accuracy": 0.0},
    "mail": {"method.start": 0.0},
    "mwpb": {"method.start": 0.0},
    "iaat": {"method.warmup": 0.0, "method.warmup_accuracy": 0.0},
    "generative_ssl": {"method.pretraining": 0.5, "method.width": 4, "train.epochs": 2},
    "deep_defense": {"optim.lr": 0.001},
    "dynat uniform": {"method.misclassified": "uniform", "method.stop_margin": 0.0},
    "dynat add-ons": {
        "train.awp_gamma": 0.01,
        "train.ema_decay": 0.9,
        "train.label_smoothing": 0.1,
        "data.augment": ["crop-1", "flip", "cutout-2", "cutmix"],
    },
    "pgd_at L2": {"threat.norm": "L2", "threat.eps": 0.5, "attack.batch_norm": "train"},
    "pgd_at carried": {
        "attack.carry_epochs": 2,
        "train.micro_batch_size": 16,
        "train.epochs": 2,
    },
    "trades memory": {"train.activation_checkpointing": True, "data.first_image_size": 6},
}
CASES = [*method_settings(), *(name for name in EXTRA if " " in name)]
# Where a step of a method waits for the device. The batch can't shrink without: which samples have
# a budget is asked once an attack, who is done every other step.
_SHRINKING = "perturb/compaction.places_to_keep"
WAITS = {
    "deep_defense": {"perturb/deepfool.deepfool"},
    "dynat": {_SHRINKING},
    "fat": {_SHRINKING},
    "iaat": {_SHRINKING},
    "mwpb": {_SHRINKING},
}


def settings_of(case: str, data: Path, standard: Path) -> dict[str, Any]:
    """Returns a case's settings."""
    name = case.split()[0]
    own = {"method.name": name, "data.path": str(data)}
    if name == "hat":
        own["method.standard_model"] = str(standard)
    if name == "deep_defense":
        own["model.init_from"] = str(standard)
    return {**SMALLER, **own, **EXTRA.get(case, {})}


def main(data: Path, out: Path) -> None:
    """Trains all cases there and here; writes `waits.json` and the models."""
    from tests.other_device import other_device, waits

    torch.set_num_threads(1)
    # Batches shrink there as they do here: fillers would be seen by batch normalisation.
    shrinking._SIZES = 1 << 30
    in_steps: dict[str, int] = {}
    step = Stepper.step

    def counted(self: Stepper, batch: Any, epoch: int, global_step: int, size: int) -> Any:
        before = waits.copy()
        outcome = step(self, batch, epoch, global_step, size)
        # The first makes sure that a network and its twin are alike.
        for place, count in (waits - before).items() if global_step else ():
            in_steps[place] = in_steps.get(place, 0) + count
        return outcome

    Stepper.step = counted  # type: ignore[method-assign]
    found = {}
    standard = out / "standard" / "here"
    for case in ["standard", *(case for case in CASES if case != "standard")]:
        config = build_config([settings_of(case, data, standard)])
        (out / case / "here").mkdir(parents=True)
        (out / case / "there").mkdir()
        train(config, LocalSession(out / case / "here", torch.device("cpu")))
        in_steps.clear()
        with other_device() as device:
            train(config, LocalSession(out / case / "there", device))
        found[case] = dict(in_steps)
    (out / "waits.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `main` has filled."""
    out = tmp_path_factory.mktemp("devices")
    done = run_python("-m", __name__, str(digits), str(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_training_on_the_cpu(case: str, trained: Path) -> None:
    here, there = (
        load_file(trained / case / place / "model_last" / "model.safetensors")
        for place in ("here", "there")
    )
    assert here.keys() == there.keys()
    for name, values in here.items():
        torch.testing.assert_close(there[name], values, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_the_device_where_it_must_only(case: str, trained: Path) -> None:
    waits = json.loads((trained / "waits.json").read_text())[case]
    places = {place.split(":")[0] for place in waits}
    assert places == WAITS.get(case.split()[0], set()), waits


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
