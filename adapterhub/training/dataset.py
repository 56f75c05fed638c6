"""Pictures with captions in a folder, and the manifest that says exactly which."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from adapterhub.errors import DatasetError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Example:
    """One picture and its caption.

    Attributes:
        path: The file.
        caption: What it shows.
        sha256: Digest of the file's bytes.
    """

    path: Path
    caption: str
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """The examples of one adapter, in the order of their file names."""

    folder: Path
    examples: tuple[Example, ...]

    def manifest(self) -> bytes:
        """Return the canonical JSON of file names, digests and captions; its SHA-256 is in the lineage."""
        rows = [
            {"file": str(item.path.relative_to(self.folder)), "sha256": item.sha256, "caption": item.caption}
            for item in self.examples
        ]
        return (json.dumps({"format": 1, "pictures": rows}, indent=1, ensure_ascii=False) + "\n").encode()


def read_dataset(folder: Path) -> Dataset:
    """Read a folder of pictures: captions from `metadata.jsonl`, else from a `.txt` beside each picture.

    Every picture is decoded once, so that a damaged one is found before training starts.

    Raises:
        DatasetError: There is no such folder, it has no pictures, or pictures lack captions or are damaged;
            `problems` lists every one of them.
    """
    if not folder.is_dir():
        raise DatasetError(folder, ["there is no such folder"])
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise DatasetError(folder, [f"it holds no pictures ({', '.join(SUFFIXES)})"])
    problems: list[str] = []
    captions = _metadata_captions(folder, problems) if (folder / METADATA).exists() else None
    examples: list[Example] = []
    for path in pictures:
        name = str(path.relative_to(folder))
        if captions is not None:
            caption = captions.pop(name, None)
        else:
            text = path.with_suffix(".txt")
            caption = text.read_text(encoding="utf-8").strip() if text.exists() else None
        if not caption:
            wanted = f"an entry in {METADATA}" if captions is not None else f"{Path(name).stem}.txt"
            problems.append(f"{name} has no caption: it needs {wanted}")
            continue
        try:
            load_picture(path, 8)
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as exc:
            problems.append(f"{name} cannot be read as a picture ({exc})")
            continue
        examples.append(Example(path, caption, hashlib.sha256(path.read_bytes()).hexdigest()))
    problems += [f"{METADATA} names {name}, which is not there" for name in captions or {}]
    if problems:
        raise DatasetError(folder, problems)
    return Dataset(folder, tuple(examples))


def load_picture(path: Path, size: int) -> Tensor:
    """Return a picture as `(3, size, size)` float32 in [-1, 1]: upright, on white, centre-cropped."""
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(white, picture).convert("RGB")
    fitted = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float()
    return pixels / 127.5 - 1


def _metadata_captions(folder: Path, problems: list[str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate((folder / METADATA).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[str(row["file_name"])] = str(row["text"]).strip()
        except (ValueError, KeyError, TypeError):
            problems.append(f'{METADATA}, line {number}: it needs "file_name" and "text"')
    return captions
