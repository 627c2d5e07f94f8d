"""Which share of the training images each worker reads, under `data.node_share: part`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynat_ray.collectives import gather_objects
from dynat_ray.config import RunConfig
from dynat_ray.data import bytes_to_fetch, load_labels
from dynat_ray.data.part_order import PartOrder
from dynat_ray.data.subsets import Indices
from dynat_ray.training.session import Session
from dynat_ray.training.setup import split_training, training_plan, validation_plan


class Share(NamedTuple):
    """What one of the workers reads, whichever it is.

    Attributes:
        samples: The images, to train and to validate, int64.
        lacking: Bytes of them that this machine would have to fetch.
    """

    samples: Indices
    lacking: int


def find_shares(config: RunConfig, workers: int) -> list[Share]:
    """Returns the shares of all workers; fetches what says where the images lie.

    Args:
        config: The run.
        workers: How many there are.

    Raises:
        UserError: As `dynat_ray.data.load_labels`.
    """
    data = config.data
    training, validation = split_training(config, load_labels(data.path, "train").numpy())
    samples = []
    for number in range(workers):
        own = PartOrder(training, training_plan(config, number, workers)).own
        if len(validation):
            held_out = PartOrder(validation, validation_plan(config, number, workers)).own
            own = np.concatenate([own, held_out])
        samples.append(own)
    lacking = bytes_to_fetch(data.path, "train", data.loader, samples)
    return [Share(*each) for each in zip(samples, lacking, strict=True)]


def choose_share(shares: Sequence[Share], session: Session) -> tuple[int, Indices]:
    """Decides which worker has which share, so that machines fetch least; all workers call it.

    At first shares follow the ranks. When workers come back in another order, or some are lost,
    machines keep what they have fetched as far as can be.

    Args:
        shares: From `find_shares`.
        session: This worker's.

    Returns:
        The number of this worker's share, and all images that its machine reads, int64.
    """
    from scipy.optimize import linear_sum_assignment

    everyone = gather_objects((session.node, [share.lacking for share in shares]))
    cost = np.array([lacking for _, lacking in everyone], np.float64)
    ranks = np.arange(len(cost))
    # Of what costs the same, the order nearest to that of the ranks: less than a byte in all.
    cost += (ranks[:, None] - ranks) ** 2 / len(cost) ** 3
    _, numbers = linear_sum_assignment(cost)
    here = [
        number for number, (node, _) in zip(numbers, everyone, strict=True) if node == session.node
    ]
    return int(numbers[session.rank]), np.concatenate([shares[each].samples for each in here])
