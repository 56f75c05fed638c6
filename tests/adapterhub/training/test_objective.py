"""Objective and schedule, against diffusers and against their formulas."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr

from adapterhub.training.loop import batch_indices, rate_factor
from adapterhub.training.objective import add_noise, epsilon_loss, min_snr_weight, signal_to_noise

SDXL = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def test_noise_is_added_as_diffusers_adds_it() -> None:
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([0, 500, 999])
    expected = SDXL.add_noise(latents, noise, steps)
    assert torch.allclose(add_noise(latents, noise, SDXL.alphas_cumprod, steps), expected, atol=1e-6)


def test_min_snr_weights_are_the_paper_s_for_epsilon() -> None:
    snr = signal_to_noise(SDXL.alphas_cumprod)
    assert torch.allclose(snr, compute_snr(SDXL, torch.arange(1000)), rtol=1e-4)
    expected = torch.tensor([min(value, 5.0) / value for value in snr.tolist()])
    weights = min_snr_weight(snr, 5.0)
    assert torch.allclose(weights, expected)
    assert weights.mean().item() == pytest.approx(0.917, abs=1e-3)  # measured on SDXL's schedule
    assert torch.equal(min_snr_weight(snr, 0.0), torch.ones(1000))


def test_the_loss_is_the_mean_of_weighted_means() -> None:
    predicted, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    weight = torch.tensor([1.0, 0.5, 0.0])
    expected = sum(w * ((p - n) ** 2).mean() for p, n, w in zip(predicted, noise, weight, strict=True)) / 3
    assert epsilon_loss(predicted, noise, weight).item() == pytest.approx(float(expected), rel=1e-6)


def test_the_rate_follows_warmup_and_cosine() -> None:
    for step in range(100):
        expected = (step + 1) / 5 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 95))
        assert rate_factor(step, steps=100, warmup=0.05) == pytest.approx(expected)


def test_every_example_is_shown_once_an_epoch_in_changing_order() -> None:
    shown = [i for step in range(10) for i in batch_indices(7, 7, step, seed=1, name="me/ink")]
    epochs = [shown[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5
    odd = [i for step in range(7) for i in batch_indices(7, 4, step, seed=1, name="me/ink")]
    assert odd == shown[:28]
    assert batch_indices(7, 4, 3, seed=1, name="me/corgi") != batch_indices(7, 4, 3, seed=1, name="me/ink")
