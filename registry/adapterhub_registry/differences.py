"""What differs between two pictures: the settings in their records, and the pixels."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from adapterhub_registry.record import GenerationRecord, read_picture

Pair = tuple[object, object]


@dataclass(frozen=True)
class PixelDifference:
    """How far the pixels of two pictures are apart, in steps of 0 to 255 over all channels.

    Attributes:
        first_size: Width and height of the first picture.
        second_size: Of the second one; if they differ, nothing else is known.
        largest: The largest difference; None where the sizes differ.
        mean: The mean difference.
        psnr: Peak signal-to-noise ratio in decibels; None for equal pictures, which have no noise.
    """

    first_size: tuple[int, int]
    second_size: tuple[int, int]
    largest: int | None = None
    mean: float | None = None
    psnr: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether every pixel is the same."""
        return self.largest == 0


@dataclass(frozen=True)
class PictureComparison:
    """What differs between two pictures.

    Attributes:
        settings: Settings by dotted name, each with both values; None stands for one that a record lacks.
        pixels: How far the pixels are apart.
    """

    settings: Mapping[str, Pair]
    pixels: PixelDifference


def compare_pictures(first: Path | str, second: Path | str) -> PictureComparison:
    """Say what differs between two pictures.

    Args:
        first: A PNG, JPEG or WebP with a record.
        second: Likewise.

    Raises:
        RecordError: One of them carries no readable record.

    Example:
        >>> from tempfile import mkdtemp
        >>> from adapterhub_registry.record import BaseRecord, png_with_record
        >>> base, folder = BaseRecord("mini", "mini", ""), Path(mkdtemp())
        >>> for seed in (1, 2):
        ...     made = GenerationRecord(
        ...         base, "a star", None, seed, 9, 5.0, 8, 8, {}, "cpu", "", "float32", 1, 1, 0
        ...     )
        ...     _ = (folder / f"{seed}.png").write_bytes(png_with_record(Image.new("RGB", (8, 8)), made))
        >>> found = compare_pictures(folder / "1.png", folder / "2.png")
        >>> found.settings, found.pixels.is_equal
        ({'seed': (1, 2)}, True)
    """
    one, other = read_picture(Path(first)), read_picture(Path(second))
    settings = differing_settings(one.record, other.record)
    settings |= _differing(asdict(one.encoding), asdict(other.encoding), "encoding.")
    return PictureComparison(settings, compare_pixels(one.image, other.image))


def differing_settings(first: GenerationRecord, second: GenerationRecord) -> dict[str, Pair]:
    """Return every setting that differs between two records, by dotted name.

    Adapters are matched by name, `composition.me/ink.strengths.unet`; where a record names one twice, the
    second is `me/ink (2)`. An adapter that is in one record alone is one setting, and so is the order.
    """
    one, other = asdict(first), asdict(second)
    ours, theirs = _by_name(one.pop("composition")), _by_name(other.pop("composition"))
    found = _differing(one, other)
    for name in ours.keys() | theirs.keys():
        if name in ours and name in theirs:
            found |= _differing(ours[name], theirs[name], f"composition.{name}.")
        else:
            found[f"composition.{name}"] = (ours.get(name), theirs.get(name))
    orders = [name for name in ours if name in theirs], [name for name in theirs if name in ours]
    if orders[0] != orders[1]:
        found["composition.order"] = orders
    return dict(sorted(found.items()))


def compare_pixels(first: Image.Image, second: Image.Image) -> PixelDifference:
    """Say how far the pixels of two RGB pictures are apart."""
    if first.size != second.size:
        return PixelDifference(first.size, second.size)
    counts: Counter[int] = Counter()
    for place, count in enumerate(ImageChops.difference(first, second).histogram()):
        counts[place % 256] += count  # one histogram of 256 for each channel
    total = sum(counts.values())
    squares = sum(step * step * count for step, count in counts.items()) / total
    return PixelDifference(
        first.size,
        second.size,
        largest=max(step for step, count in counts.items() if count),
        mean=sum(step * count for step, count in counts.items()) / total,
        psnr=10 * math.log10(255**2 / squares) if squares else None,
    )


def _by_name(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the adapters of a record by name, each with the number of its version."""
    adapters: dict[str, dict[str, Any]] = {}
    for entry in entries:
        reference, _, number = str(entry.get("reference", "")).partition("@")
        count = sum(name.partition(" ")[0] == reference for name in adapters) + 1
        name = reference if count == 1 else f"{reference} ({count})"
        adapters[name] = {"version": number, **{k: v for k, v in entry.items() if k != "reference"}}
    return adapters


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> dict[str, Pair]:
    one, other = _flat(first, prefix), _flat(second, prefix)
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _flat(table: Mapping[str, Any], prefix: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[prefix + name] = value
    return flat
