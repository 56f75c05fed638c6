"""The record inside a PNG."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapterhub_registry.errors import RecordError
from adapterhub_registry.record import (
    BaseRecord,
    GenerationRecord,
    parameters_text,
    png_with_record,
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


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with pytest.raises(RecordError, match="does not exist"):
        read_record(path)
    path.write_bytes(b"no picture at all")
    with pytest.raises(RecordError, match="cannot be read as a picture"):
        read_record(path)


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    data = png_with_record(Image.effect_noise((64, 64), 50).convert("RGB"), RECORD)
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
