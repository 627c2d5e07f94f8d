"""A run that starts from weights of others, as far as it is checked before Ray starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.distributed.training_run import resolve
from dynat_ray.errors import UserError
from dynat_ray.models import build_model, save_model
from dynat_ray.settings import override


def test_the_network_may_be_that_of_the_weights_to_start_from(
    small_config: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"base_width": 8, "act_layer": "silu"}
    source = build_model(
        "preact_resnet10",
        num_classes=7,
        channels=1,
        size=(8, 8),
        mean=[0.5],
        std=[0.5],
        kwargs=kwargs,
    )
    save_model(source, tmp_path / "model")
    start = {"model.name": "auto", "model.kwargs": {}, "model.init_from": str(tmp_path / "model")}
    config, _, _ = resolve(override(small_config, start))
    assert (config.model.name, config.model.kwargs) == ("preact_resnet10", kwargs)
    assert "is for 7 classes; the one for 10 classes starts anew" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model.name": "auto"}, "model.init_from"),
        ({"model.name": "auto", "model.init_from": "nowhere"}, "nowhere"),
        ({"model.name": "auto", "model.init_from": "weights.pt"}, "no file .*weights.pt"),
        ({"model.init_from": "hf-hub:nobody"}, "hf-hub:OWNER/NAME"),
        ({"model.freeze": ["*"]}, "freezes everything"),
    ],
)
def test_weights_that_cannot_be_started_from_are_named(
    small_config: RunConfig, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        resolve(override(small_config, settings))
