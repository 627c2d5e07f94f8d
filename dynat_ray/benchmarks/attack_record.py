"""AutoAttack on a trained model's test images, recorded so that samplings can be replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from dynat_ray.attacks.registry import get_attack
from dynat_ray.data import DatasetInfo, load_info, load_split
from dynat_ray.distributed.evaluator import ShardRunner, Workers, evaluated
from dynat_ray.evaluation.identity import checksum_samples, identify
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.second_round import draw_second_stage
from dynat_ray.evaluation.state_file import open_state
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.storage.run_folder import read_run_config

_ATTACK = get_attack("autoattack-sampled")
# Images attacked one block after the other, so that what is recorded is of use before all are.
_BLOCK = 500
_BATCH = 64


@dataclass(frozen=True)
class Record:
    """Images that all stages of AutoAttack have seen.

    Attributes:
        outcome: What became of each; `positions` are 0 to n - 1, in random order of the test split.
        seconds: Of APGD and of FAB and Square, for all of them: CPU seconds, which other work
            beside it hardly changes, where one process did it.
    """

    outcome: Outcome
    seconds: tuple[float, float]

    def first(self, images: int) -> Record:
        """Returns the same of the first so many images, each with the same share of the time."""
        outcome, share = self.outcome, images / self.outcome.samples
        assert outcome.margins is not None
        part = replace(
            outcome,
            positions=outcome.positions[:images],
            predicted=outcome.predicted[:images],
            fooled_by=outcome.fooled_by[:images],
            margins=outcome.margins[:images],
            second_stage=None,
        )
        return Record(part, (self.seconds[0] * share, self.seconds[1] * share))

    @property
    def after_first(self) -> Outcome:
        """What the first stages left."""
        last = self.outcome.fooled_by >= len(_ATTACK.places("first"))
        return replace(self.outcome, fooled_by=np.where(last, -1, self.outcome.fooled_by))

    @property
    def survivors(self) -> int:
        """How many images the first stages left right."""
        return int(self.after_first.correct.sum())

    def sampled(self, second_stage: int, seed: int) -> Record:
        """Returns what sampling would have found, and the seconds it would have taken."""
        drawn = draw_second_stage(self.after_first, second_stage, seed=(seed, 0))
        stage = drawn.second_stage
        assert stage is not None
        found = np.where(stage.tried, self.outcome.fooled_by, drawn.fooled_by)
        seconds = self.seconds[1] * int(stage.tried.sum()) / max(1, self.survivors)
        return Record(replace(drawn, fooled_by=found), (self.seconds[0], seconds))


def record_attack(
    run: Path, folder: Path, *, images: int, data: Path | None = None, workers: int = 1
) -> Iterator[Record]:
    """Runs AutoAttack, every survivor tried, on test images of a run's model.

    Args:
        run: A run folder; its data and threat are taken.
        folder: Of the record; what it holds is not done again.
        images: How many, at most.
        data: Other prepared data.
        workers: 1: this process; more: Ray workers.

    Yields:
        The record as far as it has come, after each block of images.
    """
    config = read_run_config(run)
    path = data or Path(config.data.path)
    network, info = load_model(run), load_info(path)
    order = np.random.default_rng(0).permutation(info.counts["test"])[:images]
    threat = Threat(config.threat.norm, config.threat.eps)
    blocks: list[Record] = []
    with Workers(workers, on_ray=workers > 1).ready() as run_shards:
        for start in range(0, len(order), _BLOCK):
            positions = order[start : start + _BLOCK]
            size = config.data.image_size
            pixels, labels = load_split(path, "test", image_size=size, positions=positions)
            file = folder / f"images-{start:06d}.jsonl"
            block = _block((network, info), (pixels, labels), threat, file, run_shards)
            blocks.append(Record(block[0], block[1] if workers == 1 else block[2]))
            yield _together(blocks)


def _block(
    model: tuple[nn.Module, DatasetInfo],
    samples: tuple[Tensor, Tensor],
    threat: Threat,
    file: Path,
    run_shards: ShardRunner,
) -> tuple[Outcome, tuple[float, float], tuple[float, float]]:
    """Returns the outcome, and CPU and wall seconds of the first and the last stages."""
    count = len(samples[1])
    plan = EvaluationPlan(
        samples=count,
        classes=model[1].num_classes,
        attacks=[_ATTACK],
        threats=[threat],
        costly_positions=np.arange(count),
        seed=0,
        batch_size=_BATCH,
        second_stage=count,
    )
    identity = identify(*model, {**plan.settings(), "images": checksum_samples(*samples)})
    with evaluated(
        model[0],
        *samples,
        plan,
        identity=identity,
        state_path=file,
        resume=True,
        workers=nullcontext(run_shards),
    ) as found:
        outcome = found.attacks[threat][_ATTACK.name]
    with open_state(file, identity, resume=True) as state:
        first, _ = state.take_over(plan.shards())
        cpu, wall = state.cpu_seconds, state.seconds
        state.take_over(plan.second_round(first))
        return outcome, (cpu, state.cpu_seconds - cpu), (wall, state.seconds - wall)


def _together(blocks: Sequence[Record]) -> Record:
    outcomes = [block.outcome for block in blocks]
    margins = [outcome.margins for outcome in outcomes if outcome.margins is not None]
    return Record(
        replace(
            outcomes[0],
            positions=np.arange(sum(outcome.samples for outcome in outcomes)),
            predicted=np.concatenate([outcome.predicted for outcome in outcomes]),
            fooled_by=np.concatenate([outcome.fooled_by for outcome in outcomes]),
            margins=np.concatenate(margins),
            second_stage=None,
        ),
        (sum(b.seconds[0] for b in blocks), sum(b.seconds[1] for b in blocks)),
    )
