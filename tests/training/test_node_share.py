"""Workers that read parts of a data set, wherever they come back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info, load_split
from dynat_ray.data.preparing import part_sending, prepare_dataset
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.node_share import Share, choose_share, find_shares
from dynat_ray.training.session import LocalSession, Notice, StopRequested
from dynat_ray.training.setup import check_run
from dynat_ray.training.trainer import train
from tests.processes import run_side_by_side
from tests.thread_workers import run_threads

Chosen = list[tuple[int, np.ndarray]]


def choose(
    monkeypatch: pytest.MonkeyPatch, nodes: list[str], fetched: dict[str, list[int]]
) -> Chosen:
    """Returns which share each worker has, and which images its machine reads.

    Args:
        monkeypatch: Makes threads workers.
        nodes: Of each worker.
        fetched: Quarters of the images that are on a machine, of which share i of n workers reads
            from i / n to (i + 1) / n.
    """
    workers = len(nodes)
    found: Chosen = [(-1, np.empty(0))] * workers

    def work(rank: int) -> None:
        here = {12 // 4 * each + step for each in fetched.get(nodes[rank], []) for step in range(3)}
        parts = np.split(np.arange(12), workers)
        shares = [Share(part, 100 * len(set(part.tolist()) - here)) for part in parts]
        session: Any = SimpleNamespace(rank=rank, node=nodes[rank])
        found[rank] = choose_share(shares, session)

    run_threads(work, workers, monkeypatch)
    return found


def test_at_first_shares_follow_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choose(monkeypatch, ["a", "a", "b", "b"], {})
    assert [share for share, _ in found] == [0, 1, 2, 3]
    assert [used.tolist() for _, used in found[1:3]] == [list(range(6)), list(range(6, 12))]
    # Where all is everywhere, as on one machine, as well.
    everywhere = choose(monkeypatch, ["a", "a", "b", "b"], {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]})
    assert [share for share, _ in everywhere] == [0, 1, 2, 3]


def test_machines_keep_what_they_have_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = {"a": [0, 1], "b": [2, 3]}
    swapped = choose(monkeypatch, ["b", "b", "a", "a"], halves)
    assert [share for share, _ in swapped] == [2, 3, 0, 1]
    assert sorted(swapped[0][1].tolist()) == list(range(6, 12))
    replaced = choose(monkeypatch, ["c", "b"], {**halves, "c": []})
    assert [share for share, _ in replaced] == [0, 1]
    one_more = choose(monkeypatch, ["c", "b", "a"], halves)
    assert [share for share, _ in one_more] == [1, 2, 0]


class Worker(LocalSession):
    """One of two processes, each on a machine of its own."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder, torch.device("cpu"))
        self.rank, self.world_size = rank, 2
        self.node = f"machine-{rank}"
        self.stops_at = -1

    def notice(self) -> Notice:
        self.stops_at -= 1
        return Notice.STOP if self.stops_at == 0 else Notice.NOTHING


def _train_on_two_machines(rank: int, config: RunConfig, folder: Path) -> None:
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr("dynat_ray.data.cache_room._SPARE", 0)
    # The third look comes inside of the second epoch.
    patch.setattr("dynat_ray.training.checkpoint._STEPS_BETWEEN_LOOKS", 4)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    patch.setenv("DYNAT_RAY_CACHE", str(folder / f"machine-{rank}"))
    train(config, Worker(folder / "whole", rank))
    stopped = Worker(folder / "resumed", rank)
    stopped.stops_at = 3
    with pytest.raises(StopRequested):
        train(config, stopped)
    # Back in another order: the machines have changed places.
    patch.setenv("DYNAT_RAY_CACHE", str(folder / f"machine-{1 - rank}"))
    swapped = Worker(folder / "resumed", rank)
    swapped.node = f"machine-{1 - rank}"
    train(config, swapped)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def part_config(small_config: RunConfig) -> RunConfig:
    return override(
        small_config,
        {
            # Without batch statistics, and under L2, so that one worker differs by rounding alone.
            "model.name": "mlp",
            "model.kwargs": {},
            "method.name": "pgd_at",
            "threat.norm": "L2",
            "threat.eps": 0.5,
            # A large step would make more of rounding, which differs between processors.
            "optim.lr": 0.02,
            "train.batch_size": 47,
            "data.limit": 0,
            "data.val_fraction": 0.1,
            "data.node_share": "part",
        },
    )


