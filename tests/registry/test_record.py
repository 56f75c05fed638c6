"""The record inside a PNG, JPEG or WebP."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapterhub_registry.encoding import picture_format
from adapterhub_registry.errors import PictureFormatError, RecordError
from adapterhub_registry.record import (
    BaseRecord,
    GenerationRecord,
    parameters_text,
    picture_with_record,
    png_with_record,
    read_picture,
    read_record,
)

RECORD = GenerationRecord(
    base=BaseRecord("mini", "mini", "sha256:" + "ab" * 32),
    prompt="a red heart",
    negative_prompt=None,
    seed=7,
    steps=30,
    guidance_scale=5.0,
    width=64,
    height=64,
    scheduler={"class": "EulerDiscreteScheduler", "beta_start": 0.00085},
    device="cpu",
    processor="x86_64 AVX2",
    dtype="float32",
    threads=2,
    batch_size=4,
    batch_row=1,
    versions={"torch": "2.13.0"},
)
printable = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)


@given(prompt=printable, negative=st.one_of(st.none(), printable))
def test_a_record_survives_json(prompt: str, negative: str | None) -> None:
    record = replace(RECORD, prompt=prompt, negative_prompt=negative)
    assert GenerationRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("prompt", ["a red heart", "墨絵の猫 🐈, naïve", "line\nbreak", ""])
def test_a_record_survives_the_png(tmp_path: Path, prompt: str) -> None:
    record = replace(RECORD, prompt=prompt)
    path = tmp_path / "picture.png"
    path.write_bytes(png_with_record(Image.new("RGB", (8, 8), "red"), record))
    assert read_record(path) == record
    assert path.read_bytes() == png_with_record(Image.new("RGB", (8, 8), "red"), record)


def test_other_tools_find_prompt_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png_with_record(Image.new("RGB", (8, 8)), replace(RECORD, negative_prompt="blue")))
    with Image.open(path) as picture:
        text = picture.info["parameters"]
    assert text.splitlines() == [
        "a red heart",
        "Negative prompt: blue",
        "Steps: 30, Sampler: EulerDiscreteScheduler, CFG scale: 5, Seed: 7, Size: 64x64, "
        "Model hash: ababababab, Model: mini",
    ]
    assert "Negative prompt" not in parameters_text(RECORD)


NOISE = Image.effect_noise((24, 16), 60).convert("RGB")


@pytest.mark.parametrize(
    ("suffix", "quality"), [(".jpg", None), (".JPEG", 40), (".webp", None), (".webp", 80)]
)
@pytest.mark.parametrize("prompt", ["a red heart", "墨絵の猫 🐈, naïve", "line\nbreak", "", '"encoding": {}'])
def test_a_record_survives_jpeg_and_webp(
    tmp_path: Path, suffix: str, quality: int | None, prompt: str
) -> None:
    record = replace(RECORD, prompt=prompt)
    path = tmp_path / f"picture{suffix}"
    data = picture_with_record(NOISE, record, picture_format(path), quality=quality)
    path.write_bytes(data)
    found = read_picture(path)
    assert found.record == record
    assert data == picture_with_record(NOISE, record, picture_format(path), quality=quality)
    is_exact = suffix == ".webp" and quality is None
    assert (found.image.tobytes() == NOISE.tobytes()) is is_exact
    assert found.encoding.seen(NOISE).tobytes() == found.image.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_record_survives_being_saved_again_with_its_exif(tmp_path: Path, kind: str) -> None:
    (tmp_path / "first").write_bytes(picture_with_record(NOISE, RECORD, kind))
    with Image.open(tmp_path / "first") as picture:
        for other in ("PNG", "JPEG", "WEBP"):
            picture.save(tmp_path / "again", other, exif=picture.getexif())
            assert read_record(tmp_path / "again") == RECORD


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_tools_find_the_settings_where_the_web_ui_puts_them(tmp_path: Path, kind: str) -> None:
    record = replace(RECORD, prompt="a naïve 猫")
    data = picture_with_record(NOISE, record, kind)
    comment = b"UNICODE\0" + parameters_text(record).encode("utf-16-be")
    assert comment in data
    assert struct.pack(">HHI", 0x9286, 7, len(comment)) in data  # UserComment, UNDEFINED, as EXIF has it
    (tmp_path / "x").write_bytes(data)
    with Image.open(tmp_path / "x") as picture:
        assert picture.getexif().get_ifd(0x8769) == {0x9286: comment}


def test_adapters_are_named_as_the_web_ui_names_them() -> None:
    def used(name: str, **strengths: float) -> dict[str, object]:
        return {"reference": name, "digest": "sha256:" + name[3:5] * 32, "strengths": strengths}

    composition = [
        used("me/ab@3", unet=0.8, text_encoder=0.8),
        used("me/cd@1", unet=-1.0),
        used("me/98@1", unet=2.0),
        used("us/ef.v2@1", unet=0.5, text_encoder=0.25, text_encoder_2=0.25),
    ]
    record = replace(
        RECORD, prompt="a cat <lora:cd:-1> <lora:me/98@1:2> <lora:ef.v2x:1>", composition=composition
    )
    assert parameters_text(record).splitlines() == [
        "a cat <lora:cd:-1> <lora:me/98@1:2> <lora:ef.v2x:1> <lora:ab:0.8> <lora:ef.v2:0.25:0.5>",
        "Steps: 30, Sampler: EulerDiscreteScheduler, CFG scale: 5, Seed: 7, Size: 64x64, "
        "Model hash: ababababab, Model: mini, "
        'Lora hashes: "ab: abababababab, cd: cdcdcdcdcdcd, 98: 989898989898, ef.v2: efefefefefef"',
    ]


def test_a_format_that_cannot_hold_it_is_refused() -> None:
    for name in ("x.gif", "x", "x.png.txt"):
        with pytest.raises(PictureFormatError, match=r"must end in one of \.png"):
            picture_format(Path(name))
    for settings in (("GIF", None), ("PNG", 90), ("JPEG", 0), ("WEBP", 101)):
        with pytest.raises(PictureFormatError) as caught:
            picture_with_record(NOISE, RECORD, settings[0], quality=settings[1])
        assert caught.value.format_name == settings[0]
    long = replace(RECORD, prompt="猫" * 9000)
    with pytest.raises(PictureFormatError, match="write a PNG or WebP"):
        picture_with_record(NOISE, long, "JPEG")
    assert len(picture_with_record(NOISE, long, "WEBP")) > 9000
    with pytest.raises(PictureFormatError, match="write a PNG"):
        picture_with_record(Image.new("L", (16_400, 1)), RECORD, "WEBP")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with pytest.raises(RecordError, match="does not exist"):
        read_record(path)
    path.write_bytes(b"no picture at all")
    with pytest.raises(RecordError, match="cannot be read as a picture"):
        read_record(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    data = picture_with_record(Image.effect_noise((64, 64), 50).convert("RGB"), RECORD, kind)
    for length in range(0, len(data) - 20, 97):
        path.write_bytes(data[:length])
        with pytest.raises(RecordError):
            read_record(path)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": 2}', '{"format": 1}', json.dumps({**json.loads(RECORD.to_json()), "more": 1})],
)
def test_an_unreadable_record_is_refused(tmp_path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("adapterhub", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=info)
    with pytest.raises(RecordError, match="carries a record that cannot be read"):
        read_record(tmp_path / "picture.png")


@pytest.mark.parametrize(
    "encoding", ["x", {"format": "GIF"}, {"format": "JPEG", "quality": 2.5}, {"more": 1}]
)
def test_an_unreadable_encoding_is_refused(tmp_path: Path, encoding: object) -> None:
    from adapterhub_registry.exif import exif_bytes

    text = json.dumps({**json.loads(RECORD.to_json()), "encoding": encoding})
    NOISE.save(tmp_path / "x.jpg", exif=exif_bytes(text, ""))
    with pytest.raises(RecordError, match="does not say how it was encoded"):
        read_record(tmp_path / "x.jpg")
