"""How much memory a training takes at its peak, foretold and measured.

    python benchmarks/memory.py --out benchmarks/results/memory-mini.json
    python benchmarks/memory.py --base ./my-sdxl --device cuda --dtype bfloat16 --out memory-sdxl.json

On CUDA what is measured is `torch.cuda.max_memory_allocated`, and the bound is 10 %. On the CPU it is by how
much the process has grown at its peak, with libraries that are loaded meanwhile, and only reported.
"""

import json
import platform
import tempfile
from pathlib import Path

import click
import torch

from adapterhub import quickstart
from adapterhub.bases.find import find_base
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.forecast import make_forecasts
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.plan import make_plan
from adapterhub.training.progress import memory_bytes, peak_memory_bytes
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

BOUND = 0.1


@click.command()
@click.option("--base", default="mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--adapters", default=2, show_default=True)
@click.option("--batch-size", default=2, show_default=True)
@click.option("--checkpointing", default=0, show_default=True)
@click.option("--steps", default=4, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    base: str,
    device: str,
    dtype: str,
    adapters: int,
    batch_size: int,
    checkpointing: int,
    steps: int,
    out: Path | None,
) -> None:
    """Print what was foretold and measured, and exit 1 if a bound is missed."""
    pictures = Path(quickstart.__path__[0]) / "pictures" / "style"
    config = TrainConfig(
        BaseConfig(base, device=device, dtype=dtype, gradient_checkpointing=checkpointing),
        tuple(
            AdapterConfig(
                name=f"me/a{number}",
                data=(DataConfig(pictures),),
                seed=number,
                steps=steps,
                batch_size=batch_size,
                no_upscale=False,  # the pictures are small, and the base's own size is what is asked for
                network=NetworkConfig(rank=16),
            )
            for number in range(adapters)
        ),
    )
    with tempfile.TemporaryDirectory() as home:
        registry = Registry(Path(home))
        found = find_base(base)
        (forecast,) = make_forecasts(make_plan(config, found, registry=registry), config, found)
        before = 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            before = memory_bytes(torch.device(device))
        train(config, registry=registry)
        measured = peak_memory_bytes(torch.device(device)) - before
    ratio = forecast.peak_bytes / measured
    is_kept = device != "cuda" or abs(ratio - 1) <= BOUND
    result = {
        "base": base,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "dtype": dtype,
        "adapters": adapters,
        "batch": batch_size,
        "gradient_checkpointing": checkpointing,
        "torch": torch.__version__,
        "parts": dict(forecast.memory),
        "foretold_bytes": forecast.peak_bytes,
        "measured_bytes": measured,
        "ratio": round(ratio, 3),
        "kept": is_kept,
    }
    print(f"foretold  {forecast.peak_bytes / 1e6:10.1f} MB, while {forecast.phase}")
    print(f"measured  {measured / 1e6:10.1f} MB")
    print(f"ratio     {ratio:10.3f}    {'kept' if is_kept else 'MISSED'}")
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
