"""FFCV's random-resized-crop decoder, keyed by (seed, epoch, index) instead of a global state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dynat_ray.data.ffcv_library import ffcv_module
from dynat_ray.data.subsets import Indices

SCALE = (0.08, 1.0)
"""Smallest and largest part of the image's area that a crop takes (Szegedy et al., 2015)."""
RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width of a crop over its height."""
ATTEMPTS = 10
"""Crops tried before the whole image is taken."""

_INDEX_BITS = 40
_EPOCH_MASK = 2**24 - 1


def pack_epoch(indices: Indices, epoch: int) -> np.ndarray:
    """Returns uint64 sample numbers that carry the epoch in their upper bits.

    FFCV hands its decoders nothing else that changes from epoch to epoch.
    """
    high = np.uint64((epoch & _EPOCH_MASK) << _INDEX_BITS)
    return indices.astype(np.uint64) | high


def keyed_resized_crop_decoder(size: tuple[int, int], seed: int) -> Any:
    """Makes the decoder.

    Args:
        size: Height and width of its output in pixels.
        seed: Seed of the crops.
    """
    from numba import njit

    rgb = ffcv_module("fields.rgb_image")
    compiler = ffcv_module("pipeline.compiler").Compiler
    index_mask = np.uint64(2**_INDEX_BITS - 1)
    seed_key = np.uint64(seed * 0x9E3779B97F4A7C15 & (2**64 - 1))
    stride = np.uint64(0xBF58476D1CE4E5B9)
    shift_a, shift_b, shift_c = np.uint64(30), np.uint64(27), np.uint64(11)
    factor = np.uint64(0x94D049BB133111EB)
    unit = 2.0**-53
    low_scale, high_scale = SCALE
    low_ratio, high_ratio = math.log(RATIO[0]), math.log(RATIO[1])

    @njit(nogil=True, inline="never")
    def uniform(key: Any, number: int) -> float:  # pragma: no cover (compiled)
        word = (key ^ seed_key) + np.uint64(number + 1) * stride
        for _ in range(2):
            word = (word ^ (word >> shift_a)) * stride
            word = (word ^ (word >> shift_b)) * factor
        return float(word >> shift_c) * unit

    @njit(nogil=True, inline="never")
    def choose(key: Any, height: int, width: int) -> Any:  # pragma: no cover (compiled)
        for attempt in range(ATTEMPTS):
            first = 4 * attempt
            scale = low_scale + (high_scale - low_scale) * uniform(key, first)
            ratio = math.exp(low_ratio + (high_ratio - low_ratio) * uniform(key, first + 1))
            wide = round(math.sqrt(height * width * scale * ratio))
            high = round(math.sqrt(height * width * scale / ratio))
            if 0 < wide <= width and 0 < high <= height:
                top = int(uniform(key, first + 2) * (height - high + 1))
                left = int(uniform(key, first + 3) * (width - wide + 1))
                return top, left, high, wide
        short = min(height, width)
        return (height - short) // 2, (width - short) // 2, short, short

    class KeyedResizedCrop(rgb.ResizedCropRGBImageDecoder):  # type: ignore[misc, name-defined]
        scale = ratio = None

        @property
        def get_crop_generator(self) -> Any:
            return choose

        def generate_code(self) -> Any:
            read = self.memory_read
            decode_jpeg = compiler.compile(rgb.imdecode)
            resize = compiler.compile(rgb.resize_crop)
            samples = compiler.get_iterator()
            jpeg = rgb.IMAGE_MODES["jpg"]

            def decode(  # pragma: no cover (compiled)
                batch_indices: Any, storage: Any, metadata: Any, storage_state: Any
            ) -> Any:
                destination, decoded = storage
                for row in samples(len(batch_indices)):
                    key = batch_indices[row]
                    field = metadata[key & index_mask]
                    stored = read(field["data_ptr"], storage_state)
                    height, width = np.uint32(field["height"]), np.uint32(field["width"])
                    if field["mode"] == jpeg:
                        flat = decoded[row]
                        decode_jpeg(
                            stored, flat, height, width, height, width, 0, 0, 1, 1, False, False
                        )
                    else:
                        flat = stored
                    image = flat[: 3 * height * width].reshape(height, width, 3)
                    top, left, high, wide = choose(key, int(height), int(width))
                    resize(image, top, top + high, left, left + wide, destination[row])
                return destination[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return KeyedResizedCrop(size)
