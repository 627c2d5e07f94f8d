"""`evaluate` with folders of strangers: nothing outside of `--out` changes, nobody is called."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynat_ray.data import load_info
from dynat_ray.models import build_model, save_model
from tests.processes import run_python
from tests.spoiling import (
    ADDRESS,
    BOMB,
    HEADER,
    Spoil,
    arguments,
    config,
    damaged,
    link,
    modules,
    settings,
    stored,
    text,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, few_digits: Path) -> Path:
    """A small run folder, as it is before somebody spoils it."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    info = load_info(few_digits)
    model = build_model(
        "preact_resnet10",
        num_classes=10,
        channels=1,
        size=info.size,
        mean=info.mean,
        std=info.std,
        kwargs={"base_width": 8},
    )
    save_model(model, folder / "model")
    settings = {
        "data": {"path": str(few_digits)},
        "threat": {"norm": "Linf", "eps": 0.1},
        "eval": {"attacks": ["clean"], "samples": 20},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


FOLDERS: dict[str, Spoil] = {
    # Weights from elsewhere, to anywhere.
    "url": arguments(pretrained=True, cache_dir=".", pretrained_cfg={"url": ADDRESS}),
    "overlay": arguments(pretrained=True, pretrained_cfg_overlay={"url": ADDRESS}),
    "hub": arguments(pretrained=True, pretrained_cfg={"hf_hub_id": "timm/resnet18.a1_in1k"}),
    "file": arguments(pretrained=True, pretrained_cfg={"file": "/etc/passwd"}),
    "tag": arguments(pretrained_cfg="a1_in1k", pretrained=True),
    "checkpoint": arguments(checkpoint_path="weights.pth"),
    "features": arguments(features_only=True),
    "feature class": arguments(features_only=True, feature_cls="getter"),
    "pruned": arguments(pruned=True),
    "nested": arguments(block_args={"pretrained": True, "url": ADDRESS}),
    "import path": arguments(act_layer="os.system"),
    "device": arguments(device="meta"),
    # Names that are places.
    "local-dir": config(architecture="local-dir:."),
    "hf-hub": config(architecture="hf-hub:timm/resnet18.a1_in1k"),
    "address": config(architecture=ADDRESS),
    "path": config(architecture="../one"),
    "escapes": config(architecture="\x1b[2J\n" * 100),
    "unlisted tag": config(architecture="preact_resnet10.a1_in1k"),
    # Anything.
    "list": text("model/config.json", "[]"),
    "deep": text("model/config.json", "[" * 100_000),
    "nan": text("model/config.json", '{"architecture": NaN}'),
    "classes": config(num_classes=10**12),
    "width": arguments(base_width=65536),
    "depth": arguments(layers=[10**9] * 4),
    "link to a device": link("model/config.json", "/dev/zero"),
    "link to a secret": link("model/config.json", "/etc/passwd"),
    # Weights.
    "empty weights": text("model/model.safetensors", b""),
    "huge weights": text("model/model.safetensors", struct.pack("<Q", len(HEADER)) + HEADER),
    "huge header": text("model/model.safetensors", struct.pack("<Q", 2**60) + HEADER),
    "pickle": text("model/model.safetensors", b"\x80\x04cos\nsystem\n(S'id'\ntR."),
    "link to weights": link("model/model.safetensors", "/dev/zero"),
    # Settings.
    "tags": text("config.yaml", "data: !!python/object/apply:os.system ['touch sprung']\n"),
    "bomb": text("config.yaml", BOMB),
    "itself": text("config.yaml", "data: &a {path: *a}\n"),
    "merged bomb": text("config.yaml", BOMB.replace("{k0: ", "{<<: ")),
    "deep settings": text("config.yaml", "{a: " * 5000),
    "no settings": text("config.yaml", "- 1\n"),
    "bytes": text("config.yaml", b"\xff\xfe\x00"),
    "store": settings(data={"path": "s3://192.0.2.1/data"}),
    "web": settings(data={"path": ADDRESS}),
    "no path": settings(data={"path": ["a"]}),
    "elsewhere": settings(data={"path": "/proc/self"}),
    "home of nobody": settings(data={"path": "~nobody-at-all/data"}),
    "attacks": settings(eval={"attacks": ["../../x"]}),
    "attacks of a type": settings(eval={"attacks": [[1], {}]}),
    "norm": settings(threat={"norm": "L7"}),
    "radius": settings(threat={"eps": "x"}),
    "infinite": settings(threat={"eps": float("inf")}),
    "samples": settings(eval={"samples": "many"}),
    "batches": settings(eval={"batch_size": -1}),
    "seed": settings(train={"seed": 2**70}),
    "images": settings(data={"image_size": 10**6}),
}
HARMLESS: dict[str, Spoil] = {
    "as it was": lambda folder: None,
    "modules": modules,
    "more samples": settings(eval={"samples": 10**9, "batch_size": 10**9}),
    "a source": settings(data={"source": "cifar10"}),
    "unknown": settings(method={"name": "nobody"}, nonsense={"a": 1}),
    "old weights beside": text("model/pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'id'\ntR."),
    "links beside": link("evaluation.json", "../victim"),
}


def snapshot(*folders: Path) -> dict[str, str]:
    """Returns what lies in folders."""
    return {
        str(path): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for folder in folders
        for path in [folder, *folder.rglob("*")]
    }


class Place:
    """A scratch folder with a working directory, a home, strangers' folders and `--out`."""

    def __init__(self, root: Path, run: Path, data: Path) -> None:
        self.run, self.data = run, data
        self.out, self.strangers, self.work, self.home = (
            root / name for name in ("out", "strangers", "work", "home")
        )
        for folder in (self.out, self.strangers, self.work, self.home, root / "tmp"):
            folder.mkdir()
        (self.strangers / "victim").write_text("as before")
        self._root = root

    def stranger(self, name: str, spoil: Spoil) -> Path:
        folder = self.strangers / name
        shutil.copytree(self.run, folder)
        spoil(folder)
        return folder

    def command(self, model: str | Path, name: str, *more: str) -> list[str]:
        given = ["--samples", "10", "--cpu-kernels", "off", "--workers", "1", *more]
        return [str(model), "--out", str(self.out / f"{name}.json"), *given]

    def evaluate(self, *commands: list[str]) -> list[dict[str, Any]]:
        """Returns how each command ended, and what it did that it should not have done."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "TORCH_"))},
            "HOME": str(self.home),
            "TMPDIR": str(self._root / "tmp"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        watched = ["-m", "tests.watched"]
        log = self._root / "log.json"
        # The first one fills caches of libraries, in the home directory.
        first = self.command(self.run, "first")
        done = run_python(
            *(*watched, str(log), str(self.out), *map(json.dumps, [first, *commands])),
            cwd=self.work,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ends: list[dict[str, Any]] = json.loads(log.read_text())
        assert ends[0]["end"].startswith("written"), ends[0]
        return ends[1:]


@pytest.fixture
def place(tmp_path: Path, run: Path, few_digits: Path) -> Place:
    return Place(tmp_path, run, few_digits)


def require_nothing_done(ends: list[dict[str, Any]], names: list[str]) -> None:
    done = {name: end["seen"] for name, end in zip(names, ends, strict=True) if end["seen"]}
    assert not done


def test_folders_of_strangers(place: Place) -> None:
    commands, names = [], []
    for name, spoil in (HARMLESS | FOLDERS).items():
        folder = place.stranger(name, spoil)
        commands.append(place.command(folder, name.replace(" ", "-")))
        names.append(name)
    before = snapshot(place.strangers, place.work, place.data)
    ends = place.evaluate(*commands)
    require_nothing_done(ends, names)
    for name, end in zip(names, ends, strict=True):
        wanted = "written" if name in HARMLESS else "error: "
        assert end["end"].startswith(wanted), (name, end["end"])
        assert len(end["end"]) < 1200, name
        assert end["end"].isprintable(), name
    assert snapshot(place.strangers, place.work, place.data) == before


def test_other_models_of_strangers(place: Place) -> None:
    commands, names = [], []
    for name in ("url", "hub", "checkpoint", "hf-hub", "deep", "huge weights", "bomb", "width"):
        folder = place.stranger(name, FOLDERS[name])
        for option in ("--surrogate", "--eps-ref"):
            commands.append(place.command(place.run, f"{name}{option}", option, str(folder)))
            names.append(f"{name} {option}")
    before = snapshot(place.strangers, place.work, place.data)
    ends = place.evaluate(*commands)
    require_nothing_done(ends, names)
    assert [end["end"] for end in ends if not end["end"].startswith("error: ")] == []
    assert snapshot(place.strangers, place.work, place.data) == before


DATA: dict[str, Spoil] = {
    "types": damaged(classes=5, counts=[]),
    "deep": text("dataset.json", "[" * 100_000),
    "pipe": lambda folder: ((folder / "dataset.json").unlink(), os.mkfifo(folder / "dataset.json")),
    "names": damaged(files={"../../x": {"bytes": 1, "crc32": 1}}),
    "tensors": stored("test.safetensors", struct.pack("<Q", len(HEADER)) + HEADER),
    "no tensors": stored("test.safetensors", b""),
    "device": link("test.safetensors", "/dev/zero"),
    "counts": damaged(counts={"train": 10**12, "test": 10**12}),
    "images": damaged(size=[10**9, 10**9]),
}


def test_data_of_strangers(place: Place) -> None:
    commands = []
    for name, spoil in DATA.items():
        folder = place.strangers / name
        shutil.copytree(place.data, folder)
        spoil(folder)
        commands.append(place.command(place.run, f"data-{name}", "--data", str(folder)))
    ends = place.evaluate(*commands)
    require_nothing_done(ends, list(DATA))
    assert [end["end"] for end in ends if not end["end"].startswith("error: ")] == []


STATES = {
    "empty": "",
    "null": "null\n",
    "deep": "[" * 100_000 + "\n",
    "no header": '{"format": 2}\n',
    "types": '{"format": 2, "identity": 3, "shards": 1}\n',
    "infinite": '{"format": 2, "identity": {}, "shards": Infinity}\n',
    "other": '{"format": 2, "identity": {"model": "%s"}, "shards": 1}\n' % ("x" * 10**6),
}
LINES = [
    '{"eps": 0.1, "shard": 0}',
    '{"eps": 0.1, "shard": 0, "seconds": "x", "outcomes": {}}',
    '{"eps": 0.1, "shard": 0, "seconds": 1, "outcomes": {"clean": {"predicted": [1]}}}',
    '{"eps": 0.1, "shard": 0, "seconds": 1, "outcomes": {"../x": {"predicted": [1]}}}',
    '{"eps": 0.1, "shard": 0, "seconds": NaN, "outcomes": 5}',
    '{"eps": 1e999, "shard": 1e999}',
    "[" * 100_000,
]


def test_states_of_strangers(place: Place) -> None:
    # The identity of the evaluation that comes first, whose state is then a stranger's.
    place.evaluate()
    (honest,) = place.out.glob("first.state.jsonl")
    header, *lines = honest.read_text().splitlines()
    assert lines
    states = STATES | {str(number): f"{header}\n{line}\n" for number, line in enumerate(LINES)}
    commands = []
    for name, content in states.items():
        (place.out / f"{name}.state.jsonl").write_text(content)
        commands.append(place.command(place.run, name, "--resume"))
    ends = place.evaluate(*commands)
    require_nothing_done(ends, list(states))
    for name, end in zip(states, ends, strict=True):
        refused = name in STATES and name != "empty"
        assert end["end"].startswith("error: " if refused else "written"), (name, end["end"])
        assert len(end["end"]) < 1200
