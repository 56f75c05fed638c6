"""Formats of picture files, and how pixels become their bytes."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, features

from adapterhub_registry.errors import PictureFormatError

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Encoding:
    """How pixels became the bytes of a file.

    Attributes:
        format: `PNG`, `JPEG` or `WEBP`.
        quality: 1 to 100; None if every pixel was kept.
        encoder: The library and its version, where pixels were changed.
    """

    format: str = "PNG"
    quality: int | None = None
    encoder: str = ""

    @classmethod
    def of(cls, format_name: str, quality: int | None = None) -> "Encoding":
        """Return how this machine writes a format.

        Args:
            format_name: `PNG`, `JPEG` or `WEBP`.
            quality: 1 to 100. By default a WebP keeps every pixel, and a JPEG, which cannot, has 95.

        Raises:
            PictureFormatError: It is another format, or one without qualities.
        """
        if format_name not in SUFFIXES.values():
            raise PictureFormatError(format_name, f"it must be one of {', '.join(SUFFIXES)}")
        if quality is not None and (format_name == "PNG" or quality not in range(1, 101)):
            reason = "PNG keeps every pixel" if format_name == "PNG" else "it must be from 1 to 100"
            raise PictureFormatError(format_name, f"its quality is {quality}, but {reason}")
        if format_name == "JPEG":
            version = features.version("libjpeg_turbo") or features.version("jpg")
            return cls("JPEG", quality or JPEG_QUALITY, f"libjpeg {version}")
        return cls(format_name, quality, f"libwebp {features.version('webp')}" if quality else "")

    @classmethod
    def from_json(cls, text: str) -> "Encoding":
        """Read what `picture_with_record` wrote into the record's JSON; a PNG's has nothing of it.

        Raises:
            ValueError: It says something else.
        """
        try:
            found = cls(**json.loads(text).get("encoding", {}))
            cls.of(found.format, found.quality)
        except (AttributeError, TypeError, RecursionError, PictureFormatError) as exc:
            raise ValueError(f"does not say how it was encoded ({exc})") from exc
        return found

    def encode(self, picture: Image.Image, *, exif: bytes = b"") -> bytes:
        """Return a picture as the bytes of a file; equal inputs give equal bytes.

        Raises:
            PictureFormatError: The format cannot hold it.
        """
        settings: dict[str, Any] = {"lossless": self.quality is None}
        if self.format == "JPEG":
            picture, settings = picture.convert("RGB"), {"subsampling": "4:4:4"}
        if self.quality is not None:
            settings["quality"] = self.quality
        buffer = io.BytesIO()
        try:
            picture.save(buffer, self.format, exif=exif, **settings)
        except (OSError, ValueError) as exc:
            raise PictureFormatError(
                self.format, f"it cannot hold this picture ({exc}); write a PNG"
            ) from exc
        return buffer.getvalue()

    def seen(self, picture: Image.Image) -> Image.Image:
        """Return what becomes of an RGB picture when it is written and read: itself, unless pixels change."""
        if self.quality is None:
            return picture
        with Image.open(io.BytesIO(self.encode(picture))) as decoded:
            return decoded.convert("RGB")


def picture_format(path: Path) -> str:
    """Return `PNG`, `JPEG` or `WEBP`, by the suffix of a file's name.

    Raises:
        PictureFormatError: It has another suffix, or none.
    """
    if path.suffix.lower() not in SUFFIXES:
        reason = f"a picture's name must end in one of {', '.join(SUFFIXES)}"
        raise PictureFormatError(path.suffix or path.name, reason)
    return SUFFIXES[path.suffix.lower()]
