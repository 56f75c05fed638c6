"""The figures that the explanations give are what is counted and measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from adapterhub import find_base
from adapterhub.bases import sdxl
from adapterhub.formats.write import write_adapter
from adapterhub.training.bank import LoraBank
from adapterhub.training.layers import NetworkConfig, layer_sizes, trainable_layers

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explanation"
FOLDERS = {"mini": find_base("mini").path, "SDXL": Path(sdxl.__path__[0])}


def unet_of(base: str, device: str) -> UNet2DConditionModel:
    with torch.device(device):
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(FOLDERS[base] / "unet"))


def row(base: str, what: str, numbers: int, whole: int) -> str:
    """Return a row of the table: AdamW has two float32 moments a number, a file two bytes."""
    share = "100" if numbers == whole else f"{100 * numbers / whole:.2f}"
    moments, file = 8 * numbers / 1e6, 2 * numbers / 1e6
    return f"| {base} | {what} | {numbers:,} | {share} % | {moments:,.1f} MB | {file:,.1f} MB |"


@pytest.mark.parametrize(("base", "ranks"), [("mini", [4, 16]), ("SDXL", [4, 16, 64])])
def test_the_table_of_costs_is_counted_on_the_real_shapes(base: str, ranks: list[int]) -> None:
    unet = unet_of(base, "meta")
    whole = sum(parameter.numel() for parameter in unet.parameters())
    expected = [row(base, "the whole UNet", whole, whole)]
    layers: dict[Any, Any] = {**trainable_layers({"unet": unet})}
    for rank in ranks:
        sizes = layer_sizes(NetworkConfig(rank=rank), layers)
        numbers = sum(rank * sum(layers[target].weight.shape) for target in sizes)
        expected.append(row(base, f"LoRA, rank {rank}, on {len(sizes)} layers", numbers, whole))
    lines = [
        line for line in (PAGES / "low-rank.md").read_text().splitlines() if line.startswith(f"| {base} |")
    ]
    assert lines == expected


def test_what_is_counted_is_what_an_optimizer_and_a_file_take_on_the_mini_base(tmp_path: Path) -> None:
    network = NetworkConfig(rank=16)
    bank = LoraBank({"unet": unet_of("mini", "cpu")}, [network], slots=1, device=torch.device("cpu"))
    bank.place(0, network, seed=0, key="me/ink")
    parameters = [one for group in bank.parameters(0).values() for one in group]
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert sum(value.numel() * value.element_size() for value in moments) == 8 * 1_070_080
    file = tmp_path / "ink.safetensors"
    write_adapter(bank.tensors(0), file, format="diffusers", dtype="float16")
    assert 2 * 1_070_080 < file.stat().st_size < 1.05 * 2 * 1_070_080


def test_the_floor_of_a_switch_is_twice_the_bytes_of_the_touched_layers() -> None:
    layers: dict[Any, Any] = {**trainable_layers({"unet": unet_of("SDXL", "meta")})}
    page = (PAGES / "exact-switching.md").read_text()
    for targets in (("attn",), ("attn", "ff", "proj")):
        touched = layer_sizes(NetworkConfig(targets=targets), layers)
        size_bytes = 2 * 2 * sum(layers[target].weight.numel() for target in touched)
        assert f" {size_bytes / 1e9:.1f} GB " in page.replace("\n", " ")


def test_what_is_said_of_ranks_is_what_was_measured() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "ranks.json").read_text())
    curves, kept = result["held-out loss"], result["kept of rank 64"]
    gains = {rank: curve[0][1] - curve[-1][1] for rank, curve in curves.items()}
    parts = [f"{100 * gains[rank] / gains['64']:.0f} %" for rank in ("1", "4", "16")]
    page = " ".join((PAGES / "low-rank.md").read_text().split())
    assert "rank 1 has made {} of rank 64's progress, rank 4 {}, and rank 16 {},".format(*parts) in page
    assert f"four strongest directions hold {100 * kept['4']:.0f} %" in page
    assert f"sixteen hold {100 * kept['16']:.0f} %" in page
