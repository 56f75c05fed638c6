"""Previews: drawn twice from the same noise, kept once, and shown side by side."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adapterhub.errors import ArchitectureError, BaseNotFoundError, SettingError
from adapterhub.previews import draw_previews
from adapterhub.runtime.engine import Runtime
from adapterhub_registry.publication import Details
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

MODULE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        f"{MODULE}.lora_down.weight": torch.randn(4, 160, generator=generator),
        f"{MODULE}.lora_up.weight": torch.randn(96, 4, generator=generator),
    }
    save_file(tensors, tmp_path / "ink.safetensors")
    found = Registry(home)
    found.add(
        tmp_path / "ink.safetensors",
        name="me/ink",
        base="mini",
        trigger_words=["inkwash", "heart"],
        recommended_weight=0.5,
    )
    return found


def test_a_prompt_is_drawn_without_and_with_the_adapter(registry: Registry, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prompts = ["a red heart", "a star"]
    found = draw_previews(
        "me/ink",
        registry=registry,
        prompts=prompts,
        seed=7,
        steps=2,
        device="cpu",
        on_step=lambda *step: seen.append(step),
    )
    assert seen == [(number, 8) for number in range(1, 9)]
    with Runtime.load("mini", registry=registry, device="cpu") as runtime:
        base = [runtime.generate(text, seed=7 + n, steps=2).images[0] for n, text in enumerate(prompts)]
        runtime.compose("me/ink:0.5")
        drawn = [runtime.generate(text, seed=7 + n, steps=2).images[0] for n, text in enumerate(prompts)]
    assert [pair.without.tobytes() for pair in found.pairs] == [picture.tobytes() for picture in base]
    assert [pair.drawn.tobytes() for pair in found.pairs] == [picture.tobytes() for picture in drawn]
    assert base[0].tobytes() != drawn[0].tobytes()

    kept = registry.previews(found.version)
    assert [(item.prompt, item.seed) for item in kept] == [("a red heart", 7), ("a star", 8)]
    assert kept[0].settings == {
        "steps": "2",
        "guidance_scale": "5",
        "width": "64",
        "height": "64",
        "scheduler": "EulerDiscreteScheduler",
        "weight": "0.5",
        "base": "mini",
    }
    stored = tmp_path / "stored.png"
    stored.write_bytes(registry.read(kept[1].sha256))
    assert Image.open(stored).convert("RGB").tobytes() == drawn[1].tobytes()
    sheet = found.sheet
    assert (sheet.width, sheet.height) == (8 + 150 + 2 * 136 + 8, 8 + 24 + 2 * (128 + 8 + 18))
    centre = (8 + 150 + 136 + 64, 8 + 24 + 64)
    assert sheet.getpixel(centre) == drawn[0].getpixel((32, 32))


def test_the_same_call_adds_nothing_the_second_time(registry: Registry) -> None:
    settings = {
        "steps": "2",
        "guidance_scale": "1.5",
        "negative_prompt": "photo",
        "width": "48",
        "height": "64",
    }
    registry.update("me/ink", Details(settings=settings))
    first = draw_previews("me/ink", registry=registry, device="cpu")
    assert [item.prompt for item in first.added] == ["inkwash, heart"]
    assert first.added[0].settings.items() >= settings.items()
    assert first.pairs[0].drawn.size == (48, 64)
    assert draw_previews("me/ink", registry=registry, device="cpu").added == []
    (other,) = draw_previews("me/ink", registry=registry, device="cpu", weight=1.0).added
    assert (other.name, other.settings["weight"]) == ("preview-2.png", "1")


def test_captions_stand_in_for_trigger_words(registry: Registry, tmp_path: Path) -> None:
    captions = ["a cat", "a dog", "a cat", "a cow", "a hen"]
    data = json.dumps({"format": 1, "pictures": [{"caption": text} for text in captions]}).encode()
    (tmp_path / "x.safetensors").write_bytes(weights_bytes(1))
    registry.add(tmp_path / "x.safetensors", name="me/cat", base="mini", documents={"data.json": data})
    found = draw_previews("me/cat", registry=registry, steps=1, device="cpu")
    assert [pair.record.prompt for pair in found.pairs] == ["a cat", "a dog", "a cow"]
    registry.add(tmp_path / "x.safetensors", name="me/silent", base="mini")
    with pytest.raises(SettingError, match="say what to draw"):
        draw_previews("me/silent", registry=registry, steps=1, device="cpu")


def test_a_base_of_its_architecture_is_needed(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "big.safetensors").write_bytes(weights_bytes(1, text_width=2048))
    registry.add(tmp_path / "big.safetensors", name="me/big", trigger_words=["x"])
    with pytest.raises(BaseNotFoundError, match="nothing of the architecture sdxl"):
        draw_previews("me/big", registry=registry, steps=1, device="cpu")
    with pytest.raises(ArchitectureError):
        draw_previews("me/big", registry=registry, steps=1, base="mini", device="cpu")
    assert registry.previews(registry.resolve("me/big")) == []
