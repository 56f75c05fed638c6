"""The noise that is added to latents, and the ways to change it; every function treats each sample alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapterhub.randomness import keyed_generator, keyed_normal


def offset_noise(noise: Tensor, drawn: Tensor, strength: Tensor) -> Tensor:
    """Return noise shifted by one random number a channel: noise + strength x drawn.

    The model learns to change the brightness of whole pictures (N. Guttenberg, "Diffusion with offset noise",
    2023). The result is the target too.

    Args:
        noise: `(batch, channels, height, width)`.
        drawn: Standard normal, `(batch, channels)`.
        strength: `(batch,)`; 0 means none.
    """
    return noise + (strength[:, None] * drawn)[:, :, None, None]


def multires_sizes(height: int, width: int, ratios: Sequence[float]) -> list[tuple[int, int]]:
    """Return the size of each level of multi-resolution noise: (height, width) / ratio ** level.

    It ends with the first level that has a side of 1.

    Args:
        height: Of the latents.
        width: Of the latents.
        ratios: One a level, from 2 to 4.

    Example:
        >>> multires_sizes(16, 24, [2.0, 2.0, 4.0, 3.0])
        [(16, 24), (8, 12), (1, 1)]
    """
    sizes: list[tuple[int, int]] = []
    for level, ratio in enumerate(ratios):
        size = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        sizes.append(size)
        if 1 in size:
            break
    return sizes


def multires_noise(noise: Tensor, levels: Sequence[Tensor], discount: float) -> Tensor:
    """Return one sample's noise with coarser noise on top, at standard deviation 1.

    noise + sum over i of discount^i x levels[i] enlarged, divided by its own standard deviation (J. Whitaker,
    "Multi-resolution noise for diffusion model training", 2023). Other trainers divide by that of the whole
    batch, so that a sample depends on its neighbours.

    Args:
        noise: `(channels, height, width)`.
        levels: Standard normal, `(channels, h, w)` each, in the sizes of `multires_sizes`.
        discount: From 0 to 1.
    """
    total = noise
    for number, level in enumerate(levels):
        enlarged = torch.nn.functional.interpolate(level[None], size=noise.shape[1:], mode="bilinear")[0]
        total = total + discount**number * enlarged
    return total / total.std()


def draw_noise(
    shape: tuple[int, int, int],
    seed: int,
    name: str,
    step: int,
    sample: int,
    *,
    offset: float = 0.0,
    multires_levels: int = 0,
    multires_discount: float = 0.3,
) -> Tensor:
    """Draw the noise of one sample; it depends on what is given here and on nothing else.

    Multi-resolution noise is made first, so that the offset has the strength that was asked for.

    Args:
        shape: `(channels, height, width)` of the latents.
        seed: The adapter's.
        name: The adapter.
        step: Of the training.
        sample: Its place among the samples of the step.
        offset: Strength of the offset; 0 means none.
        multires_levels: Coarser levels on top; 0 means none.
        multires_discount: What each level is weaker than the one before.

    Returns:
        Float32 on the CPU; it is both what is added and the target.
    """
    channels, height, width = shape
    noise = keyed_normal(shape, seed, name, "noise", step, sample)
    if multires_levels:
        ratios = keyed_generator(seed, name, "multires-ratio", step, sample).uniform(2, 4, multires_levels)
        levels = [
            keyed_normal((channels, *size), seed, name, "multires", step, sample, level)
            for level, size in enumerate(multires_sizes(height, width, ratios.tolist()))
        ]
        noise = multires_noise(noise, levels, multires_discount)
    if offset:
        drawn = keyed_normal((channels,), seed, name, "noise-offset", step, sample)
        noise = offset_noise(noise[None], drawn[None], torch.tensor([offset]))[0]
    return noise
