"""Regions: adapters that act on parts of the picture; values, as compositions are."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from adapterhub.errors import InputError, MaskSizeError, SettingError
from adapterhub.runtime.composition import Composition


@dataclass(frozen=True)
class Box:
    """A rectangle, in parts of the picture's width and height.

    Attributes:
        left: From 0.0, the left edge, to 1.0.
        top: From 0.0, the upper edge, to 1.0.
        right: Likewise.
        bottom: Likewise.

    Raises:
        SettingError: It is empty, or not inside of the picture.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            rule = "it must be left,top,right,bottom in parts of the picture, 0 <= left < right <= 1"
            raise SettingError("a box", f"{self.left},{self.top},{self.right},{self.bottom}", rule)

    def cover(self, height: int, width: int) -> Tensor:
        """Return which part of each cell of a grid it covers: `(height, width)`, float32, 0 to 1.

        Example:
            >>> Box(0.25, 0.0, 1.0, 0.5).cover(2, 2).tolist()
            [[0.5, 1.0], [0.0, 0.0]]
        """
        return torch.outer(_overlap(self.top, self.bottom, height), _overlap(self.left, self.right, width))

    def record(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"box": [self.left, self.top, self.right, self.bottom]}


@dataclass(frozen=True)
class Mask:
    """A mask of the picture's size: white where an adapter acts, grey for less.

    Attributes:
        png: As a grey PNG.
    """

    png: bytes

    @classmethod
    def of(cls, picture: "Image.Image | Path | str") -> "Mask":
        """Make a mask of a picture or a file; colours are read as grey.

        Raises:
            InputError: The file is no picture.
        """
        if isinstance(picture, str | Path):
            path = Path(picture)
            try:
                with Image.open(path) as opened:
                    picture = opened.convert("L")
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as exc:
                raise InputError(path, "it is no picture to make a mask of") from exc
        buffer = io.BytesIO()
        picture.convert("L").save(buffer, "PNG")
        return cls(buffer.getvalue())

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        with Image.open(io.BytesIO(self.png)) as picture:
            return picture.size

    def cover(self, height: int, width: int) -> Tensor:
        """Return its mean in each cell of a grid: `(height, width)`, float32, 0 to 1."""
        with Image.open(io.BytesIO(self.png)) as picture:
            small = picture.resize((width, height), Image.Resampling.BOX)
        return torch.tensor(list(small.tobytes()), dtype=torch.float32).reshape(height, width) / 255

    def record(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"mask": base64.b64encode(self.png).decode()}


Area: TypeAlias = Box | Mask


@dataclass(frozen=True)
class Regions:
    """Adapters that act on parts of the picture, all in one prediction.

    What an adapter adds to a layer's output is multiplied there by how much of the place its area covers. A
    cross-attention's keys and values belong to no place: every place attends to those under the adapters
    whose areas cover more than half of it. What has no place (the embeddings of the time) is added in the
    part of the picture that the area covers. Text encoders are under all adapters. This is how region masks
    of ComfyUI's hooks act, but in one forward of the UNet in place of one for each region.

    Attributes:
        parts: Compositions, each with a `Box`, a `Mask` or None for the whole picture.

    Raises:
        SettingError: There are no parts.
    """

    parts: tuple[tuple[Composition, Area | None], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise SettingError("the number of regions", 0, "there must be at least one")

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """All that are active."""
        return tuple(composition for composition, _ in self.parts)

    def check_size(self, width: int, height: int) -> None:
        """Check that all masks have the picture's size.

        Raises:
            MaskSizeError: One has not.
        """
        for _, area in self.parts:
            if isinstance(area, Mask) and area.size != (width, height):
                raise MaskSizeError(area.size, (width, height))

    def record(self) -> list[dict[str, Any]]:
        """Return what a record says of the areas: each with the number of adapters that it is for."""
        return [
            {"adapters": len(composition.terms), **({} if area is None else area.record())}
            for composition, area in self.parts
        ]


def recorded_area(entry: dict[str, Any]) -> Area | None:
    """Return the area of an entry of `Regions.record`."""
    if "box" in entry:
        return Box(*entry["box"])
    return Mask(base64.b64decode(entry["mask"])) if "mask" in entry else None


def _overlap(start: float, end: float, cells: int) -> Tensor:
    """Return which part of each of so many cells lies between start and end."""
    edges = torch.arange(cells + 1, dtype=torch.float64)
    low, high = start * cells, end * cells
    covered = torch.minimum(edges[1:], torch.tensor(high)) - torch.maximum(edges[:-1], torch.tensor(low))
    return covered.clamp(0, 1).float()


def grids(height: int, width: int) -> dict[int, tuple[int, int]]:
    """Return the grids of a UNet's levels by their number of places, from the latents' height and width."""
    found: dict[int, tuple[int, int]] = {}
    while True:
        found.setdefault(height * width, (height, width))
        if height == 1 and width == 1:
            return found
        height, width = math.ceil(height / 2), math.ceil(width / 2)
