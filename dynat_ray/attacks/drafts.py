"""Searches in half precision whose finds count only when float32 confirms them.

FAB and Square take most of AutoAttack's time and fool few of what APGD leaves right. A draft of the
model, which costs a fraction, says where to go: Square asks the model only of queries that the
draft finds nearer to another class, FAB only of images that the draft has wrong within the ball.
What the model says alone counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.precision import usable_precision
from dynat_ray.acceleration.twin import twin_of
from dynat_ray.attacks.fab import TargetedFab
from dynat_ray.attacks.square import Square
from dynat_ray.attacks.stages import Stage
from dynat_ray.config import Norm
from dynat_ray.models import Classifier
from dynat_ray.perturb.objectives import cw_margin

# Of the check that a draft sees what a change within the ball does to an image's margin.
_CHECKED_IMAGES = 16
_TOLERANCE = 0.2


class Draft(nn.Module):
    """Gives nearly the logits of a classifier: its trunk in half precision, its head in float32.

    Rounded like the trunk, logits would hide what a single query changes.

    Args:
        model: The classifier, as evaluation must see it.
        trunk: Computes its features under autocast.
    """

    def __init__(self, model: Classifier, trunk: Classifier) -> None:
        super().__init__()
        # In lists: no parts of this module.
        self._model, self._trunk = [model], [trunk]

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `(B, K)` for images `(B, C, H, W)` in [0, 1]."""
        with _half(images.device):
            features = self._trunk[0].features(images)
        return self._model[0].head(features.float())


def takes_draft(stage: Stage) -> bool:
    """Returns whether a stage looks with a draft where it is given one."""
    return isinstance(stage, TargetedFab | Square)


def drafts_status(model: nn.Module, norm: Norm, device: torch.device) -> str:
    """Returns whether drafts that are asked for can be had, in a few words for a record.

    Args:
        model: What is evaluated.
        norm: Of the evaluation.
        device: Where.
    """
    if norm != "Linf":
        return f"unavailable: there are none under {norm}"
    if not isinstance(model, Classifier):
        return "unavailable: the model is not one of ours"
    if usable_precision("bf16", device) != "bf16":
        return "unavailable: the device does not multiply bf16"
    return "on"


def draft_of(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Draft | None:
    """Returns a draft of a model for attacks on images, or None where there is none to be had.

    That is where the device multiplies no bf16, for models that are no `Classifier`, and where
    what a change within the ball does to margins would drown in the rounding.

    Args:
        model: As evaluation must see it, without autocast.
        images: Some of those to be attacked, float32 `(B, C, H, W)` in [0, 1].
        labels: int64 `(B,)`.
        eps: Radius of the ball under Linf.
    """
    if not isinstance(model, Classifier) or usable_precision("bf16", images.device) != "bf16":
        return None
    with _half(images.device):
        trunk = twin_of(model, images)
    assert isinstance(trunk, Classifier)
    draft = Draft(model, trunk)
    return draft if _sees_changes(draft, model, images, labels, eps) else None


def _half(device: torch.device) -> torch.autocast:
    # float16 rounds an eighth as much; processors, even those that have it, are slow at it.
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype)


@torch.no_grad()
def _sees_changes(
    draft: Draft, model: nn.Module, images: Tensor, labels: Tensor, eps: float
) -> bool:
    images, labels = images[:_CHECKED_IMAGES], labels[:_CHECKED_IMAGES]
    random = torch.Generator().manual_seed(0)
    # Stripes, with which Square begins.
    size = (*images.shape[:2], 1, images.shape[3])
    signs = 2 * torch.randint(2, size, generator=random).to(images) - 1
    changed = (images + eps * signs).clamp(0, 1)

    def effect(network: nn.Module) -> Tensor:
        before, after = (cw_margin(network(each), labels, None) for each in (images, changed))
        return after - before

    expected, found = effect(model), effect(draft)
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())
