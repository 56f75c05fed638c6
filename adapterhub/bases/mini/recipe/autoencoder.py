"""Stage `vae`: train the autoencoder, 64 x 64 pixels to 4 x 16 x 16 latents."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from adapterhub.bases.mini.recipe.config import Recipe, phase_at
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures
from adapterhub.bases.mini.recipe.state import (
    load_state,
    named_parameters,
    save_state,
    update_ema,
    warmup_stable_decay,
)
from adapterhub.randomness import keyed_generator


def build_vae(recipe: Recipe, *, scaling_factor: float = 1.0) -> Any:
    """Return the autoencoder with fresh weights."""
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": recipe.vae.channels,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 64,
        "scaling_factor": scaling_factor,
        "force_upcast": True,
    }
    return AutoencoderKL.from_config(config)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Return `(count, 3, 64, 64)` float32 in [-1, 1] from `(count, 64, 64, 3)` uint8."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(recipe: Recipe, work: Path) -> None:
    """Train the autoencoder; its moving average goes to `work/vae.safetensors`."""
    settings = recipe.vae
    device = torch.device(recipe.device)
    torch.manual_seed(recipe.seed)
    training, held_out = (to_tensor(part.pixels) for part in split_pictures(load_pictures(work)))
    vae = build_vae(recipe).to(device)
    modules = {"vae": vae}
    parameters = named_parameters(modules)
    ema = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    path = work / "vae.safetensors"
    start = load_state(path, modules, optimizer, ema)
    steps = sum(phase.steps for phase in settings.phases)
    began = time.monotonic()
    for step in range(start, steps):
        phase, local = phase_at(settings.phases, step)
        random = keyed_generator(recipe.seed, "vae-batch", step)
        pixels = _augment(training[random.choice(len(training), phase.batch_size)], random).to(device)
        factor = warmup_stable_decay(local, steps=phase.steps, warmup=100, decay=phase.decay_steps)
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * factor
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(phase.trains == "all")
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            drawn = torch.from_numpy(random.standard_normal(posterior.mean.shape, dtype=np.float32))
            output = vae.decode(posterior.mean + posterior.std * drawn.to(device)).sample.float()
        spread = posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()
        loss = l1_loss(output, pixels) + 2 * mse_loss(output, pixels)
        (loss + settings.kl_weight * spread.mean() / 2).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(ema, parameters, min(0.995, (local + 1) / (local + 10)))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            save_state(path, step + 1, modules, optimizer, ema)
            seconds = time.monotonic() - began
            print(f"vae {step + 1}/{steps} loss {loss.item():.4f} {seconds:.0f} s", flush=True)  # noqa: T201
        if (step + 1) % 500 == 0 or step + 1 == steps:
            print(f"  held-out PSNR {psnr(load_vae(recipe, work), held_out):.2f} dB", flush=True)  # noqa: T201


def load_vae(recipe: Recipe, work: Path) -> Any:
    """Return the trained autoencoder: the moving average, rounded to the float16 that is shipped."""
    from safetensors.torch import load_file

    vae = build_vae(recipe)
    weights = {
        name.removeprefix("ema/vae/"): value.half().float()
        for name, value in load_file(work / "vae.safetensors").items()
        if name.startswith("ema/vae/")
    }
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(False)


def psnr(vae: Any, pixels: Tensor) -> float:
    """Return the mean PSNR in dB over pictures in [0, 1], decoded from the posterior mean."""
    with torch.no_grad():
        output = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    errors = ((output - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * torch.log10(errors)).mean())


def encode_pictures(recipe: Recipe, work: Path) -> tuple[Tensor, Tensor, float]:
    """Return posterior means and deviations of the training pictures, and the scaling factor.

    The first two are `(count, 4, 16, 16)`, already multiplied by the scaling factor, which gives latents a
    standard deviation of 1 as SDXL's does.
    """
    training, _ = split_pictures(load_pictures(work))
    mean, std = encode(load_vae(recipe, work).to(recipe.device), to_tensor(training.pixels))
    scale = round(1 / math.sqrt(float(mean.var() + std.square().mean())), 5)
    (work / "latents.json").write_text(json.dumps({"scaling_factor": scale}))
    return mean * scale, std * scale, scale


def encode(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior's mean and deviation, `(count, 4, 16, 16)` each, on the CPU."""
    with torch.no_grad():
        found = [vae.encode(part.to(vae.device)).latent_dist for part in pixels.split(64)]
    mean, std = (torch.cat([getattr(p, name) for p in found]).cpu().contiguous() for name in ("mean", "std"))
    return mean, std


def _augment(pixels: Tensor, random: np.random.Generator) -> Tensor:
    if random.random() < 0.5:
        pixels = pixels.flip(-1)
    if random.random() < 0.5:
        pixels = pixels.transpose(-1, -2)
    return pixels[:, random.permutation(3).tolist()]
