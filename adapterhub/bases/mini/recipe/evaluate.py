"""Stage `evaluate`: how often a caption draws its own picture, and how well the VAE reconstructs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapterhub.bases.find import BUNDLED, find_base
from adapterhub.bases.mini.recipe.autoencoder import psnr, to_tensor
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures
from adapterhub.randomness import keyed_generator
from adapterhub.runtime.engine import Runtime
from adapterhub.sheet import contact_sheet

BATCH = 25
TWO_PART = Path(__file__).with_name("two_part.txt")


def evaluate_base(recipe: Recipe, work: Path) -> None:
    """Measure the exported directory, or the shipped one where there is none; print and write the figures.

    They go to `work/figures.json`, the pictures to `work/grid.png` and `work/two-part.png`.
    """
    training, held_out = split_pictures(load_pictures(work))
    count = recipe.evaluate.captions
    chosen = keyed_generator(recipe.seed, "evaluate").permutation(len(training.names))[:count].tolist()
    prompts = [training.names[i] for i in chosen]
    two_part = TWO_PART.read_text().splitlines()[:count]
    exported = work / "weights"
    with Runtime.load(find_base(exported if exported.exists() else BUNDLED["mini"]), device="cpu") as runtime:
        images = _draw(runtime, prompts, recipe)
        pairs = _draw(runtime, two_part, recipe)
        vae: Any = runtime.pipeline.vae
        reconstructed = psnr(vae, to_tensor(held_out.pixels))
    figures: dict[str, float] = {"captions": count}
    for label, by in (("", feature), (" by edges", edge_feature)):
        ranks = neighbour_ranks(images, training.pixels, chosen, by)
        for top in (1, 5):
            figures[f"top-{top}{label}"] = round(float((ranks < top).mean()), 4)
    figures |= {
        "top-1 by chance": round(1 / len(training.names), 4),
        "top-5 by chance": round(5 / len(training.names), 4),
        "training pictures": len(training.names),
        "held-out pictures": len(held_out.names),
        "VAE PSNR dB": round(reconstructed, 2),
        "VAE PSNR dB by a white picture": round(_white_psnr(held_out.pixels), 2),
    }
    (work / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    _save_sheet(images[:64], prompts[:64], work / "grid.png", columns=8)
    _save_sheet(pairs, two_part, work / "two-part.png", columns=10)
    print(json.dumps(figures, indent=2))  # noqa: T201


def _draw(runtime: Runtime, prompts: list[str], recipe: Recipe) -> list[Image.Image]:
    images: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        images += runtime.generate(
            prompts[start : start + BATCH],
            seed=start,
            steps=recipe.evaluate.steps,
            guidance_scale=recipe.evaluate.guidance_scale,
        ).images
    return images


def _save_sheet(images: list[Image.Image], prompts: list[str], path: Path, *, columns: int) -> None:
    starts = range(0, len(images), columns)
    sheet = contact_sheet(
        [images[i : i + columns] for i in starts],
        captions=[prompts[i : i + columns] for i in starts],
    )
    sheet.quantize(256).save(path, optimize=True)


def feature(pixels: np.ndarray) -> np.ndarray:
    """Return `(count, 768)`: RGB on white, area-resized from 64 x 64 to 16 x 16, in [0, 1]."""
    count = len(pixels)
    blocks = pixels.reshape(count, 16, 4, 16, 4, 3).astype(np.float32) / 255
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def edge_feature(pixels: np.ndarray) -> np.ndarray:
    """Return `(count, 256)`: where the edges are, without colour; nothing in the training ever used it.

    Brightness (ITU-R BT.601), the length of its central differences, area-resized from 64 x 64 to 16 x 16.
    """
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    down, right = np.gradient(grey, axis=(1, 2))
    length = np.hypot(down, right)
    return length.reshape(len(pixels), 16, 4, 16, 4).mean(axis=(2, 4)).reshape(len(pixels), -1)


def neighbour_ranks(
    images: list[Image.Image],
    pixels: np.ndarray,
    own: list[int],
    by: Callable[[np.ndarray], np.ndarray] = feature,
) -> np.ndarray:
    """Return how many pictures are nearer (L2 on a feature) to each image than its own picture is."""
    made = torch.from_numpy(by(np.stack([np.asarray(image) for image in images])))
    distance = torch.cdist(made, torch.from_numpy(by(pixels))).numpy()
    own_distance = distance[np.arange(len(own)), own]
    return (distance < own_distance[:, None]).sum(axis=1)


def _white_psnr(pixels: np.ndarray) -> float:
    errors = ((1 - pixels.astype(np.float64) / 255) ** 2).mean(axis=(1, 2, 3))
    return float((-10 * np.log10(errors)).mean())
