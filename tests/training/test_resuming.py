"""Which checkpoint a run goes on from, and what may have changed since."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import override
from dynat_ray.storage.run_folder import open_run_folder, read_run_config
from dynat_ray.training import checkpoint, resuming, trainer
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.final_models import trained_epochs
from dynat_ray.training.resuming import _newest_state
from dynat_ray.training.session import LocalSession, Notice, StopRequested
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


def changed(config: RunConfig, **settings: Any) -> RunConfig:
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    return override(config, keys)


def other_worker_says(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, int]) -> None:
    """Adds the answers of a second worker to whatever this one gathers."""
    left = list(answers)
    monkeypatch.setattr(
        resuming,
        "gather_over_workers",
        lambda values: torch.cat([values, torch.tensor([left.pop(0)])]),
    )


class TestTwoWorkers:
    @pytest.fixture
    def session(self, small_config: RunConfig, tmp_path: Path) -> LocalSession:
        session = LocalSession(tmp_path, CPU)
        train(small_config, session)
        return session

    def test_they_take_the_newest_that_both_see(
        self, session: LocalSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Twice how far the other's newest goes, then that it could read it.
        other_worker_says(monkeypatch, (1, 0), (1, 0), (1, 0))
        state = _newest_state(session)
        assert state is not None
        assert state["epoch"] == 1

    def test_what_the_other_can_not_read_counts_for_neither(
        self, session: LocalSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other_worker_says(monkeypatch, (2, 0), (0, 0), (1, 0), (1, 0))
        state = _newest_state(session)
        assert state is not None
        assert state["epoch"] == 1

    def test_one_that_sees_none_is_no_reason_to_begin_anew(
        self, session: LocalSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other_worker_says(monkeypatch, (0, 0))
        with pytest.raises(UserError, match="worker 1 sees no checkpoint"):
            _newest_state(session)


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "no checksum", "no state"])
def test_a_run_all_of_whose_checkpoints_are_damaged_is_not_begun_anew(
    small_config: RunConfig, tmp_path: Path, damage: str
) -> None:
    session = LocalSession(tmp_path, CPU)
    train(changed(small_config, data__limit=40, attack__steps=1), session)
    for folder in session.checkpoints():
        state, whole = folder / "state.pt", (folder / "state.pt").read_bytes()
        if damage == "cut":
            state.write_bytes(whole[: len(whole) // 2])
        elif damage == "empty":
            state.write_bytes(b"")
        elif damage == "changed":
            state.write_bytes(whole[:5000] + b"?" + whole[5001:])
        elif damage == "no state":
            state.unlink()
        else:
            (folder / "state.sha256").unlink()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    words = r"checkpoints epoch_0001 and epoch_0000 are damaged.* another --name, or remove"
    with pytest.raises(SharedUserError, match=words):
        train(changed(small_config, data__limit=40, train__epochs=3), LocalSession(tmp_path, CPU))
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("gone", ["all", "each", "to files", "renamed"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(
    small_config: RunConfig, tmp_path: Path, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = changed(small_config, data__limit=40, attack__steps=1, train__epochs=1)
    session = LocalSession(tmp_path, CPU)
    train(short, session)
    (folder,) = session.checkpoints()
    if gone == "renamed":
        folder.rename(folder.with_name("epoch_" + "9" * 30))
    else:
        shutil.rmtree(folder.parent if gone == "all" else folder)
    if gone == "to files":
        folder.write_text("")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    words = r"was trained for 1 epochs, and has no checkpoint to go on from.* another --name"
    with pytest.raises(SharedUserError, match=words):
        train(changed(short, train__epochs=2), session)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    # One that was killed before its first checkpoint goes on by itself, and says so.
    (tmp_path / "trained.json").unlink()
    if gone == "all":
        train(short, session)
        said = capsys.readouterr().out
        assert "there is no checkpoint after 1 epoch; the run begins anew" in said


@pytest.mark.parametrize(
    ("optimizer", "name", "value"), [("sgd", "momentum", 0.5), ("adam", "betas", (0.5, 0.999))]
)
def test_changed_optimiser_settings_take_effect(
    optimizer: str,
    name: str,
    value: Any,
    small_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = LocalSession(tmp_path, CPU)
    config = changed(small_config, optim__name=optimizer, optim__lr=0.001)
    train(changed(config, train__epochs=1), session)
    built: list[torch.optim.Optimizer] = []
    build = trainer.build_optimizer
    monkeypatch.setattr(
        trainer, "build_optimizer", lambda *given: built.append(build(*given)) or built[0]
    )
    train(changed(config, optim__momentum=0.5, optim__weight_decay=0.25), session)
    groups = built[0].param_groups
    assert {group[name] for group in groups} == {value}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.25}
    assert built[0].state


def test_an_epoch_cut_into_other_steps_begins_anew(
    small_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 1)
    session = LocalSession(tmp_path, CPU)
    monkeypatch.setattr(session, "notice", lambda: Notice.STOP)
    config = changed(small_config, train__batch_size=24)
    with pytest.raises(StopRequested):
        train(config, session)
    assert "step" in session.checkpoints()[0].name
    train(changed(config, train__batch_size=48), LocalSession(tmp_path, CPU))
    assert "epoch 1 begins anew" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]


def test_another_data_set_in_the_same_place_is_refused(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(changed(small_config, train__epochs=1), LocalSession(tmp_path, CPU))
    build = trainer.build_setup

    def prepared_again(*given: Any) -> Any:
        setup = build(*given)
        object.__setattr__(setup.info, "checksum", "another")
        return setup

    monkeypatch.setattr(trainer, "build_setup", prepared_again)
    with pytest.raises(UserError, match="prepared again"):
        train(small_config, LocalSession(tmp_path, CPU))


def test_a_run_of_short_epochs_hears_that_it_is_to_end(
    small_config: RunConfig, tmp_path: Path
) -> None:
    session = LocalSession(tmp_path, CPU)
    session.notice = lambda: Notice.STOP  # type: ignore[method-assign]
    with pytest.raises(StopRequested):
        train(changed(small_config, train__batch_size=1000, train__epochs=50), session)
    assert session.checkpoints()[0].name < "epoch_0010"


def test_models_of_fewer_epochs_are_not_those_of_the_run(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained_epochs(tmp_path) == 0
    train(changed(small_config, train__epochs=1), LocalSession(tmp_path, CPU))
    assert trained_epochs(tmp_path) == 1

    def fails(*given: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(trainer, "save_models", fails)
    with pytest.raises(OSError, match="no space"):
        train(small_config, LocalSession(tmp_path, CPU))
    assert trained_epochs(tmp_path) == 1


def test_minutes_count_across_epochs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = checkpoint.CheckpointClock(1.0, CPU)
    due = []
    for step in range(1, 13):
        now[0] = 10.0 * step
        due.append(clock.agree(lambda: Notice.NOTHING, busy=False)[0])
        if due[-1] == Notice.DUE:
            clock.restart()
    assert [step for step, notice in enumerate(due, start=1) if notice] == [6, 12]


def test_a_config_that_could_not_be_written_leaves_the_one_before(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run_folder(tmp_path, small_config, resume=True)

    def full(self: Path, *given: Any, **named: Any) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match="can't be written"):
            open_run_folder(tmp_path, changed(small_config, train__epochs=9), resume=True)
    assert read_run_config(tmp_path) == small_config
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is not a run folder"):
        read_run_config(tmp_path)
