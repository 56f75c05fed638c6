"""How long a step takes under a composition, against the base's and PEFT's, in one run.

    python benchmarks/steps.py --out benchmarks/results/steps-mini.json
    python benchmarks/steps.py --size full --dtype bfloat16 --pixels 128 --steps 3 --rounds 3
    python benchmarks/steps.py --size full --device cuda --dtype bfloat16 --pixels 1024

All cases take turns, so that what else the machine does falls on all; medians, and the spread of the base's
step (its quartiles, as a part of its median). The adapters are random, rank 16 on all attention projections.
A step's time is that between two steps of one picture, with guidance; a picture's is that of the whole call.
Switch changes adapters in every step; batches are of 8, the mixed one with as many stacks.
What PEFT adds is counted from stock diffusers' own step, with three adapters that are not fused.
"""

import json
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import torch
from diffusers.utils import logging

import adapterhub as ah
from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.pipelines import Pipelines
from adapterhub.runtime.plans import Composable
from adapterhub_registry.store import Registry
from benchmarks.machine import machine
from benchmarks.random_sdxl import random_pipeline, write_adapter

PROMPT, ADAPTERS, BATCH = "a red heart", 8, 8
BOUNDS = {"step with {} fused / base": 1.01, "what low-rank adds / what PEFT adds": 0.5}
CUDA_BOUNDS = {
    "picture under Switch / plain": 1.05,
    "picture under Composite / k plain": 1.05,
    "mixed batch / fused batch": 1 / 0.85,
}
Times = dict[str, list[float]]


@click.command()
@click.option("--size", type=click.Choice(["mini", "full"]), default="mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--pixels", type=int, help="Width and height; by default the base's own.")
@click.option("--steps", default=20, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--compile", "compiler", is_flag=True, help="Compile the UNet's blocks, with room for rank 64.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    size: str,
    device: str,
    dtype: str,
    pixels: int | None,
    steps: int,
    rounds: int,
    compiler: bool,
    out: Path | None,
) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    logging.set_verbosity_error()  # diffusers speaks of text encoders that an adapter leaves alone
    base = find_base("mini")
    if size == "mini":
        pipeline: Any = load_pipeline(base, device=device, dtype=dtype)
    else:
        pipeline = random_pipeline(device, getattr(torch, dtype))
        vars(base).update(architecture="sdxl", identity="")  # it is asked for what fits this UNet
    side = pixels or int(pipeline.unet.config.sample_size) * pipeline.vae_scale_factor
    given = {"steps": steps, "width": side, "height": side, "seed": 1}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        files = [write_adapter(pipeline.unet, Path(folder), number) for number in range(ADAPTERS)]
        registry = Registry(Path(folder) / "home")
        for number, file in enumerate(files):
            registry.add(file, name=f"me/a{number}", base="mini" if size == "mini" else None)
        reserve = 64 if compiler else None
        with Runtime(
            Pipelines(pipeline), base, registry=registry, compile=compiler, reserve_rank=reserve
        ) as runtime:
            step, picture = measure_ours(runtime, given, rounds)
        peft = measure_peft(pipeline, files, given, rounds)
    report(step | peft, picture, out, {
        "size": size,
        **machine(device, dtype),
        "pixels": side,
        "steps": steps,
        "compiled": compiler,
    })  # fmt: skip


def stack(first: int, count: int, weight: float = 0.1) -> str:
    """Return the text of so many adapters; a number may come again."""
    return " + ".join(f"me/a{(first + place) % ADAPTERS}:{weight}" for place in range(count))


def measure_ours(runtime: Runtime, given: dict[str, Any], rounds: int) -> tuple[Times, Times]:
    """Return seconds between steps, and of whole pictures, of each case."""
    three = ah.Composition.parse(stack(0, 3))
    fused = {f"{count} fused": stack(0, count) for count in range(1, 6)}
    cases: dict[str, tuple[Composable, str | None]] = {
        "base": (None, None),
        **{name: (text, "fused") for name, text in fused.items()},
        "3 low-rank": (three, "low_rank"),
        "Switch": (ah.Switch(three, every=1), None),
        "Composite": (ah.Composite(three), None),
    }
    stacks = [ah.Composition.parse(stack(number, 3)) for number in range(BATCH)]
    step: Times = defaultdict(list)
    picture: Times = defaultdict(list)
    for turn in range(rounds + 1):  # the first one warms up
        for name, (plan, plane) in cases.items():
            runtime.compose(plan, plane=plane)
            times = [time.perf_counter()]
            runtime.generate(PROMPT, **given, on_step=lambda *_, times=times: times.append(now(runtime)))
            seconds = now(runtime) - times[0]
            if turn:
                step[name] += [b - a for a, b in pairwise(times[1:])]
                picture[name].append(seconds)
        for name, plans in (("fused batch", [stacks[0]] * BATCH), ("mixed batch", stacks)):
            start = now(runtime)
            runtime.generate([PROMPT] * BATCH, composition=plans, **given)
            if turn:
                picture[name].append(now(runtime) - start)
    return step, picture


