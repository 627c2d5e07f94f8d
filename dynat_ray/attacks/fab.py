"""FAB, the fast adaptive boundary attack (Croce and Hein, ICML 2020), towards target classes.

It looks for the nearest adversarial image. The algorithm and its constants are those of AutoAttack;
two things are cheaper than in pyautoattack. The projection onto a plane within the pixel range is a
Newton iteration instead of a sort, and samples whose outcome stands leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynat_ray.attacks.stages import Setting, likely_wrong_class, target_count
from dynat_ray.config import Norm
from dynat_ray.perturb.threat import change_sizes, per_sample

_ITERATIONS = 100
# Largest weight of the step that starts from the clean image.
_ALPHA_MAX = 0.1
# How far beyond the boundary a step goes.
_OVERSHOOT = 1.05
# What is left of the perturbation when a step has crossed the boundary.
_BACKWARD = 0.9
# Newton's iteration on a concave function of finitely many pieces ends by itself; a bound for what
# rounding may do.
_MOST_NEWTON_STEPS = 50


@dataclass(frozen=True)
class TargetedFab:
    """FAB towards every wrong class (the nine most likely ones), as far as it gets within eps."""

    name: str = "fab-t"

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        eps = images.new_full(labels.shape, at.threat.eps)
        return self.perturb_each(model, images, labels, eps, at)

    def mixes(self, model: nn.Module, images: Tensor, at: Setting) -> bool:
        return True

    def perturb_each(
        self, model: nn.Module, images: Tensor, labels: Tensor, eps: Tensor, at: Setting
    ) -> Tensor:
        result = images.clone()
        left = torch.arange(len(images), device=images.device)
        for rank in range(target_count(at.classes)):
            found, distances = nearest_towards(
                model,
                images[left],
                labels[left],
                rank,
                norm=at.threat.norm,
                enough=eps[left],
                draft=at.draft,
            )
            fooled = distances <= eps[left]
            result[left[fooled]] = found[fooled]
            left = left[~fooled]
            if len(left) == 0:
                break
        return result

    def note(self, classes: int) -> str:
        return ""


def nearest_towards(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rank: int,
    *,
    norm: Norm,
    enough: Tensor | None = None,
    draft: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Looks for the nearest adversarial image in the direction of one wrong class.

    Args:
        model: Images to logits, in eval mode, with frozen parameters.
        images: `(B, C, H, W)` in [0, 1], classified right.
        labels: int64 `(B,)`.
        rank: Which class: 0 is the most likely wrong one.
        norm: `Linf`, `L2` or `L1`.
        enough: An image found within this distance `(B,)` is not improved further; None: 0.
        draft: Gives nearly the model's logits for less: it is followed, and the model is asked
            only of what it finds within `enough`. None: there is none.

    Returns:
        Images like `images`, unchanged where none was found, and distances `(B,)`, infinite there.
    """
    assert draft is None or enough is not None
    followed = model if draft is None else draft
    nearest = images.clone()
    distances = torch.full(labels.shape, torch.inf, device=images.device)
    with torch.no_grad():
        target = likely_wrong_class(model(_channels_last(images)), rank)
    left = torch.arange(len(images), device=images.device)
    clean, own, point = images, labels, images
    goal = torch.zeros_like(distances) if enough is None else enough
    for _ in range(_ITERATIONS):
        plane = _linearised(followed, point, own, target)
        point = _towards(plane, point, clean, norm)
        crossed = _fooled(followed, point, own)
        change = point - clean
        length = change_sizes(change, norm)
        if draft is not None:
            asked = (crossed & (length <= goal[left])).nonzero().squeeze(1)
            crossed[asked] = _fooled(model, point[asked], own[asked])
        length = torch.where(crossed, length, torch.inf)
        nearer = length < distances[left]
        nearest[left[nearer]] = point[nearer]
        distances[left[nearer]] = length[nearer]
        point = torch.where(per_sample(crossed, point), clean + change * _BACKWARD, point)
        searching = distances[left] > goal[left]
        if not bool(searching.all()):
            left, clean, own = left[searching], clean[searching], own[searching]
            point, target = point[searching], target[searching]
            if len(left) == 0:
                break
    return nearest, distances


