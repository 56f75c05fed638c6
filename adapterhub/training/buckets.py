"""Aspect buckets: which size each picture is trained in, so that little of it is cut off."""

import math
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageOps

from adapterhub.errors import ConfigError

Size = tuple[int, int]
SDXL_RESOLUTION, SDXL_STEP = 1024, 64


@dataclass(frozen=True)
class Placement:
    """How a picture comes into its bucket: scaled until it covers it, and cut at the edges that stand out.

    Attributes:
        original: Width and height of the picture, upright.
        bucket: Width and height that it is trained in.
    """

    original: Size
    bucket: Size

    @property
    def scale(self) -> float:
        """What the sides are multiplied by; above 1 the picture is enlarged."""
        return max(self.bucket[0] / self.original[0], self.bucket[1] / self.original[1])

    @property
    def crop(self) -> Size:
        """Left and top of what is kept, in pixels of the scaled picture."""
        left, top = (
            round((side * self.scale - kept) / 2)
            for side, kept in zip(self.original, self.bucket, strict=True)
        )
        return left, top

    @property
    def kept(self) -> float:
        """The share of the picture's area that is not cut off."""
        (width, height), (kept_width, kept_height) = self.original, self.bucket
        return kept_width * kept_height / (width * height * self.scale**2)

    @property
    def size_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's conditioning: original height and width, top and left of the crop, height and width.

        They must reach the UNet in float32: bfloat16 makes 1368 of 1365.
        """
        (width, height), (left, top), (to_width, to_height) = self.original, self.crop, self.bucket
        return height, width, top, left, to_height, to_width

    def apply(self, picture: Image.Image, *, is_flipped: bool = False) -> Image.Image:
        """Return the picture, or its mask, in the bucket's size; flipped has left and right changed."""
        # What Lanczos adds beside edges would make a mask learn a little of what it leaves out.
        method = Image.Resampling.BILINEAR if picture.mode == "L" else Image.Resampling.LANCZOS
        fitted = ImageOps.fit(picture, self.bucket, method)
        return ImageOps.mirror(fitted) if is_flipped else fitted


@dataclass(frozen=True)
class Buckets:
    """The sizes that pictures are trained in: about one area, many aspects.

    Attributes:
        resolution: The area is its square.
        step: Every side is a multiple of it.
        min_side: Shortest side.
        max_side: Longest side.
        no_upscale: Train a picture that is too small in a smaller bucket of its own instead of enlarging it.

    Raises:
        ConfigError: The numbers do not fit each other; `problems` lists everything.

    Example:
        >>> Buckets.scaled(1024, multiple=32).place(4000, 2250).bucket
        (1344, 768)
    """

    resolution: int
    step: int
    min_side: int
    max_side: int
    no_upscale: bool = True

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.step < 1:
            problems.append(f"step must be at least 1, not {self.step}")
        for name in ("min_side", "max_side"):
            if self.step > 0 and (getattr(self, name) < 1 or getattr(self, name) % self.step):
                problems.append(f"{name} must be a multiple of {self.step}, not {getattr(self, name)}")
        if not self.min_side <= self.resolution <= self.max_side:
            sides = f"min_side {self.min_side} to max_side {self.max_side}"
            problems.append(f"resolution must be from {sides}, not {self.resolution}")
        if problems:
            raise ConfigError("the set of buckets", problems)

    @classmethod
    def scaled(cls, resolution: int, *, multiple: int, no_upscale: bool = True) -> "Buckets":
        """Return SDXL's buckets (step 64, sides from 512 to 2048, around 1024) for another resolution.

        Args:
            resolution: Of the base, or lower.
            multiple: What every side must be a multiple of: the pixels that the UNet's coarsest level makes
                one.
            no_upscale: See the class.
        """
        step = max(round(SDXL_STEP * resolution / SDXL_RESOLUTION / multiple), 1) * multiple
        low, high = (max(side // step, 1) * step for side in (resolution // 2, resolution * 2))
        return cls(resolution, step, low, high, no_upscale)

    @classmethod
    def square(cls, resolution: int) -> "Buckets":
        """Return the one bucket of a training on squares."""
        return cls(resolution, resolution, resolution, resolution, no_upscale=False)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """All buckets as (width, height), from tall to wide."""
        found: set[Size] = set()
        for side in range(self.min_side, self.max_side + 1, self.step):
            other = min(self.max_side, self._floor(self.resolution**2 // side))
            if other >= self.min_side:
                found |= {(side, other), (other, side)}
        return tuple(sorted(found))

    def place(self, width: int, height: int) -> Placement:
        """Return the bucket of a picture: the one of the nearest aspect.

        Args:
            width: Of the upright picture.
            height: Likewise.
        """
        sizes = self.sizes
        if self.no_upscale:
            sizes = [size for size in sizes if size[0] <= width and size[1] <= height]
            sizes = sizes or [self._own(width, height)]

        def distance(size: Size) -> tuple[float, int, Size]:
            # The ratio of aspects, and not their difference, treats a picture as its rotated twin.
            error = abs(math.log(size[0] * height / (size[1] * width)))
            return round(error, 12), -size[0] * size[1], size

        return Placement((width, height), min(sizes, key=distance))

    def _own(self, width: int, height: int) -> Size:
        """Return the largest bucket that a picture fills without being enlarged; at least one step a side."""
        scale = min(1.0, self.resolution / math.sqrt(width * height))
        own = [min(max(self._floor(int(side * scale)), self.step), self.max_side) for side in (width, height)]
        return own[0], own[1]

    def _floor(self, side: int) -> int:
        return side // self.step * self.step
