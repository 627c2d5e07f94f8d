"""MLflow: runs of a tracking server, those of a search or comparison below one of its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynat_ray.shown_text import shown_text
from dynat_ray.tracking.tracker import Ending, Tracked

_EXPERIMENT = "dynat-ray"
# MLflow's page would take runs with a table at the end for evaluations of a language model.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# A server that is away must not keep a run: what it lacks is sent later.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
for _name, _value in _PATIENCE.items():
    os.environ.setdefault(_name, _value)
# It would say of each try that it failed.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.tracking.context.registry import resolve_tags  # noqa: E402

_STATUS: dict[Ending, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# A server takes so many parameters at once, of so many characters.
_MOST_PARAMETERS, _LONGEST_VALUE = 100, 500


class MLflow:
    """One run on the server that `MLFLOW_TRACKING_URI` names."""

    def __init__(self) -> None:
        self._client = MlflowClient()
        self._run = ""
        # The last epoch that the server has; None: it has to be asked.
        self._last_epoch: int | None = None

    def begin(self, tracked: Tracked, identifier: str, parent: str) -> str:
        if identifier:
            self._client.update_run(identifier, status="RUNNING")
            self._run = identifier
            return identifier
        if not self._run:
            tags = {"mlflow.runName": shown_text(tracked.name), "dynat_ray.kind": tracked.kind}
            if parent:
                tags["mlflow.parentRunId"] = parent
            # With whose it is, and from which program and commit, as MLflow's own runs have.
            run = self._client.create_run(self._experiment(), tags=resolve_tags(tags))
            self._run = str(run.info.run_id)
        parameters = [
            Param(key, shown_text(str(value), _LONGEST_VALUE))
            for key, value in tracked.parameters.items()
        ]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[first : first + _MOST_PARAMETERS])
        return self._run

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        if self._last_epoch is None:
            history = self._client.get_metric_history(self._run, next(iter(values)))
            self._last_epoch = max((each.step for each in history), default=-1)
        if epoch <= self._last_epoch:
            return
        # Where the answer is lost, the server may have it all the same.
        self._last_epoch = None
        self._send(values, epoch)
        self._last_epoch = epoch

    def keep(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        self._send(values, 0)
        for file in files:
            if file.is_dir():
                self._client.log_artifacts(self._run, str(file), file.name)
            else:
                self._client.log_artifact(self._run, str(file))

    def end(self, ending: Ending) -> None:
        self._client.set_terminated(self._run, _STATUS[ending])

    def _send(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def _experiment(self) -> Any:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._client.create_experiment(name, tags=_KIND)
        return found.experiment_id
