"""What is minimised: pure functions of the noise schedule."""

import torch
from torch import Tensor


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """Return SNR_t = abar_t / (1 - abar_t) for each timestep."""
    return alphas_cumprod / (1 - alphas_cumprod)


def min_snr_weight(snr: Tensor, gamma: float) -> Tensor:
    """Return the weight of an epsilon loss, min(SNR, gamma) / SNR; all ones for gamma 0.

    Hang et al., "Efficient diffusion training via min-SNR weighting strategy", 2023 (arXiv 2303.09556).

    Example:
        >>> min_snr_weight(torch.tensor([1.0, 10.0]), 5.0).tolist()
        [1.0, 0.5]
    """
    return snr.clamp(max=gamma) / snr if gamma else torch.ones_like(snr)


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Return sqrt(abar_t) * latents + sqrt(1 - abar_t) * noise.

    Args:
        latents: `(batch, channels, height, width)`, scaled.
        noise: Likewise.
        alphas_cumprod: abar, one number a timestep.
        timesteps: `(batch,)`, whole numbers.
    """
    alpha = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def epsilon_loss(predicted: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over samples of weight x mean squared error, in float32.

    Args:
        predicted: What the UNet says, `(batch, channels, height, width)`.
        noise: What was added.
        weight: `(batch,)`.
    """
    error = (predicted.float() - noise.float()).square().mean(dim=(1, 2, 3))
    return (error * weight).mean()
