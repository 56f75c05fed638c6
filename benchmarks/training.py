"""How long training takes: adapters together against one after another, and one against a plain loop.

    python benchmarks/training.py --out benchmarks/results/training-mini.json
    python benchmarks/training.py --base tiny --out benchmarks/results/training-tiny.json
    python benchmarks/training.py --peer ./diffusers --out benchmarks/results/training-mini.json
    python benchmarks/training.py --base full --device cuda --dtype bfloat16 --out training-sdxl.json

Everything is included: loading the base, reading and encoding pictures, training, registering. The pictures
are the first of the quickstart's style, at the base's size; `tiny` and `full` are SDXL with random weights,
written for the run. The plain loop is written here, as diffusers' `train_text_to_image_lora_sdxl.py` does it:
PEFT's layers on the attention, the VAE and both text encoders in every step, AdamW, clipping. It has the same
pictures, steps, rank, batch and dtype, and writes its weights. Cases take turns; medians. Threads are torch's
own choice for all.

With `--peer`, a checkout of diffusers, that script runs as well, as it stands; `peer_training.py` says how.
The peer's script needs `datasets` and `torchvision`, which we do not.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from adapterhub import quickstart
from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, GroupConfig, TrainConfig
from adapterhub.training.dataset import load_picture, read_dataset
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.train import train
from adapterhub_registry.store import Registry
from benchmarks import peer_training
from benchmarks.machine import machine
from benchmarks.peer_training import Work
from benchmarks.random_sdxl import TINY, random_pipeline

TOGETHER = {"mini": 1.5, "cuda": 2.5}
ALONE = {"mini": 1.5, "cuda": 2.0}
RANDOM = {"tiny": TINY, "full": {}}
RANK, PICTURES = 16, 20


@click.command()
@click.option("--base", default="mini", show_default=True, help="One that there is, or tiny, or full.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--adapters", default=8, show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--peer",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run the script of this checkout of diffusers too.",
)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    base: str,
    device: str,
    dtype: str,
    adapters: int,
    steps: int,
    rounds: int,
    peer: Path | None,
    out: Path | None,
) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(base, device, dtype, steps, Path(folder))
        cases = own_cases(work, adapters)
        if peer is not None:
            cases |= peer_training.cases(peer, work)
        settings: dict[str, object] = {
            "base": base,
            **machine(device, dtype),
            "pixels": work.base.resolution,
            "pictures": PICTURES,
            "steps": steps,
            "batch": 1,
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                start = time.perf_counter()
                case()
                seconds[name].append(time.perf_counter() - start)
    at = {name: statistics.median(times) for name, times in seconds.items()}
    apart, together = at[f"{adapters} runs"], at[f"{adapters} together"]
    rates: dict[str, float] = {}
    place = base if device == "cpu" else device  # on the CPU the bounds are those of mini
    ratios = {
        f"{adapters} runs / {adapters} together": (apart / together, TOGETHER.get(place)),
        "plain loop / one": (at["plain loop"] / at["one"], ALONE.get(place)),
    }
    if peer is not None:
        rates = peer_training.rates(at, steps)
        whole, rate = peer_training.ratios(at, rates, steps)
        # How far the start weighs is a matter of the number of steps, so the bound is that of the rate.
        ratios["peer's script / one process, whole"] = whole, None
        ratios["one process / peer's script, pictures/s"] = rate, ALONE.get(place)
    report(seconds, rates, ratios, out, settings)


def prepare(base: str, device: str, dtype: str, steps: int, folder: Path) -> Work:
    """Return what is trained; a random base, and the pictures, are written to a folder.

    Args:
        base: A name, or one of `RANDOM`.
        device: Where.
        dtype: That the base computes in.
        steps: Of each adapter.
        folder: For the files.
    """
    found = write_base(base, dtype, folder) if base in RANDOM else find_base(base)
    pictures = write_pictures(folder / "pictures", found.resolution)
    return Work(found, device, dtype, pictures, RANK, steps)


def write_base(size: str, dtype: str, folder: Path) -> Base:
    """Write an SDXL with random weights, and return it."""
    path = folder / size
    random_pipeline("cpu", getattr(torch, dtype), changes=RANDOM[size]).save_pretrained(path)
    return find_base(path)


def write_pictures(folder: Path, side: int) -> Path:
    """Write the first pictures of the quickstart's style with this side, as both sides read them."""
    folder.mkdir()
    lines: list[str] = []
    for item in read_dataset(Path(quickstart.__path__[0]) / "pictures" / "style").examples[:PICTURES]:
        with Image.open(item.path) as picture:
            picture.convert("RGB").resize((side, side)).save(folder / item.name)
        lines.append(json.dumps({"file_name": item.name, "text": item.caption}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def own_cases(work: Work, adapters: int) -> dict[str, Callable[[], None]]:
    """Return the trainings of this process by name."""
    names = [f"me/a{number}" for number in range(adapters)]

    def ours(*runs: TrainConfig) -> None:
        home = Path(tempfile.mkdtemp())
        for run in runs:
            train(run, registry=Registry(home))
        shutil.rmtree(home)

    return {
        f"{adapters} together": lambda: ours(own_config(work, names)),
        f"{adapters} runs": lambda: ours(*(own_config(work, [name]) for name in names)),
        "one": lambda: ours(own_config(work, names[:1])),
        "plain loop": lambda: plain(work),
    }


def own_config(
    work: Work, names: Sequence[str], *, gradient_checkpointing: int = 0, deterministic: bool = False
) -> TrainConfig:
    """Return the config that trains adapters of these names together."""
    base = str(work.base.path)
    return TrainConfig(
        BaseConfig(base, device=work.device, dtype=work.dtype, gradient_checkpointing=gradient_checkpointing),
        tuple(
            AdapterConfig(
                name=name,
                data=(DataConfig(work.pictures),),
                seed=number,
                steps=work.steps,
                batch_size=1,
                network=NetworkConfig(rank=RANK, targets=("attn",)),
            )
            for number, name in enumerate(names)
        ),
        GroupConfig(max_adapters=len(names), deterministic=deterministic),
    )


def report(
    seconds: Mapping[str, Sequence[float]],
    rates: Mapping[str, float],
    ratios: Mapping[str, tuple[float, float | None]],
    out: Path | None,
    settings: dict[str, object],
) -> None:
    """Print and save."""
    print(settings)
    rows: list[dict[str, object]] = []
    for name, times in seconds.items():
        value = statistics.median(times)
        print(f"{name:40} {value:8.2f} s   {min(times):.2f} to {max(times):.2f}")
        rows.append({"measure": f"{name}, s", "value": round(value, 3)})
    for name, value in rates.items():
        print(f"{name:40} {value:8.2f} pictures/s")
        rows.append({"measure": f"{name}, pictures/s", "value": round(value, 3)})
    for name, (value, bound) in ratios.items():
        if bound is None:
            print(f"{name:40} {value:8.2f}")
            rows.append({"measure": name, "value": round(value, 3)})
            continue
        is_kept = value >= bound
        print(f"{name:40} {value:8.2f}     at least {bound}   {'kept' if is_kept else 'MISSED'}")
        rows.append({"measure": name, "value": round(value, 3), "bound": bound, "kept": is_kept})
    if out is not None:
        out.write_text(json.dumps({**settings, "measures": rows}, indent=2) + "\n")
    raise SystemExit(0 if all(row.get("kept", True) for row in rows) else 1)


def plain(work: Work) -> None:
    """Train one adapter at batch 1 by a plain loop over diffusers' and PEFT's parts."""
    torch.manual_seed(0)
    pipeline: Any = load_pipeline(work.base, device=work.device, dtype=work.dtype)
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    device, side = work.device, work.base.resolution
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-2)
    examples = read_dataset(work.pictures).examples
    alphas = scheduler.alphas_cumprod.to(device)
    order = torch.randperm(len(examples)).tolist()
    for step in range(work.steps):
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
