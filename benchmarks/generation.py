"""How many pictures a second a base makes, 20 steps with guidance in batches of 8, against stock diffusers.

    python benchmarks/generation.py --out benchmarks/results/generation.json

Both use the same weights, scheduler and seeds, in turns; medians. The floor is the UNet alone: 16 pictures a
step, and nothing else.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from adapterhub.bases.find import find_base
from adapterhub.runtime.engine import Runtime

PROMPTS = ["a red heart", "cat face", "rocket", "a pizza", "snowman", "blue car", "tree", "clown face"]
BOUND = 2.0


@click.command()
@click.option("--base", default="mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(base: str, device: str, steps: int, repeats: int, out: Path | None) -> None:
    """Measure, print, and save."""
    found = find_base(base)
    stock = StableDiffusionXLPipeline.from_pretrained(found.path).to(device)
    stock.set_progress_bar_config(disable=True)
    with Runtime.load(found, device=device) as runtime, torch.inference_mode():
        unet = runtime.pipeline.unet

        def ours(seed: int) -> None:
            runtime.generate(PROMPTS, seed=seed, steps=steps, guidance_scale=5.0)

        def theirs(seed: int) -> None:
            stock(
                PROMPTS,
                num_inference_steps=steps,
                guidance_scale=5.0,
                generator=torch.Generator("cpu").manual_seed(seed),
            )

        def floor(_: int) -> None:
            count = 2 * len(PROMPTS)
            size = unet.config.sample_size
            latents = torch.zeros(count, 4, size, size, device=device, dtype=unet.dtype)
            width = unet.config.cross_attention_dim
            text = torch.zeros(count, 77, width, device=device, dtype=unet.dtype)
            pooled_width = unet.config.projection_class_embeddings_input_dim
            pooled_width -= 6 * unet.config.addition_time_embed_dim
            added = {
                "text_embeds": torch.zeros(count, pooled_width, device=device, dtype=unet.dtype),
                "time_ids": torch.zeros(count, 6, device=device, dtype=unet.dtype),
            }
            for step in range(steps):
                unet(latents, step, encoder_hidden_states=text, added_cond_kwargs=added)

        seconds = measure({"adapterhub": ours, "diffusers": theirs, "UNet alone": floor}, repeats)
    rate = len(PROMPTS) / seconds["adapterhub"]
    facts = {
        "machine": machine(device),
        "settings": {"steps": steps, "batch": len(PROMPTS), "guidance": 5.0, "base": base},
        "pictures a second": {name: round(len(PROMPTS) / value, 3) for name, value in seconds.items()},
        "time against diffusers": round(seconds["adapterhub"] / seconds["diffusers"], 3),
        "time against the UNet alone": round(seconds["adapterhub"] / seconds["UNet alone"], 3),
        "bound": BOUND,
        "kept": rate >= BOUND,
    }
    for name, value in facts.items():
        print(f"{name:28} {value}")
    if out is not None:
        out.write_text(json.dumps(facts, indent=2) + "\n")


def measure(runs: dict[str, Callable[[int], None]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, run in turns after one warm-up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run(number)
            if number:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in found.items()}


def machine(device: str) -> str:
    """Return what this ran on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
