"""timm's RandAugment, keyed per image."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class RandAugment:
    """RandAugment (Cubuk et al., 2019) with timm's operations, two per image."""

    def __init__(self, magnitude: float) -> None:
        """Takes a whole magnitude from 0 to 10; each operation's varies by normal noise of 0.5."""
        from timm.data.auto_augment import rand_augment_transform

        self._transform = rand_augment_transform(
            f"rand-m{magnitude:g}-mstd0.5-inc1", {"img_mean": (128, 128, 128)}
        )
        for operation in self._transform.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augments uint8 images `(B, C, H, W)`, on the CPU, each by its key `(B,)`."""
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            done = [
                self._one(image, key)
                for image, key in zip(images.permute(0, 2, 3, 1).cpu(), keys.tolist(), strict=True)
            ]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        stacked = torch.stack(done).to(images.device).permute(0, 3, 1, 2)
        return stacked.contiguous(
            memory_format=torch.channels_last
            if images.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )

    def _one(self, pixels: Tensor, key: int) -> Tensor:
        """Augments one uint8 image `(H, W, C)`."""
        # timm draws from both global generators (hence the legacy calls).
        random.seed(key)
        np.random.seed(key)  # noqa: NPY002
        grey = pixels.shape[2] == 1
        image = Image.fromarray(pixels.squeeze(2).numpy() if grey else pixels.numpy())
        result = np.array(self._transform(image.convert("RGB")).convert(image.mode))
        return torch.from_numpy(result[..., None] if grey else result)


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keeps the highest bits of every value; at least one, where timm may ask Pillow for none."""
    return ImageOps.posterize(image, min(max(bits, 1), 8))
