"""Training images that grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.data import Batch, load_info
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training.resolution import shrunk
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import check_run
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


def batch(height: int, width: int) -> Batch:
    return Batch(torch.rand(5, 3, height, width), torch.arange(5), torch.arange(5))


def test_images_grow_in_four_steps_until_their_part_of_the_run() -> None:
    data = DataConfig(first_image_size=16, size_growth=0.5)
    whole = batch(32, 32)
    sides = [shrunk(whole, data, progress / 16).images.shape[2] for progress in range(16)]
    assert sides == [16, 16, 20, 20, 24, 24, 28, 28] + 8 * [32]
    assert shrunk(whole, data, 0.5) is whole
    assert shrunk(whole, DataConfig(), 0.0) is whole


def test_shape_colour_and_labels_stay() -> None:
    whole = batch(40, 20)
    whole.images[1] = torch.tensor([0.0, 0.5, 1.0])[:, None, None]
    small = shrunk(whole, DataConfig(first_image_size=20), 0.0)
    assert small.images.shape == (5, 3, 20, 10)
    torch.testing.assert_close(small.images[1], whole.images[1, :, :20, :10])
    torch.testing.assert_close(
        small.images.mean((2, 3)), whole.images.mean((2, 3)), atol=0.02, rtol=0
    )
    assert float(small.images.min()) >= 0
    assert float(small.images.max()) <= 1
    assert torch.equal(small.labels, whole.labels)
    assert whole.images.shape == (5, 3, 40, 20)


@pytest.mark.parametrize("method", ["dynat", "generative_ssl", "aalp", "uad_at"])
def test_a_run_grows_and_goes_on(small_config: RunConfig, tmp_path: Path, method: str) -> None:
    settings = {"data.first_image_size": 5, "method.name": method, "train.epochs": 3}
    if method == "generative_ssl":
        settings |= {"method.pretraining": 0.0, "method.width": 4}
    config = override(small_config, settings)
    check_run(config, load_info(config.data.path))
    train(config, LocalSession(tmp_path, CPU))
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data.first_image_size": 8}, "they can only grow"),
        ({"data.first_image_size": 4, "model.name": "mlp", "model.kwargs": {}}, "'mlp' does not"),
        ({"data.first_image_size": 4, "attack.carry_epochs": 3}, "size does not change"),
    ],
)
def test_what_can_not_grow_is_said_before_training(
    small_config: RunConfig, settings: dict[str, Any], words: str
) -> None:
    config = override(small_config, settings)
    with pytest.raises(UserError, match=words):
        check_run(config, load_info(config.data.path))
