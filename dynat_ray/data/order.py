"""The order in which an epoch visits the samples, the same for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.subsets import Indices

NodeShare = Literal["all", "part"]


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How an epoch is cut into global batches, and which share of them is this worker's.

    Attributes:
        batch_size: Samples of a global batch, at least `world_size`.
        seed: Seed of the order (and of random parts of images).
        shuffle: Another order each epoch; else that of the indices.
        balance: Draw every class equally often.
        node_share: `part`: each worker reads a part of the samples alone (`PartOrder`).
        rank: This worker's number.
        world_size: Number of workers.
    """

    batch_size: int
    seed: int
    shuffle: bool = True
    balance: bool = False
    node_share: NodeShare = "all"
    rank: int = 0
    world_size: int = 1


class Order(Protocol):
    """Which samples of each epoch are this worker's.

    Attributes:
        local_batch: This worker's share of a full batch.
        local_real: How many of these are not extra data; they come first.
        global_sizes: Samples of each global batch.
    """

    local_batch: int
    local_real: int
    global_sizes: list[int]

    @property
    def samples(self) -> int:
        """Samples that an epoch is made for, each of which counts once; extra data do not."""

    @property
    def own(self) -> Indices:
        """Those that this worker may read, int64."""

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every worker."""

    def local(self, epoch: int) -> Indices:
        """Returns this worker's samples of an epoch, batch after batch, int64.

        All batches hold `local_batch` samples but the last, which holds the rest.
        """


class EpochOrder:
    """Global batches keyed by (seed, epoch), and this worker's share of them.

    Worker `rank` of `world_size` takes every `world_size`-th sample of each global batch, from
    `rank` on. The last batch may be partial; it is filled up from the epoch's start, so that no
    worker is ever without a sample, nor, where it is shuffled for training, with only one, which
    batch normalisation can't take.

    With extra data (Wang et al., ICML 2023) a fixed part of each batch comes from the extra set,
    drawn with replacement, and every batch is full; the epoch keeps the number of batches that
    the real set alone would give, and takes another part of the real set each time.

    Attributes:
        global_sizes: Samples of each global batch.
        local_batch: This worker's share of a full batch.
        local_real: How many of these are not extra data; they come first.
    """

    def __init__(
        self,
        indices: NDArray[np.integer],
        plan: BatchPlan,
        *,
        labels: NDArray[np.integer] | None = None,
        extra_indices: tuple[int, int] = (0, 0),
        extra_fraction: float = 0.0,
    ) -> None:
        """Plans the batches.

        Args:
            indices: Samples to visit, at least one, `(N,)`.
            plan: How. Random numbers are keyed by (seed, epoch, index), so a sample that
                `plan.balance` draws several times in an epoch is augmented alike each time; other
                epochs differ.
            labels: Label of each of `indices`, `(N,)`; `plan.balance` needs them.
            extra_indices: First and last-plus-one index of the extra set.
            extra_fraction: Part in [0, 1) of each batch from the extra set.
        """
        batch_size, world_size, rank = plan.batch_size, plan.world_size, plan.rank
        assert len(indices) > 0
        assert batch_size >= world_size > rank >= 0
        assert not plan.balance or (labels is not None and len(labels) == len(indices))
        self._indices = np.asarray(indices, dtype=np.int64)
        self._labels = labels if plan.balance else None
        self._plan = plan
        self._extra_indices = extra_indices
        self._extra = min(round(batch_size * extra_fraction), batch_size - 1)
        full, rest = divmod(len(indices), batch_size)
        if self._extra:
            self.global_sizes = [batch_size] * (full + (rest > 0))
        else:
            least = min((2 if plan.shuffle else 1) * world_size, batch_size)
            last = [max(rest, least)] if rest else []
            self.global_sizes = [batch_size] * full + last
        self.local_batch = len(range(rank, batch_size, world_size))
        self.local_real = len(range(rank, batch_size - self._extra, world_size))

    @property
    def samples(self) -> int:
        """Samples that an epoch is made for, each of which counts once; extra data do not."""
        return len(self._indices)

    @property
    def own(self) -> Indices:
        """Samples that this worker may read, int64: all."""
        return self._indices

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every worker."""
        return len(self.global_sizes)

    def local(self, epoch: int) -> Indices:
        """Returns this worker's samples of an epoch, batch after batch, int64.

        All batches hold `local_batch` samples but the last, which holds the rest.
        """
        batch = self._plan.batch_size
        flat = self.batches(epoch)
        return np.concatenate(
            [
                flat[start : start + batch][self._plan.rank :: self._plan.world_size]
                for start in range(0, len(flat), batch)
            ]
        )

    def batches(self, epoch: int) -> Indices:
        """Returns the samples of all workers, global batch after global batch, int64."""
        generator = np.random.default_rng([self._plan.seed, epoch, 3])
        order = self._pass(generator)
        if not self._extra:
            return np.resize(order, sum(self.global_sizes))
        real = np.resize(order, (self.steps, self._plan.batch_size - self._extra))
        extra = generator.integers(*self._extra_indices, size=(self.steps, self._extra))
        # Never mixed within the batch: so a worker has the same number of each kind every time.
        return np.concatenate([real, extra], axis=1).ravel()

    def _pass(self, generator: np.random.Generator) -> Indices:
        if self._labels is not None:
            return self._balanced_pass(generator, self._labels)
        return generator.permutation(self._indices) if self._plan.shuffle else self._indices

    def _balanced_pass(
        self, generator: np.random.Generator, labels: NDArray[np.integer]
    ) -> Indices:
        total = len(self._indices)
        classes = generator.permutation(np.unique(labels))
        drawn = []
        for position, each in enumerate(classes):
            members = self._indices[labels == each]
            count = len(range(position, total, len(classes)))
            rounds = -(-count // len(members))
            drawn.append(
                np.concatenate([generator.permutation(members) for _ in range(rounds)])[:count]
            )
        return generator.permutation(np.concatenate(drawn))
