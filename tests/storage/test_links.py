"""Links in a run folder that somebody else made: nothing is written to where they lead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.distributed.progress import add_note
from dynat_ray.errors import UserError
from dynat_ray.report import write_report
from dynat_ray.settings import override
from dynat_ray.storage.links import inner_folder, refuse_links
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "file").write_text("untouched")
    return folder


def untouched(elsewhere: Path) -> bool:
    (file,) = elsewhere.iterdir()
    return file.read_text() == "untouched"


@pytest.fixture
def tiny(small_config: RunConfig) -> RunConfig:
    settings = {"data.limit": 20, "data.val_fraction": 0.2, "attack.steps": 1, "train.epochs": 1}
    return override(small_config, settings)


@pytest.mark.parametrize(
    "link",
    ["samples", "checkpoints", "tensorboard", "model", "fragile", "checkpoints/epoch_0000"],
)
@pytest.mark.parametrize("there", [True, False], ids=["", "to nothing"])
def test_folders_that_are_links_are_refused_by_name(
    link: str, there: bool, tiny: RunConfig, tmp_path: Path, elsewhere: Path
) -> None:
    run = tmp_path / "run"
    (run / link).parent.mkdir(parents=True)
    (run / link).symlink_to(elsewhere if there else tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{link} is a link"):
        open_run_folder(run, tiny, resume=True)
    with pytest.raises(UserError, match=f"{link} is a link"):
        train(tiny, LocalSession(run, CPU))
    assert untouched(elsewhere)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["samples", "checkpoints"])
def test_files_in_the_place_of_folders_are_refused_by_name(
    name: str, tiny: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"{name} is a file, where there must be a folder"):
        train(tiny, LocalSession(tmp_path, CPU))


def test_no_file_among_checkpoints_may_be_a_link(tmp_path: Path, elsewhere: Path) -> None:
    link = tmp_path / "run" / "checkpoints" / "epoch_0000" / "state.pt"
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere / "file")
    with pytest.raises(UserError, match=r"state\.pt is a link"):
        refuse_links(tmp_path / "run")


def test_files_that_are_links_are_replaced(
    tiny: RunConfig, tmp_path: Path, elsewhere: Path
) -> None:
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "fragile").mkdir()
    names = ["config.yaml", "metrics.jsonl", "trained.json", "report.html", "notes.log"]
    names += ["samples/epoch_0000.parquet"]
    names += [f"{name}.tmp" for name in names]
    for name in names:
        (run / name).symlink_to(elsewhere / "file")
    (run / "config.yaml").unlink()
    open_run_folder(run, tiny, resume=True)
    train(tiny, LocalSession(run, CPU))
    add_note(run, "a note")
    write_report(run)
    assert untouched(elsewhere)
    for name in names:
        assert (run / name).is_symlink() == name.endswith(".tmp"), name


def test_pictures_of_a_report_go_through_no_link(
    tiny: RunConfig, tmp_path: Path, elsewhere: Path
) -> None:
    run = tmp_path / "run"
    open_run_folder(run, tiny, resume=True)
    train(tiny, LocalSession(run, CPU))
    (run / "fragile").symlink_to(elsewhere)
    with pytest.raises(UserError, match="fragile is a link"):
        write_report(run)
    assert untouched(elsewhere)
    (run / "fragile").unlink()
    write_report(run)
    for picture in list((run / "fragile").iterdir()):
        picture.unlink()
        picture.symlink_to(elsewhere / "file")
    write_report(run)
    assert untouched(elsewhere)


def test_a_run_folder_itself_may_be_a_link(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "run").symlink_to(elsewhere)
    refuse_links(tmp_path / "run")
    assert inner_folder(tmp_path / "run", "samples", "more").is_dir()
    assert (elsewhere / "samples" / "more").is_dir()
