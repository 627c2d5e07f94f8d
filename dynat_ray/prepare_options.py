"""What `dynat_ray.prepare` is asked for, beside SOURCE and `--out`."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ImageColor

from dynat_ray.errors import UserError

WHITE = "white"
MOST_BITS = 32


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How images become a data set.

    Attributes:
        size: Resize the shorter side to so many pixels and crop the centre; None: as they are.
        limit: Take a class-balanced part of at most so many images of each split; 0: all.
        bit_depth: Bits of the largest value that images of more than 8 bits may have; None: those
            of the largest that occurs.
        background: What transparent images are laid on: a name or `#RRGGBB`.
        skip_bad: Leave out unreadable images and count them, instead of raising.
        drop_duplicates: Leave out training images whose pixels are those of another one, or of a
            test image.
        shuffle: Store training images in random order, the same each time, instead of in that of
            the source.
    """

    size: int | None = None
    limit: int = 0
    bit_depth: int | None = None
    background: str = WHITE
    skip_bad: bool = False
    drop_duplicates: bool = False
    shuffle: bool = False

    def __post_init__(self) -> None:
        """Raises `UserError` for what makes no sense."""
        if self.size is not None and self.size < 1:
            raise UserError(f"--size is {self.size}; it must be at least 1 pixel")
        if self.limit < 0:
            raise UserError(f"--limit is {self.limit}; it must be 0 (all) or a number of images")
        if self.bit_depth is not None and not 8 <= self.bit_depth <= MOST_BITS:
            raise UserError(f"--bit-depth is {self.bit_depth}; it must be from 8 to {MOST_BITS}")
        _ = self.background_colour

    @property
    def background_colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background."""
        try:
            colour = ImageColor.getrgb(self.background)
        except ValueError:
            raise UserError(
                f"--background is '{self.background}'; it must be a colour's name, such as white, "
                "or #RRGGBB"
            ) from None
        red, green, blue, *alpha = colour
        if alpha not in ([], [255]):
            raise UserError(f"--background is '{self.background}'; it can't be transparent itself")
        return red, green, blue

    def words(self) -> list[str]:
        """Returns them as the command line has them."""
        words: list[str] = []
        if self.size is not None:
            words += ["--size", str(self.size)]
        if self.limit:
            words += ["--limit", str(self.limit)]
        if self.bit_depth is not None:
            words += ["--bit-depth", str(self.bit_depth)]
        if self.background != WHITE:
            words += ["--background", self.background]
        words += ["--skip-bad"] if self.skip_bad else []
        words += ["--drop-duplicates"] if self.drop_duplicates else []
        return words + (["--shuffle"] if self.shuffle else [])
