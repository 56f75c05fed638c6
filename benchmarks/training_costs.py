"""What adapters trained together hold in memory, beside one plain run, and what deterministic kernels cost.

    python benchmarks/training_costs.py --out benchmarks/results/training-costs-mini.json
    python benchmarks/training_costs.py --base full --device cuda --dtype bfloat16 --out costs-sdxl.json

Each case has a process of its own. Its memory is `torch.cuda.max_memory_allocated` on CUDA; on the CPU it is
by how much the process has grown at its peak, with libraries that are loaded meanwhile. Its speed is that
after the start. The plain run is the loop of `training.py`: one adapter, without checkpointing. Cases of
speed take turns; medians. The bounds are for CUDA; on the CPU all is only reported.
"""

import json
import multiprocessing
import statistics
import tempfile
from pathlib import Path

import click
import torch

from adapterhub.training.progress import Progress, memory_bytes, peak_memory_bytes
from adapterhub.training.train import train
from adapterhub_registry.store import Registry
from benchmarks.machine import machine
from benchmarks.peer_training import Work
from benchmarks.training import own_config, plain, prepare

PLAIN, CHECKPOINTED = "plain run of one", "together, checkpointed"
TOGETHER, DETERMINISTIC = "together", "together, deterministic"
MEMORY, SLOWER = 1.0, 1.25


@click.command()
@click.option("--base", default="mini", show_default=True, help="One that there is, or tiny, or full.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--adapters", default=8, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    base: str, device: str, dtype: str, adapters: int, steps: int, rounds: int, out: Path | None
) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(base, device, dtype, steps, Path(folder))
        memory = {name: apart(name, work, adapters)[0] for name in (PLAIN, CHECKPOINTED)}
        rates: dict[str, list[float]] = {TOGETHER: [], DETERMINISTIC: []}
        for _ in range(rounds):
            for name, measured in rates.items():
                measured.append(apart(name, work, adapters)[1])
    at = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        f"{CHECKPOINTED} / {PLAIN}, memory": (memory[CHECKPOINTED] / memory[PLAIN], MEMORY),
        f"{DETERMINISTIC} / {TOGETHER}, time of a step": (at[TOGETHER] / at[DETERMINISTIC], SLOWER),
    }
    rows: list[dict[str, object]] = [
        *({"measure": f"{name}, bytes at the peak", "value": value} for name, value in memory.items()),
        *({"measure": f"{name}, steps/s", "value": round(value, 3)} for name, value in at.items()),
    ]
    for name, (value, bound) in ratios.items():
        limit = {"bound": bound, "kept": value <= bound} if device == "cuda" else {}
        rows.append({"measure": name, "value": round(value, 3), **limit})
    settings = {
        "base": base,
        **machine(device, dtype),
        "adapters": adapters,
        "batch": 1,
        "steps": steps,
    }
    print(settings)
    for row in rows:
        print(*row.values(), sep="   ")
    if out is not None:
        out.write_text(json.dumps({**settings, "measures": rows}, indent=2) + "\n")
    raise SystemExit(0 if all(row.get("kept", True) for row in rows) else 1)


def apart(name: str, work: Work, adapters: int) -> tuple[int, float]:
    """Run a case in a process of its own; return the bytes at its peak, and its steps per second."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (name, work, adapters))


def run(name: str, work: Work, adapters: int) -> tuple[int, float]:
    """Run a case here; of the plain run, no speed is told."""
    device = torch.device(work.device)
    before = 0 if device.type == "cuda" else memory_bytes(device)
    rates: dict[str, float] = {}

    def note(progress: Progress) -> None:
        rates[progress.name] = progress.steps_per_s

    if name == PLAIN:
        plain(work)
    else:
        config = own_config(
            work,
            [f"me/a{number}" for number in range(adapters)],
            gradient_checkpointing=int(name == CHECKPOINTED),
            deterministic=name == DETERMINISTIC,
        )
        with tempfile.TemporaryDirectory() as home:
            train(config, registry=Registry(Path(home)), on_progress=note)
    return peak_memory_bytes(device) - before, min(rates.values(), default=0.0)


if __name__ == "__main__":
    main()
