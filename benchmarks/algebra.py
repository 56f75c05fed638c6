"""CPU time of merges, resizes and inner products beside PEFT and full matrices, in one run on one thread.

Run: python benchmarks/algebra.py [--quick] [--peer DIR] [--out FILE.json]

Peers do the same work on the same factors: PEFT's own `add_weighted_adapter` and `ties`, and full SVDs. They
are measured on one layer of each shape and multiplied by the counts of SDXL's 722 layers; ours runs on all.
Rounds alternate; medians are given. With --peer, a checkout of kohya's sd-scripts is measured too.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.merge_utils import ties as peft_ties
from safetensors.torch import save_file
from torch import Tensor, nn

from adapterhub.lora.algebra import gram
from adapterhub.lora.elementwise import collect, ties
from adapterhub.lora.merge import merge
from adapterhub.lora.resize import resize
from adapterhub.lora.weights import AdapterTensors, LowRank, Target

Shape = tuple[int, int]
# The linear layers of SDXL's transformers, which is what kohya trains by default: (out, in) to their number.
SDXL: dict[Shape, int] = {
    (640, 640): 70,
    (1280, 1280): 372,
    (640, 2048): 20,
    (1280, 2048): 120,
    (5120, 640): 10,
    (10240, 1280): 60,
    (640, 2560): 10,
    (1280, 5120): 60,
}
QUICK: dict[Shape, int] = {(640, 640): 4, (640, 2048): 2}
WEIGHTS = [0.7, 0.5]
DENSITY = 0.2


@dataclass
class Table:
    """What was measured, printed as it comes."""

    is_quick: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, measure: str, value: float | str, unit: str = "", bound: tuple[str, float] | None = None
    ) -> None:
        """Print a row and keep it; bounds are for the full run."""
        rounded = value if isinstance(value, str) else round(value, 4)
        row: dict[str, Any] = {"measure": measure, "value": rounded, "unit": unit}
        if bound is not None and not self.is_quick and not isinstance(value, str):
            side, limit = bound
            row |= {
                "bound": f"{side} {limit}",
                "kept": value <= limit if side == "at most" else value >= limit,
            }
        shown = value if isinstance(value, str) else f"{value:10.3f} {unit}"
        verdict = f"{row['bound']}: {'kept' if row['kept'] else 'NOT KEPT'}" if "bound" in row else ""
        print(f"{measure:62} {shown:20} {verdict}", flush=True)
        self.rows.append(row)


def factors(shape: Shape, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `(up, down)` whose product has falling singular values, as a trained adapter's has."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, generator=generator) * 0.9 ** torch.arange(rank)
    return up, torch.randn(rank, shape[1], generator=generator)


def adapter(counts: dict[Shape, int], rank: int, seed: int) -> AdapterTensors:
    """Return an adapter with so many layers of each shape."""
    layers: dict[Target, LowRank] = {}
    for shape, count in counts.items():
        for place in range(count):
            up, down = factors(shape, rank, seed + 1000 * place)
            layers[Target("unet", f"{shape[0]}x{shape[1]}.{place}")] = LowRank(down, up)
    return AdapterTensors(layers)


def streamed(deltas: list[tuple[Tensor, Tensor]]) -> None:
    """Run TIES and let the rows go, as when they are added to a weight."""
    for _rows, _values in ties(deltas, WEIGHTS, density=DENSITY):
        pass


def cpu_seconds(program: Callable[[], object], repeats: int = 1) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    for _ in range(repeats):
        program()
    return (time.process_time() - start) / repeats


def medians(rounds: int, *programs: Callable[[], object]) -> list[float]:
    """Return the median CPU seconds of each program, in turns; short ones are repeated to 50 ms."""
    repeats = [max(int(0.05 / cpu_seconds(program)), 1) for program in programs]
    times: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, count, found in zip(programs, repeats, times, strict=True):
            found.append(cpu_seconds(program, count))
    return [sorted(found)[len(found) // 2] for found in times]


def peft_svd(shape: Shape, ranks: tuple[int, int], rank: int) -> Callable[[], object]:
    """Return PEFT's own svd merge of one layer."""
    configs = [LoraConfig(r=count, lora_alpha=count, target_modules=["0"]) for count in ranks]
    peft = get_peft_model(nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)), configs[0], "first")
    peft.add_adapter("second", configs[1])
    model = peft.base_model
    layer = model.model[0]
    for name, count, seed in zip(("first", "second"), ranks, (1, 2), strict=True):
        up, down = factors(shape, count, seed)
        layer.lora_B[name].weight.data, layer.lora_A[name].weight.data = up, down

    def run() -> None:
        model.add_weighted_adapter(
            ["first", "second"], WEIGHTS, "merged", combination_type="svd", svd_rank=rank
        )
        model.delete_adapter("merged")

    return run


