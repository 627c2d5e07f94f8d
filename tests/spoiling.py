"""Ways to spoil a run folder, a model or a prepared data set, as somebody who means harm would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dynat_ray.data import load_info
from dynat_ray.data.info import describe_file

ADDRESS = "http://192.0.2.1:9/optuna.py"
"""Of a network that is kept for examples: nobody answers there."""
Spoil = Callable[[Path], Any]
BOMB = "a: &a {x: 1}\n" + "".join(
    f"{after}: &{after} {{{', '.join(f'k{n}: *{before}' for n in range(10))}}}\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()


def config(**changes: Any) -> Spoil:
    """Changes `config.json` of the model."""

    def spoil(folder: Path) -> None:
        file = folder / "model" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def arguments(**given: Any) -> Spoil:
    return config(model_args={"base_width": 8, **given})


def text(name: str, content: str | bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / name
        file.unlink(missing_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def link(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def settings(**changes: dict[str, Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = yaml.safe_load((folder / "config.yaml").read_text())
        for section, values in changes.items():
            content[section] = {**content.get(section, {}), **values}
        (folder / "config.yaml").write_text(yaml.safe_dump(content))

    return spoil


def modules(folder: Path) -> None:
    """Files that Python would import if the folder were where it looks for modules."""
    for name in ("optuna", "timm", "yaml", "sitecustomize", "conftest", "preact_resnet10"):
        (folder / f"{name}.py").write_text("open('/tmp/sprung', 'w')\n")
        (folder / "model" / f"{name}.py").write_text("open('/tmp/sprung', 'w')\n")


def damaged(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def stored(name: str, content: bytes) -> Spoil:
    """Other content with a description that has its checksum."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)
        info = load_info(folder)
        info.files[name] = describe_file(folder / name)
        info.save(folder)

    return spoil
