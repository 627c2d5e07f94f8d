"""Small pieces of an evaluation, each of which can be done anywhere, anytime, with one outcome.

The samples are cut into shards. A shard's random numbers follow from (seed, shard number) alone
and no state passes between shards, so that one worker, many workers and a resumed run give the
same outcome for every sample.

A shard holds its samples at every radius, since what is known at one spares attacks at others
(`dynat_ray.evaluation.attacked_samples`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Part, get_attack, get_probe
from dynat_ray.attacks.stages import Setting
from dynat_ray.errors import UserError
from dynat_ray.evaluation.attacked_samples import AttackedSamples, predict
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.evaluation.images import Images, read_images
from dynat_ray.evaluation.shard_outcome import (
    NO_PREDICTION,
    STILL_RIGHT,
    WRONG_WHEN_CLEAN,
    ShardOutcome,
)
from dynat_ray.perturb.threat import Threat


@dataclass(frozen=True)
class Shard:
    """A piece of work.

    Attributes:
        number: From 0; with the seed it gives the shard's random numbers.
        threats: Of one norm, by ascending radius; at radius 0 images stay as they are.
        positions: Which samples, int64 `(n,)`, places in the evaluated images.
        attacks: Names of the attacks to run on them, or of the probes.
        part: Which of the attacks' stages.
        drafts: Whether they may look with a draft of the model, see `attacks.drafts`.
        probes: Whether it is probes (corruptions, distances) that are run; their radius is 0.
    """

    number: int
    threats: tuple[Threat, ...]
    positions: NDArray[np.int64]
    attacks: tuple[str, ...]
    part: Part = "whole"
    drafts: bool = False
    probes: bool = False


# For each threat of a shard an outcome for each of its attacks.
ShardOutcomes = Mapping[Threat, Mapping[str, ShardOutcome]]
FinishedShard = tuple[Shard, ShardOutcomes]


def run_shards(
    model: nn.Module, images: Images, labels: Tensor, shards: Sequence[Shard], *, seed: int
) -> Iterator[FinishedShard]:
    """Does shards one after the other in this process.

    Args:
        model: On its device.
        images: All.
        labels: int64 `(N,)`.
        shards: What to do.
        seed: Of the evaluation.
    """
    for shard in shards:
        yield shard, evaluate_shard(model, *samples_of(shard, images, labels), shard, seed=seed)


def samples_of(shard: Shard, images: Images, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a shard's images, as float32 in [0, 1], and labels.

    Args:
        shard: Which samples.
        images: All.
        labels: int64 `(N,)`.
    """
    return read_images(images, shard.positions), labels[torch.from_numpy(shard.positions)]


def evaluate_shard(
    model: nn.Module, images: Tensor, labels: Tensor, shard: Shard, *, seed: int
) -> ShardOutcomes:
    """Attacks the samples of one shard; its outcome follows from its arguments alone.

    Args:
        model: On its device; is left as it was.
        images: The shard's, float32 `(n, C, H, W)` in [0, 1], on any device.
        labels: int64 `(n,)`.
        shard: What to do.
        seed: Of the evaluation.

    Returns:
        For each threat an outcome for each attack.

    Raises:
        UserError: The model gives logits that are not finite for clean images.
    """
    device = device_of(model)
    # Scaling may have left a little more than 1.
    images, labels = images.to(device).contiguous().clamp(0, 1), labels.to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), exact(model) as ready:
        # For models that answer at random.
        torch.manual_seed(shard_seed(seed, shard.number))
        clean, logits = predict(ready, images)
        if bool((clean == NO_PREDICTION).any()):
            bad = int((clean == NO_PREDICTION).sum())
            raise UserError(
                f"the model's logits are not finite for {bad} of {len(images)} clean images"
            )
        own = seed if shard.probes else shard_seed(seed, shard.number)
        start = Setting(threat=shard.threats[0], classes=logits.shape[1], seed=own)
        if shard.probes:
            measured = {
                name: _measure(
                    get_probe(name), ready, images, labels, clean, start, shard.positions
                )
                for name in shard.attacks
            }
            return {shard.threats[0]: measured}
        found: dict[Threat, dict[str, ShardOutcome]] = {threat: {} for threat in shard.threats}
        settings = [replace(start, threat=threat) for threat in shard.threats]
        attacked = AttackedSamples(ready, images, labels, logits, drafts=shard.drafts)
        for name in shard.attacks:
            outcomes = attacked.under(get_attack(name), shard.part, settings)
            for threat, outcome in zip(shard.threats, outcomes, strict=True):
                found[threat][name] = outcome
        return found


def _measure(
    probe: Probe,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    clean: Tensor,
    at: Setting,
    positions: NDArray[np.int64],
) -> ShardOutcome:
    found = probe.measure(model, images, labels, at, positions)
    # A corrupted image may also become right.
    fooled_by = torch.where(clean == labels, 0, WRONG_WHEN_CLEAN)
    fooled_by[found.predicted == labels] = STILL_RIGHT
    return ShardOutcome(
        found.predicted.cpu().numpy(),
        fooled_by.cpu().numpy(),
        None if found.distances is None else found.distances.double().cpu().numpy(),
    )


def shard_seed(seed: int, number: int) -> int:
    """Returns a seed in [0, 2**32) of its own for every (seed, shard number).

    All stages take the same one, as in pyautoattack, so that a shard is what
    `pyautoattack.AutoAttack(seed=shard_seed(...))` does to its samples.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
