"""How far an evaluation is, and the bound on robust accuracy that it has reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from dynat_ray.evaluation.shards import STILL_RIGHT, Shard, ShardOutcome
from dynat_ray.perturb.threat import Threat

# Called after each shard.
OnShard = Callable[[Shard, dict[str, ShardOutcome]], None]


@contextmanager
def progress_bar(
    samples: int, *, radii: int = 1, probed: int = 0, shown: bool = True
) -> Iterator[OnShard]:
    """Shows samples done on stderr, and how robust the model can be at most at each radius.

    The upper bound of robust accuracy counts every sample that no attack has fooled yet, those
    not yet attacked included, so it only falls.

    Args:
        samples: How many samples are evaluated.
        radii: At how many.
        probed: Samples in shards of probes, which bound nothing.
        shown: False draws nothing.
    """
    left: dict[Threat, int] = {}
    with tqdm(
        total=samples * radii + probed,
        unit="img",
        file=sys.stderr,
        disable=None if shown else True,
        leave=False,
    ) as bar:

        def on_shard(shard: Shard, outcomes: dict[str, ShardOutcome]) -> None:
            if shard.probes:
                bar.update(len(shard.positions))
                return
            fooled = np.any([found.fooled_by != STILL_RIGHT for found in outcomes.values()], axis=0)
            left[shard.threat] = left.get(shard.threat, samples) - int(fooled.sum())
            bound = 100 * left[shard.threat] / samples
            bar.set_postfix_str(f"robust <= {bound:.1f} %", refresh=False)
            bar.update(len(shard.positions))

        yield on_shard
