"""Optimizers and learning rates of one adapter; values, and what they make."""

import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from adapterhub.errors import ConfigError, MissingExtraError

OPTIMIZERS = ("adamw", "adamw8bit", "prodigy")
SCHEDULES = ("cosine", "constant", "linear")
LEAST_FACTOR = 0.1
"""Below this a Prodigy's `learning_rate` was meant for another optimizer."""
EXTRAS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


@dataclass(frozen=True)
class OptimizerConfig:
    """How an adapter's factors are changed.

    Attributes:
        name: `adamw`, or `adamw8bit` and `prodigy`, which need the extra `optimizers`.
        learning_rate: At its highest; 1.0 for Prodigy, which finds its own.
        text_learning_rate: Of the first and the second text encoder; 0 means a tenth of `learning_rate`, and
            all of it with Prodigy, which has one rate alone.
        loraplus_ratio: What the rate of B is times that of A (LoRA+, Hayou et al. 2024, arXiv 2402.12354).
        betas: Of the moments.
        epsilon: Added to the root of the second one.
        weight_decay: Decoupled.
        max_grad_norm: Gradients are clipped to this norm, of the whole adapter; 0 means not at all.
        schedule: `cosine`, `linear` or `constant`, after the warmup.
        warmup: Part of the steps in which the rate rises.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    text_learning_rate: tuple[float, float] = (0.0, 0.0)
    loraplus_ratio: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    schedule: str = "cosine"
    warmup: float = 0.05

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, known in (("name", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                problems.append(f'{name} must be one of {", ".join(known)}, not "{getattr(self, name)}"')
        for name in ("learning_rate", "loraplus_ratio", "epsilon"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                problems.append(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "max_grad_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                problems.append(f"{name} must not be negative, not {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas must be two numbers from 0 to below 1, not {list(self.betas)}")
        if len(self.text_learning_rate) != 2 or not all(
            math.isfinite(rate) and rate >= 0 for rate in self.text_learning_rate
        ):
            given = list(self.text_learning_rate)
            problems.append(f"text_learning_rate must be two numbers that are not negative, not {given}")
        if self.name == "prodigy" and self.learning_rate < LEAST_FACTOR:
            problems.append(
                f"learning_rate multiplies the rate that Prodigy finds: say 1.0, not {self.learning_rate}"
            )
        if self.name == "prodigy" and (self.loraplus_ratio != 1 or any(self.text_learning_rate)):
            problems.append("loraplus_ratio and text_learning_rate cannot be set: prodigy has one rate alone")
        if not 0 <= self.warmup <= 1:
            problems.append(f"warmup must be from 0 to 1, not {self.warmup}")
        if problems:
            raise ConfigError("the optimizer", problems)

    def rate(self, component: str, side: str) -> float:
        """Return the highest learning rate of a component's A (`down`) or B (`up`)."""
        rate = self.learning_rate
        if component != "unet" and self.name != "prodigy":
            rate = self.text_learning_rate[component == "text_encoder_2"] or self.learning_rate / 10
        return rate * (self.loraplus_ratio if side == "up" else 1.0)


def rate_factor(step: int, *, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Return the learning rate's factor: a linear rise, then a cosine to zero (Loshchilov and Hutter 2017).

    Args:
        step: From 0.
        steps: In all.
        warmup: Part of them in which the rate rises.
        schedule: What follows: `cosine` and `linear` fall to zero, `constant` does not.

    Example:
        >>> [round(rate_factor(step, steps=10, warmup=0.2), 2) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = max(round(steps * warmup), 0)
    if step < rising:
        return (step + 1) / rising
    part = (step - rising) / max(steps - rising, 1)
    if schedule == "constant":
        return 1.0
    return 1.0 - part if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part))


def make_optimizer(
    config: OptimizerConfig, parameters: Mapping[tuple[str, str], Sequence[nn.Parameter]]
) -> Optimizer:
    """Return an optimizer with a group for each component and side; its rates are the highest ones.

    Raises:
        MissingExtraError: The optimizer's package is missing.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(own), "lr": config.rate(*at), "highest": config.rate(*at)}
        for at, own in parameters.items()
    ]
    settings: dict[str, Any] = {
        "betas": config.betas,
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.name == "adamw":
        return AdamW(groups, **settings, fused=True)
    try:
        if config.name == "adamw8bit":
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

            return AdamW8bit(groups, **settings)
        from prodigyopt import Prodigy  # pyright: ignore[reportMissingImports]

        with redirect_stdout(None):  # it prints how it decays weights
            return Prodigy(groups, **settings, safeguard_warmup=True, use_bias_correction=True)
    except ModuleNotFoundError as exc:
        raise MissingExtraError("optimizers", EXTRAS[config.name]) from exc


def group_numbers(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the numbers of each group, in 64 bits: Prodigy's estimate of the rate is among them."""
    return {
        f"{number}.{key}": exact(value)
        for number, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if type(value) in (int, float)
    }


def set_group_numbers(optimizer: Optimizer, numbers: Mapping[str, Tensor]) -> None:
    """Set what `group_numbers` returned."""
    for name, value in numbers.items():
        number, _, key = name.partition(".")
        optimizer.param_groups[int(number)][key] = value.item()


def exact(value: Any) -> Tensor:
    """Return a state of an optimizer as a tensor; what is no tensor has 64 bits, and is told by them."""
    if isinstance(value, Tensor):
        return value.detach()
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def as_state(value: Tensor, device: torch.device) -> Tensor | int | float:
    """Return what `exact` made a tensor of."""
    is_number = not value.dim() and value.dtype in (torch.int64, torch.float64)
    return value.item() if is_number else value.to(device)


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to so great a part of its highest one."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor
