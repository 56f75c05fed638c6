"""What a picture starts from besides noise: a picture, a part of one, a picture that steers; values."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, ImageOps, UnidentifiedImageError

from adapterhub.errors import InputError, MaskSizeError, SettingError


@dataclass(frozen=True)
class Picture:
    """The pixels of a picture; make it with `Picture.of`.

    Attributes:
        mode: `RGB`, or `L` of a mask.
        size: Width and height.
        pixels: Row by row.
    """

    mode: str
    size: tuple[int, int]
    pixels: bytes = field(repr=False)

    @classmethod
    def of(cls, picture: "Picturable", *, mode: str = "RGB") -> "Picture":
        """Take the pixels of a picture or a file.

        A photograph is turned as its EXIF orientation says. Where a picture is transparent it becomes white,
        and a mask black.

        Args:
            picture: A file, a picture of Pillow's, which is copied, or what this function returned.
            mode: `RGB`, or `L` for a mask, of which colours are read as grey.

        Raises:
            InputError: The file is no picture.
        """
        if isinstance(picture, Picture):
            return picture
        if isinstance(picture, str | Path):
            path = Path(picture)
            try:
                with Image.open(path) as opened:
                    opened.load()
                    picture = opened
            except FileNotFoundError as exc:
                raise InputError(path, "there is no such file") from exc
            except (
                OSError,
                SyntaxError,
                ValueError,
                UnidentifiedImageError,
                Image.DecompressionBombError,
            ) as exc:
                raise InputError(path, "it is no picture") from exc
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            ground = Image.new("RGBA", upright.size, "white" if mode == "RGB" else "black")
            upright = Image.alpha_composite(ground, upright)
        plain = upright.convert(mode)
        return cls(mode, plain.size, plain.tobytes())

    @cached_property
    def sha256(self) -> str:
        """The digest of mode, size and pixels."""
        head = f"{self.mode} {self.size[0]}x{self.size[1]}\n".encode()
        return hashlib.sha256(head + self.pixels).hexdigest()

    def fitted(self, width: int, height: int) -> Image.Image:
        """Return it in this size: scaled until it covers it, and cut at the edges that stand out."""
        whole = Image.frombytes(self.mode, self.size, self.pixels)
        if self.size == (width, height):
            return whole
        return ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS)

    def record(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"sha256": self.sha256, "width": self.size[0], "height": self.size[1]}


Picturable: TypeAlias = Picture | Image.Image | Path | str
"""A picture, or the file of one."""


@dataclass(frozen=True, init=False)
class Start:
    """A picture to start from, image to image; with a mask only a part of it is made anew (inpainting).

    Attributes:
        image: Where it starts.
        strength: How much of it is given up, above 0.0 to 1.0: of all steps the last ones are made, so many.
        mask: White where it is made anew; grey counts as white from the middle on. None for everywhere.

    Raises:
        SettingError: The strength is not above 0, or above 1.
        MaskSizeError: The mask has another size than the image.
        InputError: A file is no picture.

    Example:
        >>> star = Image.new("RGB", (64, 64), "gold")
        >>> Start(star, strength=0.4).steps(30)
        12
    """

    image: Picture
    strength: float
    mask: Picture | None

    def __init__(self, image: Picturable, strength: float = 0.5, mask: Picturable | None = None) -> None:
        if not 0 < strength <= 1:
            raise SettingError("the strength", strength, "it must be above 0.0, and at most 1.0")
        object.__setattr__(self, "image", Picture.of(image))
        object.__setattr__(self, "strength", strength)
        object.__setattr__(self, "mask", None if mask is None else Picture.of(mask, mode="L"))
        if self.mask is not None and self.mask.size != self.image.size:
            raise MaskSizeError(self.mask.size, self.image.size)

    def steps(self, steps: int) -> int:
        """Return how many of so many steps are made."""
        return min(int(steps * self.strength), steps)

    @property
    def shared(self) -> tuple[Any, ...]:
        """What the pictures of one batch have in common."""
        return (self.strength, self.mask is not None)

    def record(self) -> dict[str, Any]:
        """Return what a record says of it."""
        mask = {} if self.mask is None else {"mask": self.mask.record()}
        return {"image": self.image.record(), "strength": self.strength, **mask}


@dataclass(frozen=True, init=False)
class Control:
    """A picture that steers through the ControlNet that the runtime was loaded with.

    Attributes:
        image: What the ControlNet was made to read: edges, a depth map, a pose, ...
        scale: What its effect is multiplied by.
        start: The part of all steps after which it begins to act, from 0.0.
        end: The part after which it no longer acts, up to 1.0.

    Raises:
        SettingError: The scale is negative or not finite, or it acts in no step.
        InputError: A file is no picture.
    """

    image: Picture
    scale: float
    start: float
    end: float

    def __init__(self, image: Picturable, scale: float = 1.0, start: float = 0.0, end: float = 1.0) -> None:
        if not (scale >= 0 and math.isfinite(scale)):
            raise SettingError("the scale of a control", scale, "it must be 0.0 or more")
        if not 0 <= start < end <= 1:
            rule = "it must be from 0.0 to 1.0, and begin before it ends"
            raise SettingError("when a control acts", f"{start} to {end}", rule)
        object.__setattr__(self, "image", Picture.of(image))
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)

    def acts(self, step: int, steps: int) -> bool:
        """Return whether it acts in a step, counted from 0, of so many; in whole steps, as in diffusers."""
        return step / steps >= self.start and (step + 1) / steps <= self.end

    @property
    def shared(self) -> tuple[Any, ...]:
        """What the pictures of one batch have in common."""
        return (self.scale, self.start, self.end)

    def record(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"image": self.image.record(), "scale": self.scale, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Inputs:
    """The pictures that a recorded one was made from, to make it again.

    Attributes:
        image: Where it started; None for noise.
        mask: What was made anew; None for everything.
        control: What steered it; None for nothing.
    """

    image: Picturable | None = None
    mask: Picturable | None = None
    control: Picturable | None = None