@torch.no_grad()
def _fooled(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    if len(points) == 0:
        return torch.zeros_like(labels, dtype=torch.bool)
    return model(_channels_last(points)).argmax(dim=1) != labels


@dataclass(frozen=True)
class _Plane:
    """`normal * z + offset = 0`, one for each sample: where two logits would be equal."""

    normal: Tensor
    offset: Tensor

    def at(self, points: Tensor) -> Tensor:
        return (self.normal * points).flatten(1).sum(dim=1) + self.offset


def _linearised(model: nn.Module, point: Tensor, labels: Tensor, target: Tensor) -> _Plane:
    point = _channels_last(point).detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(point)
        both = logits.gather(1, torch.stack([target, labels], dim=1))
        difference = both[:, 0] - both[:, 1]
        (normal,) = torch.autograd.grad(difference.sum(), point)
    # No plane can be drawn along a pixel whose slope is not finite.
    point, normal = point.detach(), normal.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return _Plane(normal, difference.detach() - (normal * point).flatten(1).sum(dim=1))


def _towards(plane: _Plane, point: Tensor, clean: Tensor, norm: Norm) -> Tensor:
    """Returns the next point: beyond the plane, drawn a little towards the clean image."""
    from_point = step_to_plane(point, plane.normal, plane.at(point), norm)
    from_clean = step_to_plane(clean, plane.normal, plane.at(clean), norm)
    one, other = (change_sizes(step, norm).clamp(min=1e-8) for step in (from_point, from_clean))
    alpha = per_sample((one / (one + other)).clamp(max=_ALPHA_MAX), point)
    mixed = (point + _OVERSHOOT * from_point) * (1 - alpha)
    return (mixed + (clean + _OVERSHOOT * from_clean) * alpha).clamp(0, 1)


def step_to_plane(points: Tensor, normal: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """Returns the shortest steps that lead to a plane without leaving [0, 1].

    A step of length `t` goes `min(t * speed, room)` in every coordinate, towards the plane; its
    gain is concave and piecewise linear in `t`, so that Newton's iteration from the left ends at
    the solution.

    Args:
        points: `(B, C, H, W)` in [0, 1].
        normal: `w`, like `points`.
        value: `w * points + offset` `(B,)`: 0 on the plane.
        norm: `Linf`, `L2` or `L1`.

    Returns:
        Steps like `points`; where [0, 1] ends before the plane, as far as it goes.
    """
    shape = points.shape
    points, normal = points.flatten(1), normal.flatten(1)
    direction = -normal.sign() * value.sign()[:, None]
    room = torch.where(direction > 0, 1 - points, points).masked_fill(direction == 0, 0.0)
    weight, needed = normal.abs(), value.abs()
    if norm == "L1":
        return (direction * _steepest_first(weight, room, needed)).reshape(shape)
    speed = torch.ones_like(weight) if norm == "Linf" else weight
    rate, smallest = weight * speed, torch.finfo(points.dtype).tiny
    reached = torch.zeros_like(needed)
    length = torch.zeros_like(needed)
    moving = rate.sum(dim=1)
    for _ in range(_MOST_NEWTON_STEPS):
        missing = needed - reached
        going = (moving > 0) & (missing > 1e-6 * needed)
        if not bool(going.any()):
            break
        length = torch.where(going, length + missing / moving.clamp(min=smallest), length)
        ahead = length[:, None] * speed
        reached = (weight * torch.minimum(ahead, room)).sum(dim=1)
        moving = (rate * (ahead < room)).sum(dim=1)
    return (direction * torch.minimum(length[:, None] * speed, room)).reshape(shape)


def _steepest_first(weight: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Returns lengths `(B, D)` of which the weighted sum is `needed` and the plain sum smallest.

    Coordinates of the largest weight go as far as there is room, until it is enough.
    """
    steepest, order = weight.sort(dim=1, descending=True)
    ahead = room.gather(1, order)
    gain = steepest * ahead
    before = gain.cumsum(dim=1) - gain
    missing = (needed[:, None] - before).clamp(min=0)
    smallest = torch.finfo(weight.dtype).tiny
    lengths = torch.minimum(ahead, missing / steepest.clamp(min=smallest))
    return torch.zeros_like(weight).scatter(1, order, lengths * (steepest > 0))


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
