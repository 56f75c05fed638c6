"""Objectives are checked as a whole, and one batch of several adapters is what each says of its own rows."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from adapterhub.errors import ConfigError
from adapterhub.training.losses import adapter_losses
from adapterhub.training.objective import Objective, ObjectiveTable, Terms

ALPHAS = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
SHAPE = (4, 8, 8)
PLAIN = Objective()
ROBUST = Objective(prediction_type="v_prediction", weighting="soft_min_snr", loss="huber", prior_weight=0.5)


def batch(seed: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents, noise, predicted = torch.randn((3, rows, *SHAPE), dtype=torch.float64, generator=generator)
    return latents, noise, predicted


def test_a_joined_batch_is_each_adapter_s_formula_on_its_own_rows() -> None:
    latents, noise, predicted = batch(1, 3)
    tables = [ObjectiveTable(objective, ALPHAS) for objective in (PLAIN, ROBUST)]
    terms = Terms.join(
        [
            tables[0].terms([100], dtype=torch.float64),
            tables[1].terms([400, 700], is_prior=[False, True], dtype=torch.float64),
        ]
    )
    losses = adapter_losses(terms.losses(predicted, latents, noise), [1, 2])

    (alpha, *others) = (float(ALPHAS[t].double()) for t in (100, 400, 700))
    snr = alpha / (1 - alpha)
    expected = [min(snr, 5) / snr * ((predicted[0] - noise[0]) ** 2).mean().item()]
    parts = []
    for row, alpha, weight in zip((1, 2), others, (1.0, 0.5), strict=True):
        signal, sigma, snr = math.sqrt(alpha), math.sqrt(1 - alpha), alpha / (1 - alpha)
        c = 0.9 / (1 + sigma / signal) ** 2 + 0.1
        d = predicted[row] - (signal * noise[row] - sigma * latents[row])
        huber = (2 * c * ((d * d + c * c).sqrt() - c)).mean().item()
        parts.append(weight * (5 * snr / (snr + 5)) / (snr + 1) * huber)
    expected.append(sum(parts) / 2)
    assert losses.tolist() == pytest.approx(expected, rel=1e-10)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    latents, noise, predicted = (part.float() for part in batch(2, 3))
    tables = [ObjectiveTable(objective, ALPHAS) for objective in (PLAIN, ROBUST)]
    parts = [tables[0].terms([5]), tables[1].terms([400, 999])]
    together = Terms.join(parts)
    rows = [slice(0, 1), slice(1, 3)]
    for part, own in zip(parts, rows, strict=True):
        alone = part.losses(predicted[own], latents[own], noise[own])
        assert torch.equal(together.losses(predicted, latents, noise)[own], alone)
        assert torch.equal(together.noisy(latents, noise)[own], part.noisy(latents[own], noise[own]))


def test_draws_are_keyed_and_the_perturbation_is_no_target() -> None:
    table = ObjectiveTable(replace(PLAIN, input_perturbation=0.1), ALPHAS)
    first, again, other = (
        table.draw(SHAPE, seed=1, name="me/ink", step=step, sample=0) for step in (4, 4, 5)
    )
    assert (first.timestep, torch.equal(first.added, again.added)) == (again.timestep, True)
    assert not torch.equal(first.noise, other.noise)
    plain = ObjectiveTable(PLAIN, ALPHAS).draw(SHAPE, seed=1, name="me/ink", step=4, sample=0)
    assert torch.equal(plain.noise, first.noise)
    assert torch.equal(plain.added, plain.noise)
    assert (first.added - first.noise).std().item() == pytest.approx(0.1, rel=0.2)
    independent = torch.stack([first.noise, first.posterior, first.added - first.noise]).flatten(1)
    assert (torch.corrcoef(independent) - torch.eye(3)).abs().max() < 0.2


def test_a_zero_terminal_schedule_rebuilds_every_table() -> None:
    objective = Objective(prediction_type="v_prediction", zero_terminal_snr=True, loss="huber")
    terms = ObjectiveTable(objective, ALPHAS).terms([700, 999], dtype=torch.float64)
    first, last = math.sqrt(ALPHAS[0].double()), math.sqrt(ALPHAS[-1].double())
    signal = (math.sqrt(ALPHAS[700].double()) - last) * first / (first - last)
    snr = signal**2 / (1 - signal**2)
    assert terms.signal.tolist() == pytest.approx([signal, 0.0], rel=1e-12)
    assert terms.weight.tolist() == pytest.approx([min(snr, 5) / (snr + 1), 0.0], rel=1e-12)
    assert terms.threshold[1].item() == pytest.approx(0.1)


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Objective(
            weighting="p2",
            loss="l3",
            gamma=0,
            noise_offset=-1,
            multires_discount=math.nan,
            timestep_location=math.inf,
            min_timestep=9,
            max_timestep=3,
        )
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "weighting",
        "loss",
        "gamma",
        "noise_offset",
        "multires_discount",
        "timestep_location",
        "min_timestep",
    ]


@pytest.mark.parametrize("weighting", ["min_snr", "soft_min_snr", "debiased"])
def test_weights_that_divide_by_snr_refuse_a_zero_snr(weighting: str) -> None:
    with pytest.raises(ConfigError, match="divide an epsilon loss by the SNR"):
        Objective(zero_terminal_snr=True, weighting=weighting)
    table = ObjectiveTable(Objective(zero_terminal_snr=True, weighting="none"), ALPHAS)
    assert table.weight.tolist() == [1.0] * 1000


def test_a_range_beyond_the_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="the base has 500 timesteps"):
        ObjectiveTable(PLAIN, ALPHAS[:500])
