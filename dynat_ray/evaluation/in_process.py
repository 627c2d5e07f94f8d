"""Clean and robust accuracy of a model on given samples, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.twin import forget_twin
from dynat_ray.attacks.registry import get_attacks, require_takeable
from dynat_ray.config import Norm
from dynat_ray.data import balanced_subset
from dynat_ray.evaluation.inputs import check_samples, count_classes
from dynat_ray.evaluation.outcomes import FinishedShard, Outcome, collect
from dynat_ray.evaluation.progress_bar import OnShard
from dynat_ray.evaluation.shards import Shard, evaluate_shard, plan_shards


def run_shards(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    shards: Sequence[Shard],
    *,
    norm: Norm,
    seed: int,
) -> Iterator[FinishedShard]:
    """Does shards one after the other in this process.

    Args:
        model: On its device.
        images: float32 `(N, C, H, W)` in [0, 1].
        labels: int64 `(N,)`.
        shards: What to do.
        norm: `Linf` or `L2`.
        seed: Of the evaluation.
    """
    for shard in shards:
        positions = torch.from_numpy(shard.positions)
        part, right = images[positions], labels[positions]
        yield shard, evaluate_shard(model, part, right, shard, norm=norm, seed=seed)


def evaluate_attacks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[str],
    *,
    norm: Norm,
    eps: float,
    seed: int = 0,
    batch_size: int = 256,
    costly_samples: int = 0,
    on_shard: OnShard | None = None,
) -> dict[str, Outcome]:
    """Measures a model under several attacks, where the model is.

    Always float32, in eval mode, with frozen parameters; the model, its flags and PyTorch's
    random states are afterwards as they were.

    Args:
        model: Images in [0, 1] to logits.
        images: float32 `(N, C, H, W)` in [0, 1].
        labels: int64 `(N,)`.
        attacks: Names, see `dynat_ray.attacks.registry`.
        norm: `Linf` or `L2`.
        eps: Radius in units of [0, 1] pixels.
        seed: Outcomes follow from it, whatever ran before.
        batch_size: Most images in a forward pass.
        costly_samples: Class-balanced number of samples that costly attacks (AutoAttack and its
            longer parts) see; 0: all.
        on_shard: Called after each shard, such as `progress_bar`'s.

    Returns:
        An `Outcome` for each attack, in the order given; `Outcome.entry()` is its JSON form.

    Raises:
        UserError: Samples and model do not fit, or an attack is unknown.
    """
    wanted = get_attacks(attacks)
    check_samples(images, labels)
    require_takeable(wanted, images, norm)
    classes = count_classes(model, images, labels)
    forget_twin(model)
    costly = None
    if 0 < costly_samples < len(images):
        costly = balanced_subset(labels.numpy(), costly_samples)
    shards = plan_shards(
        len(images), wanted, eps=[eps], batch_size=batch_size, costly_positions=costly
    )
    finished = []
    for shard, outcomes in run_shards(model, images, labels, shards, norm=norm, seed=seed):
        finished.append((shard, outcomes))
        if on_shard is not None:
            on_shard(shard, outcomes)
    return collect(finished, wanted, classes)[eps]
