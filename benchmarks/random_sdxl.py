"""SDXL in its published shape with random weights, and random adapters for it: for speed and memory alone."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file

from adapterhub.bases import sdxl
from adapterhub.bases.tokenizers import load_tokenizer
from tests.sdxl_configs import SDXL_UNET

RANK = 16
TINY = {
    "unet": {
        "block_out_channels": [32, 64, 128],
        "attention_head_dim": [1, 2, 4],
        "cross_attention_dim": 192,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 320,
        "sample_size": 16,
    },
    "vae": {"block_out_channels": [32, 32, 64, 64], "sample_size": 128},
    "text_encoder": {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2},
    "text_encoder_2": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "projection_dim": 128,
    },
}
"""Of a tiny SDXL: a tenth of the widths, at 128 x 128 pixels; blocks, depths and vocabulary stay."""


def random_unet(
    device: str, dtype: torch.dtype, *, changes: Mapping[str, Any] = MappingProxyType({})
) -> UNet2DConditionModel:
    """Return SDXL's UNet; drawing so many normal numbers would take longer than all the rest."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**SDXL_UNET, **changes})
    return filled(unet, device, dtype)


def random_pipeline(
    device: str, dtype: torch.dtype, *, changes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Any:
    """Return a stock pipeline of SDXL's size, with the tokenizers and the scheduler of SDXL.

    Args:
        device: Of its weights.
        dtype: Likewise.
        changes: Values in place of the published ones, by component, such as `TINY`.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = Path(sdxl.__path__[0])
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(
            {
                **AutoencoderKL.load_config(configs / "vae"),
                **changes.get("vae", {}),
            }
        )
        first, second = (
            model(CLIPTextConfig.from_pretrained(configs / name, **changes.get(name, {})))
            for name, model in (
                ("text_encoder", CLIPTextModel),
                ("text_encoder_2", CLIPTextModelWithProjection),
            )
        )
    pipeline = StableDiffusionXLPipeline(
        vae=filled(vae, device, dtype),
        text_encoder=filled(first, device, dtype),
        text_encoder_2=filled(second, device, dtype),
        tokenizer=load_tokenizer(configs / "tokenizer"),
        tokenizer_2=load_tokenizer(configs / "tokenizer_2"),
        unet=random_unet(device, dtype, changes=changes.get("unet", {})),
        scheduler=EulerDiscreteScheduler.from_pretrained(configs, subfolder="scheduler"),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def filled(module: Any, device: str, dtype: torch.dtype) -> Any:
    """Return a module of the meta device with small random weights on a device."""
    module = module.to(dtype).to_empty(device=device).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.02, 0.02)
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module


def write_adapter(unet: UNet2DConditionModel, folder: Path, number: int) -> Path:
    """Write a random adapter, rank 16 on all attention projections, float16, with diffusers' keys."""
    generator = torch.Generator().manual_seed(number)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and (".attn1." in name or ".attn2." in name):
            down = torch.empty(RANK, module.in_features, dtype=torch.float16)
            up = torch.empty(module.out_features, RANK, dtype=torch.float16)
            tensors[f"unet.{name}.lora_A.weight"] = down.uniform_(-0.1, 0.1, generator=generator)
            tensors[f"unet.{name}.lora_B.weight"] = up.uniform_(-0.1, 0.1, generator=generator)
    path = folder / f"adapter-{number}.safetensors"
    save_file(tensors, path)
    return path
