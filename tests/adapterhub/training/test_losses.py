"""Targets and losses, each against its formula written out for one number at a time."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from adapterhub.training.losses import (
    adapter_losses,
    add_noise,
    latent_mask,
    loss_thresholds,
    prediction_target,
    sample_losses,
)

SDXL = DDPMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
)
STEPS = torch.tensor([0, 500, 999])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def levels() -> tuple[Tensor, Tensor]:
    alphas = SDXL.alphas_cumprod.double()[STEPS]
    return alphas.sqrt(), (1 - alphas).sqrt()


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    latents, noise = drawn(1, 3, 4, 8, 8), drawn(2, 3, 4, 8, 8)
    noisy = add_noise(latents, noise, *levels())
    assert torch.allclose(noisy.float(), SDXL.add_noise(latents, noise, STEPS).float(), atol=1e-6)
    target = prediction_target(latents, noise, *levels(), torch.tensor([True, False, True]))
    velocity = SDXL.get_velocity(latents, noise, STEPS)
    assert torch.allclose(target[[0, 2]].float(), velocity[[0, 2]].float(), atol=1e-6)
    assert torch.equal(target[1], noise[1])


def test_a_batch_may_mix_losses_and_thresholds() -> None:
    predicted, target = drawn(1, 4, 2, 3, 3), drawn(2, 4, 2, 3, 3)
    threshold = torch.tensor([0.5, 0.5, 0.02, 0.02], dtype=torch.float64)
    losses = sample_losses(
        predicted,
        target,
        is_l2=torch.tensor([True, False, False, False]),
        is_huber=torch.tensor([False, True, True, False]),
        threshold=threshold,
    )
    formulas = [
        lambda d, _: d * d,
        lambda d, c: 2 * c * (math.sqrt(d * d + c * c) - c),
        lambda d, c: 2 * c * (math.sqrt(d * d + c * c) - c),
        lambda d, c: 2 * (math.sqrt(d * d + c * c) - c),
    ]
    errors = (predicted - target).flatten(1).tolist()
    expected = [
        sum(formula(d, c) for d in row) / len(row)
        for formula, c, row in zip(formulas, threshold.tolist(), errors, strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_small_errors_keep_their_huber_loss_in_float32() -> None:
    error = torch.full((1, 1, 1, 1), 1e-5)
    no, yes = torch.tensor([False]), torch.tensor([True])
    (loss,) = sample_losses(
        error, torch.zeros_like(error), is_l2=no, is_huber=yes, threshold=torch.tensor([1.0])
    )
    assert loss.item() == pytest.approx(1e-10, rel=1e-4)  # sqrt(1 + 1e-10) - 1 is 0 in float32


def test_thresholds_follow_the_three_schedules() -> None:
    alphas = SDXL.alphas_cumprod.double()
    assert loss_thresholds(alphas, "constant", 0.1).unique().tolist() == [0.1]
    exponential, snr = (loss_thresholds(alphas, name, 0.1) for name in ("exponential", "snr"))
    for t in (0, 1, 353, 999):
        alpha = alphas[t].item()
        assert exponential[t].item() == pytest.approx(math.exp(t * math.log(0.1) / 1000), rel=1e-12)
        ratio = math.sqrt(1 - alpha) / math.sqrt(alpha)
        assert snr[t].item() == pytest.approx(0.9 / (1 + ratio) ** 2 + 0.1, rel=1e-12)
    assert loss_thresholds(torch.tensor([0.0]), "snr", 0.1).item() == pytest.approx(0.1)


def test_a_masked_loss_is_the_mean_over_the_masked_area() -> None:
    predicted, target = drawn(1, 3, 2, 4, 4), drawn(2, 3, 2, 4, 4)
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    mask[0, :, :, :4] = 1  # the left half
    mask[1] = 1
    losses = sample_losses(predicted, target, mask=latent_mask(mask, (4, 4)))
    squared = (predicted - target) ** 2
    assert losses.tolist() == pytest.approx([squared[0, :, :, :2].mean().item(), squared[1].mean().item(), 0])
    floor = latent_mask(mask, (4, 4), floor=0.25)
    left, right = squared[0, :, :, :2].mean(), squared[0, :, :, 2:].mean()
    expected = (left + 0.25 * right) / 1.25
    assert sample_losses(predicted, target, mask=floor)[0].item() == pytest.approx(expected.item())


def test_a_mask_is_averaged_over_the_pixels_of_each_latent() -> None:
    mask = torch.arange(16.0).view(1, 1, 4, 4)
    assert latent_mask(mask, (2, 2)).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


def test_half_precision_is_compared_in_float32() -> None:
    predicted = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    (loss,) = sample_losses(predicted, torch.zeros(1, 1, 2, 2, dtype=torch.float16))
    assert loss.item() == 90000.0  # above what float16 holds


def test_one_poisoned_row_changes_no_other_adapter_and_no_other_gradient() -> None:
    predicted = drawn(1, 5, 1, 2, 2).requires_grad_()
    target = drawn(2, 5, 1, 2, 2)
    target[2] = math.nan
    losses = adapter_losses(sample_losses(predicted, target), [2, 1, 2])
    losses.sum().backward()
    assert predicted.grad is not None
    assert losses.isnan().tolist() == [False, True, False]
    assert losses[0].item() == pytest.approx(((predicted - target)[:2] ** 2).mean().item())
    expected = (predicted - target)[3:].detach() / 4  # 2 d / (2 rows x 4 values)
    assert torch.allclose(predicted.grad[3:], expected)
