"""Pictures of versions: decoded under caps, kept as PNG, with what they were made with."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapterhub_registry.errors import (
    PictureError,
)
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.record import picture_with_record, png_with_record
from adapterhub_registry.store import Registry
from tests.registry.test_record import RECORD

Weights = Callable[..., Path]


def only_preview(registry: Registry, weights: Weights, *paths: Path) -> StoredFile:
    version = registry.add(weights(1), name="me/ink", previews=paths)
    (preview,) = registry.previews(version)
    return preview


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_preview_is_kept_as_png_without_what_it_carries(
    registry: Registry, weights: Weights, tmp_path: Path, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret"
    Image.new("RGB", (8, 4), "red").save(tmp_path / "x", kind, exif=exif, icc_profile=b"secret")
    stored = registry.read(only_preview(registry, weights, tmp_path / "x").sha256)
    assert b"secret" in (tmp_path / "x").read_bytes() or kind == "PNG"  # PNG packs its profile
    assert b"secret" not in stored
    with Image.open(io.BytesIO(stored)) as picture:
        picture.load()
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (8, 4))
        assert picture.info == {}
        with Image.open(tmp_path / "x") as before:
            assert picture.tobytes() == before.convert("RGB").tobytes()


def test_equal_pictures_give_equal_bytes(registry: Registry, weights: Weights, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("comment", "one of two")
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", pnginfo=info, compress_level=1)
    picture.save(tmp_path / "c.webp", lossless=True)
    only_preview(registry, weights, *(tmp_path / name for name in ("a.png", "b.png", "c.webp", "a.png")))


def test_a_preview_keeps_its_transparency_and_its_camera_s_turn(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left
    Image.new("RGB", (8, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    version = registry.add(
        weights(1), name="me/ink", previews=[tmp_path / "turned.jpg", tmp_path / "clear.png"]
    )
    turned, clear = (Image.open(io.BytesIO(registry.read(p.sha256))) for p in registry.previews(version))
    assert turned.size == (4, 8)
    assert clear.getpixel((0, 0)) == (1, 2, 3, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_preview_keeps_what_its_record_says_in_the_row(
    registry: Registry, weights: Weights, tmp_path: Path, kind: str
) -> None:
    import dataclasses

    used = {"reference": "me/ink@1", "digest": "sha256:" + "ab" * 32, "strengths": {"unet": 0.8}}
    record = dataclasses.replace(RECORD, composition=[used], negative_prompt="blur")
    (tmp_path / "x").write_bytes(picture_with_record(Image.new("RGB", (8, 8)), record, kind))
    preview = only_preview(registry, weights, tmp_path / "x")
    assert (preview.prompt, preview.seed) == ("a red heart", 7)
    assert preview.settings == {
        "steps": "30",
        "guidance_scale": "5",
        "width": "64",
        "height": "64",
        "scheduler": "EulerDiscreteScheduler",
        "base": "mini",
        "negative_prompt": "blur",
        "weight": "0.8",
    }
    assert b"red heart" not in registry.read(preview.sha256)


def test_a_preview_keeps_what_the_web_ui_wrote_into_it(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a cat,\nin the rain <lora:ink:0.8>\nNegative prompt: dog\n"
        'Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 123, Size: 64x32, Lora hashes: "ink: 0a, b: 1"',
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    preview = only_preview(registry, weights, tmp_path / "x.png")
    assert (preview.prompt, preview.seed) == ("a cat,\nin the rain <lora:ink:0.8>", 123)
    assert preview.settings == {
        "steps": "20",
        "guidance_scale": "7",
        "width": "64",
        "height": "32",
        "scheduler": "DPM++ 2M",
        "negative_prompt": "dog",
    }


@pytest.mark.parametrize("codec", ["utf-16-be", "utf-16-le"])  # the web UI's, and that of others
def test_a_preview_keeps_what_stands_in_its_exif(
    registry: Registry, weights: Weights, tmp_path: Path, codec: str
) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"UNICODE\0" + "a naïve cat\nSteps: 20, Seed: 123".encode(codec)}
    Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", exif=exif)
    preview = only_preview(registry, weights, tmp_path / "x.webp")
    assert (preview.prompt, preview.seed, preview.settings) == ("a naïve cat", 123, {"steps": "20"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"GIF89a" + bytes(20), "no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64 << 20), "64 MiB"),
    ],
    ids=["svg", "xml", "gif", "large"],
)
def test_what_is_no_picture_for_a_preview_is_refused_with_a_reason(
    registry: Registry, weights: Weights, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(PictureError, match=reason):
        registry.add(weights(1), name="me/ink", previews=[tmp_path / "x.png"])
    assert registry.list() == []


def test_settings_of_previews_travel_and_remotes_without_them_are_read(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "x.png").write_bytes(png_with_record(Image.new("RGB", (8, 8)), RECORD))
    version = registry.add(weights(1), name="me/ink", previews=[tmp_path / "x.png"])
    registry.add_remote("team", share.as_uri())
    registry.push("me/ink", remote="team")
    pulled = registry.pull("team:me/ink", rename="us/ink")
    assert registry.previews(registry.resolve(pulled.name)) == registry.previews(version)
    (listed,) = share.glob("adapters/*/*/versions/1.json")
    table = json.loads(listed.read_text())
    del table["previews"][0]["settings"]
    listed.write_text(json.dumps(table))
    pulled = registry.pull("team:me/ink", rename="old/ink")
    (preview,) = registry.previews(registry.resolve(pulled.name))
    assert (preview.prompt, preview.settings) == ("a red heart", {})
