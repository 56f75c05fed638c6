"""What tests of pictures that start from pictures share: pictures, and diffusers' own pipelines."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from adapterhub.runtime.engine import Runtime

SETTINGS: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0}


def disc(color: str = "crimson", *, side: int = 64) -> Image.Image:
    """A disc on white."""
    picture = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(picture).ellipse((side // 8, side // 8, side * 7 // 8, side * 7 // 8), fill=color)
    return picture


def left_half(*, side: int = 64) -> Image.Image:
    """A mask that is white on the left."""
    mask = Image.new("L", (side, side))
    mask.paste(255, (0, 0, side // 2, side))
    return mask


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def stock(runtime: Runtime, kind: Any, **more: Any) -> Any:
    """diffusers' own pipeline on the runtime's weights as they are now."""
    pipeline = kind(**runtime.pipeline.components, add_watermarker=False, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(pixels(one), pixels(other))
