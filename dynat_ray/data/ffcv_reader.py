"""Reading images through FFCV, which only decodes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Full
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat_ray.data.beton_check import check_beton
from dynat_ray.data.ffcv_decoders import centre_decoder, whole_decoder
from dynat_ray.data.ffcv_library import ffcv_module, ffcv_problem
from dynat_ray.data.info import DatasetInfo, different_sizes, is_copy, require_intact
from dynat_ray.data.needed_parts import require_images, require_tables
from dynat_ray.data.store_copy import require_undamaged
from dynat_ray.data.subsets import Indices
from dynat_ray.errors import UserError

_PATIENCE = 300.0
"""Seconds to wait for one batch; the first one includes compilation."""
_CLOSING = 5.0
"""Seconds to wait for the decoding thread to end; one that hangs is left behind."""


class FfcvReader:
    """One split's images, decoded by FFCV in a thread of its own, a few batches ahead.

    Attributes:
        labels: int64 `(N,)`, on the CPU.
        sizes: Height and width of each stored image in pixels, int64 `(N, 2)`, on the CPU.
    """

    kind = "ffcv"

    def __init__(
        self,
        info: DatasetInfo,
        file: Path,
        *,
        device: torch.device,
        batch_size: int,
        threads: int = 1,
        side: int = 0,
        whole: bool = False,
        used: Indices | None = None,
    ) -> None:
        """Opens a beton.

        Args:
            info: The data set.
            file: Its `SPLIT.beton`.
            device: Where batches go.
            batch_size: Most images of a batch.
            threads: Threads that decode.
            side: Bring the centre of images stored as JPEG to this height and width in pixels;
                0: as they are, if they have one size.
            whole: Give images of different sizes as they are, too, each in the upper left corner
                of a square of the largest side, which is 0 elsewhere.
            used: Which images will be read, int64; None: all.

        Raises:
            UserError: FFCV does not import, the file is damaged, or `side` or `whole` is needed.
        """
        _require_ffcv(file)
        self._require(info, file, used)
        require_undamaged(info, file)
        check_beton(info, file)
        if info.size is None and side == 0 and not whole:
            raise different_sizes(file.parent)
        self._file = file
        self._channels = info.channels
        self._device = device
        self._batch_size = batch_size
        # Side of the square that each image gets; 0: FFCV gives batches of one size.
        self._square = info.max_side if whole and info.size is None else 0
        self._running: list[Any] = []
        self._is_closed = False
        self._loader = _open_loader(
            file,
            whole_decoder() if self._square else centre_decoder(info, side),
            batch_size=batch_size,
            threads=threads,
            # Decoding a JPEG takes room for the largest one, per image and batch ahead.
            batches_ahead=3 if info.storage == "raw" else 1,
        )
        records = self._loader.reader.metadata
        self.labels = torch.from_numpy(records["f1"].astype(np.int64))
        sizes = np.stack([records["f0"]["height"], records["f0"]["width"]], axis=1)
        self.sizes = torch.from_numpy(sizes.astype(np.int64))

    def batches(self, indices: Indices) -> Iterator[Tensor]:
        """Yields uint8 `(B, H, W, C)` on the device for consecutive `batch_size` of `indices`.

        It ends early where another thread closes the reader.

        Raises:
            RuntimeError: FFCV failed, or gave nothing for minutes.
            UserError: Images that are fetched meanwhile can't be had.
        """
        running = self._begin(indices)
        sizes = iter(self.sizes[torch.from_numpy(indices)].split(self._batch_size))
        self._running.append(running)
        try:
            # Another thread that closes between the two lines above has not seen this one.
            if self._is_closed:
                return
            while (decoded := running.next_batch(self._file)) is not None:
                yield self._own(decoded, next(sizes))
        finally:
            running.close()
            self._running.remove(running)

    def close(self) -> None:
        """Stops decoding; another thread may wait for a batch."""
        self._is_closed = True
        for running in list(self._running):
            running.close()

    def _require(self, info: DatasetInfo, file: Path, used: Indices | None) -> None:
        """Has everything here that is read of the file when it is opened, and later."""
        require_images(info, file, used)

    def _begin(self, indices: Indices) -> Any:
        """Returns the thread that decodes some images."""
        return epoch_class()(self._loader, indices.astype(np.uint64))

    def _own(self, decoded: np.ndarray, sizes: Tensor) -> Tensor:
        """Copies a batch out of FFCV's buffer, which the next batches overwrite."""
        shared = torch.from_numpy(decoded)
        pinned = self._device.type == "cuda"
        if not self._square:
            shared = shared[..., : self._channels]
            own = torch.empty(shared.shape, dtype=torch.uint8, pin_memory=pinned).copy_(shared)
            return own.to(self._device, non_blocking=True)
        shape = (len(shared), self._square, self._square, self._channels)
        own = torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned)
        for image, values, (height, width) in zip(own, shared, sizes.tolist(), strict=True):
            pixels = values[: height * width * 3].view(height, width, 3)
            image[:height, :width] = pixels[..., : self._channels]
        return own.to(self._device, non_blocking=True)


