"""The images of an evaluation: whoever needs some of them reads those alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat_ray.data import LazySplit

# uint8 `(N, C, H, W)`, or float32 in [0, 1]; or what reads them.
Images = Tensor | LazySplit
FIRST = np.zeros(1, dtype=np.int64)


def read_images(images: Images, positions: NDArray[np.int64]) -> Tensor:
    """Returns some of an evaluation's images as attacks take them.

    Args:
        images: All.
        positions: Which, `(n,)`.

    Returns:
        float32 `(n, C, H, W)` in [0, 1], where `images` are.

    Raises:
        UserError: They are read, and can't be; as `dynat_ray.data.load_split`.
    """
    some = images[torch.from_numpy(positions)]
    return some.float().div_(255) if some.dtype == torch.uint8 else some
