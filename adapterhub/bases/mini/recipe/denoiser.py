"""Stage `unet`: train the denoiser and both text encoders on latents."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from adapterhub.bases.mini.recipe.autoencoder import encode_pictures
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures, training_caption
from adapterhub.bases.mini.recipe.state import (
    load_state,
    named_parameters,
    save_state,
    update_ema,
    warmup_stable_decay,
)
from adapterhub.bases.mini.recipe.text import build_text_encoders, load_tokenizers
from adapterhub.randomness import keyed_generator, keyed_normal


def build_unet(recipe: Recipe) -> Any:
    """Return the denoiser with fresh weights: SDXL's block types, smaller."""
    settings = recipe.unet
    pooled = recipe.text.projection_size
    config = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": settings.channels,
        "layers_per_block": 2,
        "transformer_layers_per_block": settings.transformer_layers,
        "attention_head_dim": settings.heads,
        "cross_attention_dim": sum(recipe.text.hidden_size),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": settings.time_embedding_size,
        "projection_class_embeddings_input_dim": 6 * settings.time_embedding_size + pooled,
        "norm_num_groups": 16,
    }
    return UNet2DConditionModel.from_config(config)


def build_scheduler() -> Any:
    """Return SDXL's sampler with SDXL's noise schedule."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        interpolation_type="linear",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=False,
    )


def build_modules(recipe: Recipe, work: Path) -> dict[str, torch.nn.Module]:
    """Return the three trained parts; the text encoders start from stage `text`."""
    from safetensors.torch import load_file

    first, second = build_text_encoders(recipe, load_tokenizers(work))
    state = load_file(work / "text.safetensors")
    for part, module in (("text_encoder", first), ("text_encoder_2", second)):
        prefix = f"module/{part}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return {"unet": build_unet(recipe), "text_encoder": first, "text_encoder_2": second}


def train_unet(recipe: Recipe, work: Path) -> None:
    """Train on min-SNR weighted noise prediction (Hang et al. 2023); the state goes to `unet.safetensors`."""
    settings = recipe.unet
    torch.manual_seed(recipe.seed)
    pictures, _ = split_pictures(load_pictures(work))
    mean, std, _ = encode_pictures(recipe, work)
    tokenizers = load_tokenizers(work)
    modules = build_modules(recipe, work)
    unet, first, second = modules["unet"], modules["text_encoder"], modules["text_encoder_2"]
    parameters = named_parameters(modules)
    ema = {name: p.detach().clone() for name, p in parameters.items()}
    rates = [settings.learning_rate, settings.text_learning_rate]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(unet.parameters())},
            {"params": [*first.parameters(), *second.parameters()]},
        ],
        weight_decay=0.01,
        betas=(0.9, 0.99),
        fused=True,
    )
    path = work / "unet.safetensors"
    start = load_state(path, modules, optimizer, ema)
    alphas = build_scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    loss_weight = snr.clamp(max=settings.min_snr_gamma) / snr
    size_ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).repeat(settings.batch_size, 1)
    began, running = time.monotonic(), 0.0
    for step in range(start, settings.steps):
        chosen = _batch_indices(recipe, len(pictures.names), step)
        random = keyed_generator(recipe.seed, "unet-batch", step)
        captions, shown = [], []
        for i in chosen:
            caption = training_caption(
                pictures.names[i],
                pictures.keywords[i],
                mix=recipe.pictures.caption_mix,
                seed=recipe.seed,
                key=("unet", step, i),
            )
            # A dropped caption is SDXL's unconditional input, zeros; a quarter of the time an empty prompt.
            dropped = random.random() < settings.caption_dropout
            empty = dropped and random.random() < 0.25
            captions.append("" if empty else caption)
            shown.append(0.0 if dropped and not empty else 1.0)
        shape = (len(chosen), 4, 16, 16)
        latents = mean[chosen] + std[chosen] * keyed_normal(shape, recipe.seed, "posterior", step)
        noise = keyed_normal(shape, recipe.seed, "noise", step)
        # One draw from each of batch_size equal parts of the schedule: less variance than independent draws.
        parts = (random.permutation(len(chosen)) + random.random(len(chosen))) / len(chosen)
        steps = torch.from_numpy(np.floor(parts * 1000).astype(np.int64))
        alpha = alphas[steps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

        factor = warmup_stable_decay(
            step, steps=settings.steps, warmup=settings.warmup_steps, decay=settings.decay_steps
        )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        embeddings, pooled = encode_captions(captions, tokenizers, first, second)
        mask = torch.tensor(shown)
        predicted = unet(
            noisy,
            steps,
            encoder_hidden_states=embeddings * mask[:, None, None],
            added_cond_kwargs={"text_embeds": pooled * mask[:, None], "time_ids": size_ids},
        ).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        loss = (error * loss_weight[steps]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(ema, parameters, min(settings.ema_decay, (step + 1) / (step + 10)))
        running += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - began
            with (work / "unet.log").open("a") as log:
                log.write(f"{step + 1} {running / 100:.5f} {seconds:.0f}\n")
            print(  # noqa: T201
                f"unet {step + 1}/{settings.steps} loss {running / 100:.4f} {seconds:.0f} s", flush=True
            )
            running = 0.0
        if (step + 1) % 500 == 0 or step + 1 == settings.steps:
            save_state(path, step + 1, modules, optimizer, ema)


def encode_captions(
    captions: list[str], tokenizers: tuple, first: torch.nn.Module, second: torch.nn.Module
) -> tuple[Tensor, Tensor]:
    """Return what SDXL's UNet sees of captions: penultimate states side by side, and the pooled output."""
    tokens = [
        t(
            captions,
            padding="max_length",
            max_length=t.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for t in tokenizers
    ]
    one = first(tokens[0], output_hidden_states=True)
    two = second(tokens[1], output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds


def _batch_indices(recipe: Recipe, count: int, step: int) -> list[int]:
    """Return the pictures of one step: every picture once an epoch, in an order of its own."""
    size = recipe.unet.batch_size
    positions = range(step * size, (step + 1) * size)
    orders = {
        epoch: keyed_generator(recipe.seed, "order", epoch).permutation(count)
        for epoch in {position // count for position in positions}
    }
    return [int(orders[position // count][position % count]) for position in positions]
