"""Open a picture to train on: upright, in sRGB, 8 bits a channel; or say why not, before training begins."""

import hashlib
import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from adapterhub.errors import SettingError, TrainingPictureError
from adapterhub_registry.record import DAMAGE

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
"""Of files that are taken for pictures."""
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".xcf", ".exr", ".hdr", ".ico", ".tga"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".mp4", ".mov", ".webm"),
)
"""Of pictures that cannot be trained on as they are; they are named, not passed over."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
MIN_SIDE, MAX_SIDE, MAX_PIXELS, MAX_BYTES = 8, 16_384, 128_000_000, 1 << 30
CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK", "LAB")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class TrainingPicture:
    """A picture as it is trained on.

    Attributes:
        colours: RGB in sRGB, laid on the ground where it is transparent.
        alpha: How opaque it is, mode `L`; None if it is so everywhere.
        sha256: Digest of the file's bytes.
        notes: What was done to it that a person should know, such as "laid on white".
    """

    colours: Image.Image
    alpha: Image.Image | None
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        return self.colours.size


def open_picture(path: Path, *, ground: str = "white", sha256: str | None = None) -> TrainingPicture:
    """Read a picture whole: turned as its EXIF orientation says, and its colours converted to sRGB.

    The file is read once, so the digest is that of these pixels; its header is checked before it is decoded.

    Args:
        path: The file.
        ground: What lies under transparent parts: a colour's name or `#rrggbb`.
        sha256: The digest that it had before; None if that is not known.

    Raises:
        TrainingPictureError: It is empty, damaged, too small or too large, animated, of several pages, in
            colours that cannot be known, another one than before, or no picture at all.
        SettingError: There is no such colour.
    """
    colour = ground_colour(ground)
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise TrainingPictureError(path, "has changed since the data set was read; start the training again")
    notes: list[str] = []
    try:
        # Pillow warns of large pictures, but our own limit decides, and of what is odd in EXIF.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=FORMATS) as opened,
        ):
            _check_header(path, opened)
            picture = _eight_bits(path, opened, notes)
            picture = ImageOps.exif_transpose(picture)
            picture, alpha = _opaque(picture)
            colours = _srgb(path, picture, notes)
    except UnidentifiedImageError as exc:
        reason = "it is none" if not _looks_like_picture(content) else "it is damaged, or of an unknown kind"
        raise TrainingPictureError(path, f"cannot be read as a picture: {reason}") from exc
    except Image.DecompressionBombError as exc:
        raise TrainingPictureError(path, f"has more than {MAX_PIXELS:,} pixels; make it smaller") from exc
    except (OSError, RuntimeError, *DAMAGE) as exc:  # RuntimeError is that of AVIF
        raise TrainingPictureError(
            path, f"cannot be read as a picture: it is damaged or cut short ({exc})"
        ) from exc
    if alpha is not None:
        colours.putalpha(alpha)
        under = Image.new("RGBA", colours.size, (*colour, 255))
        colours = Image.alpha_composite(under, colours).convert("RGB")
        notes.append(f"is transparent, and was laid on {ground}")
    return TrainingPicture(colours, alpha, digest, tuple(notes))


def open_mask(path: Path, size: tuple[int, int], *, sha256: str | None = None) -> TrainingPicture:
    """Read a mask, white where the picture is learnt and black where it is not; its colours are mode `L`.

    Args:
        path: The file.
        size: Width and height of its picture.
        sha256: As in `open_picture`.

    Raises:
        TrainingPictureError: As `open_picture`; it has another size, or is black all over.
    """
    opened = open_picture(path, ground="black", sha256=sha256)
    mask = opened.colours.convert("L")
    if mask.size != size:
        given, wanted = (f"{width}x{height}" for width, height in (mask.size, size))
        raise TrainingPictureError(path, f"is {given} pixels, but the picture that it masks is {wanted}")
    if mask.getextrema()[1] == 0:
        raise TrainingPictureError(path, "is black all over, so it leaves nothing to learn")
    return TrainingPicture(mask, None, opened.sha256)


def ground_colour(ground: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour's name or `#rrggbb`.

    Raises:
        SettingError: There is no such colour.
    """
    try:
        colour = ImageColor.getrgb(ground)
    except ValueError as exc:
        raise SettingError("the ground", ground, "it must be a colour's name, or #rrggbb") from exc
    return colour[0], colour[1], colour[2]


