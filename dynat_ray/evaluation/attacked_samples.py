"""What becomes of samples under an attack, at one radius or over a curve of them.

What fooled a sample at one radius lies in the ball of the next, so that it falls there too and is
not attacked again; a curve never rises. For the same reason a sample that a whole attack leaves
right at one radius is taken as right at the smaller ones: of an attack of several stages the first,
which is the cheapest, sees at every radius whom the smaller ones left right; the others see a
sample at the largest radius at which it is right, and only if it falls there at the next smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.twin import twin_of
from dynat_ray.attacks.drafts import draft_of, takes_draft
from dynat_ray.attacks.registry import Attack, Part
from dynat_ray.attacks.stages import Setting, Stage, perturb_each
from dynat_ray.evaluation.shard_outcome import (
    NO_PREDICTION,
    STILL_RIGHT,
    WRONG_WHEN_CLEAN,
    ShardOutcome,
)
from dynat_ray.perturb.objectives import cw_margin
from dynat_ray.perturb.threat import Threat

_Stages = Sequence[tuple[int, Stage]]


@dataclass
class _State:
    """How samples stand at one radius, `(n,)` each, on the device.

    Attributes:
        predicted: As in `ShardOutcome`.
        fooled_by: As in `ShardOutcome`.
        margins: Of the logits for a sample's last image; None: they are not needed.
    """

    predicted: Tensor
    fooled_by: Tensor
    margins: Tensor | None

    @property
    def right(self) -> Tensor:
        return self.fooled_by == STILL_RIGHT

    def copy(self) -> _State:
        margins = None if self.margins is None else self.margins.clone()
        return _State(self.predicted.clone(), self.fooled_by.clone(), margins)

    def outcome(self) -> ShardOutcome:
        margins = None
        if self.margins is not None:
            margins = self.margins.masked_fill(~self.right, 0.0).double().cpu().numpy()
        return ShardOutcome(
            self.predicted.cpu().numpy(), self.fooled_by.cpu().numpy(), margins=margins
        )


class AttackedSamples:
    """The samples of a shard, to be attacked.

    Args:
        model: As evaluation must see it.
        images: float32 `(n, C, H, W)` in [0, 1], on the model's device.
        labels: int64 `(n,)`.
        logits: The model's, `(n, K)`.
        drafts: Whether stages may look with a draft of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        *,
        drafts: bool = False,
    ) -> None:
        self._model, self._twin = model, twin_of(model, images)
        self._images, self._labels, self._logits = images, labels, logits
        self._drafts = drafts

    def under(self, attack: Attack, part: Part, settings: Sequence[Setting]) -> list[ShardOutcome]:
        """Returns what an attack does to them at every radius.

        Args:
            attack: Which.
            part: Which of its stages.
            settings: By ascending radius; at radius 0 images stay as they are.
        """
        stages = attack.places(part)
        settings = self._with_draft(stages, settings)
        # Who is to see the last stages of a sampled attack follows from margins at each radius.
        sampled = attack.sampled > 0 and part == "first"
        first = len(stages) if sampled else 1
        state, states = self._unattacked(margins=sampled), []
        for at in settings:
            eps = self._logits.new_full((len(self._labels),), at.threat.eps, dtype=torch.float64)
            self._run(stages[:first], at, eps, state, who=state.right)
            states.append(state.copy())
        self._run_from_largest(stages[first:], settings, states)
        return [each.outcome() for each in states]

    def _with_draft(self, stages: _Stages, settings: Sequence[Setting]) -> Sequence[Setting]:
        """Returns the settings with a draft that all of them can use, where there is one."""
        attacked = [at.threat for at in settings if at.threat.eps > 0]
        wanted = self._drafts and any(takes_draft(stage) for _, stage in stages)
        if not wanted or not attacked or attacked[0].norm != "Linf":
            return settings
        draft = draft_of(self._model, self._images, self._labels, attacked[0].eps)
        return [replace(at, draft=draft) for at in settings]

    def _run_from_largest(
        self, stages: _Stages, settings: Sequence[Setting], states: Sequence[_State]
    ) -> None:
        """Runs stages on every sample from the largest radius on at which it is right.

        Samples of all radii share a batch. What fell at one radius falls at the larger ones.
        """
        radii = self._logits.new_tensor([at.threat.eps for at in settings], dtype=torch.float64)
        # Who is right at one radius is so at all smaller ones.
        place = torch.stack([state.right for state in states]).sum(dim=0) - 1
        while bool((attacked := (place >= 0) & (radii[place] > 0)).any()):
            drawn = _taken_from(states, place.clamp(min=0))
            self._run(stages, settings[-1], radii[place], drawn, who=attacked)
            for number, state in enumerate(states):
                rows = attacked & (place == number)
                state.predicted[rows] = drawn.predicted[rows]
                state.fooled_by[rows] = drawn.fooled_by[rows]
            place = torch.where(attacked & ~drawn.right, place - 1, -1)
        for smaller, larger in pairwise(states):
            fell = smaller.fooled_by >= 0
            larger.predicted[fell] = smaller.predicted[fell]
            larger.fooled_by[fell] = smaller.fooled_by[fell]

    def _run(
        self, stages: _Stages, at: Setting, eps: Tensor, state: _State, *, who: Tensor
    ) -> None:
        """Runs stages, with their places, on those of the samples `who` that are right.

        Args:
            stages: In this order.
            at: Norm and seed.
            eps: Radius of every sample, float64 `(n,)`.
            state: Is changed.
            who: bool `(n,)`.
        """
        for place, stage in stages:
            chosen = (who & state.right & (eps > 0)).nonzero().squeeze(1)
            if len(chosen) == 0:
                break
            images, labels, radii = self._images[chosen], self._labels[chosen], eps[chosen]
            adversarial = perturb_each(stage, self._twin, images, labels, radii, at).detach()
            _check_ball(stage.name, adversarial, images, at.threat, radii)
            # What counts is what the model itself says.
            predicted, logits = predict(self._model, adversarial)
            state.predicted[chosen] = predicted
            state.fooled_by[chosen[predicted != labels]] = place
            if state.margins is not None:
                state.margins[chosen] = -cw_margin(logits, labels, None)

    def _unattacked(self, *, margins: bool) -> _State:
        clean = _classes(self._logits)
        return _State(
            clean,
            torch.where(clean == self._labels, STILL_RIGHT, WRONG_WHEN_CLEAN),
            -cw_margin(self._logits, self._labels, None) if margins else None,
        )


