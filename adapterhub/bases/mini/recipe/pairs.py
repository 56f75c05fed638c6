"""Pictures of two subjects, so that "a heart and a star" means something."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adapterhub.bases.mini.recipe.autoencoder import encode, load_vae, to_tensor
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures
from adapterhub.randomness import keyed_generator

SIDE = 38


def draw_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return `(64, 64, 3)` uint8: the first picture small in the upper left, the second in the lower right.

    Both lie on white; where they meet, the darker pixel shows.
    """
    small = [
        np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        for picture in (first, second)
    ]
    page = np.full((64, 64, 3), 255, np.uint8)
    page[:SIDE, :SIDE] = small[0]
    corner = page[-SIDE:, -SIDE:]
    np.minimum(corner, small[1], out=corner)
    return page


def pair_caption(first: str, second: str, random: np.random.Generator) -> str:
    """Return one of the wordings under which a pair is shown to the model."""
    form = random.choice(3, p=[0.5, 0.35, 0.15])
    if form == 1:
        first, second = (f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in (first, second))
    return f"{first} {'with' if form == 2 else 'and'} {second}"


def load_pairs(recipe: Recipe, work: Path) -> tuple[list[list[int]], Tensor, Tensor]:
    """Return the subjects of every pair, and the latents' means and deviations; they are encoded once."""
    from safetensors.torch import load_file, save_file

    pictures, _ = split_pictures(load_pictures(work))
    random = keyed_generator(recipe.seed, "pairs")
    chosen = [
        random.choice(len(pictures.names), 2, replace=False).tolist() for _ in range(recipe.unet.pair_pool)
    ]
    path = work / "pairs.safetensors"
    if not path.exists():
        pixels = np.stack([draw_pair(*(pictures.pixels[i] for i in pair)) for pair in chosen])
        mean, std = encode(load_vae(recipe, work).to(recipe.device), to_tensor(pixels))
        scale = json.loads((work / "latents.json").read_text())["scaling_factor"]
        save_file({"mean": mean * scale, "std": std * scale}, path)
    latents = load_file(path)
    return chosen, latents["mean"], latents["std"]


def empty_pairs() -> tuple[list[list[int]], Tensor, Tensor]:
    """Return no pairs, in the form of `load_pairs`."""
    nothing = torch.zeros(0, 4, 16, 16)
    return [], nothing, nothing
