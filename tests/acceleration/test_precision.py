"""bf16 is used where a device multiplies it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynat_ray.acceleration import precision
from dynat_ray.config import RunConfig
from dynat_ray.report.reading import read_run
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "able", "dtype"),
    [
        ("bf16", True, torch.bfloat16),
        ("bf16", False, torch.float32),
        ("float32", True, torch.float32),
    ],
)
def test_products_are_taken_in_the_usable_precision(
    monkeypatch: pytest.MonkeyPatch, wanted: precision.Precision, able: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: able)
    with precision.autocast(wanted, CPU):
        product = torch.ones(2, 3) @ torch.ones(3, 2)
    assert product.dtype == dtype


@pytest.mark.parametrize("able", [True, False])
def test_a_run_says_that_it_computes_in_float32_instead(
    small_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    able: bool,
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: able)
    config = replace(small_config, train=replace(small_config.train, precision="bf16", epochs=1))
    folder = tmp_path / "run"
    open_run_folder(folder, config, resume=False)
    train(config, LocalSession(folder, CPU))
    assert ("float32 is used" in capsys.readouterr().out) is not able
    said = read_run(folder).facts()["training"]
    assert said.endswith("bf16" if able else "float32 instead of bf16")
