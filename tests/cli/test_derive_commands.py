"""The commands that make adapters out of adapters, as a user runs them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from adapterhub_registry.store import Registry
from tests.cli.conftest import Run

MODULES = [
    f"down_blocks.{block}.attentions.0.transformer_blocks.0.{part}"
    for block in (1, 2)
    for part in ("attn1.to_q", "attn2.to_v")
]
WIDTHS = {"1": (96, 96), "2": (128, 128)}


def adapter_file(path: Path, seed: int, *, alphas: tuple[float, ...] = (2.0,), rank: int = 4) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, module in enumerate(MODULES):
        width = WIDTHS[module[12]][0]
        in_size = 160 if "attn2" in module else width
        name = f"lora_unet_{module.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, in_size, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(width, rank, generator=generator) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(alphas[number % len(alphas)])
    save_file(tensors, path, metadata={"ss_tag_frequency": "{}"})
    return path


@pytest.fixture
def two(run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """Two files, the first of which is also in the registry, as me/ink@1."""
    files = adapter_file(tmp_path / "ink.safetensors", 1), adapter_file(tmp_path / "wash.safetensors", 2)
    run("add", files[0], "--name", "me/ink", "--base", "mini", "--trigger", "ink")
    return files


def test_inspect_measures_and_draws(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    text = run("inspect", "me/ink", "--heat-map", tmp_path / "heat.png")
    assert f"look at {tmp_path / 'heat.png'}" in run.talk
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.width > 200
    assert "down_blocks.2" in text
    table = json.loads(run("inspect", two[0], "--json"))
    assert table["measured"]["overall"]["layers"] == 4
    assert table["sha256"].startswith(table["autov2"])
    header = json.loads(run("inspect", two[0], "--header", "--json"))
    assert "measured" not in header
    assert (header["layout"], header["architecture"]) == ("kohya-diffusers", "mini")


def test_inspect_fails_for_weights_that_are_not_finite(run: Run, two: tuple[Path, Path]) -> None:
    tensors = load_file(two[1])
    tensors[next(name for name in tensors if name.endswith("up.weight"))][0, 0] = float("nan")
    save_file(tensors, two[1])
    run("inspect", two[1], code=1)
    assert run.talk.startswith("error: ")


def test_compare_prints_weights_and_draws_a_matrix(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    text = run("compare", "me/ink", *two, "--matrix", tmp_path / "m.png")
    assert text.splitlines()[0].split() == ["adapter", "norm", "weight", "cos", "1", "cos", "2", "cos", "3"]
    assert "are the same adapter" in run.talk
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.width > 200
    assert len(json.loads(run("compare", *two, "--json"))["cosines"]) == 2
    run("compare", "me/ink", code=2)


def test_merge_resize_and_convert_make_versions(run: Run, two: tuple[Path, Path]) -> None:
    assert run("merge", "me/ink:0.7", f"{two[1]}:-0.3", "--base", "mini", "--name", "me/both", "-q") == (
        "me/both@1\n"
    )
    shown = json.loads(run("show", "me/both", "--json"))
    assert shown["lineage"]["parent.1.weight"] == "0.7"
    assert shown["lineage"]["parent.2.name"] == "wash.safetensors"
    ties = ["merge", "me/ink", two[1], "--method", "ties", "--density", "0.5", "--rank", "8"]
    run(*ties, "--base", "mini", "--name", "me/both", "--normalize", "first", "--targets", "down_blocks.1")
    assert Registry().resolve("me/both").number == 2
    run("resize", "me/both@1", "--rank", "3", "--name", "me/small")
    assert json.loads(run("inspect", "me/small", "--header", "--json"))["ranks"] == [3]
    run("convert", "me/ink", "--name", "me/plain")
    run("merge", "me/ink", two[1], "--method", "svd", "--base", "mini", "--name", "me/no", code=1)
    assert "needs a rank or an energy" in run.talk
    run("merge", "me/ink", "me/nothing", "--name", "me/no", code=1)
    assert 'no adapter "me/nothing"' in run.talk
    run("convert", "me/ink", code=2)


def test_export_writes_files_and_says_what_diffusers_makes_of_them(
    run: Run, two: tuple[Path, Path], tmp_path: Path
) -> None:
    del two
    out = tmp_path / "out.safetensors"
    assert run("export", "me/ink", "--out", out) == f"{out}\n"
    assert run.talk == ""
    uneven = adapter_file(tmp_path / "uneven.safetensors", 3, alphas=(1.0, 4.0))
    run("export", uneven, "--out", out)
    assert "loads 2 of 4 modules at the wrong strength" in run.talk
    run("export", uneven, "--format", "diffusers", "--dtype", "float16", "--out", out)
    assert run.talk == ""
    run("export", uneven, "--strip", "training", "--out", out)
    assert "ss_tag_frequency" not in out.read_bytes().decode("latin-1")
    run("export", uneven, "--format", "peft", "--out", tmp_path / "folder")
    assert (tmp_path / "folder" / "adapter_config.json").exists()
    run("export", uneven, "--out", tmp_path / "nowhere" / "x.safetensors", code=1)
    assert "cannot write" in run.talk


def test_bake_and_extract_go_there_and_back(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    del two
    run("bake", "me/ink:0.5", "--base", "mini", "--out", tmp_path / "tuned")
    assert "changed 4 tensors" in run.talk
    text = run("extract", tmp_path / "tuned", "--base", "mini", "--rank", "6", "--name", "me/learnt")
    assert "me/learnt@1" in text
    run("bake", "me/ink", "--base", "mini", "--out", tmp_path / "tuned", code=1)
    assert "it is there already" in run.talk
