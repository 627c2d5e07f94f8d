"""Attacks on another model, tried on the one under evaluation (Papernot et al. 2017).

Gradients that mislead attacks on a model do not help it against images made with another model's
gradients. The other model is the user's, or a small substitute that learns the model's answers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.evaluation.batches import BATCH_SIZE, in_batches
from dynat_ray.evaluation.checks import Check, Target, notable
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.perturb.threat import Threat, largest_distance

_STEPS = 50
# The substitute: how often each image is shown to the model, each time with other noise, and
# how long it learns. Some 1,000 images are enough for one that agrees on what it is attacked with.
_QUERIES_PER_IMAGE = 12
_LEARNING_STEPS = 300
_LEARNING_BATCH = 64
_LEARNING_RATE = 3e-3
_LARGEST_SIDE = 32


def check_transfer(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int,
    surrogate: nn.Module | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[Check]:
    """Compares PGD and CW on the model with the same on another model, shown to this one.

    Args:
        model: On its device.
        images: float32 `(n, C, H, W)` in [0, 1]; up to `CHECK_SAMPLES` right ones are attacked.
        labels: int64 `(n,)`.
        threat: Norm and radius, more than 0.
        seed: Of all randomness.
        surrogate: Another model with the same classes; None: a substitute is trained.
        batch_size: Most images in a pass.
    """
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with exact(model) as ready:
        target = Target.among(ready, images, labels, threat, seed=seed, batch_size=batch_size)
        if len(target.labels) == 0:
            return []
        other = surrogate
        if other is None:
            other = train_substitute(ready, images, threat, seed=seed, batch_size=batch_size)
        with exact(other.to(device)) as source:
            transferred = _fooled_by_gradients(target, source)
        white_box = _fooled_by_gradients(target, ready)
    whose = "another model" if surrogate is not None else "a substitute that learned its answers"
    return [_compare(transferred, white_box, whose)]


def _fooled_by_gradients(target: Target, source: nn.Module) -> Tensor:
    """Returns which images the gradients of `source` find an adversarial image for, `(n,)`."""
    pgd = GradientAttack("transfer", steps=_STEPS)
    cw = GradientAttack("transfer", steps=_STEPS, objective="cw")
    return target.fooled(pgd, source=source) | target.fooled(cw, source=source)


def _compare(transferred: Tensor, white_box: Tensor, whose: str) -> Check:
    samples, alone = len(white_box), int((transferred & ~white_box).sum())
    flagged = notable(alone, samples)
    return Check(
        "transfer against white box",
        flagged,
        f"images made with the gradients of {whose} fool {alone} of {samples} samples that "
        "PGD and CW on the model itself leave right"
        + ("; the model's own gradients may mislead the attacks" if flagged else ""),
        {
            "samples": float(samples),
            "only_transfer_percent": 100 * alone / samples,
            "gradient_percent": 100 * float(white_box.float().mean()),
            "transfer_percent": 100 * float(transferred.float().mean()),
        },
    )


def train_substitute(
    model: nn.Module,
    images: Tensor,
    threat: Threat,
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> nn.Module:
    """Returns a small network that has learned the classes a model gives around some images.

    Args:
        model: In eval mode; only its predicted classes are used.
        images: float32 `(n, C, H, W)` in [0, 1].
        threat: Images are shown with noise of up to twice its radius.
        seed: Of all randomness.
        batch_size: Most images in a pass.
    """
    generator = torch.Generator().manual_seed(seed)
    per_pixel = threat.eps / largest_distance(threat.norm, images[0].numel())
    shown, classes = [], []
    with torch.no_grad():
        for _ in range(_QUERIES_PER_IMAGE):
            noise = torch.rand(images.shape, generator=generator) * 2 - 1
            noisy = (images + 2 * per_pixel * noise.to(images.device)).clamp(0, 1)
            logits = in_batches(model, batch_size, noisy)
            shown.append(noisy)
            classes.append(logits.argmax(dim=1))
    pixels, answers = torch.cat(shown), torch.cat(classes)
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        substitute = _Substitute(images.shape[1], logits.shape[1]).to(images.device)
        optimiser = torch.optim.Adam(substitute.parameters(), _LEARNING_RATE)
        for _ in range(_LEARNING_STEPS):
            rows = torch.randint(len(pixels), (_LEARNING_BATCH,), generator=generator)
            rows = rows.to(images.device)
            optimiser.zero_grad()
            F.cross_entropy(substitute(pixels[rows]), answers[rows]).backward()
            optimiser.step()
    return substitute.eval()


class _Substitute(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(48 * 16, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        if max(images.shape[-2:]) > _LARGEST_SIDE:
            images = F.interpolate(images, size=_LARGEST_SIDE, mode="area")
        logits: Tensor = self.layers(images * 2 - 1)
        return logits
