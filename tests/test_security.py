"""Nothing read from disk runs code, and no secret is written to it."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from dynat_ray.storage.environment import write_environment
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.checkpoint import read_checkpoint
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


class _Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_that_holds_code_does_not_run_it(tmp_path: Path, how: str) -> None:
    state = tmp_path / "state.pt"
    trap = {"epoch": 1, "model": _Trap(tmp_path / "sprung")}
    if how == "torch":
        torch.save(trap, state)
    else:
        state.write_bytes(pickle.dumps(trap))
    (tmp_path / "state.sha256").write_text(hashlib.sha256(state.read_bytes()).hexdigest())
    assert read_checkpoint(tmp_path) is None
    assert not (tmp_path / "sprung").exists()
    torch.load(state, weights_only=False) if how == "torch" else pickle.loads(state.read_bytes())
    assert (tmp_path / "sprung").exists(), "the trap works"


@pytest.mark.parametrize("size", [2**62, 10**12])
def test_weights_that_declare_absurd_sizes_are_refused(
    small_config: RunConfig, tmp_path: Path, size: int
) -> None:
    train(small_config, LocalSession(tmp_path, CPU))
    header = {"fc": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    text = json.dumps(header).encode()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(tmp_path)
    weights.write_bytes(struct.pack("<Q", size) + text)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_the_environments_secrets_are_not_written(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct-horse-battery-staple"
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, secret)
    folder = tmp_path / "run"
    open_run_folder(folder, small_config, resume=False)
    write_environment(folder, {"workers": "1"})
    train(small_config, LocalSession(folder, CPU))
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert [file for file in files if secret.encode() in file.read_bytes()] == []
