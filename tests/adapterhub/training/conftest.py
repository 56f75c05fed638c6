"""Small data sets to train on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of `count` pictures with `.txt` captions."""

    def make(count: int = 4, *, name: str = "pictures", trigger: str = "inkwash") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            picture = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(picture).ellipse((8, 8 + 4 * number, 40, 56), fill=(60 * number % 256, 20, 90))
            picture.save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"{trigger} blob {number}\n")
        return folder

    return make
