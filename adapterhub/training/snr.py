"""The signal-to-noise ratio of a noise schedule, and the weights of the loss that follow from it.

A weight on the error of the clean latents, w_x, is the same objective as w_x / SNR on the error of epsilon
and w_x / (SNR + 1) on that of v, because both predictions are linear in the clean latents. So every weighting
is written once, as w_x, and both forms follow.
"""

import torch
from torch import Tensor

WEIGHTINGS = ("none", "min_snr", "soft_min_snr", "debiased")
PREDICTION_TYPES = ("epsilon", "v_prediction")
DEBIASED_LIMIT = 1000.0
"""Above this SNR, debiased weights fall no further, as in the paper."""


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """Return SNR_t = abar_t / (1 - abar_t) for each timestep."""
    return alphas_cumprod / (1 - alphas_cumprod)


def zero_terminal(alphas_cumprod: Tensor) -> Tensor:
    """Return the schedule rescaled so that nothing of the picture is left at the last timestep.

    sqrt(abar) is shifted and scaled so that its first value stays and its last one is 0 (Lin et al., "Common
    diffusion noise schedules and sample steps are flawed", 2023, arXiv 2305.08891, algorithm 1). Every SNR is
    to be computed from what this returns. A model that is trained so needs v prediction, and sampling that
    starts at the last timestep.

    Args:
        alphas_cumprod: abar, `(timesteps,)`, falling.

    Example:
        >>> zero_terminal(torch.tensor([0.81, 0.25, 0.01])).tolist()[::2]
        [0.8100000023841858, 0.0]
    """
    root = alphas_cumprod.sqrt()
    rescaled = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).square()
    rescaled[0] = alphas_cumprod[0]  # else rounding moves the value that is to stay
    return rescaled


def loss_weight(
    snr: Tensor, weighting: str, *, prediction_type: str = "epsilon", gamma: float = 5.0
) -> Tensor:
    """Return the weight of each timestep's loss.

    - `none`: 1.
    - `min_snr`: w_x = min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556).
    - `soft_min_snr`: w_x = SNR gamma / (SNR + gamma) (Crowson et al. 2024, arXiv 2401.11605).
    - `debiased`: on epsilon 1 / sqrt(min(SNR, 1000)) (Yu et al. 2023, arXiv 2310.08442).

    Args:
        snr: `(timesteps,)`; above 0 for epsilon.
        weighting: One of `WEIGHTINGS`.
        prediction_type: One of `PREDICTION_TYPES`; what the loss compares.
        gamma: Of both min-SNR weightings.

    Example:
        >>> snr = torch.tensor([1.0, 10.0])
        >>> loss_weight(snr, "min_snr").tolist()
        [1.0, 0.5]
        >>> loss_weight(snr, "min_snr", prediction_type="v_prediction").tolist()
        [0.5, 0.4545454680919647]
    """
    if weighting == "none":
        return torch.ones_like(snr)
    if weighting == "min_snr":
        clean = snr.clamp(max=gamma)
    elif weighting == "soft_min_snr":
        clean = snr * gamma / (snr + gamma)
    else:
        # SNR / sqrt(min(SNR, limit)), without dividing by an SNR that may be 0.
        clean = snr.sqrt() * (snr / DEBIASED_LIMIT).clamp(min=1).sqrt()
    return clean / (snr if prediction_type == "epsilon" else snr + 1)
