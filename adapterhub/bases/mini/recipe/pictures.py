"""Stage `pictures`: fetch the emoji and their names, and lay them on white."""

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from adapterhub.bases.mini.recipe.config import Pictures, Recipe
from adapterhub.randomness import keyed_generator

LEFT_OUT_CATEGORIES = ("Flags", "Component")
HELD_OUT_LIST = Path(__file__).with_name("held_out.txt")


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their names.

    Attributes:
        pixels: `(count, 64, 64, 3)` uint8, on white.
        names: One lower-case name for each picture, unique.
        keywords: The keywords of each picture.
    """

    pixels: np.ndarray
    names: list[str]
    keywords: list[list[str]]

    def select(self, indices: Sequence[int]) -> "PictureSet":
        """Return the pictures at `indices`, in that order."""
        return PictureSet(
            pixels=self.pixels[list(indices)],
            names=[self.names[i] for i in indices],
            keywords=[self.keywords[i] for i in indices],
        )


def prepare_pictures(recipe: Recipe, work: Path) -> None:
    """Fetch both packages with `npm pack` and write `pictures.npz` and `pictures.json` into `work`."""
    target = work / "pictures.json"
    if target.exists():
        return
    settings: Pictures = recipe.pictures
    archive = _npm_pack(settings.package, settings.version, work)
    annotations = _npm_pack(settings.annotations_package, settings.annotations_version, work)
    with tarfile.open(annotations) as tar:
        table = json.load(_member(tar, "package/annotations/en/annotations.json"))
    keywords_of = table["annotations"]["annotations"]

    pixels, names, keywords = [], [], []
    with tarfile.open(archive) as tar:
        members = {m.name: m for m in tar.getmembers()}
        rows = json.load(_member(tar, "package/emoji.json"))
        for row in sorted(rows, key=lambda row: row["sort_order"]):
            if row["category"] in LEFT_OUT_CATEGORIES or not row["has_img_google"]:
                continue
            character = "".join(chr(int(code, 16)) for code in row["unified"].split("-"))
            entry = keywords_of.get(character) or keywords_of.get(character.replace("\ufe0f", ""))
            name = clean_caption(entry["tts"][0] if entry else row["name"])
            if name in names:
                name = clean_caption(row["name"])
            data = tar.extractfile(members[f"package/img/google/64/{row['image']}"])
            if data is None:
                raise FileNotFoundError(row["image"])
            pixels.append(_on_white(data.read()))
            names.append(name)
            keywords.append([clean_caption(word) for word in entry["default"]] if entry else [])
    np.savez_compressed(work / "pictures.npz", pixels=np.stack(pixels))
    target.write_text(json.dumps({"names": names, "keywords": keywords}, indent=0))


def load_pictures(work: Path) -> PictureSet:
    """Read all pictures that `prepare_pictures` wrote."""
    table = json.loads((work / "pictures.json").read_text())
    with np.load(work / "pictures.npz") as arrays:
        return PictureSet(arrays["pixels"], table["names"], table["keywords"])


def held_out_names() -> list[str]:
    """Return the names of the subjects that the base never sees."""
    return HELD_OUT_LIST.read_text().split("\n")[:-1]


def split_pictures(pictures: PictureSet) -> tuple[PictureSet, PictureSet]:
    """Return (training pictures, held-out pictures)."""
    held = set(held_out_names())
    missing = held - set(pictures.names)
    if missing:
        raise ValueError(f"held_out.txt names no picture: {sorted(missing)}")
    inside = [i for i, name in enumerate(pictures.names) if name not in held]
    outside = [i for i, name in enumerate(pictures.names) if name in held]
    return pictures.select(inside), pictures.select(outside)


def training_caption(
    name: str, keywords: list[str], *, mix: list[float], seed: int, key: tuple[str | int, ...]
) -> str:
    """Return one of the wordings under which a picture is shown to the model."""
    random = keyed_generator(seed, "caption", *key)
    form = random.choice(4, p=mix)
    words = [word for word in keywords if word != name]
    if form == 1 or (form >= 2 and not words):
        article = "an" if name[0] in "aeiou" else "a"
        return f"{article} {name}"
    if form == 0:
        return name
    chosen = [str(w) for w in random.permutation(words)[: int(random.integers(1, 5))]]
    return ", ".join([name, *chosen] if form == 2 else chosen)


def clean_caption(text: str) -> str:
    """Return a caption in plain lower case: straight quotes, no colons, single spaces."""
    text = text.lower().replace("\u2019", "'").replace("\u201c", "").replace("\u201d", "")
    return re.sub(r"[:\s]+", " ", text).strip()


def _npm_pack(package: str, version: str, work: Path) -> Path:
    folder = work / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{package}-{version}.tgz"
    if not archive.exists():
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return archive


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    member = tar.extractfile(name)
    if member is None:
        raise FileNotFoundError(name)
    return member


def _on_white(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        rgba = picture.convert("RGBA")
    if rgba.size != (64, 64):
        rgba = rgba.resize((64, 64), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
