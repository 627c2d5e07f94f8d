from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynat_ray.data import DatasetInfo
from dynat_ray.errors import UserError
from dynat_ray.evaluation import subject as module
from dynat_ray.evaluation.subject import image_size_for, load_subject
from dynat_ray.models import Classifier, build_model, save_model


def _info(**changes: Any) -> DatasetInfo:
    values: dict[str, Any] = {
        "name": "own",
        "source": "folder:own",
        "classes": ["a", "b"],
        "channels": 3,
        "size": None,
        "storage": "jpeg",
        "max_side": 500,
        "counts": {"test": 4},
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "checksum": "c",
    }
    return DatasetInfo(**{**values, **changes})


def _model() -> Classifier:
    return build_model(
        "mlp", num_classes=2, channels=3, size=(12, 12), mean=[0.5] * 3, std=[0.2] * 3
    )


def test_settings_of_the_run_come_along(tmp_path: Path) -> None:
    for name in ("model", "model_last"):
        save_model(_model(), tmp_path / name)
    (tmp_path / "config.yaml").write_text("threat: {norm: L2, eps: 0.5}\n")
    for path in (tmp_path, tmp_path / "model_last"):
        found = load_subject(str(path))
        assert found.run == tmp_path
        assert found.settings["threat.norm"] == "L2"
    (tmp_path / "config.yaml").unlink()
    assert load_subject(str(tmp_path / "model")).run is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threat: {norm: L7}", "threat.norm is 'L7'"),
        ("threat: {eps: x}", "threat.eps is 'x'"),
        ("data: {path: [a]}", "data.path is"),
        ("data: {image_size: -1}", "data.image_size is -1"),
        ("eval: {samples: many}", "eval.samples is 'many'"),
        ("train: {seed: 1.5}", "train.seed is 1.5"),
        ("data: &a {path: *a}", "stands for more than"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
    ],
)
def test_settings_of_a_strangers_run_are_checked(tmp_path: Path, text: str, words: str) -> None:
    save_model(_model(), tmp_path / "model")
    (tmp_path / "config.yaml").write_text(text + "\n")
    with pytest.raises(UserError, match=rf"config\.yaml.*{words}"):
        load_subject(str(tmp_path))


def test_what_an_evaluation_has_no_use_for_is_left_out(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "model")
    (tmp_path / "config.yaml").write_text("method: {name: nobody}\ndata: {path: here, more: 1}\n")
    assert load_subject(str(tmp_path)).settings == {"data.path": "here"}


def test_images_of_any_size_are_brought_to_the_models(tmp_path: Path) -> None:
    save_model(_model(), tmp_path)
    subject = load_subject(str(tmp_path))
    assert image_size_for(subject, _info()) == 12
    assert image_size_for(subject, _info(size=(20, 20))) == 0


def test_a_name_of_timms_comes_with_its_weights_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def build(name: str, **settings: Any) -> nn.Module:
        asked.update(settings, name=name)
        return _model()

    monkeypatch.setattr(module, "build_model", build)
    subject = load_subject("resnet18")
    assert asked["name"] == "resnet18"
    assert asked["pretrained"] is True
    assert asked["num_classes"] == 1000
    assert image_size_for(subject, _info(size=(64, 64))) == asked["size"][0] == 224


def test_a_name_without_weights_or_no_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no published weights"):
        load_subject("preact_resnet18")
    with pytest.raises(UserError, match="there is no model"):
        load_subject("resnet-of-my-dreams")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("make = 3", "gives no model"),
        ("def make(): return 3", "must return an nn.Module, not int"),
        ("def make(size): return size", "gives no model"),
        ("def make(): raise SystemExit", "gives no model: SystemExit"),
    ],
)
def test_functions_that_make_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    name = f"maker_{len(body)}"
    (tmp_path / f"{name}.py").write_text(body + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        load_subject(f"{name}:make")


def test_a_model_is_ready_to_be_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "maker_half.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()).half().train()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = load_subject("maker_half:make").model
    assert not any(part.training for part in model.modules())
    weight = next(model.parameters())
    assert weight.dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last)