def load_kohya(peer: Path | None) -> Callable[..., object] | str:
    """Return the merge of kohya's `svd_merge_lora` from a checkout, or why there is none."""
    if peer is None:
        return "not measured: no --peer"
    sys.path[:0] = [str(peer), str(peer / "networks")]
    try:
        from svd_merge_lora import merge_lora_models  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return f"not measured: {error}"
    return merge_lora_models


def kohya_files(folder: Path, shape: Shape, ranks: tuple[int, int]) -> list[str]:
    """Write the two adapters of one layer in kohya's format."""
    files: list[str] = []
    for count, seed in zip(ranks, (1, 2), strict=True):
        up, down = factors(shape, count, seed)
        name = "lora_unet_input_blocks_4_1_proj_in"
        tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        files.append(str(folder / f"{shape[0]}x{shape[1]}-{seed}.safetensors"))
        save_file(tensors | {f"{name}.alpha": torch.tensor(float(count))}, files[-1])
    return files


def measure_svd(table: Table, counts: dict[Shape, int], rounds: int, peer: Path | None) -> None:
    """Ranks 32 + 64 to 32, all layers."""
    pair = [adapter(counts, 32, 1), adapter(counts, 64, 2)]
    (whole,) = medians(rounds, lambda: merge(pair, WEIGHTS, method="svd", rank=32))
    pair.clear()
    layers = sum(counts.values())
    theirs, scripts, kohya = 0.0, 0.0, load_kohya(peer)
    with tempfile.TemporaryDirectory() as folder:
        for shape, count in counts.items():
            one = [adapter({shape: 1}, 32, 1), adapter({shape: 1}, 64, 2)]
            programs: list[Callable[[], object]] = [
                lambda one=one: merge(one, WEIGHTS, method="svd", rank=32),
                peft_svd(shape, (32, 64), 32),
            ]
            if not isinstance(kohya, str):
                files = kohya_files(Path(folder), shape, (32, 64))
                programs.append(partial(kohya, files, WEIGHTS, [], 32, 32, None, torch.float32))
            ours, other, *rest = medians(rounds, *programs)
            theirs += count * other
            scripts += count * sum(rest)
            table.add(f"svd merge {shape[0]}x{shape[1]}: PEFT's svd, times ours", other / ours, "x")
    table.add(f"svd merge of {layers} layers, ranks 32+64 to 32", whole, "s", ("at most", 10))
    table.add(f"svd merge of {layers} layers: PEFT's svd, times ours", theirs / whole, "x", ("at least", 150))
    name = f"svd merge of {layers} layers: kohya's svd_merge_lora, times ours"
    table.add(name, kohya if isinstance(kohya, str) else scripts / whole, "x")


def measure_resize(table: Table, shapes: list[Shape], rounds: int) -> None:
    """Rank 64 to 16, against the SVD of the full matrix that scripts take."""
    for shape in shapes:
        one = adapter({shape: 1}, 64, 3)
        ((_, layer),) = one.layers.items()

        def by_full_svd(layer: LowRank = layer) -> object:
            u, s, v = torch.linalg.svd(layer.delta())
            return u[:, :16] * s[:16], v[:16]

        ours, full = medians(rounds, lambda one=one: resize(one, rank=16), by_full_svd)
        limit = 40 if shape == (640, 640) else 150
        name = f"resize 64 to 16, {shape[0]}x{shape[1]}: full SVD, times ours"
        table.add(name, full / ours, "x", ("at least", limit))


