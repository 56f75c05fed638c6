"""How fast files are recognised and read: a LoRA of the full SDXL set, about 200 MB.

    python benchmarks/formats.py --out benchmarks/results/formats.json

The probe reads the header alone. Reading is compared with `safetensors.torch.load_file` of the same file,
both with a sum over every tensor, so that all bytes are touched. What is remembered of names is cleared in
every round.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

from adapterhub.formats.names import unet_names
from adapterhub.formats.read import read_adapter
from adapterhub_registry import dialects
from adapterhub_registry.probe import probe

RANK = 38
WIDTHS = {"0": 320, "1": 640, "2": 1280}


def write_sdxl(path: Path) -> int:
    """Write a kohya file for SDXL's 722 transformer linears in float16; return its size."""
    tensors: dict[str, torch.Tensor] = {}
    for module, sgm in unet_names().items():
        if "attentions" not in module:
            continue
        block = module.split(".")[1] if "mid" not in module else "2"
        width = (
            1280 if module.startswith("mid") else WIDTHS[block if "down" in module else str(2 - int(block))]
        )
        depth = 2 if width == 640 else 10
        part = module.split("transformer_blocks.")[-1]
        if "transformer_blocks" in module and int(part.split(".")[0]) >= depth:
            continue
        ins = (
            2048
            if "attn2.to_k" in part or "attn2.to_v" in part
            else 4 * width
            if "ff.net.2" in part
            else width
        )
        outs = 8 * width if "ff.net.0" in part else width
        name = f"lora_unet_{sgm.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, ins).half()
        tensors[f"{name}.lora_up.weight"] = torch.randn(outs, RANK).half()
        tensors[f"{name}.alpha"] = torch.tensor(8.0)
    save_file(tensors, path, metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    return path.stat().st_size


def median(function: Callable[[], object], rounds: int) -> float:
    """Return the median wall time in milliseconds."""
    times: list[float] = []
    for _ in range(rounds):
        dialects._place.cache_clear()
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def touch(tensors: "list[torch.Tensor]") -> float:
    """Read every byte."""
    return sum(float(tensor.view(torch.uint8).sum()) for tensor in tensors if tensor.dim())


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--rounds", type=int, default=9, show_default=True)
def main(out: Path | None, rounds: int) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sdxl.safetensors"
        size = write_sdxl(path)
        adapter = read_adapter(path)
        rows = [
            {"measure": "probe, ms", "value": median(lambda: probe(path), rounds), "bound": 10.0},
        ]
        ours = median(lambda: touch(_tensors(path)), rounds)
        theirs = median(lambda: touch(list(load_file(path).values())), rounds)
        mapped, loaded = median(lambda: read_adapter(path), rounds), median(lambda: load_file(path), rounds)
        rows += [
            {
                "measure": "read and touch every byte, part of safetensors'",
                "value": ours / theirs,
                "bound": 1.2,
            },
        ]
    facts = {
        "file, MB": round(size / 1e6, 1),
        "modules": len(adapter.layers),
        "read and touch, ms": round(ours, 1),
        "safetensors and touch, ms": round(theirs, 1),
        "read alone, ms": round(mapped, 1),
        "safetensors alone, ms": round(loaded, 1),
    }
    for row in rows:
        row["kept"] = row["value"] <= row["bound"]
        verdict = "kept" if row["kept"] else "MISSED"
        print(f"{row['measure']:50} {row['value']:8.3f}   at most {row['bound']}   {verdict}")
    for name, value in facts.items():
        print(f"{name:50} {value:8}")
    if out is not None:
        out.write_text(json.dumps({"measures": rows, "facts": facts}, indent=2) + "\n")
    raise SystemExit(0 if all(row["kept"] for row in rows) else 1)


def _tensors(path: Path) -> "list[torch.Tensor]":
    return [part for layer in read_adapter(path).layers.values() for part in layer.tensors.values()]


if __name__ == "__main__":
    main()
