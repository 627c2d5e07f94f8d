"""Clean and robust accuracy of a model on given samples, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from dynat_ray.acceleration.twin import forget_twin
from dynat_ray.attacks.registry import get_attacks, require_takeable
from dynat_ray.eval_config import EvalConfig
from dynat_ray.evaluation.batches import BATCH_SIZE
from dynat_ray.evaluation.images import FIRST, Images, read_images
from dynat_ray.evaluation.inputs import check_samples, count_classes
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.shards import run_shards
from dynat_ray.perturb.threat import Threat


def evaluate_attacks(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    attacks: Sequence[str],
    threat: Threat,
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    second_stage: int = EvalConfig.second_stage,
    drafts: bool = EvalConfig.drafts,
) -> Mapping[str, Outcome]:
    """Measures a model under several attacks, where the model is.

    In eval mode, with frozen parameters; what counts is in float32, always. The model, its flags
    and PyTorch's random states are afterwards as they were. So many arguments, since each changes
    what is measured or how fast.

    Args:
        model: Images in [0, 1] to logits.
        images: float32 `(N, C, H, W)` in [0, 1]; or what reads them.
        labels: int64 `(N,)`.
        attacks: Names, see `dynat_ray.attacks.registry`.
        threat: Norm and radius.
        seed: Outcomes follow from it, whatever ran before.
        batch_size: Most images in a forward pass.
        second_stage: As in `EvaluationPlan`.
        drafts: As in `EvaluationPlan`.

    Returns:
        An `Outcome` for each attack, in the order given; `Outcome.entry()` is its JSON form.

    Raises:
        UserError: Samples and model do not fit, or an attack is unknown.
    """
    wanted = get_attacks(attacks)
    if isinstance(images, Tensor):
        check_samples(images, labels)
    first = read_images(images, FIRST)
    require_takeable(wanted, first, threat.norm)
    plan = EvaluationPlan(
        samples=len(labels),
        classes=count_classes(model, first, labels),
        attacks=wanted,
        threats=[threat],
        costly_positions=np.arange(len(labels)),
        seed=seed,
        batch_size=batch_size,
        second_stage=second_stage,
        drafts=drafts,
    )
    forget_twin(model)
    finished = list(run_shards(model, images, labels, plan.shards(), seed=seed))
    finished += run_shards(model, images, labels, plan.second_round(finished), seed=seed)
    return plan.outcomes(finished)[threat]
