"""The attack engine: projected gradient ascent with per-sample budgets, steps and stops.

One engine serves every method. Samples that have stopped, and those without a budget, leave the
batch that is computed, so stopping early saves time and not only steps. Where batch normalisation
uses the batch's own statistics nobody leaves: the others' results would change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.cuda_graphs import InputGradients
from dynat_ray.acceleration.modes import BatchNormMode, frozen
from dynat_ray.acceleration.twin import twin_of
from dynat_ray.perturb.compaction import places_to_keep
from dynat_ray.perturb.objectives import Objective, ObjectiveName, get_objective, is_named
from dynat_ray.perturb.running import AttackOutcome, Found, Running, Samples, StopRule
from dynat_ray.perturb.threat import RandomStart, Threat

# On an accelerator the number of running samples is read this often: each reading waits for the
# device.
_STEPS_BETWEEN_READINGS = 2


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent, each sample within its own budget (Madry et al. 2018).

    Called with a batch, it attacks it. No sample's result depends on the others in the batch (with
    `batch_norm="eval"`).

    Attributes:
        threat: Norm and full budget.
        steps: Most steps a sample makes; 0: no attack, images stay as they are.
        step_size: Length of a step at the full budget, in units of [0, 1] pixels.
        objective: What to maximise: `ce`, `kl` (needs `clean_logits`), `cw` or a function.
        random_start: `uniform`, `gaussian` or `none`.
        batch_norm: Mode of batch normalisation; see `frozen`.
        stop: When to stop early; None: never.
        step_noise: Standard deviation of normal noise added at every step.
        cuda_graphs: On a GPU, capture the network's passes and replay them; for attacks that come
            again and again on one network.
    """

    threat: Threat
    steps: int
    step_size: float
    objective: ObjectiveName | Objective = "ce"
    random_start: RandomStart = "uniform"
    batch_norm: BatchNormMode = "eval"
    stop: StopRule | None = None
    step_noise: float = 0.0
    cuda_graphs: bool = False

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        ratios: float | Tensor = 1.0,
        clean_logits: Tensor | None = None,
        keys: Tensor | None = None,
        carried: Tensor | None = None,
    ) -> AttackOutcome:
        """Attacks a batch.

        Args:
            model: The unwrapped network; images in [0, 1] to logits `(B, K)`. Its parameters are
                frozen meanwhile; modes and flags are restored.
            images: Clean images `(B, C, H, W)` in [0, 1].
            labels: True classes, int64 `(B,)`.
            ratios: Budgets as multiples of eps, one or `(B,)`; steps follow. 0 leaves a sample
                unchanged. One for all spares the engine to ask the device who has a budget.
            clean_logits: Logits `(B, K)` of the clean images, for `kl`.
            keys: One key `(B,)` per sample for its noise; None draws new ones.
            carried: Changes `(B, C, H, W)` to begin with instead of a random start; see
                `Threat.start`.

        Returns:
            The adversarial images, detached, and what is known of them.
        """
        if self.steps == 0 or self.threat.eps == 0:
            ratios = 0.0
        batch = self._batch(images, labels.to(images.device), ratios, clean_logits, keys)
        whole = self.batch_norm == "train"
        with frozen(model, self.batch_norm):
            network = model if whole else twin_of(model, images)
            places = _attacked_at_first(ratios, batch.eps, whole=whole)
            start = _start(self.threat, batch, self.random_start, carried, places)
            return self._ascend(network, start, batch, clean_logits, places)

    def with_stop(self, stop: StopRule) -> PGD:
        """Returns the same attack with another rule for stopping."""
        return replace(self, stop=stop)

    def _batch(
        self,
        images: Tensor,
        labels: Tensor,
        ratios: float | Tensor,
        clean_logits: Tensor | None,
        keys: Tensor | None,
    ) -> Samples:
        if keys is None:
            keys = torch.randint(2**32, (len(images),), device=images.device)
        may_stop = torch.full_like(labels, self.stop is not None, dtype=torch.bool)
        if self.stop is not None and self.stop.applies is not None:
            may_stop = self.stop.applies
        return Samples(
            rows=torch.arange(len(images), device=images.device),
            images=images,
            labels=labels,
            keys=keys,
            eps=_per_sample(self.threat.eps * ratios, images),
            step_size=_per_sample(self.step_size * ratios, images),
            may_stop=may_stop,
            clean_log_probs=None
            if clean_logits is None
            else clean_logits.float().log_softmax(dim=1),
        )

    def _ascend(
        self,
        network: nn.Module,
        start: Tensor,
        batch: Samples,
        clean_logits: Tensor | None,
        places: Tensor | None,
    ) -> AttackOutcome:
        """Runs the steps; what `running` holds is what is still attacked.

        At first these are the samples at `places`; None: all.
        """
        loss = get_objective(self.objective)
        # A replay would not do what a function of others does besides, nor know in which mode the
        # network was.
        capture = self.cuda_graphs and is_named(loss) and self.batch_norm == "eval"
        gradient_at = InputGradients(network, loss, capture=capture)
        if places is not None and clean_logits is None:
            with torch.no_grad():
                clean_logits = network(start)
        found = Found.at(start, batch, clean_logits)
        running = Running.of(batch, start, places, self.stop)
        for step in range(self.steps):
            if len(running.current) == 0:
                break
            gradient, seen = gradient_at(
                running.current, running.samples.labels, running.samples.clean_log_probs
            )
            found.see(running, seen)
            if self.stop is not None and step >= self.stop.min_steps:
                running.stop_beaten(seen, self.stop.margin)
            running.move(self._moved(running, gradient, step))
            found.count(running, seen)
            if self.batch_norm == "eval" and self.stop is not None and _reads_device(start, step):
                running = found.without_stopped(running, len(start))
        if self.steps == 1 and len(running.current) > 0:
            # Else nobody would ever have looked at what the attack has found.
            with torch.no_grad():
                found.see(running, network(running.current).float())
        return found.outcome(running, batch.eps)

    def _moved(self, running: Running, gradient: Tensor, step: int) -> Tensor:
        """Returns where a step leads from the current images, `(n, C, H, W)`."""
        samples, ball = running.samples, self.threat.ball
        moved = ball.step(running.current, gradient, samples.step_size)
        if self.step_noise > 0:
            keys = keyed_random.combine(samples.keys, step)
            moved = moved + self.step_noise * keyed_random.normal(keys, *moved.shape[1:])
        return ball.project(moved, samples.images, samples.eps)


