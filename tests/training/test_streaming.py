"""Training on images that are fetched from a store one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.preparing import part_sending, prepare_dataset
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.fetching import fetch_here
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import check_run
from dynat_ray.training.trainer import train
from dynat_ray.training.validator import AtOnce
from tests.data.loading import compile_nothing
from tests.data.stores import watched
from tests.training.stopped_session import Stopped, StopsAfterReports

CPU = torch.device("cpu")
needs_ffcv = pytest.mark.skipif(bool(ffcv_problem()), reason="no FFCV")


@pytest.fixture
def local(small_config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunConfig:
    """A run on a folder."""
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(part_sending, "_PART_BYTES", 2**16)
    monkeypatch.setattr("dynat_ray.data.cache_room._SPARE", 0)
    monkeypatch.setattr("dynat_ray.training.checkpoint._STEPS_BETWEEN_LOOKS", 2)
    settings = {"data.loader": "ffcv", "data.augment": ["crop-1", "flip"]}
    # Checkpoints inside of epochs.
    settings |= {"train.batch_size": 16, "train.checkpoint_minutes": 1e-9}
    return override(small_config, settings)


@pytest.fixture
def streamed(local: RunConfig, bucket: str) -> RunConfig:
    """The same on what lies in a store."""
    prepare_dataset("digits", f"{bucket}/digits", progress=False)
    return override(
        local,
        {
            "data.path": f"{bucket}/digits",
            "data.node_share": "stream",
            "data.loader": "auto",
        },
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "model_last").state_dict()


@needs_ffcv
def test_weights_are_those_of_a_run_on_a_folder_also_when_it_is_resumed(
    local: RunConfig, streamed: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_run(streamed, load_info(streamed.data.path)) == "ffcv"
    train(local, LocalSession(tmp_path / "local", CPU))
    # Compiled or not, readers give the same, and each run has several: tests/data/streamed.
    compile_nothing(monkeypatch)
    train(streamed, LocalSession(tmp_path / "streamed", CPU))
    with pytest.raises(Stopped):
        train(streamed, StopsAfterReports(tmp_path / "resumed", 2))
    assert "step" in LocalSession(tmp_path / "resumed", CPU).checkpoints()[0].name
    train(streamed, LocalSession(tmp_path / "resumed", CPU))
    expected = weights(tmp_path / "local")
    for name in ("streamed", "resumed"):
        for key, value in weights(tmp_path / name).items():
            assert torch.equal(value, expected[key])
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == [0, 1]
        assert all(line["loader_seconds"] > 0 for line in lines)
    (copy,) = (tmp_path / "cache").glob("from-stores/*/train.beton.parts")
    parts = len(load_info(copy.parent).parts["train.beton"])
    assert set(copy.read_text().split()) == {"0", str(parts - 1)}


@needs_ffcv
def test_validation_beside_training_takes_its_own_images_alone(
    streamed: RunConfig, tmp_path: Path, server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    train(streamed, LocalSession(tmp_path / "run", CPU))
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "other-machine"))
    with watched(server) as made:  # type: ignore[arg-type]
        fetch_here(streamed.data, print)
        beside = AtOnce(override(streamed, {"eval.beside": True}), CPU)
        model = load_model(tmp_path / "run" / "model_last")
        accuracy = beside.begin(model.state_dict()).result()
    assert 0 <= accuracy.clean <= 100
    parts = [each for each in made if each.startswith("GET") and "/train-" in each]
    # What is no pixels, and the 10 images.
    assert len(parts) <= 2 + 10


def test_a_run_may_go_on_with_images_that_are_streamed_but_not_in_parts(
    local: RunConfig, bucket: str, tmp_path: Path
) -> None:
    whole = override(local, {"data.path": f"{bucket}/set"})
    open_run_folder(tmp_path, whole, resume=False)
    streamed = override(whole, {"data.node_share": "stream"})
    assert open_run_folder(tmp_path, streamed, resume=True) == [
        "data.node_share: 'all' -> 'stream'"
    ]
    with pytest.raises(UserError, match=r"data\.node_share: 'stream' -> 'part'"):
        open_run_folder(tmp_path, override(whole, {"data.node_share": "part"}), resume=True)


def test_what_does_not_go_together_is_refused(
    local: RunConfig, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("", "data/photos"):
        with pytest.raises(UserError, match=r"data\.node_share is stream, but data\.path is "):
            DataConfig(node_share="stream", path=path)
    with pytest.raises(UserError, match=r"node_share is stream, but data\.loader is memory"):
        DataConfig(node_share="stream", path="s3://bucket/set", loader="memory")
    settings = {"data.path": f"{bucket}/set", "data.node_share": "stream", "data.loader": "auto"}
    config = override(local, settings)
    with monkeypatch.context() as patch:
        patch.setattr("dynat_ray.data.preparing.dataset.ffcv_problem", lambda: "none")
        prepare_dataset("digits", f"{bucket}/set", limit=60, progress=False)
    info = load_info(f"{bucket}/set")
    if ffcv_problem():
        with pytest.raises(UserError, match=r"node_share stream takes FFCV, which does not"):
            check_run(config, info)
        return
    with pytest.raises(UserError, match=r"node_share is stream, but s3://.*/set was prepared wit"):
        check_run(config, info)
    monkeypatch.setattr("dynat_ray.data.readers.ffcv_problem", lambda: "no such module")
    with pytest.raises(UserError, match=r"node_share stream takes FFCV, which does not import"):
        check_run(config, info)
