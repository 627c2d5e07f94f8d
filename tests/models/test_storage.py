"""Model folders: round trips, timm's own loader, and folders that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import dynat_ray
from dynat_ray.errors import UserError
from dynat_ray.models import Classifier, build_model, load_model, save_model

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(name: str = "preact_resnet18", **kwargs: Any) -> Classifier:
    if name == "preact_resnet18":
        kwargs = {"base_width": 8, "act_layer": "silu"} | kwargs
    model = build_model(
        name,
        num_classes=5,
        channels=3,
        size=(32, 32),
        mean=[0.1, 0.2, 0.3],
        std=[0.4, 0.5, 0.6],
        kwargs=kwargs,
    )
    # Running statistics that are not the initial ones.
    model(IMAGES)
    return model


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("preact_resnet18", {}),
        ("mlp", {}),
        ("resnet18", {}),
        ("vit_tiny_patch16_224", {"depth": 1}),
        # It uses some tensors twice.
        ("coat_tiny", {"serial_depths": [1] * 4, "parallel_depth": 1}),
    ],
)
def test_round_trip_keeps_the_logits_to_the_last_bit(
    tmp_path: Path, name: str, kwargs: dict[str, Any]
) -> None:
    model = build(name, **kwargs)
    save_model(model, tmp_path / "model")
    loaded = dynat_ray.load_model(tmp_path / "model")
    assert not loaded.training
    torch.testing.assert_close(loaded(IMAGES), model.eval()(IMAGES), rtol=0, atol=0)
    # Saving what was loaded gives the same folder.
    save_model(loaded, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert len({file.stat().st_mode for file in (tmp_path / "model").iterdir()}) == 1


@pytest.mark.parametrize("name", ["preact_resnet18", "mlp", "vit_tiny_patch16_224"])
def test_timm_loads_it_with_its_normalisation_in_the_config(tmp_path: Path, name: str) -> None:
    model = build(name).eval()
    save_model(model, tmp_path / "model")
    backbone = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    config = backbone.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert tuple(config["input_size"]) == (3, 32, 32)
    torch.testing.assert_close(backbone((IMAGES - mean) / std), model(IMAGES))


def test_a_run_folder_stands_for_its_model(tmp_path: Path) -> None:
    model = build().eval()
    save_model(model, tmp_path / "run" / "model")
    torch.testing.assert_close(load_model(tmp_path / "run")(IMAGES), model(IMAGES))


def test_memory_format_and_grey_images(tmp_path: Path) -> None:
    model = build().to(memory_format=torch.channels_last)
    save_model(model, tmp_path / "model")
    assert torch.equal(
        load_model(tmp_path / "model").backbone.stem.conv.weight, model.backbone.stem.conv.weight
    )
    grey = build_model(
        "lenet", num_classes=2, channels=1, size=(20, 24), mean=[0.5], std=[0.5]
    ).eval()
    save_model(grey, tmp_path / "grey")
    images = torch.rand(2, 1, 20, 24)
    torch.testing.assert_close(load_model(tmp_path / "grey")(images), grey(images))


def test_saving_replaces_an_older_model(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "model")
    newer = build("mlp").eval()
    save_model(newer, tmp_path / "model")
    torch.testing.assert_close(load_model(tmp_path / "model")(IMAGES), newer(IMAGES))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unwritable_place_leaves_the_older_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build().eval()
    save_model(model, tmp_path / "model")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="No space left"):
        save_model(build("mlp"), tmp_path / "model")
    torch.testing.assert_close(load_model(tmp_path / "model")(IMAGES), model(IMAGES))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickles_are_refused(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = folder / f"pytorch_model{suffix}"
    torch.save(build("mlp").backbone.state_dict(), file)
    for path in (file, folder, tmp_path):
        with pytest.raises(UserError, match="pickle"):
            load_model(path)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=str(path)):
            load_model(path)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    save_model(build("mlp"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "mpl"}, "did you mean"),
        ({"num_classes": 6}, "don't fit"),
        ({"pretrained_cfg": {}}, "describes no model"),
        ({"model_args": {"img_size": "big"}}, "mlp"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    save_model(build("mlp"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "model")


def test_a_config_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    save_model(build("mlp"), tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        load_model(tmp_path / "model")
