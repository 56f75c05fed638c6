"""What a prediction is compared with, and by which loss: one number a sample, then one an adapter.

Every parameter is given for each sample, because rows of several adapters stand in one batch. A sample's loss
never depends on other samples: the mean over an adapter's own rows comes last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LOSSES = ("l2", "huber", "smooth_l1")
THRESHOLD_SCHEDULES = ("constant", "exponential", "snr")


def add_noise(latents: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """Return signal x latents + sigma x noise.

    Args:
        latents: `(batch, channels, height, width)`, scaled.
        noise: Likewise.
        signal: sqrt(abar_t) of each sample, `(batch,)`.
        sigma: sqrt(1 - abar_t), likewise.
    """
    return _rows(signal) * latents + _rows(sigma) * noise


def prediction_target(latents: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor, is_v: Tensor) -> Tensor:
    """Return what the model should say: the noise, or v = signal x noise - sigma x latents.

    v is that of Salimans and Ho, "Progressive distillation", 2022 (arXiv 2202.00512).

    Args:
        latents: Clean and scaled, `(batch, channels, height, width)`.
        noise: What was added, without an input perturbation.
        signal: As in `add_noise`.
        sigma: Likewise.
        is_v: Which samples are of v prediction, `(batch,)`.
    """
    velocity = _rows(signal) * noise - _rows(sigma) * latents
    return torch.where(_rows(is_v), velocity, noise)


def loss_thresholds(alphas_cumprod: Tensor, schedule: str, threshold: float) -> Tensor:
    """Return c of the Huber losses for each timestep (Khrapov et al. 2024, arXiv 2403.16728).

    `constant` is c0; `exponential` falls from 1 to c0 as c0^(t / timesteps); `snr` is
    (1 - c0) / (1 + sigma_t / signal_t)^2 + c0.

    Args:
        alphas_cumprod: abar, `(timesteps,)`.
        schedule: One of `THRESHOLD_SCHEDULES`.
        threshold: c0.
    """
    if schedule == "constant":
        return torch.full_like(alphas_cumprod, threshold)
    if schedule == "exponential":
        times = torch.arange(len(alphas_cumprod), dtype=alphas_cumprod.dtype) / len(alphas_cumprod)
        return threshold**times
    signal, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    # signal may be 0, so the fraction is written without dividing by it.
    return (1 - threshold) * (signal / (signal + sigma)).square() + threshold


def latent_mask(mask: Tensor, size: tuple[int, int], floor: float = 0.0) -> Tensor:
    """Return a mask at the latents' size, each value the mean of the pixels that it covers, at least `floor`.

    Args:
        mask: From 0 (ignored) to 1 (learnt), `(batch, 1, height, width)`.
        size: Height and width of the latents.
        floor: What ignored parts still count.
    """
    return torch.nn.functional.interpolate(mask, size=size, mode="area").clamp(min=floor)


def sample_losses(
    predicted: Tensor,
    target: Tensor,
    *,
    is_l2: Tensor | None = None,
    is_huber: Tensor | None = None,
    threshold: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the loss of each sample, `(batch,)`, in float32 or finer.

    With d the error: L2 is d^2, Huber 2 c (sqrt(d^2 + c^2) - c), smooth L1 2 (sqrt(d^2 + c^2) - c); their
    mean over channels, height and width, or over the masked area: mean(m d^2) / mean(m).

    Args:
        predicted: What the model says, `(batch, channels, height, width)`.
        target: From `prediction_target`.
        is_l2: Which samples have the L2 loss, `(batch,)`; None means all.
        is_huber: Which of the others have Huber's and not the smooth L1 loss.
        threshold: c of each sample.
        mask: From `latent_mask`; None means the whole picture. A sample whose mask is 0 everywhere has the
            loss 0.
    """
    squared = (_wide(predicted) - _wide(target)).square()
    if is_l2 is not None and is_huber is not None and threshold is not None:
        c = _rows(threshold.to(squared.dtype))
        # sqrt(d^2 + c^2) - c, in the form that does not cancel for a small d.
        robust = 2 * squared / ((squared + c.square()).sqrt() + c)
        squared = torch.where(_rows(is_l2), squared, torch.where(_rows(is_huber), c * robust, robust))
    if mask is None:
        return squared.mean(dim=(1, 2, 3))
    covered = mask.to(squared.dtype).mean(dim=(1, 2, 3))
    inside = (squared * mask).mean(dim=(1, 2, 3))
    return inside / covered.clamp(min=torch.finfo(squared.dtype).tiny)


def adapter_losses(losses: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the mean of each adapter's own samples, `(adapters,)`; its sum is what to derive.

    Args:
        losses: Weighted, `(batch,)`; the rows of one adapter stand together.
        counts: How many rows each adapter has.

    Example:
        >>> adapter_losses(torch.tensor([1.0, 3.0, 5.0]), [2, 1]).tolist()
        [2.0, 5.0]
    """
    return torch.stack([rows.mean() for rows in losses.split(list(counts))])


def _rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
