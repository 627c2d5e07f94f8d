"""Small pieces of an evaluation, each of which can be done anywhere, anytime, with one outcome.

The samples are cut into shards. A shard's random numbers follow from (seed, shard number) alone
and no state passes between shards, so that one worker, many workers and a resumed run give the
same outcome for every sample.

A shard holds its samples at every radius, the smallest first: what fooled a sample at one lies in
the ball of the next, so that it is not attacked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.acceleration.twin import twin_of
from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Part, get_attack, get_probe
from dynat_ray.attacks.stages import Setting, Stage
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.perturb.objectives import cw_margin
from dynat_ray.perturb.threat import Threat

# In `ShardOutcome.fooled_by`.
STILL_RIGHT, WRONG_WHEN_CLEAN = -1, -2
# In `ShardOutcome.predicted`: the logits were not finite.
NO_PREDICTION = -1


@dataclass(frozen=True)
class Shard:
    """A piece of work.

    Attributes:
        number: From 0; with the seed it gives the shard's random numbers.
        threats: Of one norm, by ascending radius; at radius 0 images stay as they are.
        positions: Which samples, int64 `(n,)`, places in the evaluated images.
        attacks: Names of the attacks to run on them, or of the probes.
        part: Which of the attacks' stages.
        probes: Whether it is probes (corruptions, distances) that are run; their radius is 0.
    """

    number: int
    threats: tuple[Threat, ...]
    positions: NDArray[np.int64]
    attacks: tuple[str, ...]
    part: Part = "whole"
    probes: bool = False


@dataclass(frozen=True)
class ShardOutcome:
    """What one attack did to the samples of one shard.

    Attributes:
        predicted: Class after the attack, `(n,)`: the label exactly where the sample is still
            right, `NO_PREDICTION` where the logits are not finite.
        fooled_by: Stage that fooled the sample at this radius or a smaller one, `(n,)`: its place
            in the attack's stages, `STILL_RIGHT`, or `WRONG_WHEN_CLEAN`.
        distances: What a probe of distances measured, float64 `(n,)`, may be infinite.
        margins: Of the first part of a sampled attack: the margin of the logits for the image that
            its last stage made of a sample, float64 `(n,)`, 0 or less where it is wrong.
    """

    predicted: NDArray[np.int64]
    fooled_by: NDArray[np.int64]
    distances: NDArray[np.float64] | None = None
    margins: NDArray[np.float64] | None = None


# For each threat of a shard an outcome for each of its attacks.
ShardOutcomes = Mapping[Threat, Mapping[str, ShardOutcome]]
FinishedShard = tuple[Shard, ShardOutcomes]


def run_shards(
    model: nn.Module, images: Tensor, labels: Tensor, shards: Sequence[Shard], *, seed: int
) -> Iterator[FinishedShard]:
    """Does shards one after the other in this process.

    Args:
        model: On its device.
        images: uint8 `(N, C, H, W)`, or float32 in [0, 1].
        labels: int64 `(N,)`.
        shards: What to do.
        seed: Of the evaluation.
    """
    for shard in shards:
        yield shard, evaluate_shard(model, *samples_of(shard, images, labels), shard, seed=seed)


def samples_of(shard: Shard, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a shard's images, as float32 in [0, 1], and labels.

    Args:
        shard: Which samples.
        images: All, uint8 `(N, C, H, W)`, or float32 in [0, 1].
        labels: int64 `(N,)`.
    """
    positions = torch.from_numpy(shard.positions)
    images = images[positions]
    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    return images, labels[positions]


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
        clean, logits = _predict(ready, images)
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
        for name in shard.attacks:
            attack = get_attack(name)
            attacked = _Attacked(ready, images, labels, clean)
            if attack.sampled and shard.part == "first":
                attacked.margins = -cw_margin(logits, labels, None)
            for threat in shard.threats:
                attacked.go_on(attack.places(shard.part), replace(start, threat=threat))
                found[threat][name] = attacked.outcome()
        return found


class _Attacked:
    """What has become of a shard's samples under one attack, from radius to radius.

    Attributes:
        margins: As in `ShardOutcome`, on the device; None: they are not needed.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, clean: Tensor) -> None:
        self._model, self._twin = model, twin_of(model, images)
        self._images, self._labels = images, labels
        self._predicted = clean.clone()
        self._fooled_by = torch.where(clean == labels, STILL_RIGHT, WRONG_WHEN_CLEAN)
        self.margins: Tensor | None = None

    def go_on(self, stages: Sequence[tuple[int, Stage]], at: Setting) -> None:
        """Runs stages, with their places, on what is still right at the radius before."""
        for place, stage in stages if at.threat.eps > 0 else ():
            right = (self._fooled_by == STILL_RIGHT).nonzero().squeeze(1)
            if len(right) == 0:
                break
            images, labels = self._images[right], self._labels[right]
            adversarial = stage.perturb(self._twin, images, labels, at).detach()
            _check_ball(stage.name, adversarial, images, at.threat)
            # What counts is what the model itself says.
            predicted, logits = _predict(self._model, adversarial)
            self._predicted[right] = predicted
            self._fooled_by[right[predicted != labels]] = place
            if self.margins is not None:
                self.margins[right] = -cw_margin(logits, labels, None)

    def outcome(self) -> ShardOutcome:
        """Returns how it stands."""
        margins = None
        if self.margins is not None:
            known = self.margins.masked_fill(self._fooled_by != STILL_RIGHT, 0.0)
            margins = known.double().cpu().numpy()
        # On the CPU the tensors go on changing.
        return ShardOutcome(
            self._predicted.cpu().numpy().copy(),
            self._fooled_by.cpu().numpy().copy(),
            margins=margins,
        )


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


def _check_ball(stage: str, adversarial: Tensor, images: Tensor, threat: Threat) -> None:
    sizes = threat.sizes(adversarial - images)
    # Comparisons with NaN are false, so that a NaN fails here too.
    inside = bool((sizes <= threat.eps * (1 + 1e-4) + 1e-6).all())
    assert inside, f"{stage} left {threat}: {float(sizes.max())}"
    assert float(adversarial.min()) >= 0, stage
    assert float(adversarial.max()) <= 1, stage


def _predict(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns predicted classes `(n,)`, `NO_PREDICTION` where undefined, and logits `(n, K)`."""
    with torch.no_grad():
        logits = model(images.contiguous(memory_format=torch.channels_last))
    predicted = logits.argmax(dim=1)
    return predicted.masked_fill(~logits.isfinite().all(dim=1), NO_PREDICTION), logits


def shard_seed(seed: int, number: int) -> int:
    """Returns a seed in [0, 2**32) of its own for every (seed, shard number).

    All stages take the same one, as in pyautoattack, so that a shard is what
    `pyautoattack.AutoAttack(seed=shard_seed(...))` does to its samples.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
