"""Arguments of an architecture go through, those of timm's factories never do."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import _builder, _factory, _hub, _pretrained, build_model_with_cfg

from dynat_ray.errors import UserError
from dynat_ray.models import build_model, load_model
from dynat_ray.models.arguments import check_arguments, own_arguments

HOSTILE = ("mlp", "preact_resnet10", "resnet18", "vit_tiny_patch16_224", "efficientnet_b0")


def factory_arguments() -> list[str]:
    """Returns all that timm's factories, of whatever version, take or look for."""
    functions = [
        getattr(module, name)
        for module in (_factory, _builder, _hub)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    ]
    names = {name for each in functions for name in inspect.signature(each).parameters}
    names |= {field.name for field in dataclasses.fields(_pretrained.PretrainedCfg)}
    for each in (timm.create_model, build_model_with_cfg):
        names |= set(re.findall(r"kwargs\.(?:pop|get)\('(\w+)'", inspect.getsource(each)))
    known = {"pretrained", "checkpoint_path", "cache_dir", "features_only", "hf_hub_id", "pruned"}
    assert known <= names
    return sorted(names)


def folder_with(folder: Path, name: str, arguments: Any) -> Path:
    """Writes what a stranger's model folder may say; its weights are never reached."""
    folder.mkdir(exist_ok=True)
    described = {
        "architecture": name,
        "num_classes": 3,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("model", HOSTILE)
def test_no_argument_of_timms_factories_goes_through(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*given: Any) -> None:
        raise AssertionError(f"a connection to {given}")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)
    values = (True, "http://127.0.0.1/x.py", {"url": "http://127.0.0.1/x.py"}, [1], None)
    for name in factory_arguments():
        for value in values:
            folder = folder_with(tmp_path / "model", model, {name: value})
            with pytest.raises(UserError, match=rf"config\.json.*{name}"):
                load_model(folder)
            with pytest.raises(UserError, match=rf"model\.kwargs.*{name}"):
                check_arguments(model, {name: value}, "model.kwargs")
    assert sorted(each.name for each in tmp_path.rglob("*")) == [
        "config.json",
        "model",
        "model.safetensors",
    ]


def test_they_do_not_go_through_inside_of_others_either() -> None:
    for name in factory_arguments():
        given = {"block_args": {"inner": [{name: "x"}]}}
        if name in inspect.signature(timm.create_model).parameters:
            with pytest.raises(UserError, match=name):
                check_arguments("resnet18", given, "model.kwargs")


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("preact_resnet10", {"base_width": 8, "act_layer": "silu"}),
        ("wide_resnet28_10", {"drop_path_rate": 0.1, "norm_layer": None}),
        ("mlp", {"img_size": (20, 20)}),
        ("nin", {"drop_rate": 0.1}),
        ("resnet18", {"stem_type": "deep", "block_args": {"attn_layer": "se"}}),
        ("vit_tiny_patch16_224", {"img_size": [32, 48], "depth": 1, "reg_tokens": 4}),
        ("efficientnet_b0", {"bn_eps": 1e-4, "se_layer": "eca", "drop_rate": 0.1}),
        ("swin_tiny_patch4_window7_224", {"window_size": 4, "depths": [1, 1, 1, 1]}),
        # Networks that overlay a configuration with whatever else they get.
        ("resnet51q", {"act_layer": "relu"}),
        ("regnetx_002", {"group_size": 4}),
    ],
)
def test_an_architectures_own_go_through(model: str, arguments: dict[str, Any]) -> None:
    assert check_arguments(model, arguments, "model.kwargs") == arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "must be a mapping"),
        ("base_width", "must be a mapping"),
        ({"base_widht": 8}, "did you mean base_width"),
        ({"settings": 8}, "unknown argument"),
        ({"kwargs": {}}, "kwargs"),
        ({"act_layer": "os.system"}, "no name of a layer"),
        ({"act_layer": "../silu"}, "no name of a layer"),
        ({"act_layer": "silu\n"}, "no name of a layer"),
        ({"act_layer": print}, "type builtin_function_or_method"),
        ({"base_width": 2**40}, "beyond 65536"),
        ({"base_width": 10**5000}, "beyond 65536"),
        ({"drop_rate": float("nan")}, "not finite"),
        ({"layers": [[[[[[[[[[1]]]]]]]]]]}, "too deep"),
        ({"layers": [1] * 5000}, "too many values"),
        ({"x" * 100_000: 1}, "a name that is none"),
        ({"\x1b[2J": 1}, r"a name that is none: '\\x1b"),
    ],
)
def test_anything_else_is_one_short_line(arguments: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        check_arguments("preact_resnet10", arguments, "model.kwargs")
    message = str(caught.value)
    assert len(message) < 700
    assert message.isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        {"features_only": True},
        {"checkpoint_path": "/nonexistent.pth"},
        {"pretrained": True},
        {"num_classes": 0},
        {"exportable": True, "scriptable": True},
        {"pretrained_cfg": {"file": "/nonexistent.pth"}},
    ],
)
def test_a_users_own_command_is_told_where_weights_come_from(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="model.kwargs has .*model.init_from"):
        build_model(
            "resnet18",
            num_classes=3,
            channels=3,
            size=(32, 32),
            mean=[0.5] * 3,
            std=[0.5] * 3,
            kwargs=arguments,
        )


@pytest.mark.parametrize(
    "name",
    [
        "local-dir:{}",
        "hf-hub:timm/resnet18.a1_in1k",
        "{}",
        "../{}",
        "http://127.0.0.1/x",
        "",
        "a\nb",
    ],
)
def test_a_name_is_never_a_place(name: str, tmp_path: Path) -> None:
    name = name.format(folder_with(tmp_path / "model", "mlp", {}))
    for build in (
        lambda: load_model(folder_with(tmp_path / "other", name, {})),
        lambda: build_model(
            name, num_classes=2, channels=1, size=(8, 8), mean=[0.5], std=[0.5], pretrained=True
        ),
    ):
        with pytest.raises(UserError, match="name in timm's registry"):
            build()


def test_asking_leaves_random_numbers_alone() -> None:
    own_arguments.cache_clear()
    before = torch.get_rng_state()
    assert "act_layer" in own_arguments("preact_resnet18")
    assert torch.equal(torch.get_rng_state(), before)
