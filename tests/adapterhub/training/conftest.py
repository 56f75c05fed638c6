"""Small data sets to train on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image, ImageDraw


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of `count` pictures with `.txt` captions."""

    def make(count: int = 4, *, name: str = "pictures", trigger: str = "inkwash") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            picture = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(picture).ellipse((8, 8 + 4 * number, 40, 56), fill=(60 * number % 256, 20, 90))
            picture.save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"{trigger} blob {number}\n")
        return folder

    return make


@pytest.fixture
def small_unet() -> UNet2DConditionModel:
    """SDXL's topology in float64, small, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=1,
            attention_head_dim=(2, 4, 4),
            cross_attention_dim=24,
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=40,
        )
    return unet.double().eval().requires_grad_(requires_grad=False)
