"""Pictures that are steered by a picture, through a ControlNet on the weights of the base."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from adapterhub.bases.companions import find_controlnet, load_controlnet
from adapterhub.errors import (
    ControlNetError,
    InputPictureError,
    MissingComponentError,
    PickleRefusedError,
    ReplayError,
    SettingError,
)
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub.runtime.request import Request
from adapterhub.runtime.start import Control, Start
from adapterhub_registry.record import png_with_record
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.starting import SETTINGS, disc, generator, left_half, pixels, same, stock
from tests.conftest import MINI

PLAN = Composition.parse("me/ink:0.7 + me/words:0.6")


def save_controlnet(folder: Path, *, seed: int = 1, **changed: Any) -> Path:
    """A ControlNet for the mini base whose zero convolutions are random."""
    unet = UNet2DConditionModel.from_config({**UNet2DConditionModel.load_config(MINI / "unet"), **changed})
    torch.manual_seed(seed)
    model = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96))
    for parameter in [*model.controlnet_down_blocks.parameters(), *model.controlnet_mid_block.parameters()]:
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.controlnet_cond_embedding.conv_out.weight, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_controlnet(tmp_path_factory.mktemp("controlnet") / "edges")


@pytest.fixture(scope="module")
def steered(runtime: Runtime, controlnet: Path, registry: Registry) -> Iterator[Runtime]:
    """A runtime with a ControlNet, and the adapters of `runtime`."""
    del runtime
    with Runtime.load("mini", registry=registry, device="cpu", controlnet=controlnet) as loaded:
        yield loaded


CASES: dict[str, tuple[Any, dict[str, Any], Start | None]] = {
    "text to image": (
        StableDiffusionXLControlNetPipeline,
        {"image": disc("black"), "width": 64, "height": 64},
        None,
    ),
    "image to image": (
        StableDiffusionXLControlNetImg2ImgPipeline,
        {"image": disc(), "control_image": disc("black"), "strength": 0.75},
        Start(disc(), 0.75),
    ),
    "inpainting": (
        StableDiffusionXLControlNetInpaintPipeline,
        {"image": disc(), "mask_image": left_half(), "control_image": disc("black"), "strength": 0.75},
        Start(disc(), 0.75, left_half()),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_steered_picture_is_that_of_diffusers(steered: Runtime, controlnet: Path, case: str) -> None:
    kind, given, start = CASES[case]
    steered.compose(PLAN)
    model = ControlNetModel.from_pretrained(controlnet)
    wanted = stock(steered, kind, controlnet=model)(
        prompt="a star",
        generator=generator(7),
        controlnet_conditioning_scale=0.8,
        control_guidance_start=0.2,
        control_guidance_end=0.9,
        **given,
        **SETTINGS,
    ).images[0]
    steered.compose(None)
    control = Control(disc("black"), 0.8, 0.2, 0.9)
    settings: dict[str, Any] = {"composition": PLAN, "seed": 7, "steps": 4, "start": start}
    assert same(steered.generate("a star", control=control, **settings).images[0], wanted)
    assert not same(steered.generate("a star", **settings).images[0], wanted)


def test_each_picture_of_a_mixed_batch_has_its_own_control(steered: Runtime) -> None:
    requests = [
        Request(
            "a star", Composition.parse(text), seed=seed, steps=3, plane="mixed", control=Control(disc(color))
        )
        for seed, (text, color) in enumerate((("me/ink", "black"), ("me/corgi", "gray")))
    ]
    together = steered.run(requests)
    assert together.record.plane == "mixed"
    for request, image in zip(requests, together.images, strict=True):
        alone = steered.run([request]).images[0]
        assert abs(pixels(image) - pixels(alone)).max() <= 1


def test_a_scale_of_zero_is_no_control(steered: Runtime) -> None:
    made = steered.generate("a star", seed=7, steps=3, control=Control(disc(), 0.0)).images[0]
    assert same(made, steered.generate("a star", seed=7, steps=3).images[0])


def test_a_control_that_would_act_in_no_step_is_refused(steered: Runtime) -> None:
    with pytest.raises(SettingError, match="in none of the 2 steps"):
        steered.generate("a star", steps=2, control=Control(disc(), start=0.2, end=0.9))


def test_a_control_needs_a_controlnet(runtime: Runtime) -> None:
    with pytest.raises(SettingError, match=r"give Runtime.load\(controlnet=...\) its directory"):
        runtime.generate("a star", control=Control(disc()))


@pytest.mark.parametrize("given", [{"scale": -1}, {"scale": float("nan")}, {"start": 0.5, "end": 0.5}])
def test_a_control_that_makes_no_sense_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Control(disc(), **given)


def test_a_steered_picture_is_replayed(
    steered: Runtime, registry: Registry, controlnet: Path, tmp_path: Path
) -> None:
    result = steered.generate("a star", seed=7, steps=3, control=Control(disc(), 0.8), composition=PLAN)
    path = tmp_path / "made.png"
    path.write_bytes(png_with_record(result.images[0], result.record))
    again = replay(path, registry=registry, control=disc())
    assert again.record == result.record
    assert again.record.control["controlnet"]["name"] == str(controlnet)
    with pytest.raises(InputPictureError, match="name the file with --control"):
        replay(path, registry=registry)


def test_another_controlnet_in_its_place_is_named(tmp_path: Path) -> None:
    folder = save_controlnet(tmp_path / "edges")
    with Runtime.load("mini", device="cpu", controlnet=folder) as loaded:
        result = loaded.generate("a star", seed=7, steps=1, control=Control(disc()))
    path = tmp_path / "made.png"
    path.write_bytes(png_with_record(result.images[0], result.record))
    save_controlnet(folder, seed=2)
    with pytest.raises(ReplayError, match="another controlnet") as caught:
        replay(path, control=disc())
    assert list(caught.value.differences) == ["controlnet identity"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cross_attention_dim": 64}, "cross_attention_dim"),
        ({"block_out_channels": [48, 96, 160], "attention_head_dim": [1, 3, 5]}, "block_out_channels"),
        ({"projection_class_embeddings_input_dim": 320}, "projection_class_embeddings_input_dim"),
    ],
)
def test_a_controlnet_of_other_shapes_is_refused(
    runtime: Runtime, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    folder = save_controlnet(tmp_path / "edges", **changed)
    with pytest.raises(ControlNetError, match=f"its {named} is") as caught:
        load_controlnet(find_controlnet(folder), runtime.pipeline, device="cpu", dtype="float32")
    assert caught.value.path == folder


def test_a_directory_without_a_controlnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlNetError, match=r"it has no config.json"):
        find_controlnet(tmp_path)
    with pytest.raises(ControlNetError, match="its class is UNet2DConditionModel"):
        find_controlnet(MINI / "unet")


def test_only_safetensors_are_read(controlnet: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((controlnet / "config.json").read_bytes())
    with pytest.raises(MissingComponentError):
        find_controlnet(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PickleRefusedError):
        find_controlnet(tmp_path)


def test_a_control_is_as_large_as_the_picture_unless_asked_otherwise(steered: Runtime) -> None:
    control = Control(Image.new("RGB", (75, 48)))
    assert steered.generate("a star", seed=1, steps=1, control=control).images[0].size == (72, 48)
    again = steered.generate("a star", seed=1, steps=1, control=control, width=64, height=64)
    assert again.images[0].size == (64, 64)
