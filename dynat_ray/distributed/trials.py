"""What Ray Tune calls: the trial itself, who proposes its settings, who stops it early."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

# isort: split
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from dynat_ray import interrupt
from dynat_ray.config import RunConfig
from dynat_ray.distributed.head_tasks import on_head
from dynat_ray.distributed.mirror_follower import fetch_metrics
from dynat_ray.distributed.placement_groups import GROUP, remove_group_later
from dynat_ray.distributed.ray_trainer import fit, resolve_workers
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.tracker_follower import TrackerFollower
from dynat_ray.distributed.tune_reports import SPENT, ReportToTune, tune_report
from dynat_ray.errors import Stopped, UserError
from dynat_ray.searching.proposals import Proposals
from dynat_ray.searching.search_objectives import OBJECTIVES
from dynat_ray.searching.study import Search, read_search
from dynat_ray.searching.trial_records import (
    DEFAULT_TRIAL,
    Trial,
    begin_trial,
    read_trial,
    read_trials,
    trial_folder,
    write_trial,
)
from dynat_ray.settings import override
from dynat_ray.storage.lease import lease
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.mirror import Mirror
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.storage.run_length import RunLength
from dynat_ray.tracking.run_trackers import RUN_FILES, run_trackers

_ROBUST = OBJECTIVES["robust"]


def trial_config(search: Search, trial: Trial) -> RunConfig:
    """Returns the settings of a trial, the default's with its own on top."""
    own = {} if trial.number == DEFAULT_TRIAL else trial.settings
    return override(search.default, own)


def run_trial(proposal: dict[str, Any]) -> None:
    """Trains one trial in its run folder; runs in a process of its own that takes no CPU.

    It lives as long as the trial and imports no PyTorch: what needs it is done beside.

    A failure is recorded and not raised, so that Tune goes on without a word. Only the death of
    another process is left to `Proposer`, who knows whether the trial was being ended.

    Args:
        proposal: `folder` of the search, `number` of the trial and `stop` of the command.
    """
    search_folder = Path(proposal["folder"])
    trial = read_trial(search_folder, proposal["number"])
    folder = trial_folder(search_folder, trial.number)
    try:
        with lease(folder, "trial", wait=True):
            _train(search_folder, trial, folder, StopFlag(proposal["stop"]))
    except (RayActorError, Stopped):
        raise
    except Exception as error:  # whatever it is, the search goes on
        # A trial that was stopped early may end with an error that means nothing.
        if read_trial(search_folder, trial.number).state == "running":
            sentence = " ".join(str(error).split()) or type(error).__name__
            write_trial(search_folder, replace(trial, state="failed", error=sentence))
    else:
        write_trial(search_folder, replace(trial, state="finished"))
        if mirror := Mirror.of(folder):
            with suppress(UserError):  # The command sends it again when it ends.
                mirror.push()


def _train(search_folder: Path, trial: Trial, folder: Path, stop: StopFlag) -> None:
    """Trains a trial, unless that is done, and writes its report."""
    config = trial_config(read_search(search_folder), trial)
    length = RunLength.of(config.train)
    if on_head(_is_to_train, search_folder, trial.number):
        trackers = run_trackers(config, folder)
        with TrackerFollower(trackers):
            report = ReportToTune(length)
            fit(config, folder, callbacks=[report], quiet=True, stop=stop, ended_by_others=True)
        on_head(write_trial_report, folder)
        trackers.end("finished", files=RUN_FILES)
    else:
        on_head(write_trial_report, folder)
    if mirror := Mirror.of(folder):
        mirror.push()


def _is_to_train(search_folder: Path, number: int) -> bool:
    """Returns whether a trial's models are still to be trained; its run folder is then ready.

    Raises:
        UserError: Its settings can't work.
    """
    from dynat_ray.data import load_info
    from dynat_ray.storage.environment import write_environment
    from dynat_ray.training.final_models import is_trained
    from dynat_ray.training.setup import check_run

    folder = trial_folder(search_folder, number)
    config = trial_config(read_search(search_folder), read_trial(search_folder, number))
    if is_trained(folder, RunLength.of(config.train)):
        return False
    loader = check_run(config, load_info(config.data.path))
    open_run_folder(folder, config, resume=True)
    low, _, gpu = resolve_workers(config.cluster)
    facts = {"workers": str(low), "device": "cuda" if gpu else "cpu", "loader": loader}
    write_environment(folder, facts, f"trial {number} of the search {search_folder}")
    return True


