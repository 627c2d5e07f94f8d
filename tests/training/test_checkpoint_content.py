"""Checkpoints that are anything: the one before is used, or the run ends in one short line."""

from __future__ import annotations

import copy
import hashlib
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import build_config, override
from dynat_ray.training import checkpoint
from dynat_ray.training.checkpoint import read_checkpoint
from dynat_ray.training.checkpoint_content import is_well_formed
from dynat_ray.training.session import LocalSession, Notice, StopRequested
from dynat_ray.training.trainer import train
from tests.small_run import SMALL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(digits: Path) -> RunConfig:
    settings = {"data.path": str(digits), "cluster.workers": 1, "cluster.gpu": False}
    fast = {"train.epochs": 1, "optim.name": "adamw", "optim.lr": 0.001}
    return build_config([{**SMALL, **settings, **fast}])


@pytest.fixture(scope="module")
def trained(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    train(config, LocalSession(folder, CPU))
    return folder


@pytest.fixture
def session(trained: Path, tmp_path: Path) -> LocalSession:
    """A copy of it that a test may spoil."""
    return LocalSession(Path(shutil.copytree(trained, tmp_path / "run")), CPU)


def newest(session: LocalSession) -> Path:
    return session.checkpoints()[0]


def put(folder: Path, content: bytes) -> None:
    """Writes a state with its right checksum, as whoever made it up would."""
    (folder / "state.pt").write_bytes(content)
    (folder / "state.sha256").write_text(hashlib.sha256(content).hexdigest())


def save(folder: Path, state: Any) -> None:
    torch.save(state, folder / "state.pt")
    put(folder, (folder / "state.pt").read_bytes())


def state_of(folder: Path) -> dict[str, Any]:
    state = read_checkpoint(folder)
    assert state is not None
    return state


def test_flipped_bytes_never_end_otherwise(session: LocalSession) -> None:
    folder, random = newest(session), np.random.default_rng(0)
    whole = (folder / "state.pt").read_bytes()
    # Half of them in the pickle and the directory of the archive, which come first and last.
    with zipfile.ZipFile(folder / "state.pt") as archive:
        pickled = archive.getinfo(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    places = np.concatenate(
        [
            random.integers(0, pickled.header_offset + pickled.file_size, 30),
            random.integers(len(whole) - 5000, len(whole), 15),
            random.integers(0, len(whole), 15),
        ]
    )
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << random.integers(8)
        put(folder, bytes(spoilt))
        is_well_formed(read_checkpoint(folder))


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_cut_short_with_a_right_checksum(session: LocalSession, part: float) -> None:
    whole = (newest(session) / "state.pt").read_bytes()
    put(newest(session), whole[: int(part * len(whole))])
    assert read_checkpoint(newest(session)) is None


def test_pickles_of_any_format_are_not_read(session: LocalSession) -> None:
    state = state_of(newest(session))
    for content in (pickle.dumps(1), pickle.dumps({"epoch": 1}), b"", b"PK\x03\x04", b"\x80" * 99):
        put(newest(session), content)
        assert read_checkpoint(newest(session)) is None
    torch.save(state, newest(session) / "state.pt", _use_new_zipfile_serialization=False)
    put(newest(session), (newest(session) / "state.pt").read_bytes())
    assert read_checkpoint(newest(session)) is None


def test_compressed_content_is_not_unpacked(session: LocalSession) -> None:
    file = newest(session) / "state.pt"
    with zipfile.ZipFile(file) as archive:
        parts = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    put(newest(session), file.read_bytes())
    assert read_checkpoint(newest(session)) is None


KEYS = (
    *("data", "epoch", "step", "epoch_steps", "record", "global_step", "units", "units_before"),
    *(
        "elapsed",
        "best_score",
        "best_epoch",
        "best_weights",
        "waiting",
        "model",
        "average",
        "optimizer",
        "method",
    ),
    *("method", "extra", "carried", "random"),
)


def test_a_state_without_one_of_its_parts_is_none(session: LocalSession) -> None:
    state = state_of(newest(session))
    assert set(KEYS) <= set(state)
    assert is_well_formed(state)
    for key in KEYS:
        less = {name: value for name, value in state.items() if name != key}
        assert not is_well_formed(less), key
        for value in (object(), b"x", 3j):
            assert not is_well_formed({**state, key: value}), key


@pytest.mark.parametrize("state", [None, [], 3, "x", {}, torch.zeros(3)])
def test_anything_else_is_none(session: LocalSession, state: Any) -> None:
    save(newest(session), state)
    assert not is_well_formed(read_checkpoint(newest(session)))


Spoil = Callable[[dict[str, Any]], Any]


def within_one_another(count: int) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for _ in range(count):
        state = {"": state}
    return state


def doubled(times: int) -> dict[str, Any]:
    """Returns what takes few bytes, and 2 to the power of `times` steps to walk through."""
    state: dict[str, Any] = {}
    for _ in range(times):
        state = {"one": state, "other": state}
    return state


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.update(epoch=-1),
        lambda s: s.update(step=5, epoch_steps=4),
        lambda s: s.update(elapsed=float("nan")),
        lambda s: s.update(best_score=[1.0]),
        lambda s: s.update(best_score=["a", "b"]),
        lambda s: s["waiting"].append({"line": {"epoch": 0}, "weights": 3}),
        lambda s: s["waiting"].append({"line": {"epoch": 0, "loss": []}, "weights": {}}),
        lambda s: s["waiting"].append({"line": {}, "weights": {}}),
        lambda s: s.update(random=[]),
        lambda s: s.update(random=[{}]),
        lambda s: s.update(record={}),
        lambda s: s.update(record={"columns": {"index": torch.zeros(3)}, "losses": torch.zeros(1)}),
        lambda s: s["model"].update(huge=torch.zeros(1).expand(2**50)),
        lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(1).expand(2**50)),
        lambda s: s["model"].update(sparse=torch.zeros(3, 3).to_sparse()),
        lambda s: s["method"].update(itself=s["method"]),
        lambda s: s.update(extra=within_one_another(100)),
        lambda s: s.update(extra=doubled(40)),
    ],
)
def test_parts_that_do_not_go_together(session: LocalSession, spoil: Spoil) -> None:
    state = state_of(newest(session))
    spoil(state)
    assert not is_well_formed(state)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s["model"].popitem(),
        lambda s: s["model"].update(more=torch.zeros(1)),
        lambda s: s["model"].update({next(iter(s["model"])): 3}),
        lambda s: s["model"].update({next(iter(s["model"])): torch.zeros(2, 2)}),
        lambda s: s.update(model={}),
        lambda s: s["best_weights"].popitem(),
        lambda s: s["best_weights"].update({next(iter(s["best_weights"])): "x"}),
        lambda s: s["best_weights"].update({next(iter(s["best_weights"])): torch.zeros(2)}),
        lambda s: s["waiting"].append({"line": {"epoch": 0}, "weights": {"x": torch.zeros(2)}}),
        lambda s: s.update(optimizer={}),
        lambda s: s["optimizer"].update(param_groups=[]),
        lambda s: s["optimizer"].update(state=3),
        lambda s: s["optimizer"]["param_groups"][0].pop("params"),
        lambda s: s["optimizer"]["state"][0].pop("exp_avg"),
        lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(2, 2)),
        lambda s: s["optimizer"]["state"][0].update(exp_avg_sq="x"),
        lambda s: s["optimizer"]["state"][0].update(step="x"),
        lambda s: s["optimizer"]["state"].update({0: 5}),
        lambda s: s.update(method={}),
        lambda s: s.update(method={"budget": {}}),
        lambda s: s.update(method={"budget": {"gap": "x"}}),
        lambda s: s.update(extra={"x": torch.zeros(1)}),
        lambda s: s["random"][0].update(cpu=torch.zeros(3)),
        lambda s: s["random"][0].update(cpu="x"),
    ],
)
def test_a_state_that_does_not_fit_is_one_line(
    session: LocalSession, config: RunConfig, spoil: Spoil
) -> None:
    state = copy.deepcopy(state_of(newest(session)))
    spoil(state)
    save(newest(session), state)
    with pytest.raises(UserError) as caught:
        train(override(config, {"train.epochs": 2}), session)
    message = str(caught.value)
    assert "the checkpoint does not fit" in message
    assert "give the run a new --name" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 600


