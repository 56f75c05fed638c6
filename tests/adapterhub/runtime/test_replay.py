"""A picture is made again from its own record, in another process too."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from adapterhub.errors import RecordError, ReplayError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub_cli.main import main
from adapterhub_registry.encoding import picture_format
from adapterhub_registry.record import (
    picture_with_record,
    png_with_record,
    read_picture,
    read_record,
)


def save(runtime: Runtime, path: Path, row: int = 0, **settings: object) -> Path:
    result = runtime.generate(**settings)  # pyright: ignore[reportArgumentType]
    path.write_bytes(png_with_record(result.images[row], result.records[row]))
    return path


def test_a_row_of_a_batch_is_replayed_to_the_same_bytes_in_another_process(
    mini_runtime: Runtime, tmp_path: Path
) -> None:
    path = save(
        mini_runtime,
        tmp_path / "cat.png",
        row=1,
        prompt=["a star", "cat face", "a fish"],
        negative_prompt="green",
        seed=11,
        steps=3,
        guidance_scale=3.5,
    )
    # The record brings the thread count: another one outside must not matter.
    program = "import torch; torch.set_num_threads(2); from adapterhub_cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", program, "replay", str(path)], check=True, env=os.environ, capture_output=True
    )
    assert (tmp_path / "cat.replay.png").read_bytes() == path.read_bytes()


def test_replay_gives_the_thread_count_back(mini_runtime: Runtime, tmp_path: Path) -> None:
    path = save(mini_runtime, tmp_path / "star.png", prompt="a star", seed=1, steps=2)
    before = torch.get_num_threads()
    replay(path)
    assert torch.get_num_threads() == before


def test_another_dtype_is_restored(tmp_path: Path) -> None:
    with Runtime.load("mini", device="cpu", dtype="bfloat16") as runtime:
        path = save(runtime, tmp_path / "star.png", prompt="a star", seed=1, steps=2)
    assert replay(path).record.dtype == "bfloat16"


def test_what_differs_is_named(mini_runtime: Runtime, tmp_path: Path) -> None:
    path = save(mini_runtime, tmp_path / "star.png", prompt="a star", seed=1, steps=2)
    with Image.open(path) as picture:
        picture.load()
        altered = picture.copy()
    altered.putpixel((0, 0), (1, 2, 3))
    record = read_record(path)
    other = {**record.versions, "torch": "1.0"}
    path.write_bytes(png_with_record(altered, replace(record, versions=other)))
    with pytest.raises(ReplayError) as caught:
        replay(path)
    assert caught.value.differences == {"versions.torch": ("1.0", torch.__version__)}
    assert "versions.torch: 1.0 then" in str(caught.value)


def test_a_difference_that_changes_no_pixel_is_told(
    mini_runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = mini_runtime.generate("a star", seed=1, steps=2)
    record = result.record
    record = replace(record, versions={**record.versions, "torch": "1.0"})
    path = tmp_path / "star.png"
    path.write_bytes(png_with_record(result.images[0], record))
    made = replay(path)
    assert made.differences == {"versions.torch": ("1.0", torch.__version__)}
    assert main(["replay", str(path)]) == 0
    assert f"versions.torch was 1.0 then and is {torch.__version__} now" in capsys.readouterr().err


def test_a_changed_base_is_named(mini_copy: Callable[[], Path], tmp_path: Path) -> None:
    base = mini_copy()
    with Runtime.load(base, device="cpu") as runtime:
        path = save(runtime, tmp_path / "star.png", prompt="a star", seed=1, steps=1)
    file = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file)
    with pytest.raises(ReplayError) as caught:
        replay(path)
    assert list(caught.value.differences) == ["base identity"]


@pytest.mark.parametrize(("name", "quality"), [("star.jpg", None), ("star.webp", None), ("star.webp", 60)])
def test_a_jpeg_and_a_webp_are_replayed_to_the_same_bytes(
    mini_runtime: Runtime, tmp_path: Path, name: str, quality: int | None
) -> None:
    result = mini_runtime.generate("a star", seed=1, steps=2)
    path = tmp_path / name
    kind = picture_format(path)
    path.write_bytes(picture_with_record(result.images[0], result.record, kind, quality=quality))
    made = replay(path)
    assert made.image.tobytes() == result.images[0].tobytes()
    assert main(["replay", str(path)]) == 0
    assert (tmp_path / name.replace(".", ".replay.")).read_bytes() == path.read_bytes()


def test_a_jpeg_whose_pixels_were_changed_came_out_different(mini_runtime: Runtime, tmp_path: Path) -> None:
    result = mini_runtime.generate("a star", seed=1, steps=2)
    altered = result.images[0].copy()
    altered.paste((1, 2, 3), (0, 0, 8, 8))
    path = tmp_path / "star.jpg"
    data = picture_with_record(altered, result.record, "JPEG")
    encoder = read_encoder(path, data)
    path.write_bytes(data.replace(encoder, b"x" * len(encoder)))  # as if another library had written it
    with pytest.raises(ReplayError) as caught:
        replay(path)
    other = "x" * len(encoder)
    assert caught.value.differences == {"encoding.encoder": (other, encoder.decode())}


def read_encoder(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return read_picture(path).encoding.encoder.encode()


def test_a_picture_without_a_record_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(RecordError, match="carries no AdapterHub record"):
        replay(tmp_path / "plain.png")
