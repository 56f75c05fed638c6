"""A refiner goes on from the base's latents, as in diffusers' own recipe of two pipelines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from adapterhub.bases.companions import find_refiner, load_refiner
from adapterhub.errors import (
    BaseNotFoundError,
    MissingComponentError,
    RefinerError,
    ReplayError,
    SettingError,
)
from adapterhub.runtime.draw import Step
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub.runtime.request import Request
from adapterhub.runtime.start import Control, Start
from adapterhub_registry.record import png_with_record
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.starting import disc, generator, left_half, same, stock
from tests.conftest import MINI

pytestmark = pytest.mark.usefixtures("base_again_refined")
SETTINGS: dict[str, Any] = {"prompt": "a star", "num_inference_steps": 5, "guidance_scale": 5.0}
PLAN = "me/ink:0.7 + me/words:0.6"


def save_refiner(folder: Path, *, seed: int = 1, **vae: Any) -> Path:
    """A random refiner of SDXL's shape, tiny: one text encoder, and a condition on the aesthetic score."""
    torch.manual_seed(seed)
    mini = StableDiffusionXLImg2ImgPipeline.from_pretrained(MINI, add_watermarker=False)
    own = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **{**CLIPTextConfig.from_pretrained(MINI / "text_encoder_2").to_dict(), **own, "projection_dim": 24}
    )
    unet = UNet2DConditionModel.from_config(
        {
            **UNet2DConditionModel.load_config(MINI / "unet"),
            "block_out_channels": [16, 32, 32],
            "attention_head_dim": [1, 2, 2],
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 5 * 8,
        }
    )
    decoder = AutoencoderKL.from_config({**mini.vae.config, **vae}) if vae else mini.vae
    StableDiffusionXLImg2ImgPipeline(
        vae=decoder,
        text_encoder=None,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=None,
        tokenizer_2=mini.tokenizer_2,
        unet=unet,
        scheduler=mini.scheduler,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_refiner(tmp_path_factory.mktemp("refiner") / "tiny")


@pytest.fixture(scope="module")
def refined(runtime: Runtime, refiner: Path, registry: Registry) -> Iterator[Runtime]:
    """A runtime with a refiner, and the adapters of `runtime`."""
    del runtime
    with Runtime.load("mini", registry=registry, device="cpu", refiner=refiner) as loaded:
        yield loaded


@pytest.fixture
def base_again_refined(refined: Runtime) -> Iterator[None]:
    yield
    refined.compose(None)


@pytest.fixture(scope="module")
def second(refiner: Path) -> Any:
    """diffusers' own refiner pipeline."""
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("composition", "negative"), [(None, None), (PLAN, "blue")])
def test_base_and_refiner_are_the_recipe_of_diffusers(
    refined: Runtime, second: Any, composition: str | None, negative: str | None
) -> None:
    refined.compose(composition)
    shared = {**SETTINGS, "negative_prompt": negative, "generator": generator(7)}
    latents = refined.pipeline(**shared, denoising_end=0.6, output_type="latent", width=64, height=64).images
    wanted = second(**shared, denoising_start=0.6, image=latents).images[0]
    settings: dict[str, Any] = {"seed": 7, "steps": 5, "negative_prompt": negative}
    made = refined.generate("a star", refine_from=0.6, **settings)
    assert same(made.images[0], wanted)
    assert not same(refined.generate("a star", **settings).images[0], wanted)


def test_both_have_the_scheduler_that_is_named(refined: Runtime, second: Any) -> None:
    kind = EulerAncestralDiscreteScheduler  # the refiner goes on with the generator of the base
    own, own_second = refined.pipeline.scheduler, second.scheduler
    refined.pipeline.scheduler = kind.from_config(own.config)
    second.scheduler = kind.from_config(own_second.config)
    shared = {**SETTINGS, "generator": generator(7)}
    try:
        latents = refined.pipeline(
            **shared, denoising_end=0.6, output_type="latent", width=64, height=64
        ).images
        wanted = second(**shared, denoising_start=0.6, image=latents).images[0]
    finally:
        refined.pipeline.scheduler, second.scheduler = own, own_second
    made = refined.generate("a star", seed=7, steps=5, refine_from=0.6, scheduler="euler_ancestral")
    assert same(made.images[0], wanted)
    assert made.record.refiner["scheduler"]["class"] == kind.__name__


def test_a_picture_that_starts_from_a_picture_is_refined(refined: Runtime, second: Any) -> None:
    shared = {**SETTINGS, "generator": generator(7)}
    latents = stock(refined, StableDiffusionXLImg2ImgPipeline)(
        **shared, image=disc(), strength=0.8, denoising_end=0.6, output_type="latent"
    ).images
    wanted = second(**shared, denoising_start=0.6, image=latents).images[0]
    seen: list[tuple[int, int]] = []
    made = refined.generate(
        "a star",
        seed=7,
        steps=5,
        start=Start(disc(), 0.8),
        refine_from=0.6,
        on_step=lambda done, steps: seen.append((done, steps)),
    )
    assert same(made.images[0], wanted)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # 2 of the base's, 2 of the refiner's


def test_every_step_of_both_is_reported_and_can_be_looked_at(refined: Runtime) -> None:
    seen: list[tuple[int, int]] = []
    refined.generate(
        "a star", seed=7, steps=5, refine_from=0.6, on_step=lambda done, steps: seen.append((done, steps))
    )
    assert seen == [(done, 5) for done in range(1, 6)]


