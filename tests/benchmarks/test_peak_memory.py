"""The benchmark says how much memory each loop needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray import benchmark
from dynat_ray.benchmarks import loops, peak_memory
from dynat_ray.hardware import peak_memory_bytes


@pytest.mark.usefixtures("forked_processes")
def test_larger_batches_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "LOOPS", ("ours",))
    few, many = (peak_memory.measure(batch_size=size, device="cpu", width=16) for size in (1, 240))
    for name, peak in many.items():
        # Activations of one pass, forwards alone: 280,000 numbers an image. Those of the first
        # images fit into what starting up has needed, which differs between processors.
        assert peak > few[name] + 120 * 280_000 * 2


def test_a_peak_stays_when_the_memory_is_free_again() -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    torch.zeros(before, dtype=torch.uint8)  # more than what can be free within it
    assert peak_memory_bytes(torch.device("cpu")) > before


def test_it_is_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def peaks(**_: Any) -> dict[str, int]:
        return dict.fromkeys(loops.LOOPS, 3 * 2**29)

    monkeypatch.setattr(peak_memory, "measure", peaks)
    monkeypatch.setattr("dynat_ray.benchmarks.step_time.measure", lambda **_: {})
    file = tmp_path / "b.json"
    benchmark.main(["step", "--device", "cpu", "--json", str(file)])
    assert json.loads(file.read_text())["step"]["peak_memory_bytes"] == peaks()
    shown = capsys.readouterr().out
    for name in loops.LOOPS:
        assert f"{name:<20}   1.50 GiB at the peak of a step" in shown
