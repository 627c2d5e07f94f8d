"""Networks that have no twin are attacked themselves, and it is said why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.acceleration import twin
from dynat_ray.acceleration.fixed_batch_norm import FixedBatchNorm
from dynat_ray.acceleration.twin import twin_status
from dynat_ray.settings import build_config
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
from tests.acceleration.twin_cases import Awkward, frozen_twin, with_statistics
from tests.small_run import SMALL


def test_a_network_that_answers_at_random_has_no_twin() -> None:
    model = with_statistics(Awkward("random"))
    images = torch.rand(4, 3, 8, 8).fill_(0.5)
    assert twin_status(model) == "not asked for"
    with pytest.warns(UserWarning, match="logits or gradients are others"):
        assert frozen_twin(model, images) is model
    assert frozen_twin(model, images) is model
    assert twin_status(model) == "refused 2 times: its logits or gradients are others"


class _NoCopy(nn.Module):
    """What somebody else's network may do when it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def __deepcopy__(self, _: Any) -> nn.Module:
        raise TypeError("cannot pickle a camera\nor a lens")

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def test_why_a_network_has_no_twin_is_said_once_and_counted(
    recwarn: pytest.WarningsRecorder,
) -> None:
    model, images = _NoCopy().eval(), torch.rand(2, 3, 2, 2)
    for _ in range(3):
        assert frozen_twin(model, images) is model
    assert twin_status(model) == "refused 3 times: TypeError: cannot pickle a camera"
    (said,) = recwarn
    assert "TypeError: cannot pickle a camera" in str(said.message)


def test_the_status_of_those_that_have_one_or_need_none() -> None:
    model, images = with_statistics(Awkward("used twice")), torch.rand(4, 3, 8, 8)
    frozen_twin(model, images)
    assert twin_status(model) == "used"
    plain = nn.Flatten().eval()
    assert frozen_twin(plain, images) is plain
    assert twin_status(plain) == "not needed"
    model.norm.register_forward_hook(lambda *_: None)
    assert frozen_twin(model, images) is model
    assert twin_status(model).startswith("refused: hooks")


def test_a_run_says_that_its_network_has_no_twin(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(twin, "_alike", lambda *_: False)
    settings = {**SMALL, "data.path": str(digits), "method.name": "pgd_at"}
    with pytest.warns(UserWarning, match="not on a faster twin"):
        train(build_config([settings]), LocalSession(tmp_path, torch.device("cpu")))
    assert capsys.readouterr().out.count("its logits or gradients are others") == 1
    environment = json.loads((tmp_path / "environment.json").read_text())
    # Two epochs of three steps, and each epoch's validation.
    assert environment["twin"] == "refused 8 times: its logits or gradients are others"


def test_a_twin_with_other_gradients_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = FixedBatchNorm.forward
    monkeypatch.setattr(
        FixedBatchNorm,
        "forward",
        lambda self, features: forward(self, features).detach() + 0 * features,
    )
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    with pytest.warns(UserWarning, match="logits or gradients are others"):
        assert frozen_twin(model, images) is model


@pytest.mark.parametrize(("jumping", "folds"), [(2, True), (3, False)])
def test_gradients_that_jump_at_a_few_images_are_no_reason_against_a_twin(
    jumping: int, folds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = FixedBatchNorm.forward

    def jumps(self: FixedBatchNorm, features: Tensor) -> Tensor:
        steady = forward(self, features)
        # The same outputs, and gradients twice as large.
        return torch.cat((2 * steady[:jumping] - steady[:jumping].detach(), steady[jumping:]))

    monkeypatch.setattr(FixedBatchNorm, "forward", jumps)
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(4, 3, 32, 32)
    assert (frozen_twin(model, images) is not model) == folds
