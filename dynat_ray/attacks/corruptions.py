"""Common corruptions (Hendrycks and Dietterich, ICLR 2019), computed on the fly.

The functions are those of the package `imagecorruptions` (distribution
`imagecorruptions-imaug`), in the strengths of ImageNet-C. CIFAR-10-C has weaker ones, made for
its small images: accuracies under these are lower than on that set and no substitute for it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.attacks.probes import Measured, Probe
from dynat_ray.attacks.stages import Setting
from dynat_ray.errors import UserError, unknown_name

SEVERITIES = (1, 2, 3, 4, 5)
COMMON = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
# Kept apart by the benchmark's authors, for choosing hyper-parameters.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

_SMALLEST_SIDE = 32
_NAMED = re.compile(r"([a-z_]+)(?:-([1-5]))?")


@dataclass(frozen=True)
class Corruption(Probe):
    """One corruption at one severity.

    Attributes:
        kind: Such as `fog`.
        severity: 1 (weakest) to 5.
    """

    kind: str
    severity: int
    costly: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.severity}"

    def measure(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        at: Setting,
        positions: NDArray[np.int64],
    ) -> Measured:
        changed = self.apply(images, at.seed, positions).to(images.device)
        with torch.no_grad():
            logits = model(changed.contiguous(memory_format=torch.channels_last))
        return Measured(logits.argmax(dim=1))

    def apply(self, images: Tensor, seed: int, positions: NDArray[np.int64]) -> Tensor:
        """Returns corrupted images `(n, C, H, W)` on the CPU, in [0, 1] in steps of 1/255."""
        library = load_library()
        function = library.corruption_dict[self.kind]
        takes_seed = "seed" in inspect.signature(function).parameters
        pixels = (images.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        changed = []
        for image, position in zip(pixels, positions.tolist(), strict=True):
            key = _key(seed, position, self)
            with _numpy_random_state(key), contextlib.redirect_stdout(io.StringIO()):
                changed.append(
                    library.corrupt(
                        np.ascontiguousarray(image),
                        severity=self.severity,
                        corruption_name=self.kind,
                        **({"seed": key} if takes_seed else {}),
                    )
                )
        # Grey images come back as RGB, whose channels differ at most by noise.
        stacked = torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)[:, : images.shape[1]]
        return stacked.to(torch.float32) / 255


def get_corruptions(names: Sequence[str]) -> list[Corruption]:
    """Returns the corruptions called `names`: `fog` (all severities), `fog-3`, `all` (the 15).

    Raises:
        UserError: A name is unknown.
    """
    found: dict[str, Corruption] = {}
    for name in names:
        match = _NAMED.fullmatch(name)
        kinds = COMMON if name == "all" else (match[1] if match else name,)
        if kinds[0] not in COMMON + EXTRA:
            raise unknown_name("corruption", name, [*COMMON, *EXTRA, "all", "fog-3"])
        severities = (int(match[2]),) if match and match[2] else SEVERITIES
        for kind in kinds:
            for severity in severities:
                one = Corruption(kind, severity)
                found[one.name] = one
    return list(found.values())


def load_library() -> Any:
    """Returns the package with the corruption functions.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module("imagecorruptions")
    except ImportError as error:
        raise UserError(
            f"--corruptions needs the package imagecorruptions-imaug ({error}); "
            "pip install 'dynat-ray[eval]'"
        ) from error


def require_corruptible(images: Tensor) -> None:
    """Raises `UserError` if the library is not there or takes no images of this size."""
    load_library()
    height, width = images.shape[-2:]
    if min(height, width) < _SMALLEST_SIDE:
        raise UserError(
            f"--corruptions needs images of at least {_SMALLEST_SIDE} pixels a side; these have "
            f"{height} x {width}"
        )


def _key(seed: int, position: int, corruption: Corruption) -> int:
    place = (COMMON + EXTRA).index(corruption.kind)
    words = np.random.SeedSequence([seed, position, place, corruption.severity])
    return int(words.generate_state(1)[0])


@contextlib.contextmanager
def _numpy_random_state(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, which the library draws from, and restores it."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
