"""How long composing takes, against diffusers with PEFT on the same UNet, one after the other in one run.

    python benchmarks/runtime.py --out benchmarks/results/runtime-mini.json
    python benchmarks/runtime.py --size full --dtype bfloat16 --registered 20 --out runtime-full.json

`full` is SDXL's UNet in its published shape, with random weights. The adapters are random too: rank 16 on all
attention projections, float16. Medians; every switch goes to other adapters than are active. A cold adapter
was never read by the process, and its file is in the page cache; our time ends with its weights fused, and
that of diffusers with its modules injected.
"""

import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.pipelines import Pipelines
from adapterhub_registry.store import Registry
from tests.sdxl_configs import SDXL_UNET

RANK, STACK = 16, 3
SWITCH = {"cpu": 5.0, "cuda": 50.0}
COLD = {"cpu": 10.0, "cuda": 30.0}


@click.command()
@click.option("--size", type=click.Choice(["mini", "full"]), default="mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--registered", default=50, show_default=True, help="Adapters that both have loaded before.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(size: str, device: str, dtype: str, registered: int, rounds: int, out: Path | None) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    base = find_base("mini")
    pipeline: Any = load_pipeline(base, device=device, dtype=dtype)
    if size == "full":
        pipeline.unet = random_unet(device, getattr(torch, dtype))
        vars(base).update(architecture="sdxl", identity="")  # it is asked for what fits this UNet
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        files = [write_adapter(pipeline.unet, Path(folder), number) for number in range(registered + rounds)]
        ours = measure_ours(pipeline, base, Path(folder), files, registered, rounds, synchronize)
        theirs = measure_theirs(pipeline, files, registered, rounds, synchronize)
    values = {f"{name}, s": value for name, value in {**ours, **theirs}.items()}
    ratios = {
        "switch: theirs / ours": (theirs["switch, diffusers"] / ours["switch"], SWITCH.get(device)),
        "cold: theirs / ours": (theirs["cold, diffusers"] / ours["cold"], COLD.get(device)),
    }
    settings = {
        "size": size,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "registered": registered,
        "torch": torch.__version__,
    }
    print(settings)
    for name, value in values.items():
        print(f"{name:32} {value:9.4f}")
    rows: list[dict[str, object]] = [
        {"measure": name, "value": round(value, 5)} for name, value in values.items()
    ]
    for name, (value, bound) in ratios.items():
        is_kept = bound is None or value >= bound
        print(f"{name:32} {value:9.1f}   at least {bound}   {'kept' if is_kept else 'MISSED'}")
        rows.append({"measure": name, "value": round(value, 2), "bound": bound, "kept": is_kept})
    if out is not None:
        out.write_text(json.dumps({**settings, "measures": rows}, indent=2) + "\n")
    raise SystemExit(0 if all(row.get("kept", True) for row in rows) else 1)


def random_unet(device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """Return SDXL's UNet; drawing so many normal numbers would take longer than all the rest."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    unet = unet.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.uniform_(-0.02, 0.02)
    return unet


def write_adapter(unet: UNet2DConditionModel, folder: Path, number: int) -> Path:
    """Write a random adapter with diffusers' keys."""
    generator = torch.Generator().manual_seed(number)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and (".attn1." in name or ".attn2." in name):
            down = torch.empty(RANK, module.in_features, dtype=torch.float16)
            up = torch.empty(module.out_features, RANK, dtype=torch.float16)
            tensors[f"unet.{name}.lora_A.weight"] = down.uniform_(-0.1, 0.1, generator=generator)
            tensors[f"unet.{name}.lora_B.weight"] = up.uniform_(-0.1, 0.1, generator=generator)
    path = folder / f"adapter-{number}.safetensors"
    save_file(tensors, path)
    return path


def stacks(registered: int, rounds: int) -> list[list[int]]:
    """Return which adapters are active after each switch; neighbours share none."""
    return [[(STACK * turn + place) % registered for place in range(STACK)] for turn in range(rounds + 1)]


def timed(work: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Return seconds."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def measure_ours(
    pipeline: Any,
    base: Any,
    folder: Path,
    files: list[Path],
    registered: int,
    rounds: int,
    synchronize: Callable[[], object],
) -> dict[str, float]:
    """Switch and restore by `Runtime.compose`."""
    registry = Registry(folder / "home")
    for number, file in enumerate(files):
        registry.add(
            file, name=f"me/a{number}", base="mini" if base.architecture == "mini" else None, link=True
        )
    with Runtime(Pipelines(pipeline), base, registry=registry) as runtime:
        for number in range(registered):
            runtime.compose(f"me/a{number}")  # read and checked once, as theirs are loaded once
        order = [" + ".join(f"me/a{number}" for number in stack) for stack in stacks(registered, rounds)]
        runtime.compose(order[0])
        switch = [timed(lambda text=text: runtime.compose(text), synchronize) for text in order[1:]]
        restore = timed(lambda: runtime.compose(None), synchronize)
        cold = [
            timed(lambda number=number: runtime.compose(f"me/a{number}"), synchronize)
            for number in range(registered, registered + rounds)
        ]
    return {
        "switch": statistics.median(switch),
        "back to the base": restore,
        "cold": statistics.median(cold),
    }


def measure_theirs(
    pipeline: Any, files: list[Path], registered: int, rounds: int, synchronize: Callable[[], object]
) -> dict[str, float]:
    """Switch by `unfuse_lora`, `set_adapters` and `fuse_lora`."""
    names = [f"a{number}" for number in range(registered)]
    for name, file in zip(names, files, strict=False):
        pipeline.load_lora_weights(file, adapter_name=name)
    order = stacks(registered, rounds)

    def switch(stack: list[int], *, is_first: bool = False) -> None:
        chosen = [names[number] for number in stack]
        if not is_first:
            pipeline.unfuse_lora(components=["unet"])
        pipeline.set_adapters(chosen, [1.0] * len(chosen))
        pipeline.fuse_lora(components=["unet"], adapter_names=chosen)

    switch(order[0], is_first=True)
    switches = [timed(lambda stack=stack: switch(stack), synchronize) for stack in order[1:]]
    pipeline.unfuse_lora(components=["unet"])
    pipeline.unload_lora_weights()
    cold: list[float] = []
    for file in files[registered : registered + rounds]:
        cold.append(timed(lambda file=file: pipeline.load_lora_weights(file), synchronize))
        pipeline.unload_lora_weights()
    return {"switch, diffusers": statistics.median(switches), "cold, diffusers": statistics.median(cold)}


if __name__ == "__main__":
    main()
