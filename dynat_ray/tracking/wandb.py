"""Weights & Biases: runs of a project, those of a search or comparison in a group."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb

from dynat_ray.shown_text import shown_text
from dynat_ray.storage.links import inner_folder
from dynat_ray.tracking.tracker import Ending, Tracked

_PROJECT = "dynat-ray"
_SECONDS_TO_BEGIN = 30.0
_SECONDS_TO_END = 300.0


class WandB:
    """One run; offline (`WANDB_MODE`), its files are in the run's folder, for `wandb sync`."""

    def __init__(self) -> None:
        self._run: wandb.Run | None = None

    def begin(self, tracked: Tracked, identifier: str, parent: str) -> str:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=identifier or None,
            resume="allow" if identifier else None,
            name=shown_text(tracked.name),
            group=shown_text(tracked.group),
            job_type=tracked.kind,
            config=dict(tracked.parameters),
            dir=str(inner_folder(tracked.folder, "wandb").parent),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=_SECONDS_TO_BEGIN,
                finish_timeout=_SECONDS_TO_END,
                finish_timeout_raises=True,
                disable_git=True,
                # A run's folder has no links, see `refuse_links`.
                symlink=False,
            ),
        )
        return str(self._run.id)

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        assert self._run is not None
        self._run.log(dict(values), step=epoch)

    def keep(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        assert self._run is not None
        self._run.summary.update(dict(values))
        artifact = wandb.Artifact(f"{self._run.id}-results", type="results")
        for file in files:
            if file.is_dir():
                artifact.add_dir(str(file), name=file.name)
            else:
                artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def end(self, ending: Ending) -> None:
        assert self._run is not None
        self._run.finish(exit_code=0 if ending == "finished" else 1)
