"""Model folders of strangers: whatever they hold, opening them is a model or one short line."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dynat_ray.errors import UserError
from dynat_ray.hardware import machine_memory_bytes
from dynat_ray.models import build_model, load_model, save_model
from dynat_ray.models.sketch import TooLarge, at_most, without_numbers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model that a test may spoil."""
    model = build_model(
        "preact_resnet10",
        num_classes=3,
        channels=1,
        size=(8, 8),
        mean=[0.5],
        std=[0.5],
        kwargs={"base_width": 8},
    )
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path, words: str = ".") -> str:
    with pytest.raises(UserError, match=words) as caught:
        load_model(folder)
    message = " ".join(str(caught.value).split())
    assert len(message) < 1000
    return message


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    described = json.loads(file.read_text())
    for key, value in values.items():
        inner = described["pretrained_cfg"] if key in described["pretrained_cfg"] else described
        (described if key in described else inner)[key] = value
    file.write_text(json.dumps(described))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "3",
        '"a"',
        "{}",
        "[" * 100_000,
        '{"a":' * 1000 + "1" + "}" * 1000,
        "9" * 10_000,
        "{" + " " * 2**21 + "}",
        "\0" * 100,
    ],
)
def test_a_config_that_is_anything(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, r"config\.json")


@pytest.mark.parametrize(
    "value", [None, [], {}, "x", -1, 0, 1.5, True, 10**400, float("nan"), [[]]]
)
@pytest.mark.parametrize(
    "key", ["architecture", "num_classes", "pretrained_cfg", "input_size", "mean", "std"]
)
def test_a_value_of_any_type(folder: Path, key: str, value: Any) -> None:
    change(folder, **{key: value})
    refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("std", [0.0]),
        ("std", [-1.0]),
        ("std", [float("inf")]),
        ("mean", [float("nan")]),
        ("mean", [1e400]),
        ("mean", [0.5] * 100_000),
        ("input_size", [10**9, 8, 8]),
        ("input_size", [1, 10**9, 10**9]),
        ("input_size", [1, 8]),
        ("input_size", [2, 8, 8]),
        ("num_classes", 4),
        ("num_classes", 2**23),
        ("num_classes", 10**12),
        ("architecture", "lenet"),
        ("architecture", "preact_resnet10" * 1000),
        ("model_args", {"base_width": 16}),
        ("model_args", {"base_width": 65536}),
        ("model_args", {"base_width": 8, "layers": [60_000, 1, 1, 1]}),
        ("model_args", {"base_width": 8, "channels": [65536] * 4}),
        ("model_args", {"base_width": 8, "block_args": {"pretrained": True}}),
        ("model_args", {"base_width": 8, "act_layer": "builtins.exec"}),
        ("model_args", 3),
    ],
)
def test_sizes_that_are_not_those_of_the_weights(folder: Path, key: str, value: Any) -> None:
    change(folder, **{key: value})
    refused(folder)


def test_what_outgrows_its_weights_is_never_held() -> None:
    with pytest.raises(TooLarge), at_most(numbers=10, tensors=10):
        torch.nn.Linear(2**17, 2**15)
    with pytest.raises(TooLarge), at_most(numbers=10, tensors=10):
        [torch.nn.Module().add_module("part", torch.nn.ReLU()) for _ in range(100_000)]
    with without_numbers():
        assert torch.nn.Linear(2**17, 2**15).weight.is_meta
    # Outside, nothing is counted.
    assert torch.nn.Linear(2, 2).weight.numel() == 4


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.pop("head.fc.bias"), "lack 'head.fc.bias'"),
        (lambda w: w.update(more=torch.zeros(1)), "they have 'more'"),
        (lambda w: w.update({"x" * 10_000: torch.zeros(1)}), "they have 'xxx"),
        (lambda w: w.update({"head.fc.bias": torch.zeros(4)}), r"is \(4,\), not \(3,\)"),
        (lambda w: w.update({"head.fc.bias": torch.zeros(3, 1)}), r"not \(3,\)"),
        (lambda w: w.update({"head.fc.bias": torch.zeros(3).int()}), "holds I32"),
        (lambda w: w.update({"head.fc.bias": torch.zeros(3).bool()}), "holds BOOL"),
        (lambda w: w.update({"head.fc.bias": torch.zeros(3).cfloat()}), "holds C64"),
        (lambda w: w.update({"head.fc.bias": torch.zeros(3).to(torch.float8_e5m2)}), "F8_E5M2"),
        (lambda w: w.clear(), "lack"),
    ],
)
def test_weights_of_another_network(folder: Path, spoil: Any, words: str) -> None:
    weights = load_file(folder / "model.safetensors")
    spoil(weights)
    save_file(weights, folder / "model.safetensors")
    assert "don't fit" in refused(folder, words)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read(folder: Path, kind: torch.dtype) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: w.to(kind) if w.is_floating_point() else w for n, w in weights.items()},
        folder / "model.safetensors",
    )
    assert next(load_model(folder).parameters()).dtype == torch.float32


def test_weights_that_are_anything(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for length in (0, 4, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(folder, "damaged")
    file.write_bytes(whole + b"more")
    refused(folder, "damaged")
    file.write_bytes(struct.pack("<Q", 2**24 + 1) + b" " * (2**24 + 1))
    refused(folder, "header")
    (header,) = struct.unpack("<Q", whole[:8])
    for _ in range(200):
        spoiled = bytearray(whole)
        for place in random.integers(0, 8 + header, random.integers(1, 4)):
            spoiled[place] = random.integers(256)
        file.write_bytes(spoiled)
        # Some bytes are of names that nothing depends on.
        with suppress(UserError):
            load_model(folder)


def test_a_file_of_holes_is_not_held(folder: Path) -> None:
    size = 8 * (machine_memory_bytes() // 4)
    header = {"fc": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + size)
        except OSError:
            pytest.skip("this file system has no files of that size")
    refused(folder, "do not fit into this machine's")


def test_pipes_and_links_are_no_files_of_a_model(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    refused(folder, "holds no model")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    refused(folder, "holds no model")
    secret = tmp_path / "secret"
    secret.write_text("correct-horse")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(secret)
    assert "correct-horse" not in refused(folder, "can't be read")
