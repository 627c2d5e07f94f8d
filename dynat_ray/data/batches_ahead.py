"""The images of the next batches, on their way from a store and from this machine's disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.connections import Connections
from dynat_ray.data.image_fetching import Abandoned, StoreImages
from dynat_ray.data.subsets import Indices

# Of images that wait to be decoded. So many batches are ahead at least, and at most.
_BYTES_AHEAD = 2**27
_LEAST_AHEAD, _MOST_AHEAD = 2, 16
# Images with no more than so many bytes between them are fetched in one request, which costs about
# as much time as these bytes do.
_LARGEST_GAP = 2**15
_LARGEST_RUN = 2**22
# Images on this machine that one call reads.
_READ_TOGETHER = 32
_SECONDS_BETWEEN_LOOKS = 0.2


class FetchedBatch:
    """The images of one batch in one piece of memory, once all have come.

    Args:
        images: Where they come from.
        indices: Which, int64 `(B,)`; one may be there several times.

    Attributes:
        content: Their bytes, uint8 `(L,)`, each image once.
        begins: First byte in it of each of these, ascending, uint64 `(U,)`.
        lengths: Bytes of each of these, uint64 `(U,)`.
        places: First byte in it of each image of the batch, uint64 `(B,)`.
        is_sure: None comes from the store, or the store was looked at after they had come.
    """

    def __init__(self, images: StoreImages, indices: Indices) -> None:
        unique, position = np.unique(indices, return_inverse=True)
        lengths = images.lengths[unique]
        ends = np.cumsum(lengths)
        self.content: NDArray[np.uint8] = np.empty(ends[-1], np.uint8)
        self.begins = (ends - lengths).astype(np.uint64)
        self.lengths = lengths.astype(np.uint64)
        self.places = self.begins[position]
        self.is_sure = True
        self._images = images
        whole = memoryview(self.content)
        self._into = {
            index: whole[end - length : end]
            for index, length, end in zip(
                unique.tolist(), lengths.tolist(), ends.tolist(), strict=True
            )
        }
        self._coming: list[Future[None]] = []

    def begin(self, connections: Connections, stop: threading.Event) -> None:
        """Begins to read and to fetch the images; `stop` ends it."""
        wanted = np.array(list(self._into))
        here = self._images.kept.here(wanted)
        own, others = wanted[here].tolist(), wanted[~here]
        calls = [
            partial(self._read, own[first : first + _READ_TOGETHER], stop)
            for first in range(0, len(own), _READ_TOGETHER)
        ]
        runs = runs_of(others, self._images.starts[others], self._images.lengths[others])
        calls += [partial(self._fetch, run, stop) for run in runs]
        self._coming = [connections.submit(call) for call in calls]

    def has_come(self) -> bool:
        """Returns whether all images are there."""
        return all(each.done() and not each.exception() for each in self._coming)

    def wait(self, stop: threading.Event) -> None:
        """Returns when all images are there.

        Raises:
            UserError: As `StoreImages.fetch`.
            Abandoned: `stop` was set.
        """
        left = set(self._coming)
        while left:
            done, left = wait(left, _SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
            if stop.is_set():
                raise Abandoned
            for each in done:
                each.result()

    def cancel(self) -> None:
        """Leaves out what has not begun."""
        for each in self._coming:
            each.cancel()

    def _fetch(self, run: list[int], stop: threading.Event) -> None:
        self.is_sure = False
        self._images.fetch(run, [self._into[index] for index in run], stop)

    def _read(self, own: list[int], stop: threading.Event) -> None:
        for index in own:
            if stop.is_set():
                return
            if not self._images.kept.read(index, self._into[index]):
                self._fetch([index], stop)


class BatchesAhead:
    """The batches of an epoch, some of which are always on their way.

    Args:
        images: Where their images come from.
        connections: What fetches.
        batches: Which images each has, int64.
    """

    def __init__(
        self, images: StoreImages, connections: Connections, batches: Sequence[Indices]
    ) -> None:
        self._images, self._connections = images, connections
        self._left = deque(batches)
        self._coming: deque[FetchedBatch] = deque()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        largest = int(images.lengths.mean() * len(batches[0]))
        self._ahead = min(max(_BYTES_AHEAD // largest, _LEAST_AHEAD), _MOST_AHEAD)

    def take(self) -> FetchedBatch:
        """Returns the next batch, once its images have come and are known to be those wanted.

        Raises:
            UserError: As `StoreImages.fetch`, or another data set is at the address by now.
            Abandoned: `stop` was called.
        """
        with self._lock:
            while self._left and len(self._coming) <= self._ahead and not self._stop.is_set():
                batch = FetchedBatch(self._images, self._left.popleft())
                batch.begin(self._connections, self._stop)
                self._coming.append(batch)
        if self._stop.is_set():
            raise Abandoned
        batch = self._coming[0]
        batch.wait(self._stop)
        if not batch.is_sure:
            # One look is enough for all that have come before it.
            come = [each for each in self._coming if each.has_come()]
            self._images.require_unchanged(self._stop)
            for each in come:
                each.is_sure = True
        self._coming.popleft()
        return batch

    def stop(self) -> None:
        """Ends all that is on its way; another thread may wait for it."""
        self._stop.set()
        with self._lock:
            for batch in self._coming:
                batch.cancel()


def runs_of(
    indices: Indices, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> list[list[int]]:
    """Returns images in runs that lie near one another, each in the order of the file.

    Args:
        indices: Which images, `(n,)`.
        starts: First byte of each in the file, `(n,)`.
        lengths: Bytes of each, `(n,)`.
    """
    runs: list[list[int]] = []
    begin = end = 0
    for place in np.argsort(starts).tolist():
        start, after = int(starts[place]), int(starts[place] + lengths[place])
        if runs and start - end <= _LARGEST_GAP and after - begin <= _LARGEST_RUN:
            runs[-1].append(int(indices[place]))
        else:
            runs.append([int(indices[place])])
            begin = start
        end = after
    return runs