def _reads_device(start: Tensor, step: int) -> bool:
    """Returns whether the number of running samples is read after this step."""
    return start.device.type == "cpu" or (step + 1) % _STEPS_BETWEEN_READINGS == 0


def _attacked_at_first(ratios: float | Tensor, budgets: Tensor, *, whole: bool) -> Tensor | None:
    """Returns the places of samples with a budget, or None where all take part.

    On an accelerator a few others fill up. With `whole` all take part as long as any has one.
    Waits for the device where samples have budgets of their own.
    """
    nobody = torch.arange(0, device=budgets.device)
    if not isinstance(ratios, Tensor):
        return None if ratios > 0 else nobody
    if whole:
        return None if bool((budgets > 0).any()) else nobody
    return places_to_keep(budgets <= 0, len(budgets))


def _start(
    threat: Threat,
    batch: Samples,
    random_start: RandomStart,
    carried: Tensor | None,
    places: Tensor | None,
) -> Tensor:
    """Returns where the attack begins; samples that are not at `places` are as they are."""
    if places is None:
        return threat.start(batch.images, batch.eps, random_start, batch.keys, carried)
    attacked = batch.select(places)
    carried = None if carried is None else carried[places]
    start = threat.start(attacked.images, attacked.eps, random_start, attacked.keys, carried)
    return batch.images.index_copy(0, places, start)


def _per_sample(value: float | Tensor, images: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(images)
    return torch.full((len(images),), value, device=images.device, dtype=images.dtype)
