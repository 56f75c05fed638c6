"""Weights and schedules, against their formulas and against diffusers."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

from adapterhub.training.snr import WEIGHTINGS, loss_weight, signal_to_noise, zero_terminal

SDXL = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ALPHAS = SDXL.alphas_cumprod.double()
SNR = [alpha / (1 - alpha) for alpha in ALPHAS.tolist()]
EPSILON = {
    "none": lambda _: 1.0,
    "min_snr": lambda snr: min(snr, 5.0) / snr,
    "soft_min_snr": lambda snr: 5.0 / (snr + 5.0),
    "debiased": lambda snr: 1 / math.sqrt(min(snr, 1000)),
}


def test_the_table_is_that_of_diffusers() -> None:
    snr = signal_to_noise(ALPHAS)
    assert snr.tolist() == pytest.approx(SNR, rel=1e-12)
    assert torch.allclose(snr.float(), compute_snr(SDXL, torch.arange(1000)), rtol=1e-4)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_epsilon_weights_are_those_of_the_papers(weighting: str) -> None:
    weights = loss_weight(signal_to_noise(ALPHAS), weighting)
    assert weights.tolist() == pytest.approx([EPSILON[weighting](snr) for snr in SNR], rel=1e-9)


@pytest.mark.parametrize("weighting", WEIGHTINGS[1:])
def test_v_weights_make_the_same_objective_as_epsilon_weights(weighting: str) -> None:
    # For a fixed guess of the clean latents, the errors of epsilon and of v follow from its error.
    x0_error = 0.37
    for alpha, snr, weight in zip(
        ALPHAS.tolist(),
        SNR,
        loss_weight(signal_to_noise(ALPHAS), weighting, prediction_type="v_prediction").tolist(),
        strict=True,
    ):
        signal, sigma = math.sqrt(alpha), math.sqrt(1 - alpha)
        epsilon_error = signal / sigma * x0_error
        v_error = signal * epsilon_error + sigma * x0_error
        assert weight * v_error**2 == pytest.approx(EPSILON[weighting](snr) * epsilon_error**2, rel=1e-9)


def test_the_means_of_min_snr_are_the_known_ones() -> None:
    snr = signal_to_noise(ALPHAS)
    assert loss_weight(snr, "min_snr").mean().item() == pytest.approx(0.917, abs=1e-3)
    v = loss_weight(snr, "min_snr", prediction_type="v_prediction")
    assert v.mean().item() == pytest.approx(0.294, abs=1e-3)


def test_a_zero_terminal_schedule_is_that_of_the_paper() -> None:
    rescaled = zero_terminal(ALPHAS)
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(SDXL.betas.double()), 0)
    assert torch.allclose(rescaled, expected, atol=1e-6)
    assert rescaled[-1] == 0
    assert rescaled[0] == ALPHAS[0]
    first, last = math.sqrt(ALPHAS[0]), math.sqrt(ALPHAS[-1])
    middle = ((math.sqrt(ALPHAS[700]) - last) * first / (first - last)) ** 2
    assert rescaled[700].item() == pytest.approx(middle, rel=1e-12)
    for weighting in WEIGHTINGS:
        weights = loss_weight(signal_to_noise(rescaled), weighting, prediction_type="v_prediction")
        assert weights.isfinite().all()
        assert (weights >= 0).all()
