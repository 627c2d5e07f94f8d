from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.attacks.registry import get_attacks
from dynat_ray.errors import UserError
from dynat_ray.evaluation.identity import checksum_answers, checksum_code, checksum_model
from dynat_ray.evaluation.plan import plan_shards
from dynat_ray.evaluation.shard_outcome import ShardOutcome
from dynat_ray.evaluation.shards import Shard, ShardOutcomes
from dynat_ray.evaluation.state_file import open_state
from dynat_ray.perturb.threat import Threat
from tests.victim import Victim, train_victim

IDENTITY = {"model": "a1", "answers": "c3", "code": "d4", "data": "b2", "eps": [0.1], "seed": 0}
THREATS = [Threat("Linf", 8 / 255), Threat("Linf", 0.1)]
SHARDS = plan_shards(10, get_attacks(["clean", "fgsm"]), THREATS, batch_size=2)


def _outcome(shard: Shard) -> ShardOutcomes:
    values = shard.positions + shard.number
    return {
        threat: {
            name: ShardOutcome(values, values % 2 - 1, margins=values / 3) for name in shard.attacks
        }
        for threat in shard.threats
    }


def _do(path: Path, count: int, *, resume: bool, identity: dict[str, object] = IDENTITY) -> int:
    """Does `count` more shards; returns how many were finished before."""
    with open_state(path, identity, resume=resume) as state:
        finished, left = state.take_over(SHARDS)
        for shard in left[:count]:
            state.add(shard, _outcome(shard))
        if len(left) <= count:
            state.end()
        return len(finished)


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    assert _do(path, 2, resume=False) == 0
    assert _do(path, 3, resume=True) == 2
    assert _do(path, 9, resume=True) == 5
    with open_state(path, IDENTITY, resume=True) as state:
        finished, left = state.take_over(SHARDS)
        assert not left
        assert len(finished) == len(SHARDS)
        for shard, found in finished:
            for threat, outcomes in _outcome(shard).items():
                for name, expected in outcomes.items():
                    own = found[threat][name]
                    for field in ("predicted", "fooled_by", "margins"):
                        assert (getattr(own, field) == getattr(expected, field)).all()
                    assert own.predicted.dtype == np.int64
                    assert own.distances is None


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_state_that_is_a_link_is_not_written_to(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "state.jsonl"
    victim.write_text("")
    make(path, victim)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"state\.jsonl can't be written: it is a link"):
            _do(path, 1, resume=resume)
    assert victim.read_text() == ""


def test_resume_without_a_state_starts(tmp_path: Path) -> None:
    assert _do(tmp_path / "new" / "state.jsonl", 1, resume=True) == 0


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_cut_short_by_a_kill_is_done_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "state.jsonl"
    _do(path, 3, resume=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert _do(path, 1, resume=True) == 2
    assert _lines(path.read_bytes()) == _lines(whole)
    assert _do(path, 9, resume=True) == 3


def _lines(state: bytes) -> list[dict[str, object]]:
    """Returns a state's lines without what a clock says."""
    lines = [json.loads(line) for line in state.splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    _do(path, 2, resume=False)
    header, *lines = path.read_text().splitlines()
    lines = [json.dumps({**json.loads(line), "seconds": 1.5, "cpu_seconds": 0.5}) for line in lines]
    path.write_text("\n".join([header, *lines, ""]))
    with open_state(path, IDENTITY, resume=True) as state:
        state.take_over(SHARDS)
        assert (state.seconds, state.cpu_seconds) == (3, 1)


def test_a_kill_before_the_first_line_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    _do(path, 0, resume=False)
    path.write_bytes(path.read_bytes()[:20])
    assert _do(path, 2, resume=True) == 0
    assert _do(path, 0, resume=True) == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "other", "another model"),
        ("data", "other", "another data"),
        ("answers", "other", "another model"),
        ("code", "other", "another version of its code"),
        ("seed", 1, "seed 0, not 1"),
        ("eps", [0.2], "eps"),
    ],
)
def test_a_state_of_something_else_is_refused_and_kept(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    path = tmp_path / "state.jsonl"
    _do(path, 2, resume=False)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        _do(path, 1, resume=True, identity={**IDENTITY, key: value})
    assert path.read_bytes() == before


def test_an_unfinished_state_is_not_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    _do(path, 0, resume=False)
    _do(path, 2, resume=False)
    with pytest.raises(UserError, match="--resume goes on"):
        _do(path, 1, resume=False)
    assert _do(path, 9, resume=True) == 2
    assert _do(path, 1, resume=False) == 0


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    path.write_text(json.dumps({"results": {}}) + "\n")
    with pytest.raises(UserError, match="not a state file"):
        _do(path, 1, resume=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        _do(tmp_path / "file" / "state.jsonl", 1, resume=False)


def test_checksum_of_a_model(robust: Victim) -> None:
    checksum = checksum_model(robust.model)
    assert checksum_model(robust.model.to(memory_format=torch.channels_last)) == checksum
    other = train_victim(10, steps=1, eps=0.0).model
    other.load_state_dict(robust.model.state_dict())
    assert checksum_model(other) == checksum
    other[1].running_mean[0] += 1e-3
    assert checksum_model(other) != checksum
    other[1].running_mean.copy_(robust.model[1].running_mean)
    other[2] = type(other[2])(inplace=True)
    assert checksum_model(other) != checksum


def test_checksums_of_what_a_model_does(robust: Victim, tmp_path: Path) -> None:
    class Scaled(torch.nn.Module):
        factor = 1.0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.factor * robust.model(images)
            return logits

    model, images = Scaled(), robust.images[:20]
    weights, answers = checksum_model(model), checksum_answers(model, images)
    assert checksum_answers(model, images, batch_size=7) == answers
    model.factor = -1.0
    assert checksum_model(model) == weights
    assert checksum_answers(model, images) != answers


def test_checksum_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "module_for_checksums.py"
    file.write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("module_for_checksums").Net()
    before = checksum_code(model)
    assert checksum_code(model) == before
    file.write_text(file.read_text() + "    # another line\n")
    assert checksum_code(model) != before


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": "x"},
        {"seconds": float("nan")},
        {"cpu_seconds": -1},
        {"outcomes": None},
        {"outcomes": []},
        {"outcomes": [{"clean": {"predicted": [1], "fooled_by": [1]}}] * 2},
        {"outcomes": [{"clean": 3, "fgsm": 3}] * 2},
        {"samples": 7},
    ],
)
def test_a_line_that_does_not_fit_its_shard_is_done_again(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "state.jsonl"
    _do(path, 3, resume=False)
    header, *lines = path.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    path.write_text("\n".join([header, *lines, ""]))
    assert _do(path, 1, resume=True) == 2
    assert _do(path, 0, resume=True) == 3
