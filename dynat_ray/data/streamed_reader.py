"""Reading images that are fetched from an object store while they are wanted."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from dynat_ray.data.batches_ahead import BatchesAhead
from dynat_ray.data.beton_check import check_beton
from dynat_ray.data.connections import Connections
from dynat_ray.data.ffcv_reader import FfcvReader, epoch_class
from dynat_ray.data.image_fetching import Abandoned, StoreImages
from dynat_ray.data.info import DatasetInfo
from dynat_ray.data.needed_parts import require_tables
from dynat_ray.data.store_copy import parts_here
from dynat_ray.data.subsets import Indices

# As many as Arrow's client of S3 has, less one for whoever asks how the set is.
_CONNECTIONS = 24


class StreamedReader(FfcvReader):
    """One split's images, fetched a few batches ahead of FFCV, which decodes them.

    Attributes:
        labels: int64 `(N,)`, on the CPU.
        sizes: Height and width of each stored image in pixels, int64 `(N, 2)`, on the CPU.
    """

    def __init__(self, info: DatasetInfo, file: Path, **options: Any) -> None:
        """Opens a beton in a store.

        Args:
            info: The data set.
            file: Its `SPLIT.beton`, by its place on this machine.
            options: As of `FfcvReader`.

        Raises:
            UserError: As `FfcvReader`, or the store does not answer.
        """
        super().__init__(info, file, **options)
        here = parts_here(info, file)
        self._images = StoreImages(info, file, check_beton(info, file), here)
        self._connections = Connections(_CONNECTIONS)

    def close(self) -> None:
        super().close()
        self._connections.close()

    def _require(self, info: DatasetInfo, file: Path, used: Indices | None) -> None:
        require_tables(info, file)

    def _begin(self, indices: Indices) -> Any:
        batches = np.split(indices, range(self._batch_size, len(indices), self._batch_size))
        ahead = BatchesAhead(self._images, self._connections, batches)
        return _streamed_epoch_class()(self._loader, indices.astype(np.uint64), ahead)


@functools.cache
def _streamed_epoch_class() -> Any:
    """Returns FFCV's thread that decodes an epoch, which reads fetched batches, not the file."""

    class StreamedEpoch(epoch_class()):  # type: ignore[misc]
        def __init__(self, loader: Any, order: Any, ahead: BatchesAhead) -> None:
            self._ahead = ahead
            # Which also starts it.
            super().__init__(loader, order)

        def run_pipeline(self, number: int, indices: Any, *rest: Any) -> Any:
            try:
                batch = self._ahead.take()
            except Abandoned:
                raise StopIteration from None
            self.storage_state = (batch.content, batch.begins, batch.lengths)
            self.metadata = self.loader.reader.metadata[indices]
            self.metadata["f0"]["data_ptr"] = batch.places
            return super().run_pipeline(number, np.arange(len(indices), dtype=np.uint64), *rest)

        def close(self) -> None:
            self._ahead.stop()
            super().close()

    return StreamedEpoch
