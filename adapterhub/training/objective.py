"""What one adapter is trained to minimise: its settings, checked, and the tables that follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from adapterhub.errors import ConfigError
from adapterhub.randomness import keyed_generator, keyed_normal
from adapterhub.training.losses import (
    LOSSES,
    THRESHOLD_SCHEDULES,
    add_noise,
    loss_thresholds,
    prediction_target,
    sample_losses,
)
from adapterhub.training.noise import draw_noise
from adapterhub.training.snr import (
    PREDICTION_TYPES,
    WEIGHTINGS,
    loss_weight,
    signal_to_noise,
    zero_terminal,
)
from adapterhub.training.timesteps import DISTRIBUTIONS, timestep_at, timestep_probabilities


@dataclass(frozen=True)
class Objective:
    """The objective of one adapter.

    Attributes:
        prediction_type: What the base predicts, `epsilon` or `v_prediction`.
        zero_terminal_snr: Rescale the noise schedule so that its last timestep is noise alone.
        weighting: Of the loss by timestep: `none`, `min_snr`, `soft_min_snr` or `debiased`.
        gamma: Of both min-SNR weightings.
        loss: `l2`, `huber` or `smooth_l1`.
        loss_threshold: c0 of the last two.
        loss_schedule: How c depends on the timestep: `constant`, `exponential` or `snr`.
        noise_offset: Strength of a random shift of each channel of the noise; 0 means none.
        multires_levels: Coarser levels on top of the noise; 0 means none.
        multires_discount: What each of them is weaker than the one before.
        input_perturbation: Noise on top that is no part of the target (Ning et al. 2023, arXiv 2301.11706).
        timesteps: How they are drawn: `uniform`, `logit_normal` or `cosmap`.
        timestep_location: Of `logit_normal`.
        timestep_scale: Of `logit_normal`.
        min_timestep: Lowest that is trained.
        max_timestep: Highest that is trained.
        prior_weight: Of pictures that keep a class as it is (Ruiz et al. 2022, arXiv 2208.12242), on top of
            the weight of their timestep.
        unmasked_weight: What the parts count that a mask leaves out.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.

    Example:
        >>> Objective(weighting="debiased", noise_offset=0.0357).loss
        'l2'
    """

    prediction_type: str = "epsilon"
    zero_terminal_snr: bool = False
    weighting: str = "min_snr"
    gamma: float = 5.0
    loss: str = "l2"
    loss_threshold: float = 0.1
    loss_schedule: str = "snr"
    noise_offset: float = 0.0
    multires_levels: int = 0
    multires_discount: float = 0.3
    input_perturbation: float = 0.0
    timesteps: str = "uniform"
    timestep_location: float = 0.0
    timestep_scale: float = 1.0
    min_timestep: int = 0
    max_timestep: int = 999
    prior_weight: float = 1.0
    unmasked_weight: float = 0.0

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise ConfigError("the objective", problems)

    def _problems(self) -> list[str]:
        problems: list[str] = []
        choices = {
            "prediction_type": PREDICTION_TYPES,
            "weighting": WEIGHTINGS,
            "loss": LOSSES,
            "loss_schedule": THRESHOLD_SCHEDULES,
            "timesteps": DISTRIBUTIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                problems.append(f'{name} must be one of {", ".join(known)}, not "{getattr(self, name)}"')
        for name in ("gamma", "loss_threshold", "timestep_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                problems.append(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("noise_offset", "multires_levels", "input_perturbation", "prior_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                problems.append(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("multires_discount", "unmasked_weight"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not math.isfinite(self.timestep_location):
            problems.append(f"timestep_location must be a number, not {self.timestep_location}")
        if not 0 <= self.min_timestep <= self.max_timestep:
            given = f"{self.min_timestep} and {self.max_timestep}"
            problems.append(f"min_timestep and max_timestep are no range from 0 on: {given}")
        if self.zero_terminal_snr and self.prediction_type == "epsilon" and self.weighting != "none":
            problems.append(
                f"the weights of {self.weighting} divide an epsilon loss by the SNR, which zero_terminal_snr "
                'makes 0: train a base of v_prediction, or set weighting to "none"'
            )
        return problems


@dataclass(frozen=True)
class Draw:
    """The random numbers of one sample at one step, float32 on the CPU.

    Attributes:
        timestep: Which one is trained.
        posterior: Standard normal: the latents are mean + std x posterior.
        noise: What the model is to find.
        added: What is added to the latents: the noise and the input perturbation.
    """

    timestep: int
    posterior: Tensor
    noise: Tensor
    added: Tensor


@dataclass(frozen=True)
class Terms:
    """What the objectives of a batch's samples say of each of them; every field is `(batch,)`.

    Attributes:
        timesteps: Whole numbers.
        signal: sqrt(abar_t).
        sigma: sqrt(1 - abar_t).
        weight: Of the loss.
        threshold: c of the Huber losses.
        is_v: Whether v is predicted.
        is_l2: Whether the loss is L2.
        is_huber: Whether it is Huber's.
    """

    timesteps: Tensor
    signal: Tensor
    sigma: Tensor
    weight: Tensor
    threshold: Tensor
    is_v: Tensor
    is_l2: Tensor
    is_huber: Tensor

    @classmethod
    def join(cls, parts: "Sequence[Terms]") -> "Terms":
        """Put the rows of several adapters into one batch, in this order."""
        return cls(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(cls)))

    def to(self, device: Any) -> "Terms":
        """Return them on a device."""
        return Terms(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))

    def noisy(self, latents: Tensor, added: Tensor) -> Tensor:
        """Return what the model sees: signal x latents + sigma x added, in the latents' dtype."""
        signal, sigma = self.signal.to(latents.dtype), self.sigma.to(latents.dtype)
        return add_noise(latents, added, signal, sigma)

    def losses(self, predicted: Tensor, latents: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weighted loss of each sample; `adapter_losses` makes them one number an adapter.

        Args:
            predicted: What the model says of `noisy`, `(batch, channels, height, width)`.
            latents: Clean and scaled.
            noise: Without the input perturbation.
            mask: From `latent_mask`; None means the whole picture.
        """
        signal, sigma = self.signal.to(latents.dtype), self.sigma.to(latents.dtype)
        target = prediction_target(latents, noise, signal, sigma, self.is_v)
        plain = sample_losses(
            predicted,
            target,
            is_l2=self.is_l2,
            is_huber=self.is_huber,
            threshold=self.threshold,
            mask=mask,
        )
        return plain * self.weight.to(plain.dtype)


class ObjectiveTable:
    """An objective on a noise schedule: everything that depends on the timestep, looked up.

    Args:
        objective: Of one adapter.
        alphas_cumprod: abar of the base, `(timesteps,)`; computed with in float64.

    Raises:
        ConfigError: The schedule has fewer timesteps than `max_timestep` says.

    Attributes:
        probabilities: How often each timestep is drawn, `(timesteps,)`.
        weight: Of each timestep's loss, likewise.
    """

    def __init__(self, objective: Objective, alphas_cumprod: Tensor) -> None:
        alphas = alphas_cumprod.detach().cpu().double()
        if objective.max_timestep >= len(alphas):
            problem = f"max_timestep is {objective.max_timestep}, but the base has {len(alphas)} timesteps"
            raise ConfigError("the objective", [problem])
        if objective.zero_terminal_snr:
            alphas = zero_terminal(alphas)
        self._objective = objective
        self._alphas = alphas
        self._threshold = loss_thresholds(alphas, objective.loss_schedule, objective.loss_threshold)
        self.weight = loss_weight(
            signal_to_noise(alphas),
            objective.weighting,
            prediction_type=objective.prediction_type,
            gamma=objective.gamma,
        )
        self.probabilities = timestep_probabilities(
            len(alphas),
            objective.timesteps,
            first=objective.min_timestep,
            last=objective.max_timestep,
            location=objective.timestep_location,
            scale=objective.timestep_scale,
        )

    def draw(self, shape: tuple[int, int, int], *, seed: int, name: str, step: int, sample: int) -> Draw:
        """Draw what one sample needs at one step; nothing else of the batch matters.

        Args:
            shape: `(channels, height, width)` of the latents.
            seed: The adapter's.
            name: The adapter.
            step: Of the training.
            sample: Its place among the samples of the step.
        """
        wanted = self._objective
        noise = draw_noise(
            shape,
            seed,
            name,
            step,
            sample,
            offset=wanted.noise_offset,
            multires_levels=wanted.multires_levels,
            multires_discount=wanted.multires_discount,
        )
        added = noise
        if wanted.input_perturbation:
            extra = keyed_normal(shape, seed, name, "perturbation", step, sample)
            added = noise + wanted.input_perturbation * extra
        uniform = keyed_generator(seed, name, "timestep", step, sample).random()
        return Draw(
            timestep=timestep_at(self.probabilities, uniform),
            posterior=keyed_normal(shape, seed, name, "posterior", step, sample),
            noise=noise,
            added=added,
        )

    def terms(
        self,
        timesteps: Sequence[int],
        *,
        is_prior: Sequence[bool] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Terms:
        """Return the terms of some samples, on the CPU.

        Args:
            timesteps: One a sample.
            is_prior: Which samples keep a class; None means none.
            dtype: Of the result; the tables are float64.
        """
        wanted, rows = self._objective, torch.tensor(timesteps, dtype=torch.long)
        alphas, weight = self._alphas[rows], self.weight[rows]
        if is_prior is not None:
            weight = torch.where(torch.tensor(is_prior), wanted.prior_weight * weight, weight)
        return Terms(
            timesteps=rows,
            signal=alphas.sqrt().to(dtype),
            sigma=(1 - alphas).sqrt().to(dtype),
            weight=weight.to(dtype),
            threshold=self._threshold[rows].to(dtype),
            is_v=torch.full((len(rows),), wanted.prediction_type == "v_prediction"),
            is_l2=torch.full((len(rows),), wanted.loss == "l2"),
            is_huber=torch.full((len(rows),), wanted.loss == "huber"),
        )