def read_labels(info: DatasetInfo, file: Path) -> NDArray[np.int64]:
    """Reads the labels of all images of a beton, `(N,)`.

    Of one that lies in a store, only what is not pixels is fetched.

    Args:
        info: The data set.
        file: Its `SPLIT.beton`.

    Raises:
        UserError: FFCV does not import, which the images will take; or the file is damaged.
    """
    _require_ffcv(file)
    if is_copy(file.parent):
        require_tables(info, file)
    else:
        require_intact(info, file)
    return check_beton(info, file).labels


def _require_ffcv(file: Path) -> None:
    if problem := ffcv_problem():
        raise UserError(f"{file} takes FFCV, which does not import ({problem})")


def _open_loader(
    file: Path, decoder: Any, *, batch_size: int, threads: int, batches_ahead: int
) -> Any:
    """Returns FFCV's loader of a beton, without the tables that it does not need here."""
    module = ffcv_module("loader")
    loader = module.Loader(
        str(file),
        batch_size=batch_size,
        num_workers=threads,
        os_cache=True,
        order=module.OrderOption.SEQUENTIAL,
        seed=0,
        drop_last=False,
        batches_ahead=batches_ahead,
        pipelines={"image": [decoder], "label": None},
    )
    manager = loader.memory_manager
    # Only needed without the system's cache, and large.
    for table in (manager.sample_to_pages, manager.page_to_samples, manager.ptr_to_size):
        table.clear()
    return loader


@functools.cache
def epoch_class() -> Any:
    """Returns FFCV's thread that decodes an epoch, with its errors passed on.

    FFCV's own leaves its reader waiting for ever when the thread dies.
    """
    base = ffcv_module("loader.epoch_iterator").EpochIterator

    class Epoch(base):  # type: ignore[misc, valid-type]
        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:
                self._put(error)

        def run_pipeline(self, *arguments: Any) -> Any:
            if self.terminate_event.is_set():
                raise StopIteration
            return super().run_pipeline(*arguments)

        def next_batch(self, file: Path) -> np.ndarray | None:
            """Returns the next batch of pixels, None at the end and once it is closed."""
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    item = self.output_queue.get(timeout=1.0)
                    break
                except Empty:
                    if self.terminate_event.is_set():
                        return None
                    if not self.is_alive() and self.output_queue.empty():
                        raise RuntimeError(f"FFCV stopped reading {file}") from None
                    if time.monotonic() > deadline:
                        raise RuntimeError(
                            f"FFCV gave no batch of {file} for {_PATIENCE:.0f} s"
                        ) from None
            if isinstance(item, UserError):
                raise item
            if isinstance(item, BaseException):
                raise RuntimeError(f"FFCV cannot read {file}: {item!r}") from item
            if item is None:
                return None
            _, (pixels,) = item
            return pixels  # type: ignore[no-any-return]

        def close(self) -> None:
            self.terminate_event.set()
            deadline = time.monotonic() + _CLOSING
            while self.is_alive() and time.monotonic() < deadline:
                # The thread may be waiting for room in the queue.
                while not self.output_queue.empty():
                    self.output_queue.get_nowait()
                self.join(0.02)

        def _put(self, item: object) -> None:
            while not self.terminate_event.is_set():
                with suppress(Full):
                    self.output_queue.put(item, timeout=0.5)
                    return

    return Epoch
