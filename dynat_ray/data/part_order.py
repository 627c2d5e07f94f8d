"""An order of which each worker, and so each machine, reads a part of the samples alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.order import BatchPlan
from dynat_ray.data.subsets import Indices


class PartOrder:
    """Global batches keyed by (seed, epoch) that take each place's sample from a range of its own.

    The samples, in the order in which they are stored, are cut into as many ranges as a global
    batch has places, of equal length up to one sample. A batch takes one sample from each range;
    an epoch draws the order within each range anew. So global batches do not depend on the number
    of workers, as in `EpochOrder`, an epoch visits every sample once, and worker `rank`, who has
    places that are side by side, reads the same samples in every epoch. As random an order as
    another it is where the samples are stored in random order.

    The last batch has samples of the longer ranges alone, which are spread over all places. Each
    worker fills its share up from its own first batch, to the size that `EpochOrder` names.

    Attributes:
        samples: Samples that an epoch is made for, each of which counts once.
        own: Those that this worker reads, int64, ascending if `indices` are.
        global_sizes: Samples of each global batch.
        local_batch: This worker's share of a full batch.
        local_real: The same: there are no extra data.
    """

    def __init__(self, indices: NDArray[np.integer], plan: BatchPlan) -> None:
        """Plans the batches.

        Args:
            indices: Samples to visit, at least one, `(N,)`, in the order in which they are stored.
            plan: How.
        """
        size, workers = plan.batch_size, plan.world_size
        assert len(indices) > 0
        assert size >= workers > plan.rank >= 0
        assert not plan.balance
        self._indices = np.asarray(indices, dtype=np.int64)
        self._plan = plan
        self.samples = len(indices)
        # Where the range of each place begins; and the last one ends.
        borders = np.arange(size + 1) * self.samples // size
        shares = np.arange(workers + 1) * size // workers
        self._full, rest = divmod(self.samples, size)
        longer = np.add.reduceat(np.diff(borders) - self._full, shares[:-1])
        least = np.minimum(2 if plan.shuffle else 1, np.diff(shares))
        last = np.maximum(longer, least)
        self.global_sizes = [size] * self._full + ([int(last.sum())] if rest else [])
        self.local_batch = self.local_real = int(np.diff(shares)[plan.rank])
        self._last = int(last[plan.rank]) if rest else 0
        self._borders = borders[shares[plan.rank] : shares[plan.rank + 1] + 1]
        own = self._indices[slice(*self._borders[[0, -1]])]
        # With fewer samples than workers, some take another's.
        self.own = own if len(own) else self._indices[:1]

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every worker."""
        return len(self.global_sizes)

    def local(self, epoch: int) -> Indices:
        """Returns this worker's samples of an epoch, batch after batch, int64.

        All batches hold `local_batch` samples but the last, which holds the rest.
        """
        starts, lengths = self._borders[:-1], np.diff(self._borders)
        drawn = self._drawn(epoch)
        # A row a batch, a column a place.
        full = drawn[(starts - starts[0]) + np.arange(self._full)[:, None]].ravel()
        rest = drawn[(starts - starts[0] + self._full)[lengths > self._full]]
        missing = self._last - len(rest)
        filler = np.resize(full if len(full) else self.own, missing)
        return np.concatenate([full, rest, filler])

    def _drawn(self, epoch: int) -> Indices:
        """Returns the samples of this worker's ranges, each in an order of its own."""
        first, end = self._borders[[0, -1]]
        samples = self._indices[first:end]
        if not self._plan.shuffle:
            return samples
        generator = np.random.default_rng([self._plan.seed, epoch, 3])
        keys = generator.random(self.samples)[first:end]
        places = np.repeat(np.arange(self.local_batch), np.diff(self._borders))
        return samples[np.lexsort((keys, places))]