def _taken_from(states: Sequence[_State], place: Tensor) -> _State:
    """Returns how every sample stands at its own one of several radii, `place` `(n,)`."""

    def taken(each: list[Tensor]) -> Tensor:
        return torch.stack(each).gather(0, place[None])[0]

    return _State(
        taken([state.predicted for state in states]),
        taken([state.fooled_by for state in states]),
        margins=None,
    )


def predict(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns predicted classes `(n,)`, `NO_PREDICTION` where undefined, and logits `(n, K)`."""
    with torch.no_grad():
        logits = model(images.contiguous(memory_format=torch.channels_last))
    return _classes(logits), logits


def _classes(logits: Tensor) -> Tensor:
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), NO_PREDICTION)


def _check_ball(
    stage: str, adversarial: Tensor, images: Tensor, threat: Threat, eps: Tensor
) -> None:
    sizes = threat.sizes(adversarial - images)
    # Comparisons with NaN are false, so that a NaN fails here too.
    inside = bool((sizes <= eps * (1 + 1e-4) + 1e-6).all())
    assert inside, f"{stage} left {threat.norm}, eps {eps.unique().tolist()}: {float(sizes.max())}"
    assert float(adversarial.min()) >= 0, stage
    assert float(adversarial.max()) <= 1, stage
