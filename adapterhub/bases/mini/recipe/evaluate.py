"""Stage `evaluate`: how often a caption draws its own picture, and how well the VAE reconstructs."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from adapterhub.bases.find import find_base
from adapterhub.bases.mini.recipe.autoencoder import load_vae, psnr, to_tensor
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures
from adapterhub.randomness import keyed_generator
from adapterhub.runtime.engine import Runtime
from adapterhub.sheet import contact_sheet

BATCH = 25


def evaluate_base(recipe: Recipe, work: Path) -> None:
    """Write `work/figures.json` and `work/grid.png` from the exported directory, and print the figures."""
    training, held_out = split_pictures(load_pictures(work))
    count = recipe.evaluate.captions
    chosen = keyed_generator(recipe.seed, "evaluate").permutation(len(training.names))[:count].tolist()
    prompts = [training.names[i] for i in chosen]
    images: list[Image.Image] = []
    with Runtime.load(find_base(work / "weights"), device="cpu") as runtime:
        for start in range(0, count, BATCH):
            images += runtime.generate(
                prompts[start : start + BATCH],
                seed=start,
                steps=recipe.evaluate.steps,
                guidance_scale=recipe.evaluate.guidance_scale,
            ).images
    ranks = neighbour_ranks(images, training.pixels, chosen)
    figures = {
        "top-1": round(float((ranks < 1).mean()), 4),
        "top-1 by chance": round(1 / len(training.names), 4),
        "top-5": round(float((ranks < 5).mean()), 4),
        "top-5 by chance": round(5 / len(training.names), 4),
        "captions": count,
        "training pictures": len(training.names),
        "held-out pictures": len(held_out.names),
        "VAE PSNR dB": round(psnr(load_vae(recipe, work), to_tensor(held_out.pixels)), 2),
        "VAE PSNR dB by a white picture": round(_white_psnr(held_out.pixels), 2),
    }
    (work / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    shown = list(zip(images, prompts, strict=True))[:64]
    rows = [shown[i : i + 8] for i in range(0, len(shown), 8)]
    sheet = contact_sheet(
        [[picture for picture, _ in row] for row in rows],
        captions=[[prompt for _, prompt in row] for row in rows],
    )
    sheet.quantize(256).save(work / "grid.png", optimize=True)
    print(json.dumps(figures, indent=2))  # noqa: T201


def feature(pixels: np.ndarray) -> np.ndarray:
    """Return `(count, 768)`: RGB on white, area-resized from 64 x 64 to 16 x 16, in [0, 1]."""
    count = len(pixels)
    blocks = pixels.reshape(count, 16, 4, 16, 4, 3).astype(np.float32) / 255
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def neighbour_ranks(images: list[Image.Image], pixels: np.ndarray, own: list[int]) -> np.ndarray:
    """Return how many pictures are nearer (L2 on `feature`) to each image than its own picture is."""
    made = torch.from_numpy(feature(np.stack([np.asarray(image) for image in images])))
    distance = torch.cdist(made, torch.from_numpy(feature(pixels))).numpy()
    own_distance = distance[np.arange(len(own)), own]
    return (distance < own_distance[:, None]).sum(axis=1)


def _white_psnr(pixels: np.ndarray) -> float:
    errors = ((1 - pixels.astype(np.float64) / 255) ** 2).mean(axis=(1, 2, 3))
    return float((-10 * np.log10(errors)).mean())
