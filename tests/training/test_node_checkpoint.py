"""At a start, one worker of each node reads the checkpoint: 64 workers as threads."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray.collectives import rank
from dynat_ray.errors import UserError
from dynat_ray.training import node_checkpoint
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.checkpoint import read_checkpoint, write_checkpoint
from dynat_ray.training.resuming import _newest_state
from dynat_ray.training.session import LocalSession
from tests.thread_workers import run_threads

CPU = torch.device("cpu")
WORKERS, PER_NODE = 64, 8


class OnNode(LocalSession):
    """A worker of one of several nodes, each with a scratch folder, that share a run folder."""

    def __init__(self, run_folder: Path, asked: list[int]) -> None:
        super().__init__(run_folder, CPU)
        self.rank, self.world_size = rank(), WORKERS
        self.node = self.place = f"node-{self.rank // PER_NODE}"
        self.scratch_folder = run_folder.parent / self.node
        self.scratch_folder.mkdir(exist_ok=True)
        self._asked = asked

    def checkpoints(self) -> list[Path]:
        self._asked.append(self.rank)
        return super().checkpoints()


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two checkpoints, whose content is a run's to whoever looks."""
    folder = tmp_path / "run"
    for epoch in (0, 1):
        state = {"epoch": epoch, "weights": torch.full((1000,), float(epoch))}
        write_checkpoint(folder / "checkpoints" / f"epoch_{epoch:04d}", state)
    monkeypatch.setattr(node_checkpoint, "is_well_formed", lambda state: state is not None)
    return folder


class Workers:
    """All workers, each with what it goes on from.

    Attributes:
        states: By rank.
        errors: Likewise.
        asked: Ranks that looked for checkpoints.
    """

    def __init__(self, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[int, dict[str, Any] | None] = {}
        self.errors: dict[int, UserError] = {}
        self.asked: list[int] = []

        def resume(rank: int) -> None:
            try:
                self.states[rank] = _newest_state(OnNode(run_folder, self.asked))
            except UserError as error:
                self.errors[rank] = error

        run_threads(resume, WORKERS, monkeypatch)


FIRSTS = list(range(0, WORKERS, PER_NODE))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Path]]:
    """Returns who has read, and what, besides what its node's first worker has handed on."""
    reads: list[tuple[int, Path]] = []
    lock = threading.Lock()

    def read(folder: Path) -> dict[str, Any] | None:
        with lock:
            reads.append((rank(), folder))
        return read_checkpoint(folder)

    monkeypatch.setattr(node_checkpoint, "read_checkpoint", read)
    return reads


@pytest.mark.parametrize("linked", [True, False], ids=["one disk", "a shared disk"])
def test_64_workers_on_8_nodes_read_it_8_times(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    reads, copied = count_reads(monkeypatch), []
    if not linked:

        def link(file: Path, target: Path) -> None:
            copied.append(target.parents[1].name)
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", link)
    workers = Workers(run_folder, monkeypatch)
    assert not workers.errors
    assert sorted(workers.states) == list(range(WORKERS))
    for state in workers.states.values():
        assert state is not None
        assert state["epoch"] == 1
        # Each may change its own.
        assert state["weights"].add_(1).eq(2).all()
    assert sorted(workers.asked) == sorted(reader for reader, _ in reads) == FIRSTS
    # The state and its checksum; of the older checkpoint nothing.
    assert sorted(copied) == ([] if linked else sorted(2 * [f"node-{n}" for n in range(8)]))
    assert not [file for node in run_folder.parent.glob("node-*") for file in node.iterdir()]


def test_what_is_damaged_is_damaged_for_all(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "checkpoints" / "epoch_0001" / "state.pt").write_bytes(b"cut")
    reads = count_reads(monkeypatch)
    workers = Workers(run_folder, monkeypatch)
    assert {state and state["epoch"] for state in workers.states.values()} == {0}
    assert len(reads) == 2 * len(FIRSTS)
    assert capsys.readouterr().out.count("checkpoint epoch_0001 is damaged") == 1
    shutil.rmtree(run_folder / "checkpoints" / "epoch_0000")
    workers = Workers(run_folder, monkeypatch)
    assert len({str(error) for error in workers.errors.values()}) == 1
    assert "its checkpoint epoch_0001 is damaged" in str(workers.errors[63])


def test_a_node_without_room_is_named_to_all(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, target: Path) -> None:
        if "node-3" in target.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        shutil.copyfile(file, target)

    monkeypatch.setattr(node_checkpoint, "_link_or_copy", full)
    workers = Workers(run_folder, monkeypatch)
    assert len(workers.errors) == WORKERS
    assert isinstance(workers.errors[0], SharedUserError)
    assert "can't be copied to node-3" in str(workers.errors[0])
    assert "No space left on device; free some space" in str(workers.errors[0])