def test_two_machines_fetch_half_each_and_train_as_one_that_has_all(
    part_config: RunConfig,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(part_sending, "_PART_BYTES", 2**10)
    # Of the two files of a split only the one that is read.
    monkeypatch.setattr("dynat_ray.data.preparing.dataset.ffcv_problem", lambda: "none")
    for path in (f"{bucket}/digits", str(tmp_path / "digits")):
        prepare_dataset("digits", path, limit=400, progress=False)
    config = override(part_config, {"data.path": f"{bucket}/digits"})
    run_side_by_side(_train_on_two_machines, config, tmp_path, processes=2)
    one = override(part_config, {"data.path": str(tmp_path / "digits")})
    train(one, LocalSession(tmp_path / "one", torch.device("cpu")))
    models = {
        name: load_model(tmp_path / name / "model_last").state_dict()
        for name in ("whole", "resumed", "one")
    }
    for key, value in models["whole"].items():
        assert torch.equal(value, models["resumed"][key])
        torch.testing.assert_close(models["one"][key], value, atol=2e-4, rtol=1e-3)
    lines = {name: read_metrics(tmp_path / name / "metrics.jsonl") for name in models}
    for name in models:
        assert [line["epoch"] for line in lines[name]] == [0, 1]
    for rank in range(2):
        (listed,) = (tmp_path / f"machine-{rank}").glob("from-stores/*/train.safetensors.parts")
        (described,) = (tmp_path / f"machine-{rank}").glob("from-stores/*/dataset.json")
        parts = len(load_info(described.parent).parts["train.safetensors"])
        # Its half, the labels, and the parts on both sides of the middle, to train and to validate.
        assert len(set(listed.read_text().split())) < 0.65 * parts


def test_shares_are_disjoint_and_hold_what_is_validated(part_config: RunConfig) -> None:
    shares = find_shares(part_config, 3)
    total = load_info(part_config.data.path).counts["train"]
    everything = np.concatenate([share.samples for share in shares])
    assert sorted(everything.tolist()) == list(range(total))
    assert [share.lacking for share in shares] == [0, 0, 0]
    (alone,) = find_shares(part_config, 1)
    assert len(alone.samples) == total


def test_what_does_not_go_together_is_refused(part_config: RunConfig, tmp_path: Path) -> None:
    for other in ({"balance": True}, {"extra_path": "x", "extra_fraction": 0.5}):
        with pytest.raises(UserError, match=r"node_share is part, but data\.\w+ draws from all"):
            DataConfig(node_share="part", **other)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data\.node_share.*some"):
        DataConfig(node_share="some")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"eval\.beside is true, but data\.node_share is part"):
        override(part_config, {"eval.beside": True})
    open_run_folder(tmp_path / "run", part_config, resume=False)
    changed = override(part_config, {"data.node_share": "all"})
    with pytest.raises(UserError, match=r"data\.node_share"):
        open_run_folder(tmp_path / "run", changed, resume=True)


def test_images_that_are_stored_class_by_class_are_refused_until_they_are_shuffled(
    part_config: RunConfig, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "made.npz", image=images, label=np.repeat(np.arange(10), 30))
    source = f"npz:{tmp_path / 'made.npz'}"
    prepare_dataset(source, tmp_path / "sorted", progress=False)
    config = override(part_config, {"data.path": str(tmp_path / "sorted")})
    with pytest.raises(UserError, match="are stored class by class.*prepare them again with --shu"):
        check_run(config, load_info(tmp_path / "sorted"))
    check_run(override(config, {"cluster.workers": 1}), load_info(tmp_path / "sorted"))
    check_run(override(config, {"data.node_share": "all"}), load_info(tmp_path / "sorted"))
    info = prepare_dataset(source, tmp_path / "mixed", progress=False, shuffle=True)
    assert "--shuffle" in info.command("DIR")
    before, after = (
        [(image.numpy().tobytes(), int(label)) for image, label in zip(*split, strict=True)]
        for split in (load_split(tmp_path / name, "train") for name in ("sorted", "mixed"))
    )
    assert after != before
    assert sorted(after) == sorted(before)
    check_run(override(config, {"data.path": str(tmp_path / "mixed")}), info)
