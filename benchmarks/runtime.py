"""How long composing takes, against diffusers with PEFT on the same UNet, one after the other in one run.

    python benchmarks/runtime.py --out benchmarks/results/runtime-mini.json
    python benchmarks/runtime.py --size full --dtype bfloat16 --registered 20 --out runtime-full.json

`full` is SDXL's UNet in its published shape, with random weights. The adapters are random too: rank 16 on all
attention projections, float16. Medians; every switch goes to other adapters than are active. A cold adapter
was never read by the process, and its file is in the page cache. Our time ends where it acts beside the
weights, as that of diffusers does, which injects modules; the time until it is fused stands beside it. In the
end more adapters are registered and read, `--many` in all, and the first ones are switched between again.
"""

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.pipelines import Pipelines
from adapterhub_registry.store import Registry
from benchmarks.machine import machine
from benchmarks.random_sdxl import random_unet, write_adapter

STACK = 3
SWITCH = {"cpu": 5.0, "cuda": 50.0}
COLD = {"cpu": 10.0, "cuda": 30.0}
MANY = 1.1


@click.command()
@click.option("--size", type=click.Choice(["mini", "full"]), default="mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--registered", default=50, show_default=True, help="Adapters that both have loaded before.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--many", default=0, help="Adapters in the end; 0 leaves that part out.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    size: str, device: str, dtype: str, registered: int, rounds: int, many: int, out: Path | None
) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    base = find_base("mini")
    pipeline: Any = load_pipeline(base, device=device, dtype=dtype)
    if size == "full":
        pipeline.unet = random_unet(device, getattr(torch, dtype))
        vars(base).update(architecture="sdxl", identity="")  # it is asked for what fits this UNet
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        files = [
            write_adapter(pipeline.unet, Path(folder), number) for number in range(registered + 2 * rounds)
        ]
        ours = measure_ours(pipeline, base, Path(folder), files, registered, rounds, synchronize)
        theirs = measure_theirs(pipeline, files, registered, rounds, synchronize)
        grown = measure_many(pipeline, base, Path(folder), many, rounds, synchronize) if many else {}
    values = {f"{name}, s": value for name, value in {**ours, **theirs, **grown}.items()}
    ratios: dict[str, tuple[float, float | None]] = {
        "switch: theirs / ours": (theirs["switch, diffusers"] / ours["switch"], SWITCH.get(device)),
        "cold: theirs / ours": (theirs["cold, diffusers"] / ours["cold"], COLD.get(device)),
        "cold and fused: theirs / ours": (theirs["cold, diffusers"] / ours["cold and fused"], None),
    }
    if grown:
        few, all_of_them = grown.values()
        ratios[f"switch: with few / with {many}"] = (few / all_of_them, round(1 / MANY, 3))
    settings = {
        "size": size,
        **machine(device, dtype),
        "registered": registered,
    }
    print(settings)
    for name, value in values.items():
        print(f"{name:34} {value:9.4f}")
    rows: list[dict[str, object]] = [
        {"measure": name, "value": round(value, 5)} for name, value in values.items()
    ]
    for name, (value, bound) in ratios.items():
        is_kept = bound is None or value >= bound
        print(f"{name:34} {value:9.1f}   at least {bound}   {'kept' if is_kept else 'MISSED'}")
        rows.append({"measure": name, "value": round(value, 2), "bound": bound, "kept": is_kept})
    if out is not None:
        out.write_text(json.dumps({**settings, "measures": rows}, indent=2) + "\n")
    raise SystemExit(0 if all(row.get("kept", True) for row in rows) else 1)


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
        cold: dict[str, list[float]] = {"low_rank": [], "fused": []}
        for number in range(registered, len(files)):
            plane = "low_rank" if number % 2 else "fused"
            runtime.compose(None)
            cold[plane].append(
                timed(lambda text=f"me/a{number}", at=plane: runtime.compose(text, plane=at), synchronize)
            )
    return {
        "switch": statistics.median(switch),
        "back to the base": restore,
        "cold": statistics.median(cold["low_rank"]),
        "cold and fused": statistics.median(cold["fused"]),
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


def measure_many(
    pipeline: Any, base: Any, folder: Path, many: int, rounds: int, synchronize: Callable[[], object]
) -> dict[str, float]:
    """Switch between two stacks when they are all there is, and when they are some of many."""
    registry = Registry(folder / "many")
    known = "mini" if base.architecture == "mini" else None
    stacks = ["me/m0 + me/m1 + me/m2", "me/m3 + me/m4 + me/m5"]

    def add(number: int) -> None:
        file = write_adapter(pipeline.unet, folder, number)
        registry.add(file, name=f"me/m{number}", base=known)
        file.unlink()

    def switching() -> float:
        for text in stacks:
            runtime.compose(text)
        times = [timed(lambda text=text: runtime.compose(text), synchronize) for text in stacks * rounds]
        return statistics.median(times)

    for number in range(2 * STACK):
        add(number)
    with Runtime(Pipelines(pipeline), base, registry=registry) as runtime:
        few = switching()
        for number in range(2 * STACK, many):
            add(number)
            runtime.compose(f"me/m{number}")
        return {f"switch with {2 * STACK}": few, f"switch with {many}": switching()}


if __name__ == "__main__":
    main()
