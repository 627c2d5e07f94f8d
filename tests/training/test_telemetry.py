"""What an epoch's record holds does not depend on where the run was stopped and went on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.training.telemetry import EpochRecord, SampleLog
from tests.thread_workers import run_threads

_STEPS, _WORKERS = 5, 2


def _outcome(step: int, rank: int) -> Any:
    """A step of two micro-batches; both workers visit image 0 in the last one."""
    random = torch.Generator().manual_seed(10 * step + rank)
    parts = []
    for part in range(2):
        indices = torch.arange(3) + 100 * step + 10 * rank + 5 * part
        if (step, part) == (_STEPS - 1, 1):
            indices[0] = 0
        batch = SimpleNamespace(indices=indices, labels=indices % 10)
        record = {"weight": torch.rand(3, generator=random)}
        parts.append(
            SimpleNamespace(prepared=SimpleNamespace(batch=batch, adversarial=None), record=record)
        )
    loss, passes = torch.rand((), generator=random), SimpleNamespace(image_gradients=3)
    return SimpleNamespace(loss=loss, passes=passes, parts=parts)


@pytest.mark.parametrize("stop", [0, 2, _STEPS])
def test_a_record_in_two_parts_is_that_of_the_whole(
    stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, EpochRecord] = {}

    def work(rank: int) -> None:
        def gathered(log: SampleLog, steps: range) -> EpochRecord | None:
            for step in steps:
                log.add(_outcome(step, rank))
            return log.gather(1.0, 0.5)

        whole = gathered(SampleLog(), range(_STEPS))
        first = gathered(SampleLog(), range(stop)) if stop else None
        both = gathered(SampleLog(first), range(stop, _STEPS))
        if rank == 0:
            assert whole is not None
            assert both is not None
            found.update(whole=whole, both=both)

    run_threads(work, _WORKERS, monkeypatch)
    whole, both = found["whole"], found["both"]
    # The order in which samples were visited, which says which visit of an image is the last.
    assert (np.diff(whole.columns["index"] // 100) < 0).sum() == 2
    for name, values in whole.columns.items():
        assert np.array_equal(values, both.columns[name]), name
    assert np.array_equal(whole.losses, both.losses)
    assert (whole.loss, whole.mean("weight")) == (both.loss, both.mean("weight"))
    assert whole.passes == both.passes == 3 * _STEPS * _WORKERS