def test_a_record_within_an_epoch_is_looked_at(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 1)
    session = LocalSession(tmp_path, CPU)
    monkeypatch.setattr(session, "notice", lambda: Notice.STOP)
    with pytest.raises(StopRequested):
        train(override(small_config, {"train.batch_size": 24}), session)
    state = state_of(newest(session))
    assert state["record"]["columns"]
    assert is_well_formed(state)
    for spoil in (
        lambda r: r.pop("losses"),
        lambda r: r.update(losses=3),
        lambda r: r.update(losses=torch.zeros(2, 2)),
        lambda r: r.update(passes="x"),
        lambda r: r.update(columns=3),
        lambda r: r["columns"].pop("index"),
        lambda r: r["columns"].update(index=r["columns"]["index"].float()),
        lambda r: r["columns"].update(eps=torch.zeros(1)),
        lambda r: r["columns"].update(eps="x"),
    ):
        spoilt = copy.deepcopy(state)
        spoil(spoilt["record"])
        assert not is_well_formed(spoilt)


def test_the_one_before_is_used(
    session: LocalSession, config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(override(config, {"train.epochs": 2}), session)
    state = state_of(newest(session))
    del state["optimizer"]
    save(newest(session), state)
    train(override(config, {"train.epochs": 2}), LocalSession(session.run_folder, CPU))
    assert "checkpoint epoch_0001 is damaged; the one before it is used" in capsys.readouterr().out
