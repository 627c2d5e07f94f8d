"""Training on a GPU: the weights of training on the CPU. Left out where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dynat_ray.acceleration.modes import in_float32
from dynat_ray.data import load_info
from dynat_ray.perturb import compaction
from dynat_ray.settings import build_config
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import build_network
from dynat_ray.training.trainer import train
from tests.training.test_other_device import CASES, settings_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def standard(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of plain training, which two methods begin with."""
    folder = tmp_path_factory.mktemp("gpu") / "standard"
    _weights("standard", digits, folder, folder, torch.device("cpu"))
    return folder


def _weights(
    case: str, data: Path, standard: Path, folder: Path, device: torch.device
) -> dict[str, Tensor]:
    config = build_config([settings_of(case, data, standard)])
    with in_float32(device):
        train(config, LocalSession(folder, device))
    return load_file(folder / "model_last" / "model.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_training_on_the_cpu(
    case: str, digits: Path, standard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Batches shrink there as they do here: fillers would be seen by batch normalisation.
    monkeypatch.setattr(compaction, "_SIZES", 1 << 30)
    here, there = (
        _weights(case, digits, standard, tmp_path / device, torch.device(device))
        for device in ("cpu", "cuda")
    )
    config = build_config([settings_of(case, digits, standard)])
    start = build_network(config, load_info(digits)).state_dict()
    moved = {
        name: values - start[f"backbone.{name}"]
        for name, values in here.items()
        if values.is_floating_point()
    }
    far = sum(float((there[name] - here[name]).square().sum()) for name in moved) ** 0.5
    way = sum(float(each.square().sum()) for each in moved.values()) ** 0.5
    # Sums in another order turn the sign of gradients that are next to 0, so single pixels differ.
    assert far < 0.05 * way
