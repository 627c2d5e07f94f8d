"""The attack engine: projected gradient ascent with per-sample budgets, steps and stops.

One engine serves every method. Samples that have stopped, and those without a budget, leave the
batch that is computed, so stopping early saves time and not only steps. Where batch normalisation
uses the batch's own statistics nobody leaves: the others' results would change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.cuda_graphs import InputGradients
from dynat_ray.acceleration.modes import BatchNormMode, frozen
from dynat_ray.acceleration.twin import twin_of
from dynat_ray.perturb.compaction import places_to_keep
from dynat_ray.perturb.objectives import Objective, ObjectiveName, get_objective, is_named
from dynat_ray.perturb.signals import adversarial_gap
from dynat_ray.perturb.threat import Ball, RandomStart, per_sample, starting_point

# On an accelerator the number of running samples is read this often: each reading waits for the
# device.
_STEPS_BETWEEN_READINGS = 2


@dataclass(frozen=True)
class StopRule:
    """When a sample's attack has done enough.

    Attributes:
        margin: Stops once `max_{k != y} p'_k - p'_y` reaches this, in [-1, 1].
        min_steps: Steps every sample makes before; 0: it may stop at its starting point.
        patience: Steps it still makes, of those that begin beyond the margin.
        applies: Samples `(B,)` (bool) that may stop; None: all.
    """

    margin: float
    min_steps: int = 1
    patience: int = 0
    applies: Tensor | None = None


@dataclass(frozen=True)
class AttackOutcome:
    """What an attack found.

    Attributes:
        images: Adversarial images `(B, C, H, W)` in [0, 1], within the budget of their clean ones.
        steps: Steps each sample made, int64 `(B,)`.
        eps: Budget of each sample, `(B,)`, in units of [0, 1] pixels; 0 where not attacked.
        logits: Logits `(B, K)` last seen for each sample: those of `images` where it stopped or
            the attack has one step, else those before its last step.
        survived: At how many of its `steps` first points (the start counts, the end does not) each
            sample was still classified correctly, int64 `(B,)`.
        passes: Forward-backward passes spent, summed over the samples; forward passes alone don't
            count.
    """

    images: Tensor
    eps: Tensor
    steps: Tensor
    logits: Tensor
    survived: Tensor
    passes: int


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    ball: Ball,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    objective: ObjectiveName | Objective = "ce",
    random_start: RandomStart = "uniform",
    batch_norm: BatchNormMode = "eval",
    stop: StopRule | None = None,
    clean_logits: Tensor | None = None,
    keys: Tensor | None = None,
    step_noise: float = 0.0,
    carried: Tensor | None = None,
    cuda_graphs: bool = False,
) -> AttackOutcome:
    """Attacks every sample within its own budget (Madry et al. 2018).

    No sample's result depends on the others in the batch (with `batch_norm="eval"`).

    Args:
        model: The unwrapped network; images in [0, 1] to logits `(B, K)`. Its parameters are
            frozen meanwhile; modes and flags are restored.
        images: Clean images `(B, C, H, W)` in [0, 1].
        labels: True classes, int64 `(B,)`.
        ball: Geometry of the threat.
        eps: Budget, one or `(B,)`, in units of [0, 1] pixels; 0 leaves a sample unchanged.
        step_size: Length of a step, one or `(B,)`.
        steps: Most steps a sample makes; 0: no attack, images stay as they are.
        objective: What to maximise: `ce`, `kl` (needs `clean_logits`), `cw` or a function.
        random_start: `uniform`, `gaussian` or `none`.
        batch_norm: Mode of batch normalisation; see `frozen`.
        stop: When to stop early; None: never.
        clean_logits: Logits `(B, K)` of the clean images, for `kl`.
        keys: One key `(B,)` per sample for its noise; None draws new ones.
        step_noise: Standard deviation of normal noise added at every step.
        carried: Changes `(B, C, H, W)` to begin with instead of a random start; see
            `starting_point`.
        cuda_graphs: On a GPU, capture the network's passes and replay them as CUDA graphs; for
            attacks that come again and again on one network.

    Returns:
        The adversarial images, detached, and what they cost.
    """
    loss = get_objective(objective)
    labels = labels.to(images.device)
    if keys is None:
        keys = torch.randint(2**32, (len(images),), device=images.device)
    may_stop = torch.full_like(labels, stop is not None, dtype=torch.bool)
    if stop is not None and stop.applies is not None:
        may_stop = stop.applies
    if steps == 0:
        eps = 0.0
    batch = _Samples(
        rows=torch.arange(len(images), device=images.device),
        images=images,
        labels=labels,
        keys=keys,
        eps=_as_tensor(eps, images),
        step_size=_as_tensor(step_size, images),
        may_stop=may_stop,
        clean_log_probs=None if clean_logits is None else clean_logits.float().log_softmax(dim=1),
    )
    with frozen(model, batch_norm):
        network = twin_of(model, images) if batch_norm == "eval" else model
        places = _attacked_at_first(eps, batch.eps, whole=batch_norm == "train")
        start = _start(ball, batch, random_start, carried, places)
        # A replay would not do what a function of others does besides, nor know in which mode the
        # network was.
        capture = cuda_graphs and is_named(loss) and batch_norm == "eval"
        gradient_at = InputGradients(network, loss, capture=capture)
        return _ascend(
            network,
            start,
            batch,
            ball,
            steps,
            gradient_at,
            stop,
            clean_logits,
            step_noise,
            whole=batch_norm == "train",
            places=places,
        )


@dataclass(frozen=True)
class _Samples:
    """The samples that are being computed; `rows` are their places in the whole batch."""

    rows: Tensor
    images: Tensor
    labels: Tensor
    keys: Tensor
    eps: Tensor
    step_size: Tensor
    may_stop: Tensor
    clean_log_probs: Tensor | None

    def select(self, places: Tensor) -> _Samples:
        log_probs = self.clean_log_probs
        return _Samples(
            rows=self.rows[places],
            images=self.images[places],
            labels=self.labels[places],
            keys=self.keys[places],
            eps=self.eps[places],
            step_size=self.step_size[places],
            may_stop=self.may_stop[places],
            clean_log_probs=None if log_probs is None else log_probs[places],
        )


def _ascend(
    model: nn.Module,
    start: Tensor,
    batch: _Samples,
    ball: Ball,
    steps: int,
    gradient_at: InputGradients,
    stop: StopRule | None,
    clean_logits: Tensor | None,
    step_noise: float,
    whole: bool,
    places: Tensor | None,
) -> AttackOutcome:
    """Runs the steps; `samples`, `current`, `done`, `patience` hold only what is still attacked.

    At first these are the samples at `places`; None: all.
    """
    adversarial, passes = start, 0
    used, survived = torch.zeros_like(batch.labels), torch.zeros_like(batch.labels)
    samples, current = batch, start
    if places is not None:
        samples, current = batch.select(places), start[places]
        if clean_logits is None:
            with torch.no_grad():
                clean_logits = model(start)
    logits = None if clean_logits is None else clean_logits.detach().float().clone()
    done = samples.eps <= 0
    patience = torch.full_like(samples.labels, 0 if stop is None else stop.patience)
    on_host = start.device.type == "cpu"
    for step in range(steps):
        if len(current) == 0:
            break
        gradient, seen = gradient_at(current, samples.labels, samples.clean_log_probs)
        passes += len(current)
        logits = seen if logits is None else logits.index_copy_(0, samples.rows, seen)
        if stop is not None and step >= stop.min_steps:
            beaten = samples.may_stop & (adversarial_gap(seen, samples.labels) >= stop.margin)
            done |= beaten & (patience == 0)
            patience -= (beaten & ~done).long()
        moved = ball.step(current, gradient, samples.step_size)
        if step_noise > 0:
            step_keys = keyed_random.combine(samples.keys, step)
            moved = moved + step_noise * keyed_random.normal(step_keys, *current.shape[1:])
        moved = ball.project(moved, samples.images, samples.eps)
        current = torch.where(per_sample(done, current), current, moved)
        used.index_add_(0, samples.rows, (~done).long())
        correct = seen.argmax(dim=1) == samples.labels
        survived.index_add_(0, samples.rows, (correct & ~done).long())
        if whole or stop is None or not (on_host or (step + 1) % _STEPS_BETWEEN_READINGS == 0):
            continue
        kept = places_to_keep(done, len(start))
        if kept is not None:
            adversarial = adversarial.index_copy(0, samples.rows, current)
            samples, current = samples.select(kept), current[kept]
            done, patience = done[kept], patience[kept]
    assert logits is not None
    if steps == 1 and len(current) > 0:
        # Else nobody would ever have looked at what the attack has found.
        with torch.no_grad():
            logits.index_copy_(0, samples.rows, model(current).float())
    adversarial = adversarial.index_copy(0, samples.rows, current)
    return AttackOutcome(adversarial, batch.eps, used, logits, survived, passes)


def _attacked_at_first(eps: float | Tensor, budgets: Tensor, *, whole: bool) -> Tensor | None:
    """Returns the places of samples with a budget, or None where all take part.

    On an accelerator a few others fill up. With `whole` all take part as long as any has one.
    Waits for the device where samples have budgets of their own.
    """
    nobody = torch.arange(0, device=budgets.device)
    if not isinstance(eps, Tensor):
        return None if eps > 0 else nobody
    if whole:
        return None if bool((budgets > 0).any()) else nobody
    return places_to_keep(budgets <= 0, len(budgets))


def _start(
    ball: Ball,
    batch: _Samples,
    random_start: RandomStart,
    carried: Tensor | None,
    places: Tensor | None,
) -> Tensor:
    """Returns where the attack begins; samples that are not at `places` are as they are."""
    if places is None:
        return starting_point(ball, batch.images, batch.eps, random_start, batch.keys, carried)
    attacked = batch.select(places)
    carried = None if carried is None else carried[places]
    start = starting_point(
        ball, attacked.images, attacked.eps, random_start, attacked.keys, carried
    )
    return batch.images.index_copy(0, places, start)


def _as_tensor(value: float | Tensor, images: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(images)
    return torch.full((len(images),), value, device=images.device, dtype=images.dtype)
