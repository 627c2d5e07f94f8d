"""Trackers that can't work are refused before a run starts, with what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat_ray.errors import UserError
from dynat_ray.settings import build_config
from dynat_ray.tracking import available
from dynat_ray.tracking.available import check_trackers


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = ("MODE", "API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL")
    for name in ("MLFLOW_TRACKING_URI", "NETRC", *(f"WANDB_{each}" for each in wandb)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(available, "find_spec", lambda package: package)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(available, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"wandb.*pip install 'dynat-ray\[wandb\]'"):
        check_trackers(["wandb"])


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.trackers.*mlfow"):
        build_config([{"train.trackers": ["mlfow"]}])


@pytest.mark.parametrize("address", ["", "host:5000", "http://", "https:///path", "htp://host"])
def test_mlflow_needs_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        check_trackers(["mlflow"])


@pytest.mark.parametrize("address", ["http://host:5000", "databricks", "sqlite:///runs.db"])
def test_addresses_of_mlflow(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    check_trackers(["tensorboard", "mlflow"])


def test_a_database_needs_the_whole_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql+pymysql://host/runs")
    monkeypatch.setattr(available, "find_spec", lambda package: package != "sqlalchemy" or None)
    with pytest.raises(UserError, match="names a database.*pip install mlflow"):
        check_trackers(["mlflow"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WANDB_MODE", "ofline", "WANDB_MODE is 'ofline'"),
        ("WANDB_API_KEY", "0123", "WANDB_API_KEY has 4 characters"),
        ("WANDB_BASE_URL", "host", "WANDB_BASE_URL is no address"),
    ],
)
def test_wandb_told_wrongly(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    check_trackers(["wandb"])
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        check_trackers(["wandb"])


def test_wandb_needs_a_key_or_to_be_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="wandb login"):
        check_trackers(["wandb"])
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password abc\n")
    netrc.chmod(0o600)
    check_trackers(["wandb"])
    netrc.write_text("what is this")
    with pytest.raises(UserError, match="wandb login"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])
