"""The training loop of one adapter; every random number is keyed by seed, adapter, purpose and step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from adapterhub.errors import TrainingError
from adapterhub.randomness import keyed_generator, keyed_normal
from adapterhub.training.encoding import Encoded
from adapterhub.training.losses import add_noise, sample_losses

OnStep = Callable[[int, float], None]


def train_loop(
    unet: Any,
    optimizer: Optimizer,
    data: Encoded,
    *,
    name: str,
    seed: int,
    start: int,
    steps: int,
    batch_size: int,
    resolution: int,
    learning_rate: float,
    warmup: float,
    max_grad_norm: float,
    caption_dropout: float,
    alphas_cumprod: Tensor,
    loss_weight: Tensor,
    on_step: OnStep,
) -> None:
    """Train from step `start` to `steps`.

    Args:
        unet: The frozen UNet, with a `LoraNetwork` active on it.
        optimizer: Of the network's parameters.
        data: The examples.
        name: The adapter; part of every key.
        seed: Likewise.
        start: Steps that were done before.
        steps: Steps in all; they decide the learning rate too.
        batch_size: Examples a step.
        resolution: Width and height of the pictures in pixels.
        learning_rate: At its highest.
        warmup: Part of the steps in which it rises.
        max_grad_norm: Gradients are clipped to this norm.
        caption_dropout: How often a caption becomes SDXL's zero embedding.
        alphas_cumprod: Of the noise schedule, `(timesteps,)`.
        loss_weight: For each timestep, likewise.
        on_step: Called after each step with (steps done, loss).

    Raises:
        TrainingError: The loss is no finite number; the parameters are those of the step before.
    """
    device, dtype = unet.device, unet.dtype
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    size = float(resolution)
    size_ids = torch.tensor([[size, size, 0.0, 0.0, size, size]]).repeat(batch_size, 1).to(device)
    for step in range(start, steps):
        chosen = batch_indices(len(data.mean), batch_size, step, seed=seed, name=name)
        shape = (batch_size, *data.mean.shape[1:])
        drawn = keyed_normal(shape, seed, name, "posterior", step)
        noise = keyed_normal(shape, seed, name, "noise", step)
        random = keyed_generator(seed, name, "step", step)
        timesteps = torch.from_numpy(random.integers(0, len(alphas_cumprod), batch_size))
        kept = torch.from_numpy((random.random(batch_size) >= caption_dropout).astype(np.float32))
        alphas = alphas_cumprod[timesteps]
        latents = data.mean[chosen] + data.std[chosen] * drawn
        noisy = add_noise(latents, noise, alphas.sqrt(), (1 - alphas).sqrt())
        predicted = unet(
            noisy.to(device, dtype),
            timesteps.to(device),
            encoder_hidden_states=(data.states[chosen] * kept[:, None, None]).to(device, dtype),
            added_cond_kwargs={
                "text_embeds": (data.pooled[chosen] * kept[:, None]).to(device, dtype),
                "time_ids": size_ids,
            },
            return_dict=False,
        )[0]
        losses = sample_losses(predicted, noise.to(device))
        loss = (losses * loss_weight[timesteps].to(device)).mean()
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(name, step + 1, f"the loss is {value}; try a lower learning_rate")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_factor(step, steps=steps, warmup=warmup)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        on_step(step + 1, value)


def rate_factor(step: int, *, steps: int, warmup: float) -> float:
    """Return the learning rate's factor: a linear rise, then a cosine to zero (Loshchilov and Hutter 2017).

    Example:
        >>> [round(rate_factor(step, steps=10, warmup=0.2), 2) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = max(round(steps * warmup), 0)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def batch_indices(count: int, batch_size: int, step: int, *, seed: int, name: str) -> list[int]:
    """Return the examples of one step: each once an epoch, in an order of its own every epoch."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders: dict[int, Sequence[int]] = {
        epoch: keyed_generator(seed, name, "order", epoch).permutation(count).tolist()
        for epoch in {position // count for position in positions}
    }
    return [orders[position // count][position % count] for position in positions]