def measure_peft(pipeline: Any, files: list[Path], given: dict[str, Any], rounds: int) -> Times:
    """Return seconds between steps of stock diffusers, without adapters and with three that are not fused."""
    step: Times = defaultdict(list)
    settings = {
        "num_inference_steps": given["steps"], "guidance_scale": 5.0,
        "width": given["width"], "height": given["height"],
    }  # fmt: skip
    synchronize = torch.cuda.synchronize if pipeline.unet.device.type == "cuda" else lambda: None
    for turn in range(rounds + 1):
        for name in ("stock", "3 by PEFT"):
            if name != "stock":
                names = [f"a{number}" for number in range(3)]
                for adapter, file in zip(names, files, strict=False):
                    pipeline.load_lora_weights(file, adapter_name=adapter)
                pipeline.set_adapters(names, [0.1] * 3)
            times: list[float] = []

            def stamp(_: Any, __: int, ___: Any, given: dict[str, Any], times: list[float] = times) -> Any:
                synchronize()
                times.append(time.perf_counter())
                return given

            pipeline(PROMPT, **settings, callback_on_step_end=stamp)
            if turn:
                step[name] += [b - a for a, b in pairwise(times)]
        pipeline.unload_lora_weights()
    return step


def now(runtime: Runtime) -> float:
    """Return the time when all that was asked of the device is done."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def report(step: Times, picture: Times, out: Path | None, settings: dict[str, object]) -> None:
    """Print and save."""
    at = {name: statistics.median(times) for name, times in step.items()}
    whole = {name: statistics.median(times) for name, times in picture.items()}
    low, _, high = statistics.quantiles(step["base"])
    low_rank, peft = at["3 low-rank"] - at["base"], at["3 by PEFT"] - at["stock"]
    ratios = {f"step with {n} fused / base": at[f"{n} fused"] / at["base"] for n in range(1, 6)}
    ratios |= {
        "what low-rank adds / what PEFT adds": low_rank / peft,
        "picture under Switch / plain": whole["Switch"] / whole["3 fused"],
        "picture under Composite / k plain": whole["Composite"] / (3 * whole["base"]),
        "mixed batch / fused batch": whole["mixed batch"] / whole["fused batch"],
    }
    bounds = BOUNDS if settings["device"] == platform.machine() else BOUNDS | CUDA_BOUNDS
    print(settings)
    rows: list[dict[str, object]] = []
    for name, value in at.items():
        print(f"step, {name:34} {value:9.5f} s")
        rows.append({"measure": f"step, {name}, s", "value": round(value, 6)})
    for name, value in whole.items():
        print(f"picture, {name:31} {value:9.4f} s")
        rows.append({"measure": f"picture, {name}, s", "value": round(value, 5)})
    spread = (high - low) / at["base"]
    print(f"spread of the base's step {spread:21.1%}")
    rows.append({"measure": "spread of the base's step", "value": round(spread, 4)})
    for name, value in ratios.items():
        is_fused = name.endswith("fused / base")
        bound = bounds.get("step with {} fused / base" if is_fused else name)
        if bound is None:
            print(f"{name:40} {value:9.3f}")
            rows.append({"measure": name, "value": round(value, 4)})
            continue
        within = value <= bound + (spread if is_fused else 0)
        print(f"{name:40} {value:9.3f}   at most {bound:.3f}   {'kept' if within else 'MISSED'}")
        rows.append({"measure": name, "value": round(value, 4), "bound": round(bound, 4), "kept": within})
    if out is not None:
        out.write_text(json.dumps({**settings, "measures": rows}, indent=2) + "\n")
    raise SystemExit(0 if all(row.get("kept", True) for row in rows) else 1)


if __name__ == "__main__":
    main()
