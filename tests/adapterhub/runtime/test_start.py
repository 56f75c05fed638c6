"""Pictures that start from pictures: image to image and inpainting, on the weights of one base."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    EulerAncestralDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image

from adapterhub.errors import InputError, InputPictureError, InvalidSizeError, MaskSizeError, SettingError
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub.runtime.request import Request
from adapterhub.runtime.schedule import Switch
from adapterhub.runtime.start import Picture, Start
from adapterhub_registry.record import GenerationRecord, png_with_record
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.starting import SETTINGS, disc, generator, left_half, pixels, same, stock

pytestmark = pytest.mark.usefixtures("base_again")
BOTH = "me/ink:0.7 + me/words:0.6"


def drawn(runtime: Runtime, start: Start, **settings: Any) -> Image.Image:
    given = {"seed": 7, "steps": 4, **settings}
    return runtime.generate("a gold star", start=start, **given).images[0]


@pytest.mark.parametrize(("composition", "strength"), [(None, 0.5), (BOTH, 0.5), (BOTH, 1.0)])
def test_image_to_image_is_that_of_diffusers(
    runtime: Runtime, composition: str | None, strength: float
) -> None:
    runtime.compose(composition)
    wanted = stock(runtime, StableDiffusionXLImg2ImgPipeline)(
        prompt="a gold star", image=disc(), strength=strength, generator=generator(7), **SETTINGS
    ).images[0]
    assert same(drawn(runtime, Start(disc(), strength)), wanted)


@pytest.mark.parametrize(("composition", "strength"), [(None, 0.5), (BOTH, 0.5), (BOTH, 1.0)])
def test_inpainting_is_that_of_diffusers(runtime: Runtime, composition: str | None, strength: float) -> None:
    runtime.compose(composition)
    wanted = stock(runtime, StableDiffusionXLInpaintPipeline)(
        prompt="a gold star",
        image=disc(),
        mask_image=left_half(),
        strength=strength,
        width=64,
        height=64,
        generator=generator(7),
        **SETTINGS,
    ).images[0]
    made = drawn(runtime, Start(disc(), strength, left_half()))
    assert same(made, wanted)
    changed = np.abs(pixels(made) - pixels(disc())).mean(axis=(0, 2))
    assert changed[:32].mean() > 2 * changed[36:].mean()  # the VAE changes what is kept a little


def test_a_scheduler_by_name_draws_its_noise_as_in_diffusers(runtime: Runtime) -> None:
    pipeline = stock(runtime, StableDiffusionXLImg2ImgPipeline)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    wanted = pipeline(
        prompt="a gold star", image=disc(), strength=0.7, generator=generator(7), **SETTINGS
    ).images[0]
    own = runtime.pipeline.scheduler
    assert same(drawn(runtime, Start(disc(), 0.7), scheduler="euler_ancestral"), wanted)
    assert runtime.pipeline.scheduler is own


def test_schedules_and_progress_count_the_steps_that_are_made(runtime: Runtime) -> None:
    """Of 4 steps 3 are made: the first two under one adapter, the last one under the second."""
    runtime.compose("me/ink")

    def compose_next(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            runtime.compose("me/corgi")
        return tensors

    wanted = stock(runtime, StableDiffusionXLImg2ImgPipeline)(
        prompt="a gold star",
        image=disc(),
        strength=0.75,
        generator=generator(7),
        callback_on_step_end=compose_next,
        **SETTINGS,
    ).images[0]
    seen: list[tuple[int, int]] = []
    made = drawn(
        runtime,
        Start(disc(), 0.75),
        composition=Switch(Composition.parse("me/ink + me/corgi"), every=2, order="even"),
        on_step=lambda done, steps: seen.append((done, steps)),
    )
    assert same(made, wanted)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("mask", [None, left_half()])
def test_a_mixed_batch_is_its_pictures_alone(runtime: Runtime, mask: Image.Image | None) -> None:
    plans = [Composition.parse(text) for text in ("me/ink", "me/words + me/corgi:-0.3")]
    requests = [
        Request("a gold star", plan, seed=seed, steps=4, plane="mixed", start=Start(disc(color), 0.75, mask))
        for seed, (plan, color) in enumerate(zip(plans, ("crimson", "navy"), strict=True))
    ]
    together = runtime.run(requests)
    assert [record.plane for record in together.records] == ["mixed"] * 2
    for request, image in zip(requests, together.images, strict=True):
        alone = runtime.run([request]).images[0]
        assert np.abs(pixels(image) - pixels(alone)).max() <= 1  # one step of 8-bit rounding


def test_pictures_of_one_batch_must_agree_in_strength_and_in_having_a_mask(runtime: Runtime) -> None:
    first = Request("a star", start=Start(disc(), 0.5))
    for other in (Start(disc(), 0.6), Start(disc(), 0.5, left_half()), None):
        with pytest.raises(SettingError, match="share all other settings"):
            runtime.run([first, replace(first, start=other)])


def test_width_and_height_are_those_of_the_picture_rounded_down(runtime: Runtime) -> None:
    wide = Image.new("RGB", (101, 60), "navy")
    result = runtime.generate("a star", seed=1, steps=2, start=Start(wide))
    assert result.images[0].size == (96, 56)
    assert result.record.start["image"]["width"] == 101


def test_a_picture_of_another_size_is_scaled_and_cut_with_its_mask(runtime: Runtime) -> None:
    """A picture of twice the size with bars at its sides is the same start without them."""
    image, mask = disc(side=128), left_half(side=128)
    wide, wide_mask = Image.new("RGB", (160, 128)), Image.new("L", (160, 128))
    wide.paste(image, (16, 0))
    wide_mask.paste(mask, (16, 0))
    size = (64, 64)
    small = image.resize(size, Image.Resampling.LANCZOS), mask.resize(size, Image.Resampling.LANCZOS)
    wanted = drawn(runtime, Start(small[0], 0.5, small[1]))
    made = drawn(runtime, Start(wide, 0.5, wide_mask), width=64, height=64)
    assert np.abs(pixels(made) - pixels(wanted)).mean() < 1  # the cut pixels count at the edges


def test_transparent_pictures_lie_on_white_and_masks_on_black(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 255, 255))
    clear.save(tmp_path / "clear.png")
    picture = Picture.of(tmp_path / "clear.png").fitted(8, 8)
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 255), (255, 255, 255)]
    assert Picture.of(Image.new("LA", (8, 8), (255, 0)), mode="L").fitted(8, 8).getpixel((3, 3)) == 0


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    lying = Image.new("RGB", (16, 8), "navy")
    exif = lying.getexif()
    exif[0x0112] = 6  # the orientation of a camera that was turned
    lying.save(tmp_path / "photo.jpg", exif=exif)
    assert Picture.of(tmp_path / "photo.jpg").size == (8, 16)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(SettingError, match="the strength is"):
        Start(disc(), strength)


def test_a_strength_that_leaves_no_step_is_refused(runtime: Runtime) -> None:
    with pytest.raises(SettingError, match="of 4 steps it leaves none"):
        drawn(runtime, Start(disc(), 0.2))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(MaskSizeError) as caught:
        Start(disc(), 0.5, left_half(side=32))
    assert (caught.value.size, caught.value.wanted) == ((32, 32), (64, 64))


def test_a_picture_that_is_too_small_is_refused(runtime: Runtime) -> None:
    with pytest.raises(InvalidSizeError):
        drawn(runtime, Start(Image.new("RGB", (5, 64))))


@pytest.mark.parametrize("data", [None, b"no picture"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "start.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        Start(path)
    assert caught.value.path == path


def saved(runtime: Runtime, path: Path, start: Start) -> Path:
    result = runtime.generate("a gold star", composition=BOTH, seed=7, steps=3, start=start)
    path.write_bytes(png_with_record(result.images[0], result.record))
    return path


def test_a_picture_is_replayed_from_the_pictures_that_it_was_made_from(
    runtime: Runtime, registry: Registry, tmp_path: Path
) -> None:
    image, mask = tmp_path / "disc.png", tmp_path / "mask.png"
    disc().save(image)
    left_half().save(mask)
    path = saved(runtime, tmp_path / "made.png", Start(image, 0.7, mask))
    again = replay(path, registry=registry, image=image, mask=mask)
    assert again.record.start == {
        "image": {"sha256": Picture.of(disc()).sha256, "width": 64, "height": 64},
        "strength": 0.7,
        "mask": {"sha256": Picture.of(left_half(), mode="L").sha256, "width": 64, "height": 64},
    }
    with pytest.raises(InputPictureError, match="another one was given") as caught:
        replay(path, registry=registry, image=disc("navy"), mask=mask)
    assert (caught.value.role, caught.value.recorded) == ("image", again.record.start["image"])
    with pytest.raises(InputPictureError, match="name the file with --mask"):
        replay(path, registry=registry, image=image)
    with pytest.raises(InputPictureError, match="leave --control out"):
        replay(path, registry=registry, image=image, mask=mask, control=image)


def test_records_without_a_start_are_read(runtime: Runtime) -> None:
    record = runtime.generate("a star", seed=1, steps=1).record
    table = json.loads(record.to_json())
    older = {name: value for name, value in table.items() if name not in ("start", "control", "refiner")}
    assert GenerationRecord.from_json(json.dumps(older)) == record
