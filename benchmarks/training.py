"""How long training takes: adapters together against one after another, and one against a plain loop.

    python benchmarks/training.py --out benchmarks/results/training-mini.json
    python benchmarks/training.py --base ./my-sdxl --device cuda --dtype bfloat16 --out training-sdxl.json

Everything is included: loading the base, reading and encoding pictures, training, registering. The plain loop
is written here, as diffusers' `train_text_to_image_lora_sdxl.py` does it: PEFT's layers on the attention, the
VAE and both text encoders in every step, AdamW, clipping. It has the same pictures, steps, rank, batch and
dtype, and writes its weights. Cases take turns; medians. Threads are torch's own choice for all.
"""

import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from adapterhub import quickstart
from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.dataset import load_picture, read_dataset
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

TOGETHER = {"cpu": 1.5, "cuda": 2.5}
ALONE = {"cpu": 1.5, "cuda": 2.0}
RANK = 16


@click.command()
@click.option("--base", default="mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--adapters", default=8, show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    base: str, device: str, dtype: str, adapters: int, steps: int, rounds: int, out: Path | None
) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    pictures = Path(quickstart.__path__[0]) / "pictures" / "style"
    names = [f"me/a{number}" for number in range(adapters)]

    def config(*chosen: str) -> TrainConfig:
        return TrainConfig(
            BaseConfig(base, device=device, dtype=dtype),
            tuple(
                AdapterConfig(
                    name=name,
                    data=(DataConfig(pictures),),
                    seed=number,
                    steps=steps,
                    batch_size=1,
                    network=NetworkConfig(rank=RANK, targets=("attn",)),
                )
                for number, name in enumerate(chosen)
            ),
        )

    def ours(*runs: TrainConfig) -> None:
        home = Path(tempfile.mkdtemp())
        for run in runs:
            train(run, registry=Registry(home))
        shutil.rmtree(home)

    cases: dict[str, Callable[[], None]] = {
        f"{adapters} together": lambda: ours(config(*names)),
        f"{adapters} runs": lambda: ours(*(config(name) for name in names)),
        "one": lambda: ours(config(names[0])),
        "plain loop": lambda: plain(base, device, dtype, pictures, steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    at = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {
        f"{adapters} runs / {adapters} together": (
            at[f"{adapters} runs"] / at[f"{adapters} together"],
            TOGETHER.get(device),
        ),
        "plain loop / one": (at["plain loop"] / at["one"], ALONE.get(device)),
    }
    settings: dict[str, object] = {
        "base": base,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "steps": steps,
        "batch": 1,
        "torch": torch.__version__,
    }
    print(settings)
    rows: list[dict[str, object]] = []
    for name, value in at.items():
        print(f"{name:24} {value:8.2f} s   {min(seconds[name]):.2f} to {max(seconds[name]):.2f}")
        rows.append({"measure": f"{name}, s", "value": round(value, 3)})
    for name, (value, bound) in ratios.items():
        is_kept = bound is None or value >= bound
        print(f"{name:24} {value:8.2f}     at least {bound}   {'kept' if is_kept else 'MISSED'}")
        rows.append({"measure": name, "value": round(value, 3), "bound": bound, "kept": is_kept})
    if out is not None:
        out.write_text(json.dumps({**settings, "measures": rows}, indent=2) + "\n")
    raise SystemExit(0 if all(row.get("kept", True) for row in rows) else 1)


def plain(base: str, device: str, dtype: str, pictures: Path, steps: int) -> None:
    """Train one adapter at batch 1 by a plain loop over diffusers' and PEFT's parts."""
    torch.manual_seed(0)
    pipeline: Any = load_pipeline(find_base(base), device=device, dtype=dtype)
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    side = int(unet.config.sample_size) * pipeline.vae_scale_factor
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-2)
    examples = read_dataset(pictures).examples
    alphas = scheduler.alphas_cumprod.to(device)
    order = torch.randperm(len(examples)).tolist()
    for step in range(steps):
        item = examples[order[step % len(order)]]
        pixels = load_picture(item.path, side)[None].to(vae.device, vae.dtype)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            states, _, pooled, _ = pipeline.encode_prompt(item.caption, do_classifier_free_guidance=False)
        latents = latents.to(unet.dtype)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, len(alphas), (1,), device=device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(unet.dtype)
        size_ids = torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=unet.dtype)
        added = {"text_embeds": pooled, "time_ids": size_ids}
        predicted = unet(noisy, timesteps, states, added_cond_kwargs=added, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    with tempfile.TemporaryDirectory() as folder:
        state = {name: value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
        save_file(state, Path(folder) / "pytorch_lora_weights.safetensors")


if __name__ == "__main__":
    main()
