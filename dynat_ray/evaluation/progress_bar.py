"""How far an evaluation is, and the bound on robust accuracy that it has reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from dynat_ray.evaluation.shard_outcome import STILL_RIGHT
from dynat_ray.evaluation.shards import Shard, ShardOutcomes
from dynat_ray.perturb.threat import Threat

# Called after each shard.
OnShard = Callable[[Shard, ShardOutcomes], None]


@contextmanager
def progress_bar(samples: int, shards: Sequence[Shard], *, shown: bool = True) -> Iterator[OnShard]:
    """Shows samples done on stderr, and how robust the model can be at most at each radius.

    The upper bound of robust accuracy counts every sample that no attack has fooled yet, those
    not yet attacked included, so it only falls.

    Args:
        samples: How many samples are evaluated.
        shards: What is about to be done.
        shown: False draws nothing.
    """
    left: dict[Threat, int] = {}
    total = sum(len(shard.positions) for shard in shards)
    with tqdm(
        total=total, unit="img", file=sys.stderr, disable=None if shown else True, leave=False
    ) as bar:

        def on_shard(shard: Shard, outcomes: ShardOutcomes) -> None:
            bar.update(len(shard.positions))
            # Those that a second round sees have been counted.
            if shard.probes or shard.part == "last":
                return
            for threat, found in outcomes.items():
                fooled = np.any([o.fooled_by != STILL_RIGHT for o in found.values()], axis=0)
                left[threat] = left.get(threat, samples) - int(fooled.sum())
            bound = 100 * min(left.values()) / samples
            bar.set_postfix_str(f"robust <= {bound:.1f} %", refresh=False)

        yield on_shard
