"""Data sets are read whole, or every problem is named."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from adapterhub.errors import ConfigError, DatasetError, TrainingPictureError
from adapterhub.training.buckets import Buckets
from adapterhub.training.captions import CaptionRules
from adapterhub.training.dataset import Source, load_picture, read_dataset, read_sources

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


def problems(*sources: Source) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        read_sources(sources)
    return caught.value.problems


def test_a_folder_of_broken_files_is_told_all_at_once(pictures: Pictures) -> None:
    folder = pictures(8)
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:90])
    (folder / "1.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "2.png")
    huge = io.BytesIO()
    Image.new("RGB", (8, 8)).save(huge, "PNG")
    data = bytearray(huge.getvalue())
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (folder / "3.png").write_bytes(data)
    (folder / "4.png").unlink()
    (folder / "4.png").symlink_to("4.png")
    (folder / "5.txt").write_bytes("inkwash, été".encode("latin-1"))
    (folder / "6.txt").write_bytes("inkwash blob 6".encode("utf-16"))
    (folder / "deep").mkdir()
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "photo.HEIC").write_bytes(b"heic")
    named = [
        ("deep/up", "a link to a folder that it lies in"),
        ("photo.HEIC", "of a kind that is not read"),
        ("5.txt", "no UTF-8"),
        ("0.png", "damaged or cut short"),
        ("1.png", "is empty"),
        ("2.png", "is 1x1 pixels"),
        ("3.png", "make it smaller"),
        ("4.png", "too many levels of symbolic links"),
    ]
    found = problems(Source(folder))
    assert [problem.split(" ")[0] for problem in found] == [name for name, _ in named]
    for problem, (_, reason) in zip(found, named, strict=True):
        assert reason in problem


def test_a_picture_without_a_caption_is_looked_at_too(pictures: Pictures) -> None:
    folder = pictures(1)
    (folder / "0.txt").unlink()
    (folder / "0.png").write_bytes(b"")
    found = problems(Source(folder))
    assert [problem.split(":")[0] for problem in found] == [
        "0.png has no caption",
        "0.png is empty, it has no bytes",
    ]


def test_what_was_done_to_files_is_told(pictures: Pictures) -> None:
    folder = pictures(3)
    (folder / "0.txt").write_bytes("inkwash blob 0".encode("utf-16"))
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(folder / "1.png")
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes())
    (folder / "3.caption").write_text("inkwash blob 3")
    (folder / ".hidden.png").write_bytes(b"no picture")
    dataset = read_dataset(folder)
    assert [item.caption for item in dataset.examples] == [f"inkwash blob {n}" for n in range(4)]
    assert dataset.notes == (
        "0.txt is UTF-16, and was read as such",
        "1.png is transparent, and was laid on white",
        "3.png is the same file as 2.png",
    )


def test_a_file_that_changes_after_it_was_read_is_named(pictures: Pictures) -> None:
    (example, _) = read_sources([Source(pictures(2))], buckets=Buckets.square(64)).examples
    Image.new("RGB", (64, 64), "green").save(example.path)
    with pytest.raises(TrainingPictureError, match=r"0\.png has changed since the data set was read"):
        example.load()


def test_image_folders_of_the_hub_are_read_split_by_split(pictures: Pictures, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    train = pictures(2, name="hub/train")
    rows = [{"file_name": f"{n}.png", "text": f"row\u2028{n}", "extra": [n]} for n in range(2)]
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (train / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    whole = read_dataset(tmp_path / "hub")
    captions = [(item.name, item.caption) for item in whole.examples]
    assert captions == [("train/0.png", "row\u20280"), ("train/1.png", "row\u20281")]
    (train / "metadata.jsonl").unlink()
    (train / "metadata.csv").write_text('file_name,text\n0.png,"red, round"\n1.png,blue\n')
    assert [item.caption for item in read_dataset(train).examples] == ["red, round", "blue"]
    (tmp_path / "hub" / "test").mkdir()
    assert problems(Source(tmp_path / "hub")) == [
        f"it holds the splits train, test: name one of them, such as {train}"
    ]


def test_a_data_set_in_tables_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    (problem,) = problems(Source(tmp_path))
    assert problem.startswith("data/train-00000-of-00001.parquet is a table, which is not read")


def test_metadata_that_names_a_picture_twice_is_refused(pictures: Pictures) -> None:
    folder = pictures(1)
    row = json.dumps({"file_name": "0.png", "text": "a"})
    (folder / "metadata.jsonl").write_text(f"{row}\n{row}\n[1]\n")
    assert problems(Source(folder)) == [
        "metadata.jsonl, line 2: it names 0.png again",
        'metadata.jsonl, line 3: it needs "file_name" and "text"',
    ]


def test_two_captions_that_differ_are_refused(pictures: Pictures) -> None:
    folder = pictures(2)
    (folder / "0.caption").write_text("inkwash blob 0")
    (folder / "1.caption").write_text("another")
    assert problems(Source(folder)) == ["1.png has two captions, in 1.txt and 1.caption; keep one"]


@pytest.mark.parametrize(("policy", "expected"), [("empty", ""), ("filename", "0")])
def test_missing_captions_follow_the_policy(pictures: Pictures, policy: str, expected: str) -> None:
    folder = pictures(2)
    (folder / "0.txt").unlink()
    dataset = read_sources([Source(folder, missing_captions=policy)])
    assert [item.caption for item in dataset.examples] == [expected, "inkwash blob 1"]


def test_sources_have_repeats_masks_and_priors(pictures: Pictures, tmp_path: Path) -> None:
    folder, classes = pictures(2), pictures(1, name="classes", trigger="a")
    masks = folder / "masks"
    masks.mkdir()
    for number in range(2):
        mask = Image.new("L", (64, 64), 255)
        mask.paste(0, (0, 0, 32, 64))
        mask.save(masks / f"{number}.png")
    sources = [
        Source(folder, repeats=3, flip=True, masks=masks),
        Source(classes, is_prior=True, rules=CaptionRules(template="a blob")),
    ]
    dataset = read_sources(sources, buckets=Buckets.scaled(64, multiple=16))
    assert dataset.buckets == {(64, 64): 3}
    rows = json.loads(dataset.manifest())["pictures"]
    assert [(row["file"], row.get("repeats"), row.get("flip"), row.get("prior")) for row in rows] == [
        ("0.png", 3, True, None),
        ("1.png", 3, True, None),
        ("0.png", None, None, True),
    ]
    assert rows[0]["mask"] == dataset.examples[0].mask_sha256
    assert rows[0]["bucket"] == [64, 64]
    assert str(tmp_path) not in dataset.manifest().decode()
    pixels, mask = dataset.examples[0].load()
    assert mask is not None
    assert (pixels.shape, mask.shape, mask[0, 0].tolist()) == (
        (3, 64, 64),
        (1, 64, 64),
        [0.0] * 32 + [1.0] * 32,
    )
    flipped, turned = dataset.examples[0].load(is_flipped=True)
    assert turned is not None
    assert torch.equal(flipped, pixels.flip(2))
    assert torch.equal(turned, mask.flip(2))
    assert dataset.examples[2].load()[1] is None


def test_missing_and_wrong_masks_are_named(pictures: Pictures, tmp_path: Path) -> None:
    folder, masks = pictures(3), tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (64, 64)).save(masks / "1.png")
    Image.new("L", (32, 64), 255).save(masks / "2.png")
    assert problems(Source(folder, masks=masks)) == [
        f"0.png has no mask in {masks}",
        "the mask 1.png of 1.png is black all over, so it leaves nothing to learn",
        "the mask 2.png of 2.png is 32x64 pixels, but the picture that it masks is 64x64",
    ]


def test_transparency_can_be_the_mask(pictures: Pictures) -> None:
    folder = pictures(2)
    half = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    half.paste((0, 0, 0, 0), (0, 0, 64, 32))
    half.save(folder / "0.png")
    dataset = read_sources([Source(folder, alpha_mask=True, ground="gray")], buckets=Buckets.square(64))
    (_, mask), (_, none) = (example.load() for example in dataset.examples)
    assert mask is not None
    assert mask.mean().item() == 0.5
    assert none is None
    assert {row["mask"] for row in json.loads(dataset.manifest())["pictures"]} == {"alpha"}
    Image.new("RGBA", (64, 64)).save(folder / "0.png")
    assert problems(Source(folder, alpha_mask=True)) == [
        "0.png is transparent all over, so it leaves nothing to learn"
    ]


def test_priors_alone_and_wrong_settings_are_refused(pictures: Pictures) -> None:
    folder = pictures(1)
    assert problems(Source(folder, is_prior=True)) == [
        "no pictures show what is to be learnt: all of them are prior"
    ]
    with pytest.raises(ConfigError) as caught:
        Source(folder, repeats=0, masks=folder, alpha_mask=True, ground="whitish", missing_captions="guess")
    assert len(caught.value.problems) == 4


def test_a_plain_folder_s_manifest_says_file_digest_and_caption_alone(pictures: Pictures) -> None:
    folder = pictures(2)
    dataset = read_dataset(folder)
    rows = [
        {"file": f"{n}.png", "sha256": item.sha256, "caption": f"inkwash blob {n}"}
        for n, item in enumerate(dataset.examples)
    ]
    assert json.loads(dataset.manifest()) == {"format": 1, "pictures": rows}
    (folder / "1.txt").write_text("inkwash blob l")
    assert read_dataset(folder).manifest() != dataset.manifest()