def write_trial_report(folder: Path) -> None:
    """Writes the report of a trial's run folder; imports what draws it."""
    from dynat_ray.report import write_report

    write_report(folder)


class Proposer(Searcher):
    """Hands Tune the trials that are left: first those that were begun, then new ones.

    All it knows is in the search's folder, so that a search can be resumed from there.

    Args:
        folder: The search's.
        search: The search.
        stop: Of the command; trials end with it.
    """

    def __init__(self, folder: Path, search: Search, stop: StopFlag) -> None:
        super().__init__(metric=_ROBUST, mode="max")
        self._folder, self._search, self._stop = folder, search, stop
        trials = read_trials(folder)
        self._begun = [trial.number for trial in trials if trial.state == "running"]
        known = {trial.number for trial in trials}
        self._new = [n for n in range(search.options.trials) if n not in known]
        self.left = len(self._begun) + len(self._new)
        self._proposals = Proposals(search.space, search.options, search.length)
        for trial in trials:
            if trial.state != "running":
                self._proposals.tell(trial)
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Returns the next trial, or that there is none."""
        if trial_id not in self._numbers:
            if self._begun:
                self._numbers[trial_id] = self._begun.pop(0)
            elif self._new:
                number = self._new.pop(0)
                if number == DEFAULT_TRIAL:
                    settings = self._search.space.default(self._search.default)
                else:
                    settings = self._proposals.ask(number)
                begin_trial(self._folder, Trial(number, settings))
                self._numbers[trial_id] = number
            else:
                return Searcher.FINISHED
        number = self._numbers[trial_id]
        return {"folder": str(self._folder), "number": number, "stop": self._stop.name}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Takes in how a trial ended, and frees what its workers held."""
        if result and result.get(GROUP):
            remove_group_later(result[GROUP])
        number = self._numbers[trial_id]
        # All other trials wait for this; their samples are fetched in the end, side by side.
        fetch_metrics(trial_folder(self._folder, number))
        trial = read_trial(self._folder, number)
        if error and trial.state == "running" and not interrupt.received():
            trial = replace(trial, state="failed", error="its process died, perhaps out of memory")
            write_trial(self._folder, trial)
        if trial.state != "running":
            self._proposals.tell(trial)

    def save(self, checkpoint_path: str) -> None:
        """Tune insists on a file; what a resumed search needs is in the trials' folders."""
        Path(checkpoint_path).write_text("")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class EarlyStopper(ASHAScheduler):
    """Ray's ASHA, which leaves the default setting and the last epoch of a trial alone.

    Args:
        folder: The search's; what its earlier trials reached counts after a resume.
        length: Of a whole trial.
        first_rung: Epochs, or units, of the first rung.
        reduction: Of the trials that reach a rung, one in so many goes on.
    """

    def __init__(
        self, folder: Path, length: RunLength, first_rung: float, reduction: float
    ) -> None:
        super().__init__(
            time_attr=SPENT,
            metric=_ROBUST,
            mode="max",
            # Ray's types say whole numbers; it compares and multiplies them.
            max_t=length.total,  # type: ignore[arg-type]
            grace_period=first_rung,  # type: ignore[arg-type]
            reduction_factor=reduction,
            # The last report comes before the models are saved.
            stop_last_trials=False,
        )
        self._folder, self._length = folder, length
        for trial in read_trials(folder):
            if trial.state in ("finished", "stopped"):
                self.on_trial_add(None, _Past(trial.number))  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Takes in a trial, with what it did before a resume."""
        super().on_trial_add(tune_controller, trial)
        folder = trial_folder(self._folder, trial.config["number"])
        for line in read_metrics(folder / "metrics.jsonl"):
            super().on_trial_result(tune_controller, trial, tune_report(line, self._length))

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Returns whether the trial goes on."""
        action = super().on_trial_result(tune_controller, trial, result)
        number = trial.config["number"]
        if number == DEFAULT_TRIAL or self._length.is_reached(result.get(SPENT, 0.0)):
            return str(TrialScheduler.CONTINUE)
        if action == TrialScheduler.STOP:
            write_trial(self._folder, replace(read_trial(self._folder, number), state="stopped"))
        return action


class _Past:
    """Stands for a trial of before a resume."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"past-{number}", {"number": number}
