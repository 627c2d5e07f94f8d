"""What FFCV decodes an image into: its centre at one size, or all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dynat_ray.data.ffcv_library import ffcv_module
from dynat_ray.data.info import DatasetInfo

_CENTRE = 224 / 256
"""Part of the shorter side that a centre crop of a photograph takes."""


def centre_decoder(info: DatasetInfo, side: int) -> Any:
    """Makes a decoder of the centre of each image, at `side` x `side` pixels; 0: as it is."""
    fields = ffcv_module("fields.rgb_image")
    if side == 0 or info.size == (side, side):
        return fields.SimpleRGBImageDecoder()
    part = 1.0 if info.size else _CENTRE

    class CentreCrop(fields.CenterCropRGBImageDecoder):  # type: ignore[misc, name-defined]
        @property
        def get_crop_generator(self) -> Any:
            return _choose_centre

    return CentreCrop((side, side), ratio=part)


def whole_decoder() -> Any:
    """Makes a decoder of images of different sizes.

    It gives uint8 `(B, L)`: L is the length of the largest image, `(H, W, 3)` pixels in a row; of
    a smaller one, what follows its own pixels has no meaning.
    """
    fields = ffcv_module("fields.rgb_image")
    allocation = ffcv_module("pipeline.allocation_query").AllocationQuery

    class Whole(fields.SimpleRGBImageDecoder):  # type: ignore[misc, name-defined]
        # FFCV's own does the same, but refuses images of different sizes.
        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            pixels = self.metadata["height"].astype(np.int64) * self.metadata["width"]
            shape, kind = (3 * int(pixels.max()),), np.dtype(np.uint8)
            state = replace(previous_state, jit_mode=True, shape=shape, dtype=kind)
            return state, allocation(shape, kind)

    return Whole()


def _choose_centre(
    height: int, width: int, _: Any, part: float
) -> tuple[int, int, int, int]:  # pragma: no cover (compiled)
    # FFCV's own takes 0 pixels of a side of 1, and ends the process.
    short = max(int(part * min(height, width)), 1)
    return (height - short) // 2, (width - short) // 2, short, short
