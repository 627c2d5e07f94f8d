"""The accuracies in a run's final table: its models under every attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.config import RunConfig
from dynat_ray.data import LazySplit, balanced_subset, load_info, load_labels
from dynat_ray.distributed.evaluator import ShardRunner, Workers, evaluated
from dynat_ray.evaluation.identity import checksum_samples, identify, identity_key
from dynat_ray.evaluation.images import Images
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.results import OUTCOMES, results_of, write_run_samples
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.storage.metrics import read_metrics

# Folder beside a run's models: the finished shards of every evaluation of them.
_STATES = "evaluated"
# So many workers have something to do however few images there are; of more than that many times
# `eval.batch_size` there are more shards.
_FEWEST_SHARDS = 2


def measure_run(config: RunConfig, folder: Path, *, workers: Workers) -> dict[str, Any]:
    """Returns a trained run's final table: best and last model under every attack.

    What became of every test image is left in the run's `outcomes.parquet`.

    Args:
        config: The run, resolved.
        folder: Its folder.
        workers: Who evaluates.
    """
    images = LazySplit(config.data.path, "test", image_size=config.data.image_size)
    labels = load_labels(config.data.path, "test")
    lines = read_metrics(folder / "metrics.jsonl")
    best_epoch = max((line["epoch"] for line in lines if line["best"]), default=lines[-1]["epoch"])
    radii = {*config.eval.eps_curve, config.threat.eps}
    found: dict[str, AttackOutcomes] = {}
    with workers.ready() as run_shards:
        for name, model_folder in (("best", "model"), ("last", "model_last")):
            if name == "last" and best_epoch == lines[-1]["epoch"]:
                found["last"] = found["best"]
                break
            found[name] = measure_at(
                radii,
                folder / model_folder,
                images,
                labels,
                config,
                config.eval.attacks,
                run_shards,
            )
    threat = Threat(config.threat.norm, config.threat.eps)
    at_eps = {name: outcomes[threat] for name, outcomes in found.items()}
    write_run_samples(folder / OUTCOMES, at_eps, np.arange(len(labels)), labels.numpy())
    seconds = sum(line["seconds"] for line in lines)
    images_seen = sum(line["seconds"] * line["images_per_second"] for line in lines)
    return {
        **{name: table_of(outcomes) for name, outcomes in at_eps.items()},
        **_eps_curves(found),
        "best_epoch": best_epoch,
        "seconds": round(seconds, 1),
        "images_per_second": round(images_seen / seconds, 1),
    }


def _eps_curves(found: Mapping[str, AttackOutcomes]) -> dict[str, Any]:
    """Returns, for runs with several radii, each model's curve and its expected robustness.

    That is the mean accuracy over the radii, by attack, in percent.
    """
    if all(len(outcomes) == 1 for outcomes in found.values()):
        return {}
    return {
        "eps_curve": {
            name: {
                **results_of(outcomes),
                "expected_robustness": {
                    attack: round(fmean(at[attack].accuracy for at in outcomes.values()), 3)
                    for attack in next(iter(outcomes.values()))
                },
            }
            for name, outcomes in found.items()
        }
    }


def measure(
    model_folder: Path,
    images: Images,
    labels: Tensor,
    config: RunConfig,
    attacks: Sequence[str],
    run_shards: ShardRunner,
    device: torch.device | None = None,
) -> Mapping[str, Outcome]:
    """Returns what became of every image under each attack at `threat.eps`, see `measure_at`."""
    (outcomes,) = measure_at(
        [config.threat.eps], model_folder, images, labels, config, attacks, run_shards, device
    ).values()
    return outcomes


def measure_at(
    radii: Iterable[float],
    model_folder: Path,
    images: Images,
    labels: Tensor,
    config: RunConfig,
    attacks: Sequence[str],
    run_shards: ShardRunner,
    device: torch.device | None = None,
) -> AttackOutcomes:
    """Returns what became of every image under each attack, for each radius.

    Finished shards are kept beside the model's folder: when this is killed and called again, with
    the same model, images and settings, it goes on.

    Args:
        radii: In the norm of the threat.
        model_folder: Saved model.
        images: All.
        labels: int64 `(N,)`.
        config: For the norm, `eval.samples` and `eval.second_stage` (what costly attacks see),
            `eval.drafts` and the seed.
        attacks: Names.
        run_shards: Of those who share the work, see `Workers.ready`.
        device: Where, if it is this process; None: the CPU.
    """
    model, info = load_model(model_folder).to(device), load_info(config.data.path)
    plan = EvaluationPlan(
        samples=len(labels),
        classes=info.num_classes,
        attacks=get_attacks(attacks),
        threats=[Threat(config.threat.norm, eps) for eps in sorted(radii)],
        costly_positions=balanced_subset(labels.numpy(), config.eval.samples),
        seed=config.train.seed,
        batch_size=_shard_size(len(labels), config),
        second_stage=config.eval.second_stage,
        drafts=config.eval.drafts,
    )
    which = images.identity if isinstance(images, LazySplit) else checksum_samples(images, labels)
    settings = {**plan.settings(), "images": which}
    identity = identify(model, info, settings)
    with (
        cpu_kernels(config.train.cpu_kernels),
        evaluated(
            model,
            images,
            labels,
            plan,
            identity=identity,
            state_path=model_folder.parent / _STATES / f"{identity_key(identity)}.jsonl",
            resume=True,
            workers=nullcontext(run_shards),
        ) as found,
    ):
        return found.attacks


def table_of(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns a model's accuracies under attack: an entry for each attack."""
    return {
        attack: outcome.entry() | _on_same_samples(outcome, outcomes.values())
        for attack, outcome in outcomes.items()
    }


def _shard_size(images: int, config: RunConfig) -> int:
    """Returns how many images a shard has at most: from the settings alone.

    Shards say which random numbers an image gets, and what a table that was cut short goes on with:
    neither may depend on how many workers there are today.
    """
    return min(config.eval.batch_size, -(-images // _FEWEST_SHARDS))


def _on_same_samples(outcome: Outcome, all_outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Returns, for an attack that saw a part of the images, what the others reach on that part."""
    others = [other for other in all_outcomes if other.samples > outcome.samples]
    if not others:
        return {}
    return {
        "same_samples": {
            other.attack: round(
                100 * float(other.correct[np.isin(other.positions, outcome.positions)].mean()), 3
            )
            for other in others
        }
    }
