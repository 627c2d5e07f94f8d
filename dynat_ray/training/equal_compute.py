"""What a run takes, in units of compute a training image, before it is begun."""

from __future__ import annotations

from dynat_ray.config import RunConfig
from dynat_ray.data import load_labels
from dynat_ray.data.order import BatchPlan, EpochOrder, Order
from dynat_ray.data.part_order import PartOrder
from dynat_ray.errors import UserError
from dynat_ray.forward_units import LEARNING
from dynat_ray.training.setup import split_training


def pgd_at_compute(config: RunConfig) -> float:
    """Returns what PGD-AT spends in the `train.epochs` of a config, in units a training image.

    Args:
        config: The run, its data set prepared; its method does not matter.
    """
    epochs = config.train.epochs
    assert epochs is not None
    order = _order(config)
    units = sum(_pgd_at_units(config, epoch, epochs) for epoch in range(epochs))
    return units * sum(order.global_sizes) / order.samples


def check_compute(config: RunConfig) -> None:
    """Raises `UserError` where `train.compute` is less than a step of any method takes."""
    compute = config.train.compute
    if compute is None:
        return
    order = _order(config)
    # Every method learns from an image.
    least = LEARNING * order.global_sizes[0] / order.samples
    if compute < least:
        raise UserError(less_than_a_step(compute, least))


def less_than_a_step(compute: float, step: float) -> str:
    """Returns the error for a run that is shorter than its first step.

    Args:
        compute: What it was given, in units a training image.
        step: What a step takes.
    """
    return (
        f"train.compute is {compute:g}, less than one step: a batch takes {step:.3g} units a "
        "training image; give it more, or a smaller train.batch_size"
    )


def _pgd_at_units(config: RunConfig, epoch: int, epochs: int) -> int:
    """Returns what an image takes in an epoch: the attack, then the outer pass and its gradient."""
    train = config.train
    eps = config.threat.eps * config.threat.share_at(epoch / epochs)
    steps = config.attack.steps_at(epoch / epochs) if eps > 0 else 0
    # Without a step the images are looked at once; after a single one, its end is.
    attack = 2 * steps + (steps <= 1)
    if config.threat.norms and config.threat.combination == "max":
        # Of each norm an attack, and a look at what it has found.
        attack = (attack + 1) * (1 + len(config.threat.norms))
    perturbed = train.awp_gamma > 0 and epoch >= train.awp_warmup_epochs
    units = attack + LEARNING * (2 if perturbed else 1)
    averaged = config.threat.norms and config.threat.combination == "avg"
    return units * (1 + len(config.threat.norms)) if averaged else units


def _order(config: RunConfig) -> Order:
    labels = load_labels(config.data.path, "train").numpy()
    training, _ = split_training(config, labels)
    workers, _ = config.cluster.worker_range() or (1, 1)
    plan = BatchPlan(batch_size=config.train.batch_size, seed=config.train.seed, world_size=workers)
    if config.data.node_share == "part":
        return PartOrder(training, plan)
    extra = config.data.extra_fraction if config.data.extra_path else 0.0
    return EpochOrder(training, plan, extra_fraction=extra)
