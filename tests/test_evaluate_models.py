"""`evaluate` on models of somebody's own, and on data that a model was not made for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.attacks import registry
from dynat_ray.attacks.registry import Attack
from dynat_ray.attacks.square import Square
from dynat_ray.data import load_info, load_test_images
from dynat_ray.errors import UserError
from dynat_ray.evaluate import main
from dynat_ray.evaluation.subject import require_fit
from dynat_ray.models import load_model, save_model

pytestmark = pytest.mark.usefixtures("undrawn")

MODELS = """
import torch
from torch import nn


class Centre(nn.Module):
    # Knows nothing, but is a network of the right shape with a gradient.
    def __init__(self, outputs=10, bias=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(64, outputs)
        with torch.no_grad():
            self.last.bias[10:] += bias

    def forward(self, images):
        return self.last(images.flatten(1) - 0.5)


class InPlace(Centre):
    def forward(self, images):
        images.sub_(0.5).clamp_(-0.25, 0.25)
        return self.last(images.flatten(1))


class ThreeDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 4, (1, 3, 3))
        self.last = nn.Linear(4 * 36, 10)

    def forward(self, images):
        return self.last(self.first(images.unsqueeze(2)).flatten(1))


class NoGradient(Centre):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


class LeavesPyTorch(Centre):
    def forward(self, images):
        return super().forward(torch.from_numpy(images.numpy().round(3)))


class Fails(Centre):
    def forward(self, images):
        return {"logits": 1}["logit"]


def of_many():
    return Centre(12)


def of_others():
    return Centre(12, bias=100.0)


def fails_to_load():
    return open("/nowhere/weights.pth")
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    quick = Attack("square", (Square(queries=40),), costly=True)
    monkeypatch.setitem(registry._FIXED, "square", quick)


def evaluate(name: str, data: Path, out: Path, attacks: str, *more: str) -> dict:
    what = ("--data", str(data), "--eps", "0.1", "--norm", "Linf", "--samples", "20")
    main([f"own_models:{name}", *what, "--attacks", attacks, "--out", str(out), *more])
    return json.loads(out.read_text())


def flagged(content: dict) -> dict[str, str]:
    return {each["name"]: each["sentence"] for each in content["checks"] if each["flagged"]}


def test_a_model_may_change_its_input_in_place(
    models: None, few_digits: Path, tmp_path: Path
) -> None:
    found = evaluate("InPlace", few_digits, tmp_path / "a.json", "clean,pgd-3,square")["results"]
    again = evaluate("InPlace", few_digits, tmp_path / "b.json", "square,pgd-3,clean")["results"]
    assert found == again
    assert found["pgd-3"]["accuracy"] <= found["clean"]["accuracy"]


def test_a_network_of_three_dimensions(models: None, few_digits: Path, tmp_path: Path) -> None:
    content = evaluate("ThreeDimensional", few_digits, tmp_path / "a.json", "clean,pgd-3")
    assert content["results"]["pgd-3"]["samples"] == 20


@pytest.mark.parametrize("name", ["NoGradient", "LeavesPyTorch"])
def test_without_gradient_only_black_box_attacks_run(
    models: None, few_digits: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "a.json"
    words = r"no gradient .* which pgd-3, autoattack would follow; .* give --attacks clean,square"
    with pytest.raises(UserError, match=words):
        evaluate(name, few_digits, out, "clean,pgd-3,square,autoattack")
    with pytest.raises(UserError, match="which deepfool would follow"):
        evaluate(name, few_digits, out, "clean", "--distances", "deepfool")
    content = evaluate(name, few_digits, out, "clean,square")
    assert set(content["results"]) == {"clean", "square"}
    assert "only black-box attacks" in flagged(content)["zero gradients"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Fails", "the model does not take images of 1 x 8 x 8: 'logit'"),
        ("fails_to_load", "gives no model: FileNotFoundError"),
    ],
)
def test_what_others_code_raises_is_a_line(
    models: None, few_digits: Path, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(name, few_digits, tmp_path / "a.json", "clean")


def test_more_outputs_than_classes_are_flagged(
    models: None, few_digits: Path, tmp_path: Path
) -> None:
    words = flagged(evaluate("of_many", few_digits, tmp_path / "a.json", "clean"))["classes"]
    assert "12 outputs, the data set 10 classes" in words
    assert "never" not in words
    words = flagged(evaluate("of_others", few_digits, tmp_path / "b.json", "clean"))["classes"]
    assert words.endswith("It never says any of them")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (list("abcdefghij"), "class 0 of the model is 'a', but that of data set 'digits' is '0'"),
        (list("0123456798"), "class 8 of the model is '9', but that of data set 'digits' is '8'"),
    ],
)
def test_classes_of_other_names_or_in_another_order(
    run: Path, few_digits: Path, tmp_path: Path, names: list[str], words: str
) -> None:
    model = load_model(run)
    model.label_names = tuple(names)
    save_model(model, tmp_path / "model")
    with pytest.raises(UserError, match=words):
        main([str(tmp_path / "model"), "--data", str(few_digits), "--eps", "0.1", "--norm", "Linf"])


def test_a_name_in_another_form_of_unicode_is_the_same(
    run: Path, few_digits: Path, tmp_path: Path
) -> None:
    model = load_model(run)
    info = load_info(few_digits)
    model.label_names = ("cafe\u0301", *info.classes[1:])
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").label_names == model.label_names
    info.classes[0] = "caf\u00e9"
    require_fit(load_model(tmp_path / "model"), info, torch.rand(1, 1, 8, 8))


def test_a_front_is_followed_and_a_corruption_set_measured(
    run: Path, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = load_test_images(few_digits)
    grey = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    folder = tmp_path / "set"
    folder.mkdir()
    np.save(folder / "contrast.npy", np.concatenate([grey // (k + 1) for k in range(5)]))
    np.save(folder / "labels.npy", labels.numpy())
    (tmp_path / "fronts.py").write_text("def same(model):\n    return model\n")
    sys.path.insert(0, str(tmp_path))
    out = tmp_path / "a.json"
    options = ["--backward", "fronts:same", "--eot", "2", "--corruptions-from", str(folder)]
    try:
        main([str(run), "--attacks", "clean,pgd-3", "--out", str(out), *options])
    finally:
        sys.path.remove(str(tmp_path))
    content = json.loads(out.read_text())
    found = content["corruptions"]["accuracy"]["contrast"]
    assert found["1"] == content["results"]["clean"]["accuracy"]
    assert found["5"] <= found["1"]
    assert "--eot 2: the model gives the same answer every time" in capsys.readouterr().out
    assert "contrast" in out.with_suffix(".html").read_text()
