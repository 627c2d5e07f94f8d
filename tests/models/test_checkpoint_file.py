"""Files of weights: wrappers come off, nothing is run, and what is no weights is refused."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dynat_ray.errors import UserError
from dynat_ray.models import Classifier, build_model, initialise_from
from dynat_ray.models.importing import read_checkpoint
from tests.models import zoo_networks as zoo

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PLAIN = {"fc.weight": torch.ones(2, 3), "bn.running_mean": torch.zeros(2)}
MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])


def prefixed(prefix: str, **more: torch.Tensor) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in PLAIN.items()} | more


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        OrderedDict(PLAIN),
        {"state_dict": PLAIN, "epoch": 3, "optimizer": {"state": {}}},
        {"model_state_dict": prefixed("module")},
        {"model": {"state_dict": prefixed("_orig_mod.module.model")}},
        {"state_dict": prefixed("model"), "state_dict_ema": PLAIN},
        {"ema": prefixed("module", n_averaged=torch.tensor(3)), "model": {"other": torch.ones(1)}},
        prefixed("backbone") | {"n_averaged": torch.tensor(7)},
    ],
    ids=range(8),
)
@pytest.mark.parametrize("suffix", [".pt", ".pth.tar"])
def test_wrappers_come_off(tmp_path: Path, content: Any, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save(content, file)
    found = read_checkpoint(file)
    assert found.weights.keys() == PLAIN.keys()
    assert torch.equal(found.weights["fc.weight"], PLAIN["fc.weight"])
    assert found.mean == found.std == ()


@pytest.mark.parametrize(
    "content",
    [
        {"mu": MEAN.view(1, 3, 1, 1), "sigma": STD.view(1, 3, 1, 1), **PLAIN},
        prefixed("model") | {"normalize.mean": MEAN, "normalize.std": STD},
        prefixed("1") | {"0.mean": MEAN, "0.std": STD},
        {"model": prefixed("module", **{"module.mean": MEAN, "module.std": STD})},
        prefixed("module.model")
        | {"module.normalizer.new_mean": MEAN, "module.normalizer.new_std": STD}
        | {"module.attacker.normalize.new_mean": MEAN, "module.attacker.normalize.new_std": STD}
        | prefixed("module.attacker.model"),
    ],
    ids=range(5),
)
def test_normalisation_inside_comes_out(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "weights.ckpt"
    torch.save(content, file)
    found = read_checkpoint(file)
    assert found.weights.keys() == PLAIN.keys()
    torch.testing.assert_close(torch.tensor(found.mean), MEAN)
    torch.testing.assert_close(torch.tensor(found.std), STD)


def test_safetensors_are_read_as_well(tmp_path: Path) -> None:
    safetensors.torch.save_file(prefixed("module"), tmp_path / "weights.safetensors")
    assert read_checkpoint(tmp_path / "weights.safetensors").weights.keys() == PLAIN.keys()


class Code:
    """A pickle of it writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".tar"])
def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": PLAIN, "code": Code(tmp_path / "ran")}, file)
    with pytest.raises(UserError, match="is a pickle that needs more than weights.*python -c"):
        read_checkpoint(file)
    assert not (tmp_path / "ran").exists()


def test_a_whole_network_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    file = tmp_path / "network.pt"
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(UserError) as caught:
        read_checkpoint(file)
    line = str(caught.value).partition('python -c "')[2].partition('"')[0]
    exec(line.replace("'weights.pt'", repr(str(tmp_path / "weights.pt"))))
    assert read_checkpoint(tmp_path / "weights.pt").weights.keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, "no weights by name"),
        (torch.ones(3), "no weights by name"),
        ([PLAIN], "no weights by name"),
        (PLAIN | {"fc.weight": torch.tensor([[float("nan")]])}, "not finite, in 'fc.weight'"),
        (PLAIN | {"fc.weight": torch.ones(2, 2).to_sparse()}, "sparse"),
        (PLAIN | {"fc.weight": torch.ones(1).expand(2**40)}, "more numbers than it holds"),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    with pytest.raises(UserError, match=words):
        read_checkpoint(file)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="there is no file"):
        read_checkpoint(tmp_path / f"other-{name}")


def preact(num_classes: int, **kwargs: Any) -> Classifier:
    return build_model(
        "preact_resnet18",
        num_classes=num_classes,
        channels=3,
        size=(32, 32),
        mean=[0.9] * 3,
        std=[0.9] * 3,
        kwargs={"base_width": 8, **kwargs},
    )


def test_training_starts_from_a_file_with_its_normalisation(tmp_path: Path) -> None:
    source = zoo.randomise(zoo.PreActResNet18(8, 7, norm=True))
    file = tmp_path / "weights.pt"
    state = source.state_dict() | {"mu": MEAN.view(1, 3, 1, 1), "sigma": STD.view(1, 3, 1, 1)}
    torch.save({"state_dict": state}, file)
    model = preact(7)
    assert initialise_from(model, str(file)) == []
    expected = source((IMAGES - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
    torch.testing.assert_close(model.eval()(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_a_head_for_other_classes_is_replaced_and_said(tmp_path: Path) -> None:
    source = zoo.randomise(zoo.PreActResNet18(8, 7, norm=True))
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    model = preact(4)
    head = model.backbone.head.fc.weight.clone()
    said = initialise_from(model, str(tmp_path / "weights.pt"))
    assert any("is for 7 classes; the one for 4 classes starts anew" in each for each in said)
    assert torch.equal(model.backbone.head.fc.weight, head)
    assert torch.equal(model.backbone.norm.weight, source.bn.weight)


def test_a_layout_that_needs_another_network_is_not_taken_for_ours(tmp_path: Path) -> None:
    source = zoo.PreActResNet18(8, 7, norm=False)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="raw_shortcut: true"):
        initialise_from(preact(7, final_norm=False), str(tmp_path / "weights.pt"))
    given = preact(7, final_norm=False, raw_shortcut=True)
    initialise_from(given, str(tmp_path / "weights.pt"))
