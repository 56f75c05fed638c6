"""Stage `unet`: train the denoiser and both text encoders on latents."""

import copy
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from adapterhub.bases.mini.recipe.autoencoder import encode_pictures
from adapterhub.bases.mini.recipe.config import Recipe, phase_at
from adapterhub.bases.mini.recipe.pairs import empty_pairs, load_pairs, pair_caption
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

LOG_EVERY = 100


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
    device = torch.device(recipe.device)
    torch.manual_seed(recipe.seed)
    batches = Batches(recipe, work)
    tokenizers = load_tokenizers(work)
    modules = {name: module.to(device) for name, module in build_modules(recipe, work).items()}
    parameters = named_parameters(modules)
    ema = {name: p.detach().clone() for name, p in parameters.items()}
    text = [p for part in ("text_encoder", "text_encoder_2") for p in modules[part].parameters()]
    groups = [{"params": list(modules["unet"].parameters())}, {"params": text}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    path = work / "unet.safetensors"
    start = load_state(path, modules, optimizer, ema)
    alphas = build_scheduler().alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    loss_weight = snr.clamp(max=settings.min_snr_gamma) / snr
    size_ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]], device=device)
    total = sum(phase.steps for phase in settings.phases)
    working = WorkingCopy(modules, torch.float32)
    began, running = time.monotonic(), torch.zeros((), device=device)
    for step in range(start, total):
        phase, local = phase_at(settings.phases, step)
        if working.precision is not (precision := getattr(torch, phase.precision)):
            working = WorkingCopy(modules, precision)
        batch = batches.draw(step)
        latents, noise, steps, shown = (
            value.to(device) for value in (batch.latents, batch.noise, batch.timesteps, batch.shown)
        )
        alpha = alphas[steps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        factor = warmup_stable_decay(
            local, steps=phase.steps, warmup=settings.warmup_steps, decay=phase.decay_steps
        )
        rates = (phase.learning_rate, phase.text_learning_rate)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        working.pull()
        unet, first, second = (working.modules[n] for n in ("unet", "text_encoder", "text_encoder_2"))
        embeddings, pooled = encode_captions(batch.captions, tokenizers, first, second)
        shown = shown.to(precision)
        predicted = unet(
            noisy.to(precision),
            steps,
            encoder_hidden_states=embeddings * shown[:, None, None],
            added_cond_kwargs={
                "text_embeds": pooled * shown[:, None],
                "time_ids": size_ids.repeat(len(shown), 1),
            },
        ).sample.float()
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        loss = (error * loss_weight[steps]).mean()
        loss.backward()
        working.push()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(ema, parameters, min(settings.ema_decay, (local + 1) / (local + 10)))
        running += loss.detach()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == total:
            seconds = time.monotonic() - began
            since = (step % LOG_EVERY) + 1
            line = f"{step + 1} {running.item() / since:.5f} {seconds:.0f}"
            with (work / "unet.log").open("a") as log:
                log.write(line + "\n")
            print("unet", line, flush=True)  # noqa: T201
            running.zero_()
        if (step + 1) % 500 == 0 or step + 1 == total:
            save_state(path, step + 1, modules, optimizer, ema)


class WorkingCopy:
    """The modules as a step runs them: themselves in float32, else a copy of lower precision."""

    def __init__(self, modules: dict[str, torch.nn.Module], precision: torch.dtype) -> None:
        """Copy the modules, if the precision is not theirs."""
        self.precision = precision
        self.masters = list(named_parameters(modules).values())
        same = precision is torch.float32
        self.modules = modules if same else {n: copy.deepcopy(m).to(precision) for n, m in modules.items()}
        self.copies = list(named_parameters(self.modules).values())

    def pull(self) -> None:
        """Take the masters' values."""
        if self.precision is not torch.float32:
            with torch.no_grad():
                for mine, master in zip(self.copies, self.masters, strict=True):
                    mine.copy_(master)

    def push(self) -> None:
        """Hand the gradients to the masters, in float32."""
        if self.precision is not torch.float32:
            for mine, master in zip(self.copies, self.masters, strict=True):
                master.grad = None if mine.grad is None else mine.grad.float()
                mine.grad = None


@dataclass(frozen=True)
class Batch:
    """What one step sees, all of the same length; `shown` is 0 where SDXL's zeros replace the caption."""

    captions: list[str]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    shown: Tensor


class Batches:
    """Draws the batch of any step from the seed alone."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        """Encode the pictures, and the pairs if a phase shows any."""
        self.recipe = recipe
        self.pictures, _ = split_pictures(load_pictures(work))
        self.mean, self.std, _ = encode_pictures(recipe, work)
        wanted = any(phase.pairs for phase in recipe.unet.phases)
        self.pairs, self.pair_mean, self.pair_std = load_pairs(recipe, work) if wanted else empty_pairs()

    def draw(self, step: int) -> Batch:
        """Return the batch of one step of the whole training."""
        recipe, seed = self.recipe, self.recipe.seed
        phase, _ = phase_at(recipe.unet.phases, step)
        size = phase.batch_size
        chosen = self._singles(step)
        random = keyed_generator(seed, "unet-batch", step)
        pairs: list[int] = random.integers(max(len(self.pairs), 1), size=phase.paired).tolist()
        captions = [
            training_caption(
                self.pictures.names[i],
                self.pictures.keywords[i],
                mix=recipe.pictures.caption_mix,
                seed=seed,
                key=("unet", step, i),
            )
            for i in chosen
        ]
        for first, second in (self.pairs[p] for p in pairs):
            captions.append(pair_caption(self.pictures.names[first], self.pictures.names[second], random))
        shown = []
        for i in range(size):
            # A dropped caption is SDXL's unconditional input, zeros; a quarter of the time an empty prompt.
            dropped = random.random() < recipe.unet.caption_dropout
            empty = dropped and random.random() < 0.25
            captions[i] = "" if empty else captions[i]
            shown.append(0.0 if dropped and not empty else 1.0)
        shape = (size, 4, 16, 16)
        mean = torch.cat([self.mean[chosen], self.pair_mean[pairs]])
        std = torch.cat([self.std[chosen], self.pair_std[pairs]])
        # One draw from each of batch_size equal parts of the schedule: less variance than independent draws.
        parts = (random.permutation(size) + random.random(size)) / size
        return Batch(
            captions=captions,
            latents=mean + std * keyed_normal(shape, seed, "posterior", step),
            noise=keyed_normal(shape, seed, "noise", step),
            timesteps=torch.from_numpy(np.floor(parts * 1000).astype(np.int64)),
            shown=torch.tensor(shown),
        )

    def _singles(self, step: int) -> list[int]:
        """Return the single pictures of one step: every picture once an epoch, in an order of its own."""
        count, phases = len(self.pictures.names), self.recipe.unet.phases
        phase, local = phase_at(phases, step)
        earlier = takewhile(lambda other: other is not phase, phases)
        begin = sum(other.steps * other.single for other in earlier) + local * phase.single
        positions = range(begin, begin + phase.single)
        orders = {
            epoch: keyed_generator(self.recipe.seed, "order", epoch).permutation(count)
            for epoch in {position // count for position in positions}
        }
        return [int(orders[position // count][position % count]) for position in positions]


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
        ).input_ids.to(first.device)
        for t in tokenizers
    ]
    one = first(tokens[0], output_hidden_states=True)
    two = second(tokens[1], output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds
