"""How much memory baking takes: a checkpoint of 1.5 GB, streamed from file to file.

    python benchmarks/bake.py --out benchmarks/results/bake.json

The bound is one layer in float32 plus 256 MiB; a process of its own is measured by its peak resident memory,
before and after.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
from safetensors.torch import save_file

from adapterhub.formats.bake import bake
from adapterhub.formats.checkpoint import Checkpoint
from adapterhub.formats.names import unet_names
from adapterhub.formats.write import write_adapter
from adapterhub.lora.weights import AdapterTensors, LowRank, Target

SHAPE = (10240, 1280)
LAYERS = 57


def peak_mib() -> float:
    """Return the peak resident memory of this process (Linux; `ru_maxrss` would count the parent's, too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """Measure in a child, so that making the files is not counted, and print."""
    with tempfile.TemporaryDirectory() as folder:
        modules = [name for name in unet_names() if name.endswith("ff.net.0.proj")][:LAYERS]
        weight = torch.randn(SHAPE).half()
        save_file(
            {f"model.diffusion_model.{unet_names()[m]}.weight": weight.clone() for m in modules},
            Path(folder) / "base.safetensors",
        )
        layers = {
            Target("unet", m): LowRank(torch.randn(32, SHAPE[1]).half(), torch.randn(SHAPE[0], 32).half())
            for m in modules
        }
        write_adapter(AdapterTensors(layers), Path(folder) / "lora.safetensors")
        done = subprocess.run(  # noqa: S603
            [sys.executable, __file__, "child", folder], check=True, capture_output=True, text=True
        )
    facts = json.loads(done.stdout)
    bound = 256 + SHAPE[0] * SHAPE[1] * 4 / 2**20
    facts |= {"bound, MiB": bound, "kept": facts["growth, MiB"] <= bound}
    for name, value in facts.items():
        print(f"{name:20} {value}")
    if out is not None:
        out.write_text(json.dumps(facts, indent=2) + "\n")
    raise SystemExit(0 if facts["kept"] else 1)


def child(folder: Path) -> None:
    """Bake, and print what it took."""
    from adapterhub.formats.read import read_adapter

    checkpoint, adapter = Checkpoint(folder / "base.safetensors"), read_adapter(folder / "lora.safetensors")
    before, began = peak_mib(), time.perf_counter()
    changed = bake(checkpoint, [(adapter, 0.8)], folder / "out.safetensors")
    size = (folder / "out.safetensors").stat().st_size / 1e6
    facts = {
        "checkpoint, MB": round(size),
        "layers": changed,
        "seconds": round(time.perf_counter() - began, 1),
        "growth, MiB": round(peak_mib() - before),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]))
    else:
        main()
