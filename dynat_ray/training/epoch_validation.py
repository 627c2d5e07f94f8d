"""When an epoch is validated and by whom, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.training.finiteness import ADVICE
from dynat_ray.training.session import Session
from dynat_ray.training.setup import TrainingSetup
from dynat_ray.training.state import BestModel, Progress, WaitingEpoch, weights_on_cpu
from dynat_ray.training.step import Networks
from dynat_ray.training.validation import Validating, ValidationAccuracy, validate
from dynat_ray.training.validator import AtOnce


class EpochValidation:
    """Measures epochs on the validation split, by all workers or beside them, and keeps the best.

    Beside them (`eval.beside`), an epoch waits for what it reached while training goes on; its
    weights and its line in the metrics are kept in the `progress` until then. The run's last epoch
    is measured by the workers, who have nothing else left to do.

    Args:
        config: The run.
        session: Where it runs.
        setup: Holds the method, which says what is best, and this worker's part of the split.
        networks: The evaluated one is measured.
        progress: Where the run is; epochs that wait there are begun again.
    """

    def __init__(
        self,
        config: RunConfig,
        session: Session,
        setup: TrainingSetup,
        networks: Networks,
        progress: Progress,
    ) -> None:
        self._config, self._session, self._setup = config, session, setup
        self._networks, self._progress = networks, progress
        self._validating: Validating | None = None
        # What the progress's waiting epochs will have reached.
        self._results: list[Future[ValidationAccuracy | None]] = []
        if session.rank == 0:
            self._results = [self._begin(each.weights) for each in progress.waiting]

    def end_epoch(self, line: dict[str, Any], *, last: bool) -> None:
        """Measures an epoch, or begins to, if it is its turn; all workers call it.

        Args:
            line: The epoch's metrics on rank 0, where validation is added to them.
            last: The run ends with it.
        """
        config, weights = self._config.eval, {}
        result: Future[ValidationAccuracy | None] = Future()
        loader = self._setup.validation_loader
        if loader is None or not (last or self._progress.epoch % config.every_epochs == 0):
            result.set_result(None)
        else:
            if config.beside and self._session.rank == 0:
                weights = weights_on_cpu(self._networks.evaluated)
            if last or not config.beside:
                result.set_result(validate(self._networks.evaluated, loader, self._config))
            elif self._session.rank == 0:
                result = self._begin(weights)
        if self._session.rank == 0:
            self._progress.waiting.append(WaitingEpoch(line, weights))
            self._results.append(result)

    @property
    def waiting(self) -> int:
        """How many epochs wait; 0 on other workers than the first."""
        return len(self._results)

    def finished(self, seconds: float = 0.0) -> Iterator[dict[str, Any]]:
        """Yields, on rank 0, the lines of epochs that wait no longer, now whole, in their order.

        Args:
            seconds: How long to wait for the first of them, at most.

        Raises:
            UserError: Logits were not finite, or nobody validates.
        """
        wait(self._results[:1], timeout=seconds)
        while self._results and self._results[0].done():
            accuracy = self._results.pop(0).result()
            epoch = self._progress.waiting.pop(0)
            epoch.line["best"] = accuracy is not None and self._keep_if_best(accuracy, epoch)
            epoch.line["validation_clean_accuracy"] = accuracy and accuracy.clean
            epoch.line["validation_robust_accuracy"] = accuracy and accuracy.robust
            yield epoch.line
        if (
            seconds
            and self._results
            and self._validating
            and (problem := self._validating.problem())
        ):
            raise UserError(problem)

    def _begin(self, weights: dict[str, Any]) -> Future[Any]:
        if not weights:
            nothing = Future[None]()
            nothing.set_result(None)
            return nothing
        if self._validating is None:
            # A run that was begun with `eval.beside` may go on without.
            place = self._session.validating(self._config) if self._config.eval.beside else None
            self._validating = place or AtOnce(self._config, self._session.device)
        return self._validating.begin(weights)

    def _keep_if_best(self, accuracy: ValidationAccuracy, epoch: WaitingEpoch) -> bool:
        """Keeps an epoch's weights if none before were better; returns whether."""
        number = epoch.line["epoch"]
        if accuracy.undefined:
            raise UserError(
                f"the logits of {accuracy.undefined} of {accuracy.images} validation images are "
                f"not finite after epoch {number}; {ADVICE}"
            )
        score = self._setup.method.score(accuracy.clean, accuracy.robust)
        if is_best := score > self._progress.best.score:
            # Those that are measured at once are still the network's.
            weights = epoch.weights or weights_on_cpu(self._networks.evaluated)
            self._progress.best = BestModel(score, number, weights)
        return is_best
