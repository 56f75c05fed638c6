"""The name tables, against the real modules and against diffusers' own converter."""

import re
import warnings

import pytest
import torch
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from adapterhub.formats.names import (
    kohya_text_encoder_names,
    kohya_unet_names,
    text_encoder_names,
    unet_names,
    unet_norm_names,
)
from adapterhub.formats.read import target_of
from adapterhub_registry.dialects import split_key
from tests.sdxl_configs import SDXL_UNET


@pytest.fixture(scope="module")
def sdxl_unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(SDXL_UNET)


def layers(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def as_module(key: str) -> str:
    """Return the module of a key in diffusers' old spelling, which its converter still gives."""
    path = key.removeprefix("unet.").removesuffix(".down.weight").removesuffix(".lora")
    path = re.sub(r"\.processor\.(to_\w+)_lora$", r".\1", path)
    return f"{path}.0" if path.endswith("to_out") else path


def test_every_layer_of_sdxl_s_unet_is_in_the_table(sdxl_unet: UNet2DConditionModel) -> None:
    names = layers(sdxl_unet)
    assert len(names) == 794
    assert set(names) <= unet_names().keys()


def test_no_two_modules_share_a_kohya_name() -> None:
    assert len(set(unet_names().values())) == len(unet_names())
    everything = unet_names() | unet_norm_names()
    assert len(set(everything.values())) == len(everything) == len(unet_names()) + len(unet_norm_names())
    assert len(kohya_unet_names()) == 2 * len(everything)


def test_sgm_names_mean_the_modules_that_diffusers_converts_them_to(sdxl_unet: UNet2DConditionModel) -> None:
    names = {name: sgm for name, sgm in unet_names().items() if name in set(layers(sdxl_unet))}
    state = {}
    for number, sgm in enumerate(names.values()):
        prefix = f"lora_unet_{sgm.replace('.', '_')}"
        state[f"{prefix}.lora_down.weight"] = torch.full((1, 1), float(number))
        state[f"{prefix}.lora_up.weight"] = torch.zeros(1, 1)
        state[f"{prefix}.alpha"] = torch.tensor(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
            dict(state), unet_config=sdxl_unet.config
        )
    expected = {
        int(value): as_module(key) for key, value in converted.items() if key.endswith(".down.weight")
    }
    assert len(expected) >= 792
    for number, path in expected.items():
        key = split_key(f"lora_unet_{list(names.values())[number].replace('.', '_')}.alpha")
        assert key is not None
        assert target_of(key) == ("unet", path)


def test_every_norm_of_sdxl_s_unet_is_in_the_table(sdxl_unet: UNet2DConditionModel) -> None:
    norms = {
        name for name, layer in sdxl_unet.named_modules() if isinstance(layer, nn.GroupNorm | nn.LayerNorm)
    }
    assert norms <= unet_norm_names().keys()


def test_text_encoder_layers_are_in_the_table() -> None:
    with torch.device("meta"):
        encoder = CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=32)
        )
    names = {f"text_model.{n.removeprefix('text_model.')}" for n in layers(encoder) if "layers" in n}
    assert names == text_encoder_names()
    table = kohya_text_encoder_names()
    for name in names:
        spelled = name.replace(".", "_")
        assert table[spelled] == table[spelled.removeprefix("text_model_")] == name
