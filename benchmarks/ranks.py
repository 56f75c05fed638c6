"""How much rank a style needs: the quickstart's style, learnt at several ranks in one training.

    python benchmarks/ranks.py --out benchmarks/results/ranks.json

A tenth of its pictures is held out. All ranks are trained together, with one seed, rate and a scaling of 1,
and measured on the held-out pictures, at noise that never changes. Of the highest rank it is measured
too how much of its update's squared norm a smaller rank would keep, by the singular values of each layer.
"""

import json
import platform
import statistics
import tempfile
from pathlib import Path

import click
import torch

from adapterhub import quickstart
from adapterhub.formats.read import read_adapter
from adapterhub.lora.algebra import decompose
from adapterhub.lora.weights import LowRank
from adapterhub.training.adapter_config import ValidationConfig
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.runs import find_runs
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

RANKS = (1, 4, 16, 64)
HELD_OUT = 0.1


@click.command()
@click.option("--steps", default=200, show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(steps: int, batch: int, out: Path | None) -> None:
    """Train, and print a table."""
    pictures = Path(quickstart.__path__[0]) / "pictures" / "style"
    config = TrainConfig(
        BaseConfig("mini", device="cpu"),
        tuple(
            AdapterConfig(
                name=f"me/rank-{rank}",
                data=(DataConfig(pictures),),
                seed=1,
                steps=steps,
                batch_size=batch,
                network=NetworkConfig(rank=rank),
                optimizer=OptimizerConfig(learning_rate=1.2e-3),
                validation=ValidationConfig(held_out=HELD_OUT, loss_every=max(steps // 4, 1)),
            )
            for rank in RANKS
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        versions = train(config, registry=registry)
        (run,) = find_runs(registry.home)
        measured = {rank: adapter.measured for rank, adapter in zip(RANKS, run.adapters, strict=True)}
        kept = energy_kept(registry.payload(versions[-1]))
    base = measured[RANKS[0]][0][1]
    for rank, curve in measured.items():
        print(f"rank {rank:3}  held-out loss {curve[-1][1]:.5f}, from {base:.5f}")
    print(f"of rank {RANKS[-1]}'s squared norm: {kept}")
    result = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "steps": steps,
        "batch": batch,
        "held-out loss": {
            str(rank): [[step, round(loss, 5)] for step, loss in curve] for rank, curve in measured.items()
        },
        f"kept of rank {RANKS[-1]}": {str(rank): part for rank, part in kept.items()},
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n")


def energy_kept(file: Path) -> dict[int, float]:
    """Return the part of a layer's squared norm that lower ranks keep, the median over layers."""
    layers = [layer for layer in read_adapter(file).layers.values() if isinstance(layer, LowRank)]
    spectra = [decompose(layer.up, layer.down).s.square() for layer in layers]
    return {
        rank: round(statistics.median(float(s[:rank].sum() / s.sum()) for s in spectra), 4)
        for rank in RANKS[:-1]
    }


if __name__ == "__main__":
    main()