def measure_knots(table: Table, shape: Shape, rounds: int) -> None:
    """KnOTS with TIES, ranks 32 + 32, against its definition on full matrices."""
    pair = [adapter({shape: 1}, 32, seed) for seed in (1, 2)]

    def dense() -> Tensor:
        deltas = [layer.delta() for one in pair for layer in one.layers.values()]
        u, s, v = torch.linalg.svd(torch.cat(deltas, dim=1), full_matrices=False)
        halves = list((s[:, None] * v).split(shape[1], dim=1))
        return u @ peft_ties(halves, torch.tensor(WEIGHTS), DENSITY)

    ours, full = medians(rounds, lambda: merge(pair, WEIGHTS, method="knots", density=DENSITY), dense)
    table.add(f"KnOTS {shape[0]}x{shape[1]}: full matrices, times ours", full / ours, "x", ("at least", 50))


def measure_ties(table: Table, shape: Shape, rounds: int) -> None:
    """Ranks 32 + 32, by rows, against PEFT's `ties` on deltas that are there already."""
    deltas = [factors(shape, 32, seed) for seed in (1, 2)]
    full = [up @ down for up, down in deltas]
    weights = torch.tensor(WEIGHTS)
    ours, theirs = medians(rounds, lambda: streamed(deltas), lambda: peft_ties(full, weights, DENSITY))
    name = f"streamed TIES {shape[0]}x{shape[1]}"
    table.add(f"{name}: part of PEFT's CPU time", ours / theirs, "", ("at most", 0.4))
    differ = collect(ties(deltas, WEIGHTS, density=DENSITY), shape) != peft_ties(full, weights, DENSITY)
    table.add(f"{name}: entries that differ from PEFT's (ties at the cut)", float(differ.sum()))
    words = [sys.executable, __file__, "--growth", *map(str, shape)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)  # noqa: S603
    table.add(f"{name}: growth of memory", float(done.stdout), "MiB", ("at most", 100))


def print_growth(shape: Shape) -> None:
    """Print by how many MiB the peak of memory grows in streamed TIES, in a process of its own."""
    streamed([factors((64, 64), 32, seed) for seed in (1, 2)])
    deltas = [factors(shape, 32, seed) for seed in (1, 2)]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before = status_mib("VmRSS")
    streamed(deltas)
    print(status_mib("VmHWM") - before)


def status_mib(name: str) -> float:
    """Return a figure of Linux's /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measure_gram(table: Table, counts: dict[Shape, int], rounds: int, how_many: int, limit: float) -> None:
    """Norms and all cosines, layer by layer, rank 32."""
    adapters = [adapter(counts, 32, seed) for seed in range(how_many)]

    def cosines() -> Tensor:
        total = torch.zeros(how_many, how_many, dtype=torch.float64)
        for target in adapters[0].layers:
            total += gram([one.low_rank()[target].factors() for one in adapters])
        norms = total.diagonal().sqrt()
        return total / (norms[:, None] * norms)

    (ours,) = medians(rounds, cosines)
    name = f"norms and cosines of {how_many} adapters, {sum(counts.values())} layers"
    table.add(name, ours, "s", ("at most", limit))


@click.command()
@click.option("--quick", is_flag=True, help="Small shapes only, and no bounds; under a minute.")
@click.option("--peer", type=click.Path(path_type=Path, exists=True), help="A checkout of sd-scripts.")
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--growth", nargs=2, type=int, hidden=True)
def main(quick: bool, peer: Path | None, out: Path | None, growth: Shape | None) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    if growth is not None:
        print_growth(growth)
        return
    table = Table(quick)
    counts, rounds = (QUICK, 3) if quick else (SDXL, 3)
    measure_svd(table, counts, rounds, peer)
    shapes = [(640, 640)] if quick else [(640, 640), (1280, 1280), (1280, 5120), (10240, 1280)]
    measure_resize(table, shapes, rounds)
    measure_knots(table, (640, 640) if quick else (1280, 1280), rounds)
    measure_ties(table, (1280, 1280) if quick else (10240, 1280), rounds)
    measure_gram(table, counts, rounds, 2, 1)
    measure_gram(table, counts, rounds, 8, 8)
    if out is not None:
        libraries = {name: version(name) for name in ("torch", "peft", "numpy")}
        result = {
            "machine": platform.machine(),
            "threads": 1,
            "quick": quick,
            **libraries,
            "measures": table.rows,
        }
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
