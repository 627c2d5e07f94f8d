"""Small pieces of an evaluation, each of which can be done anywhere, anytime, with one outcome.

The samples are cut into shards. A shard's random numbers follow from (seed, shard number) alone
and no state passes between shards, so that one worker, many workers and a resumed run give the
same outcome for every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.acceleration.twin import twin_of
from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Attack, get_attack, get_probe
from dynat_ray.attacks.stages import Setting
from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.perturb.threat import change_sizes

# In `ShardOutcome.fooled_by`.
STILL_RIGHT, WRONG_WHEN_CLEAN = -1, -2
# In `ShardOutcome.predicted`: the logits were not finite.
NO_PREDICTION = -1


@dataclass(frozen=True)
class Shard:
    """A piece of work.

    Attributes:
        number: From 0; with the seed it gives the shard's random numbers.
        eps: Radius in units of [0, 1] pixels.
        positions: Which samples, int64 `(n,)`, places in the evaluated images.
        attacks: Names of the attacks to run on them, or of the probes.
        probes: Whether it is probes (corruptions, distances) that are run; their eps is 0.
    """

    number: int
    eps: float
    positions: NDArray[np.int64]
    attacks: tuple[str, ...]
    probes: bool = False


@dataclass(frozen=True)
class ShardOutcome:
    """What one attack did to the samples of one shard.

    Attributes:
        predicted: Class after the attack, `(n,)`: the label exactly where the sample is still
            right, `NO_PREDICTION` where the logits are not finite.
        fooled_by: Stage that fooled the sample, `(n,)`: its place in the attack's stages,
            `STILL_RIGHT`, or `WRONG_WHEN_CLEAN`.
        distances: What a probe of distances measured, float64 `(n,)`, may be infinite.
    """

    predicted: NDArray[np.int64]
    fooled_by: NDArray[np.int64]
    distances: NDArray[np.float64] | None = None


class Planned(Protocol):
    """An attack or a probe, as far as planning goes."""

    @property
    def name(self) -> str: ...

    @property
    def costly(self) -> bool: ...


def plan_shards(
    samples: int,
    attacks: Sequence[Planned],
    *,
    eps: Sequence[float],
    batch_size: int,
    costly_positions: NDArray[np.int64] | None = None,
    probes: Sequence[Planned] = (),
) -> list[Shard]:
    """Cuts an evaluation into shards of at most `batch_size` samples, as equal as they can be.

    Args:
        samples: Number of samples.
        attacks: What to run.
        eps: Radii; every one has its own shards, with the same numbers.
        batch_size: Most samples in a shard, at least 1.
        costly_positions: The samples that costly attacks see; None: all.
        probes: What else to run, once; in shards of their own with the numbers that follow.
    """

    def cut(wanted: Sequence[Planned]) -> list[_Piece]:
        return _cut(samples, wanted, batch_size, costly_positions)

    pieces = cut(attacks)
    shards = [
        Shard(number, radius, positions, names)
        for radius in eps
        for number, (positions, names) in enumerate(pieces)
    ]
    return shards + [
        Shard(number, 0.0, positions, names, probes=True)
        for number, (positions, names) in enumerate(cut(probes), start=len(pieces))
    ]


_Piece = tuple[NDArray[np.int64], tuple[str, ...]]


def _cut(
    samples: int,
    attacks: Sequence[Planned],
    batch_size: int,
    costly_positions: NDArray[np.int64] | None,
) -> list[_Piece]:
    everywhere = np.arange(samples)
    names = tuple(attack.name for attack in attacks)
    cheap = tuple(attack.name for attack in attacks if not attack.costly)
    if costly_positions is None or len(cheap) == len(names):
        groups = [(everywhere, names)]
    else:
        groups = [(costly_positions, names), (np.setdiff1d(everywhere, costly_positions), cheap)]
    pieces: list[_Piece] = []
    for positions, wanted in groups:
        count = -(-len(positions) // batch_size)
        # Dealt out in turn: data sets are often sorted by class, and classes differ in how long
        # they stand an attack.
        pieces += [(positions[start::count], wanted) for start in range(count) if wanted]
    return pieces


def evaluate_shard(
    model: nn.Module, images: Tensor, labels: Tensor, shard: Shard, *, norm: Norm, seed: int
) -> dict[str, ShardOutcome]:
    """Attacks the samples of one shard; its outcome follows from its arguments alone.

    Args:
        model: On its device; is left as it was.
        images: The shard's, float32 `(n, C, H, W)` in [0, 1], on any device.
        labels: int64 `(n,)`.
        shard: What to do; at eps 0 images stay as they are.
        norm: `Linf` or `L2`.
        seed: Of the evaluation.

    Returns:
        An outcome for each attack.

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
        clean, classes = _predict(ready, images)
        if bool((clean == NO_PREDICTION).any()):
            bad = int((clean == NO_PREDICTION).sum())
            raise UserError(
                f"the model's logits are not finite for {bad} of {len(images)} clean images"
            )
        own = seed if shard.probes else shard_seed(seed, shard.number)
        at = Setting(norm=norm, eps=shard.eps, classes=classes, seed=own)
        if shard.probes:
            return {
                name: _measure(get_probe(name), ready, images, labels, clean, at, shard.positions)
                for name in shard.attacks
            }
        return {
            name: _attack(get_attack(name), ready, images, labels, clean, at)
            for name in shard.attacks
        }


def _attack(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, clean: Tensor, at: Setting
) -> ShardOutcome:
    predicted = clean.clone()
    attacked = twin_of(model, images)
    fooled_by = torch.where(clean == labels, STILL_RIGHT, WRONG_WHEN_CLEAN)
    for place, stage in enumerate(attack.stages if at.eps > 0 else ()):
        right = (fooled_by == STILL_RIGHT).nonzero().squeeze(1)
        if len(right) == 0:
            break
        adversarial = stage.perturb(attacked, images[right], labels[right], at).detach()
        _check_ball(stage.name, adversarial, images[right], at)
        # What counts is what the model itself says.
        predicted[right], _ = _predict(model, adversarial)
        fooled_by[right[predicted[right] != labels[right]]] = place
    return ShardOutcome(predicted.cpu().numpy(), fooled_by.cpu().numpy())


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


def _check_ball(stage: str, adversarial: Tensor, images: Tensor, at: Setting) -> None:
    sizes = change_sizes(adversarial - images, at.norm)
    # Comparisons with NaN are false, so that a NaN fails here too.
    inside = bool((sizes <= at.eps * (1 + 1e-4) + 1e-6).all())
    assert inside, f"{stage} left the {at.norm} ball of {at.eps}: {float(sizes.max())}"
    assert float(adversarial.min()) >= 0, stage
    assert float(adversarial.max()) <= 1, stage


def _predict(model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """Returns predicted classes `(n,)`, `NO_PREDICTION` where undefined, and how many there are."""
    with torch.no_grad():
        logits = model(images.contiguous(memory_format=torch.channels_last))
    predicted = logits.argmax(dim=1)
    return predicted.masked_fill(~logits.isfinite().all(dim=1), NO_PREDICTION), logits.shape[1]


def shard_seed(seed: int, number: int) -> int:
    """Returns a seed in [0, 2**32) of its own for every (seed, shard number).

    All stages take the same one, as in pyautoattack, so that a shard is what
    `pyautoattack.AutoAttack(seed=shard_seed(...))` does to its samples.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
