"""Pictures to train on are made the same kind, or refused by name before training begins."""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from adapterhub.errors import SettingError, TrainingPictureError
from adapterhub.training.pictures import open_mask, open_picture, picture_tensor

ORIENTATION = 0x0112
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def refusal(path: Path, **settings: str) -> str:
    with pytest.raises(TrainingPictureError) as caught:
        open_picture(path, **settings)
    assert caught.value.path == path
    assert str(caught.value) == f"{path} {caught.value.reason}"
    return caught.value.reason


def noise(width: int = 16, height: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def swapped_profile() -> bytes:
    """sRGB's profile with red and blue changed over, under another name."""
    data = SRGB.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    return data.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


def cmyk_profile() -> bytes:
    """A profile of two points a side: white without ink, black with any."""
    lab = [(255 if corner == 0 else 0, 128, 128) for corner in range(16)]
    identity = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4
    table += b"".join(map(bytes, lab)) + identity * 3
    text = b"inks\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags, body, offset = b"", b"", 128 + 4 + 12 * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    for tag, data in ((b"A2B0", table), (b"desc", name), (b"wtpt", white)):
        padded = data + bytes(-len(data) % 4)
        tags += tag + struct.pack(">II", offset + len(body), len(data))
        body += padded
    size = 128 + 4 + len(tags) + len(body)
    head = struct.pack(">I4sI4s4s4s12x4s28x3i48x", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ",
                       b"acsp", 63190, 65536, 54061)  # fmt: skip
    return head + struct.pack(">I", 3) + tags + body


def test_the_digest_and_the_pixels_are_of_one_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path)
    picture = open_picture(path)
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(np.array(picture.colours), noise())
    assert (picture.alpha, picture.notes, picture.size) == (None, (), (16, 16))
    expected = torch.from_numpy(noise()).double().permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(picture_tensor(picture.colours).double(), expected, atol=1e-6)
    Image.fromarray(noise()[::-1]).save(path)
    assert "has changed since the data set was read" in refusal(path, sha256=picture.sha256)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_photographs_stand_upright(
    tmp_path: Path, orientation: int, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(noise(24, 16)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.array(open_picture(tmp_path / "a.png").colours), turn(noise(24, 16)))


def test_transparent_parts_lie_on_the_ground_and_are_kept_as_alpha(tmp_path: Path) -> None:
    pixels = noise(channels=4)
    pixels[:8, :, 3] = 0
    pixels[8:, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png", ground="#102030")
    assert np.array(picture.colours)[0, 0].tolist() == [16, 32, 48]
    assert np.array_equal(np.array(picture.colours)[8:], pixels[8:, :, :3])
    assert picture.alpha is not None
    assert np.array_equal(np.array(picture.alpha), pixels[:, :, 3])
    assert picture.notes == ("is transparent, and was laid on #102030",)
    with pytest.raises(SettingError, match="the ground is whitish"):
        open_picture(tmp_path / "a.png", ground="whitish")


def test_a_palette_and_a_gray_picture_become_rgb(tmp_path: Path) -> None:
    palette = Image.fromarray(noise()).quantize(16)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(
        np.array(open_picture(tmp_path / "p.png").colours), np.array(palette.convert("RGB"))
    )
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    clear = open_picture(tmp_path / "clear.png")
    assert clear.colours.getpixel((0, 0)) == (255, 255, 255)
    assert clear.alpha is not None
    gray = Image.fromarray(noise()[:, :, 0])
    gray.save(tmp_path / "l.png")
    assert np.array_equal(
        np.array(open_picture(tmp_path / "l.png").colours.getchannel("B")), noise()[:, :, 0]
    )


def test_sixteen_bits_are_rounded_and_not_cut_off(tmp_path: Path) -> None:
    values = (np.arange(256, dtype=np.uint32) * 257 + 100).clip(0, 65535).astype(np.uint16).reshape(16, 16)
    exif = Image.Exif()
    exif[ORIENTATION] = 4
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    picture = open_picture(tmp_path / "a.png")
    expected = [[round(value / 257) for value in row] for row in values.tolist()]
    assert np.array(picture.colours)[::-1, :, 0].tolist() == expected
    assert picture.notes == ("has 16 bits a channel, and was rounded to 8",)


def test_colours_are_converted_from_their_profile(tmp_path: Path) -> None:
    picture = Image.fromarray(noise())
    picture.save(tmp_path / "same.png", icc_profile=SRGB)
    assert np.array_equal(np.array(open_picture(tmp_path / "same.png").colours), noise())
    picture.save(tmp_path / "swapped.png", icc_profile=swapped_profile())
    swapped = open_picture(tmp_path / "swapped.png")
    difference = np.array(swapped.colours).astype(int) - noise()[:, :, ::-1]
    assert np.abs(difference).max() <= 1
    assert swapped.notes == ("was converted from mine built-in to sRGB",)
    Image.fromarray(noise()[:, :, 0]).save(tmp_path / "gray.png", icc_profile=SRGB)
    assert np.array_equal(np.array(open_picture(tmp_path / "gray.png").colours)[:, :, 1], noise()[:, :, 0])
    picture.save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    assert "has a colour profile that cannot be used on RGB" in refusal(tmp_path / "broken.png")


def test_cmyk_needs_its_profile(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 8, 16))
    picture.save(tmp_path / "none.tif")
    assert "is CMYK without a colour profile" in refusal(tmp_path / "none.tif")
    picture.save(tmp_path / "inks.tif", icc_profile=cmyk_profile())
    colours = open_picture(tmp_path / "inks.tif").colours
    assert (colours.getpixel((4, 8)), colours.getpixel((12, 8))) == ((0, 0, 0), (255, 255, 255))


def test_pictures_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for name in ("a.gif", "a.webp", "a.png"):
        assert "is animated: it has 3 frames" in refusal(tmp_path / name)
    assert "has 3 pages" in refusal(tmp_path / "a.tif")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert "is 1x1 pixels" in refusal(tmp_path / "dot.png")
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "f.tif")
    assert 'has values of the kind "F"' in refusal(tmp_path / "f.tif")
    (tmp_path / "empty.png").touch()
    assert "is empty" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    assert "cannot be read as a picture: it is none" in refusal(tmp_path / "text.png")
    assert "cannot be opened (no such file" in refusal(tmp_path / "missing.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        assert refusal(tmp_path / name) == "is no regular file"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "cannot be opened (too many levels of symbolic links)" in refusal(tmp_path / "loop.png")


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (30_000, 8), (12_000, 12_000)])
def test_a_huge_picture_is_refused_by_its_header_alone(tmp_path: Path, width: int, height: int) -> None:
    small = io.BytesIO()
    Image.new("L", (8, 8)).save(small, "PNG")
    data = bytearray(small.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "huge.png").write_bytes(data)  # decoding it would fail otherwise
    assert "make it smaller" in refusal(tmp_path / "huge.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_a_truncated_or_damaged_file_is_read_or_refused_never_a_crash(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(32, 32)).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / "a"
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a picture" in refusal(path)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.integers(0, len(whole)), st.integers(0, len(whole) - 1), st.integers(0, 255))
    def check(length: int, place: int, value: int) -> None:
        data = bytearray(whole)
        data[place] = value
        path.write_bytes(data[:length])
        try:
            open_picture(path)
        except TrainingPictureError as error:
            assert error.path == path

    check()


def test_the_first_picture_of_a_camera_s_file_is_taken(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (16, 16), "blue")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    picture = open_picture(tmp_path / "a.jpg")
    assert picture.size == (32, 32)
    red, green, blue = np.array(picture.colours)[16, 16].tolist()
    assert red > 240 > 20 > max(green, blue)


def test_a_mask_must_fit_and_leave_something(tmp_path: Path) -> None:
    mask = Image.new("L", (16, 16))
    mask.save(tmp_path / "black.png")
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "half.png")
    tensor = picture_tensor(open_mask(tmp_path / "half.png", (16, 16)).colours)
    assert (tensor.shape, tensor.mean().item()) == ((1, 16, 16), 0.5)
    with pytest.raises(TrainingPictureError, match="is 16x16 pixels, but the picture that it masks is 20x16"):
        open_mask(tmp_path / "half.png", (20, 16))
    with pytest.raises(TrainingPictureError, match="is black all over"):
        open_mask(tmp_path / "black.png", (16, 16))