def test_swapping_changes_no_pixel(refined: Runtime, refiner: Path) -> None:
    wanted = refined.generate("a star", seed=7, steps=3, refine_from=0.6).images[0]
    with Runtime.load("mini", device="cpu", refiner=refiner, refiner_swap=True) as swapped:
        assert same(swapped.generate("a star", seed=7, steps=3, refine_from=0.6).images[0], wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="on one device there is nothing to swap")
def test_a_swapped_refiner_is_on_the_device_only_while_the_base_is_not(
    refiner: Path, registry: Registry
) -> None:
    request = Request("a star", seed=7, steps=5, refine_from=0.6)
    places: list[tuple[str, str]] = []
    used: list[Any] = []
    loaded = Runtime.load(
        "mini", registry=registry, device="cuda", dtype="float32", refiner=refiner, refiner_swap=True
    )

    def look(step: Step) -> None:
        used.append(step.pipeline.unet)
        places.append((step.pipeline.unet.device.type, loaded.device.type))

    with loaded:
        loaded.compose(PLAN)
        first = loaded.run([request], on_step=look)
        assert places == [("cuda", "cuda")] * 3 + [("cuda", "cpu")] * 2
        assert (loaded.device.type, used[-1].device.type) == ("cuda", "cpu")
        assert same(first.images[0], loaded.run([request]).images[0])


def test_the_vaes_stay_in_float32_in_half_precision(refined: Runtime, refiner: Path) -> None:
    """diffusers casts a VAE up and down around each use; nothing here is cast."""
    with Runtime.load("mini", device="cpu", dtype="bfloat16", refiner=refiner) as loaded:
        vaes: list[AutoencoderKL] = []

        def look(step: Step) -> None:
            vaes.append(step.pipeline.vae)

        start = Start(disc(), 0.8)
        loaded.run([Request("a star", seed=7, steps=5, refine_from=0.6, start=start)], on_step=look)
        own, second = vaes[0], vaes[-1]
        assert own is loaded.pipeline.vae
        assert second is not own
        wanted = refined.pipeline.vae.state_dict()
        for vae in (own, second):
            assert all(torch.equal(value, wanted[name]) for name, value in vae.state_dict().items())


def test_any_base_can_refine(refined: Runtime) -> None:
    """The same base twice is the base: its latents are the same."""
    wanted = refined.generate("a star", seed=7, steps=5).images[0]
    with Runtime.load("mini", device="cpu", refiner="mini") as twice:
        assert same(twice.generate("a star", seed=7, steps=5, refine_from=0.6).images[0], wanted)


def test_a_refined_picture_is_replayed(
    refined: Runtime, registry: Registry, refiner: Path, tmp_path: Path
) -> None:
    result = refined.generate(["a fish", "a star"], seed=7, steps=3, refine_from=0.6, composition=PLAN)
    path = tmp_path / "made.png"
    path.write_bytes(png_with_record(result.images[1], result.records[1]))
    again = replay(path, registry=registry)
    assert again.record == result.records[1]
    assert (again.record.refiner["refine_from"], again.record.refiner["name"]) == (0.6, str(refiner))


def test_another_refiner_in_its_place_is_named(tmp_path: Path) -> None:
    folder = save_refiner(tmp_path / "tiny")
    with Runtime.load("mini", device="cpu", refiner=folder) as loaded:
        result = loaded.generate("a star", seed=7, steps=2, refine_from=0.5)
    path = tmp_path / "made.png"
    path.write_bytes(png_with_record(result.images[0], result.record))
    save_refiner(folder, seed=2)
    with pytest.raises(ReplayError, match="another refiner") as caught:
        replay(path)
    assert list(caught.value.differences) == ["refiner identity"]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"refine_from": 0.0}, "it must be above 0.0 and below 1.0"),
        ({"refine_from": 1.0}, "it must be above 0.0 and below 1.0"),
        ({"refine_from": 0.001}, "it leaves the base none to make"),
        ({"refine_from": 0.9999}, "it leaves the refiner none to make"),
        ({"refine_from": 0.3, "start": Start(disc(), 0.5)}, "it leaves the base none to make"),
        ({"refine_from": 0.6, "start": Start(disc(), 0.5, left_half())}, "it would draw outside of it too"),
        (
            {"refine_from": 0.6, "start": Start(disc(), 0.5), "control": Control(disc())},
            "no refiner goes with a start and a control",
        ),
    ],
)
def test_a_place_where_no_refiner_can_go_on_is_refused(
    refined: Runtime, settings: dict[str, Any], rule: str
) -> None:
    with pytest.raises(SettingError, match=rule):
        refined.generate("a star", steps=4, **settings)


def test_refining_needs_a_refiner(runtime: Runtime) -> None:
    with pytest.raises(SettingError, match=r"give Runtime.load\(refiner=...\) its name"):
        runtime.generate("a star", refine_from=0.6)


def test_a_refiner_of_other_latents_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    folder = save_refiner(tmp_path / "tiny", scaling_factor=0.5)
    with pytest.raises(RefinerError, match=r"its scaling factor of latents is 0\.5") as caught:
        load_refiner(find_refiner(folder), runtime.pipeline, device="cpu", dtype="float32")
    assert caught.value.path == folder


def test_what_is_no_refiner_is_refused(refiner: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError):
        find_refiner("nothing-of-that-name")
    with pytest.raises(RefinerError, match=r"no directory with a model_index.json"):
        find_refiner(tmp_path)
    text = (refiner / "model_index.json").read_text()
    index = tmp_path / "model_index.json"
    index.write_text(text.replace("StableDiffusionXLImg2ImgPipeline", "FluxPipeline"))
    with pytest.raises(RefinerError, match="its class is FluxPipeline"):
        find_refiner(tmp_path)
    index.write_text(text)
    with pytest.raises(MissingComponentError):
        find_refiner(tmp_path)