def picture_tensor(picture: Image.Image) -> Tensor:
    """Return RGB as `(3, height, width)` from -1 to 1, a mask as `(1, height, width)` from 0 to 1."""
    pixels = torch.from_numpy(np.array(picture)).float()
    return pixels[None] / 255 if picture.mode == "L" else pixels.permute(2, 0, 1) / 127.5 - 1


def _content(path: Path) -> bytes:
    """Return the bytes of a regular file; opening a pipe or a device could wait for ever."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TrainingPictureError(path, "is no regular file")
        if found.st_size == 0:
            raise TrainingPictureError(path, "is empty, it has no bytes")
        if found.st_size > MAX_BYTES:
            raise TrainingPictureError(path, f"has more than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as exc:
        reason = os.strerror(exc.errno).lower() if exc.errno else str(exc)
        raise TrainingPictureError(path, f"cannot be opened ({reason})") from exc


def _looks_like_picture(content: bytes) -> bool:
    starts = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
    return content.startswith(starts) or content[4:8] == b"ftyp"


def _check_header(path: Path, opened: Image.Image) -> None:
    width, height = opened.size
    if min(width, height) < MIN_SIDE:
        reason = f"is {width}x{height} pixels; each side must have at least {MIN_SIDE}"
        raise TrainingPictureError(path, reason)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        reason = (
            f"is {width}x{height} pixels; a side may have up to {MAX_SIDE:,}, and all {MAX_PIXELS:,}: "
            "make it smaller"
        )
        raise TrainingPictureError(path, reason)
    frames = getattr(opened, "n_frames", 1)
    # Cameras put a second, smaller picture into a JPEG (Pillow says MPO); the first one is the photograph.
    if frames > 1 and opened.format != "MPO":
        kind = f"has {frames} pages" if opened.format == "TIFF" else f"is animated: it has {frames} frames"
        raise TrainingPictureError(path, f"{kind}; save the one to train on as a PNG")


def _eight_bits(path: Path, opened: Image.Image, notes: list[str]) -> Image.Image:
    """Return the decoded picture in a mode that can be converted."""
    mode = opened.mode
    if mode in SIXTEEN_BITS:
        notes.append("has 16 bits a channel, and was rounded to 8")
        # Pillow's own conversion cuts values off at 255.
        values = np.asarray(opened).astype(np.float64) / 257
        picture = Image.fromarray(values.round().astype(np.uint8), "L")
        picture.info = dict(opened.info)
        picture.getexif().update(opened.getexif())
        return picture
    if mode not in CONVERTIBLE:
        reason = f'has values of the kind "{mode}", which no range is known of; save it as an 8-bit PNG'
        raise TrainingPictureError(path, reason)
    opened.load()
    return opened


def _opaque(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours without transparency, and how opaque they are unless that is wholly."""
    profile = picture.info.get("icc_profile")
    alpha: Image.Image | None = None
    if picture.has_transparency_data:
        gray = picture.mode in ("L", "LA", "1")
        whole = picture.convert("RGBA")
        alpha = whole.getchannel("A")
        picture = whole.convert("RGB").convert("L") if gray else whole.convert("RGB")
    elif picture.mode in ("P", "PA", "RGBX", "YCbCr"):
        picture = picture.convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if profile:
        picture.info["icc_profile"] = profile
    return picture, None if alpha is None or alpha.getextrema()[0] == 255 else alpha


def _srgb(path: Path, picture: Image.Image, notes: list[str]) -> Image.Image:
    """Return the colours in sRGB, from those of the profile in the file."""
    data: Any = picture.info.get("icc_profile")
    if not data:
        if picture.mode in ("CMYK", "LAB"):
            reason = (
                f"is {picture.mode} without a colour profile, so its colours are not known; save it as RGB"
            )
            raise TrainingPictureError(path, reason)
        return picture.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        core: Any = profile.profile
        name = " ".join(ImageCms.getProfileDescription(profile).split())
        if picture.mode == "L" and core.xcolor_space.strip() == "RGB":
            picture = picture.convert("RGB")  # as optimisers leave it, which drop the colours alone
        if picture.mode == "RGB" and name.startswith("sRGB"):
            return picture.copy()
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            picture.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        converted = transform.apply(picture)
    except (ImageCms.PyCMSError, OSError, ValueError) as exc:
        reason = f"has a colour profile that cannot be used on {picture.mode} ({exc}); save it as sRGB"
        raise TrainingPictureError(path, reason) from exc
    notes.append(f"was converted from {name} to sRGB")
    return converted
