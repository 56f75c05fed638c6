"""Data sets are read whole, or every problem is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from adapterhub.errors import DatasetError
from adapterhub.training.dataset import load_picture, read_dataset

Pictures = Callable[..., Path]


def test_captions_stand_beside_the_pictures(pictures: Pictures) -> None:
    dataset = read_dataset(pictures(3))
    assert [item.caption for item in dataset.examples] == [f"inkwash blob {n}" for n in range(3)]
    rows = json.loads(dataset.manifest())["pictures"]
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert rows[0]["sha256"] == dataset.examples[0].sha256


def test_captions_can_come_from_metadata_jsonl(pictures: Pictures) -> None:
    folder = pictures(2)
    lines = [json.dumps({"file_name": f"{n}.png", "text": f"other {n}"}) for n in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    assert [item.caption for item in read_dataset(folder).examples] == ["other 0", "other 1"]


def test_every_problem_is_named(pictures: Pictures) -> None:
    folder = pictures(4)
    (folder / "0.txt").unlink()
    (folder / "1.txt").write_text("  \n")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["0.png", "1.png", "2.png"]
    assert "it needs 0.txt" in caught.value.problems[0]
    assert "cannot be read as a picture" in caught.value.problems[2]


def test_metadata_that_does_not_fit_the_folder_is_refused(pictures: Pictures) -> None:
    folder = pictures(2)
    rows = [{"file_name": "0.png", "text": "a"}, {"file_name": "9.png", "text": "b"}, {"text": "c"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert caught.value.problems == [
        'metadata.jsonl, line 3: it needs "file_name" and "text"',
        "1.png has no caption: it needs an entry in metadata.jsonl",
        "metadata.jsonl names 9.png, which is not there",
    ]


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="it holds no pictures"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "missing")


def test_pictures_are_laid_on_white_upright_and_cropped(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (32, 16), (255, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 0, 255))
    clear.save(tmp_path / "clear.png")
    assert torch.equal(load_picture(tmp_path / "clear.png", 16), torch.ones(3, 16, 16))
    turned = Image.new("RGB", (16, 16), "white")
    turned.paste("black", (0, 0, 16, 8))  # black above; orientation 6 says: turn clockwise to view
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    loaded = load_picture(tmp_path / "turned.png", 16)
    assert loaded[:, :, :8].mean() == 1
    assert loaded[:, :, 8:].mean() == -1
