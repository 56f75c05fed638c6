"""The whole path equals what follows straight from the papers, in plain torch and PEFT."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn

from adapterhub.randomness import keyed_generator, keyed_normal
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"
SEED, NAME, STEPS, RATE, LIMIT, GAMMA = 7, "me/ink", 2, 1e-4, 0.003, 5.0
EPSILON = 1e-6
"""Great enough that the sign of a gradient that is rounding alone decides no step."""


def by_hand(folder: Path) -> tuple[dict[str, Tensor], list[float]]:
    """Train on two pictures by DDPM's loss (Ho et al. 2020) under min-SNR weights, with LoRA and AdamW."""
    stock: Any = StableDiffusionXLPipeline.from_pretrained(MINI)
    for part in (stock.unet, stock.vae, stock.text_encoder, stock.text_encoder_2):
        part.requires_grad_(requires_grad=False).eval()
    ends = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    stock.unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=ends))
    trained: dict[str, nn.Parameter] = {}
    for name, value in stock.unet.named_parameters():
        if "lora_" not in name:
            continue
        path, _, side = name.removesuffix(".default.weight").rpartition(".")
        if side == "lora_A":
            bound = value.shape[1] ** -0.5
            drawn = keyed_generator(SEED, NAME, "lora", path).uniform(-bound, bound, tuple(value.shape))
            value.data = torch.from_numpy(drawn).float()
        trained[f"{path}.{side}"] = value
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, eps=EPSILON, weight_decay=0.01)
    losses: list[float] = []
    for step in range(STEPS):
        order = keyed_generator(SEED, NAME, "order", step).permutation(2)
        total = torch.zeros(())
        for sample, picture in enumerate(order):
            pixels = np.asarray(Image.open(folder / f"{picture}.png"), dtype=np.float32) / 127.5 - 1
            states, _, pooled, _ = stock.encode_prompt(
                (folder / f"{picture}.txt").read_text().strip(), do_classifier_free_guidance=False
            )
            posterior = stock.vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist
            shape = tuple(posterior.mean.shape[1:])
            sampled = posterior.mean + posterior.std * keyed_normal(
                shape, SEED, NAME, "posterior", step, sample
            )
            latents = sampled * stock.vae.config.scaling_factor
            noise = keyed_normal(shape, SEED, NAME, "noise", step, sample)[None]
            timestep = int(1000 * keyed_generator(SEED, NAME, "timestep", step, sample).random())
            abar = float(stock.scheduler.alphas_cumprod[timestep])
            predicted = stock.unet(
                math.sqrt(abar) * latents + math.sqrt(1 - abar) * noise,
                timestep,
                encoder_hidden_states=states,
                added_cond_kwargs={
                    "text_embeds": pooled,
                    "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
                },
            ).sample
            snr = abar / (1 - abar)
            total = total + min(snr, GAMMA) / snr * (predicted - noise).square().mean() / 2
        total.backward()
        losses.append(total.item())
        assert nn.utils.clip_grad_norm_(trained.values(), LIMIT) > LIMIT
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in trained.items()}, losses


def test_training_equals_the_papers_formulas(pictures: Callable[..., Path], home: Path) -> None:
    folder = pictures(2)
    registry = Registry(home)
    adapter = AdapterConfig(
        name=NAME,
        data=(DataConfig(folder, caption_dropout=0.0),),
        seed=SEED,
        steps=STEPS,
        batch_size=2,
        network=NetworkConfig(rank=4, alpha=8.0),
        optimizer=OptimizerConfig(learning_rate=RATE, epsilon=EPSILON, max_grad_norm=LIMIT, warmup=0.0),
        objective=Objective(weighting="min_snr", gamma=GAMMA),
    )
    (version,) = train(TrainConfig(BaseConfig("mini", device="cpu"), (adapter,)), registry=registry)
    mine = load(registry.read(version.files[0].sha256))
    documents = {item.name: registry.read(item.sha256) for item in registry.documents(version)}
    theirs, losses = by_hand(folder)
    assert {key.removeprefix("unet.").removesuffix(".weight") for key in mine} == theirs.keys()
    gaps = {key: float((mine[f"unet.{key}.weight"] - value).abs().max()) for key, value in theirs.items()}
    assert max(gaps.values()) <= 1e-6
    assert max(float(value.abs().max()) for key, value in theirs.items() if "lora_B" in key) > RATE
    assert np.allclose(json.loads(documents["run.json"])["losses"], losses, rtol=0, atol=1e-6)
