"""The samples of an attack: which are still attacked, and what is known of each so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynat_ray.perturb.compaction import places_to_keep
from dynat_ray.perturb.signals import adversarial_gap
from dynat_ray.perturb.threat import per_sample


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
    """

    images: Tensor
    eps: Tensor
    steps: Tensor
    logits: Tensor
    survived: Tensor


@dataclass(frozen=True)
class Samples:
    """The samples that are being computed; `rows` are their places in the whole batch."""

    rows: Tensor
    images: Tensor
    labels: Tensor
    keys: Tensor
    eps: Tensor
    step_size: Tensor
    may_stop: Tensor
    clean_log_probs: Tensor | None

    def select(self, places: Tensor) -> Samples:
        log_probs = self.clean_log_probs
        return Samples(
            rows=self.rows[places],
            images=self.images[places],
            labels=self.labels[places],
            keys=self.keys[places],
            eps=self.eps[places],
            step_size=self.step_size[places],
            may_stop=self.may_stop[places],
            clean_log_probs=None if log_probs is None else log_probs[places],
        )


@dataclass
class Running:
    """The samples that are still attacked, and where their attacks are.

    Attributes:
        samples: What they are.
        current: Their images now, `(n, C, H, W)`.
        done: Who has stopped, or has no budget, `(n,)`, bool.
        patience: Steps that a sample beyond the margin still makes, int64 `(n,)`.
    """

    samples: Samples
    current: Tensor
    done: Tensor
    patience: Tensor

    @classmethod
    def of(
        cls, batch: Samples, start: Tensor, places: Tensor | None, stop: StopRule | None
    ) -> Running:
        samples = batch if places is None else batch.select(places)
        patience = torch.full_like(samples.labels, 0 if stop is None else stop.patience)
        return cls(samples, start if places is None else start[places], samples.eps <= 0, patience)

    def stop_beaten(self, logits: Tensor, margin: float) -> None:
        """Stops samples whose attack has won by `margin` and which have no patience left."""
        gap = adversarial_gap(logits, self.samples.labels)
        beaten = self.samples.may_stop & (gap >= margin)
        self.done |= beaten & (self.patience == 0)
        self.patience -= (beaten & ~self.done).long()

    def move(self, moved: Tensor) -> None:
        """Takes those that have not stopped to where their step leads."""
        self.current = torch.where(per_sample(self.done, moved), self.current, moved)

    def select(self, places: Tensor) -> Running:
        return Running(
            self.samples.select(places),
            self.current[places],
            self.done[places],
            self.patience[places],
        )


@dataclass
class Found:
    """What is known of all samples of the batch so far."""

    images: Tensor
    logits: Tensor | None
    steps: Tensor
    survived: Tensor

    @classmethod
    def at(cls, start: Tensor, batch: Samples, clean_logits: Tensor | None) -> Found:
        logits = None if clean_logits is None else clean_logits.detach().float().clone()
        return cls(start, logits, torch.zeros_like(batch.labels), torch.zeros_like(batch.labels))

    def see(self, running: Running, logits: Tensor) -> None:
        """Takes in the logits `(n, K)` of the current images."""
        rows = running.samples.rows
        self.logits = logits if self.logits is None else self.logits.index_copy_(0, rows, logits)

    def count(self, running: Running, logits: Tensor) -> None:
        """Counts a step, and who was still right where it began."""
        rows, moving = running.samples.rows, ~running.done
        self.steps.index_add_(0, rows, moving.long())
        correct = logits.argmax(dim=1) == running.samples.labels
        self.survived.index_add_(0, rows, (correct & moving).long())

    def without_stopped(self, running: Running, whole: int) -> Running:
        """Returns what still runs, and keeps where the others ended."""
        kept = places_to_keep(running.done, whole)
        if kept is None:
            return running
        self.images = self.images.index_copy(0, running.samples.rows, running.current)
        return running.select(kept)

    def outcome(self, running: Running, eps: Tensor) -> AttackOutcome:
        assert self.logits is not None
        images = self.images.index_copy(0, running.samples.rows, running.current)
        return AttackOutcome(images, eps, self.steps, self.logits, self.survived)
