"""Composing: exact against diffusers' own loading, against the formula, and back to the base bit for bit."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import save_file

from adapterhub.errors import (
    AdapterNotFoundError,
    ArchitectureError,
    BlockWeightsError,
    CompositionError,
    TargetError,
)
from adapterhub.runtime.composition import Composition, Term
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub_registry.record import png_with_record, read_record
from adapterhub_registry.references import parse_reference
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import linears, random_adapter, weights

pytestmark = pytest.mark.usefixtures("base_again")
MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"


@pytest.mark.parametrize(
    ("composition", "loaded"),
    [
        ("me/ink", [("ink", 1.0)]),
        ("me/ink:0.7 + me/corgi:-0.4", [("ink", 0.7), ("corgi", -0.4)]),
        ("me/words:0.8", [("words", 0.8)]),
    ],
)
def test_pictures_equal_those_of_diffusers_own_loading(
    runtime: Runtime, registry: Registry, composition: str, loaded: list[tuple[str, float]]
) -> None:
    stock = StableDiffusionXLPipeline.from_pretrained(MINI)
    stock.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        for name, _ in loaded:
            stock.load_lora_weights(registry.directory(registry.resolve(f"me/{name}")), adapter_name=name)
    stock.set_adapters([name for name, _ in loaded], [weight for _, weight in loaded])
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}
    expected = stock("a red heart", generator=torch.Generator("cpu").manual_seed(7), **settings).images[0]
    base = runtime.pipeline(
        "a red heart", generator=torch.Generator("cpu").manual_seed(7), **settings
    ).images[0]
    runtime.compose(composition)
    made = runtime.pipeline(
        "a red heart", generator=torch.Generator("cpu").manual_seed(7), **settings
    ).images[0]
    assert np.abs(made - expected).max() <= 1e-4
    assert np.abs(base - expected).max() > 0.05


def test_fused_weights_follow_the_formula_with_an_alpha_of_its_own_on_each_module(
    runtime: Runtime, registry: Registry, tmp_path: Path
) -> None:
    pristine = weights(runtime)
    modules = [name for name in linears(runtime.pipeline.unet) if ".attn2.to_" in name]
    tensors = {}
    expected = {}
    for number, name in enumerate(modules):
        rank, alpha = 1 + number % 4, 0.5 + number
        out_features, in_features = pristine[f"unet.{name}.weight"].shape
        down, up = torch.randn(rank, in_features), torch.randn(out_features, rank)
        prefix = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{prefix}.lora_down.weight"] = down
        tensors[f"{prefix}.lora_up.weight"] = up
        tensors[f"{prefix}.alpha"] = torch.tensor(alpha)
        delta = 0.6 * (alpha / rank) * up.double() @ down.double()
        expected[f"unet.{name}.weight"] = pristine[f"unet.{name}.weight"].double() + delta
    save_file(tensors, tmp_path / "kohya.safetensors")
    registry.add(tmp_path / "kohya.safetensors", name="me/kohya")
    runtime.compose("me/kohya:0.6")
    for name, value in weights(runtime).items():
        if name in expected:
            assert torch.allclose(value.double(), expected[name], rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(value, pristine[name])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_base_comes_back_bit_for_bit_after_two_hundred_switches(
    runtime: Runtime, registry: Registry, dtype: str
) -> None:
    del runtime  # it filled the registry
    with Runtime.load("mini", registry=registry, device="cpu", dtype=dtype) as switching:
        pristine = weights(switching)
        addresses = {n: p.data_ptr() for n, p in switching.pipeline.unet.named_parameters()}
        keys = list(switching.pipeline.unet.state_dict())
        choose = random.Random(5)
        for _ in range(200):
            names = choose.sample(["ink", "corgi", "words"], choose.randint(0, 3))
            text = " + ".join(f"me/{name}:{choose.uniform(-1, 2):.3f}" for name in names)
            switching.compose(text or None)
        switching.compose("me/ink:0.5")
        once = weights(switching)
        switching.compose(None)
        assert all(torch.equal(pristine[name], value) for name, value in weights(switching).items())
        assert {n: p.data_ptr() for n, p in switching.pipeline.unet.named_parameters()} == addresses
        assert list(switching.pipeline.unet.state_dict()) == keys
    with Runtime.load("mini", registry=registry, device="cpu", dtype=dtype) as fresh:
        fresh.compose("me/ink:0.5")
        assert all(torch.equal(once[name], value) for name, value in weights(fresh).items())


def test_strengths_can_differ_between_components(runtime: Runtime) -> None:
    pristine = weights(runtime)
    term = Term(parse_reference("me/words"), 1.0, {"text_encoder": 0.0, "text_encoder_2": 0.5})
    runtime.compose(Composition((term,)))
    changed = {
        name.split(".")[0] for name, value in weights(runtime).items() if not value.equal(pristine[name])
    }
    assert changed == {"unet", "text_encoder_2"}
    applied = runtime.generate("a star", seed=1, steps=1).record.composition[0]
    assert applied["strengths"] == {"text_encoder": 0.0, "text_encoder_2": 0.5, "unet": 1.0}


def test_strengths_can_differ_between_blocks_and_layers(
    runtime: Runtime, registry: Registry, tmp_path: Path
) -> None:
    pristine = weights(runtime)
    text = "me/words:0.5[up_blocks.0=0,*.attn2.*=2,BASE=0.5]"
    runtime.compose(text)
    composed = weights(runtime)
    for target, layer in random_adapter(runtime, 3, with_text=True).layers.items():
        name = f"{target.component}.{target.module}.weight"
        name = name if name in pristine else name.replace("text_model.", "")
        # Of several that fit, the last one counts.
        scale = 1.0 if ".attn2." in name else 0.0 if "unet.up_blocks.0." in name else 0.5
        scale = scale if target.component == "unet" else 0.25
        expected = pristine[name].double() + scale * layer.up.double() @ layer.down.double()
        assert torch.allclose(composed[name].double(), expected, rtol=1e-5, atol=1e-6)
    result = runtime.generate("a star", seed=1, steps=2)
    (entry,) = result.record.composition
    assert entry["blocks"] == "up_blocks.0=0,*.attn2.*=2,BASE=0.5"
    (tmp_path / "star.png").write_bytes(png_with_record(result.images[0], result.record))
    assert replay(tmp_path / "star.png", registry=registry).record == result.record
    with pytest.raises(BlockWeightsError):
        runtime.compose("me/ink[IN99=1]")
    assert str(runtime.composition) == text


def test_the_record_names_what_was_applied_and_replay_makes_the_same_bytes(
    runtime: Runtime, registry: Registry, tmp_path: Path
) -> None:
    runtime.compose("me/ink:0.5 + me/words:0")
    result = runtime.generate("a star", seed=1, steps=2)
    path = tmp_path / "star.png"
    path.write_bytes(png_with_record(result.images[0], result.record))
    ink, words = read_record(path).composition
    version = registry.resolve("me/ink")
    assert (ink["reference"], ink["digest"]) == (version.reference, version.digest)
    assert ink["targets"] == len(random_adapter(runtime, 1).layers)
    assert words["targets"] == 0
    assert result.record.plane == "fused"
    again = replay(path, registry=registry)
    assert png_with_record(again.image, again.record) == path.read_bytes()


def test_prompts_are_encoded_anew_when_the_text_encoders_change(runtime: Runtime) -> None:
    base = runtime.generate("a star", seed=1, steps=2).images[0]
    text_only = Term(parse_reference("me/words"), 2.0, {"unet": 0.0})
    runtime.compose(Composition((text_only,)))
    changed = runtime.generate("a star", seed=1, steps=2).images[0]
    runtime.compose(None)
    again = runtime.generate("a star", seed=1, steps=2).images[0]
    assert again.tobytes() == base.tobytes() != changed.tobytes()


def test_the_same_adapter_twice_is_summed(runtime: Runtime) -> None:
    runtime.compose("me/ink:0.25 + me/ink:0.5")
    twice = weights(runtime)
    runtime.compose("me/ink:0.75")
    for name, value in weights(runtime).items():
        assert torch.allclose(value, twice[name], atol=1e-6)


def test_what_cannot_be_composed_leaves_the_composition_as_it_was(
    runtime: Runtime, registry: Registry, tmp_path: Path, mini_copy: Callable[[], Path]
) -> None:
    del mini_copy
    down, up = torch.randn(2, 2048), torch.randn(640, 2)
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up},
        tmp_path / "xl.safetensors",
    )
    registry.add(tmp_path / "xl.safetensors", name="me/xl")
    deep = "mid_block.attentions.0.transformer_blocks.9.attn1.to_q"
    save_file(
        {
            f"unet.{deep}.lora_A.weight": torch.randn(2, 128),
            f"unet.{deep}.lora_B.weight": torch.randn(128, 2),
        },
        tmp_path / "deep.safetensors",
    )
    registry.add(tmp_path / "deep.safetensors", name="me/deep", base="mini")
    runtime.compose("me/ink:0.5")
    before = weights(runtime)
    for text, error in (
        ("me/inc", AdapterNotFoundError),
        ("me/ink + me/xl", ArchitectureError),
        ("me/corgi + me/deep", TargetError),
        ("me/ink:1 me/corgi", CompositionError),
    ):
        with pytest.raises(error):
            runtime.compose(text)
        assert str(runtime.composition) == "me/ink:0.5"
    assert all(torch.equal(before[name], value) for name, value in weights(runtime).items())
