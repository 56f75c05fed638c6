"""Baking into checkpoints and extracting from them: diffusers' directories and single files."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterhub.errors import AlgebraSettingError, InputError, OutputError, TargetError, WeightsError
from adapterhub.formats.bake import bake
from adapterhub.formats.checkpoint import Checkpoint
from adapterhub.formats.names import unet_names, unet_norm_names
from adapterhub.lora.extract import extract
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Target
from tests.adapterhub.formats.dialects import Known, known_layers

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"


@pytest.fixture(scope="module")
def layers() -> dict[Target, Known]:
    pipeline = StableDiffusionXLPipeline.from_pretrained(MINI)
    return known_layers(pipeline, rank=lambda number: 1 + number % 3)


@pytest.fixture(scope="module")
def adapter(layers: dict[Target, Known]) -> AdapterTensors:
    return AdapterTensors({t: LowRank(v.down, v.up, 2.0 / v.down.shape[0]) for t, v in layers.items()})


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini base as one file in the original layout, with OpenCLIP's joined projections."""
    names = unet_names() | unet_norm_names()
    tensors: dict[str, Tensor] = {"first_stage_model.decoder.conv_in.weight": torch.ones(2, 2).half()}
    for name, value in load_file(MINI / "unet" / "diffusion_pytorch_model.safetensors").items():
        stem, _, kind = name.rpartition(".")
        tensors[f"model.diffusion_model.{names[stem]}.{kind}"] = value
    for name, value in load_file(MINI / "text_encoder" / "model.safetensors").items():
        path = f"text_model.{name.removeprefix('text_model.')}"
        tensors[f"conditioner.embedders.0.transformer.{path}"] = value
    second = load_file(MINI / "text_encoder_2" / "model.safetensors")
    parts = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for name, value in second.items():
        found = re.search(r"layers\.(\d+)\.(.+)\.(weight|bias)$", name)
        if found is None:
            continue
        layer, part, kind = found.groups()
        prefix = f"conditioner.embedders.1.model.transformer.resblocks.{layer}."
        if part == "self_attn.q_proj":
            joined = [second[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            tensors[f"{prefix}attn.in_proj_{kind}"] = torch.cat(joined)
        elif part in parts:
            tensors[f"{prefix}{parts[part]}.{kind}"] = value
    path = tmp_path_factory.mktemp("single") / "mini.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def rounded(weight: Tensor, layer: Known, strength: float) -> Tensor:
    scale = 2.0 / layer.down.shape[0]
    delta = strength * scale * layer.up.flatten(1).double() @ layer.down.flatten(1).double()
    return weight.double() + delta.reshape(weight.shape)


@pytest.mark.parametrize("kind", ["directory", "single file"])
def test_a_baked_checkpoint_has_every_delta_and_nothing_else(
    tmp_path: Path, kind: str, single_file: Path, adapter: AdapterTensors, layers: dict[Target, Known]
) -> None:
    source = MINI if kind == "directory" else single_file
    out = tmp_path / "out"
    before = Checkpoint(source)
    assert bake(before, [(adapter, 0.5), (adapter, 0.25)], out) <= len(layers)
    after = Checkpoint(out)
    for target, layer in layers.items():
        weight = before.weight(target)
        expected = rounded(weight, layer, 0.75)
        error = (after.weight(target).double() - expected).abs()
        assert bool((error <= expected.abs() * 2**-10 + 1e-5).all()), target  # float16 has 11 bits
    changed = {target for target in before.weights if target in layers}
    for target in before.weights.keys() - changed:
        assert torch.equal(after.weight(target), before.weight(target))
    for old in before.headers:
        new = out if kind == "single file" else out / old.relative_to(source)
        with safe_open(old, "pt") as one, safe_open(new, "pt") as two:
            assert one.metadata() == two.metadata()
            assert set(one.keys()) == set(two.keys())
            for name in set(one.keys()):
                if not name.endswith("weight"):
                    assert torch.equal(one.get_tensor(name), two.get_tensor(name))
    assert not list(tmp_path.glob(".*"))


def test_a_baked_directory_draws_in_stock_diffusers(tmp_path: Path, adapter: AdapterTensors) -> None:
    bake(Checkpoint(MINI), [(adapter, 0.0)], tmp_path / "same")
    for file in MINI.rglob("*"):
        if file.is_file():
            assert (tmp_path / "same" / file.relative_to(MINI)).read_bytes() == file.read_bytes()
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "same")
    assert pipeline.unet.dtype == torch.float32


def test_a_norm_and_a_bias_are_baked(tmp_path: Path) -> None:
    norm, conv = Target("unet", "mid_block.attentions.0.norm"), Target("unet", "conv_in")
    before = Checkpoint(MINI)
    adapter = AdapterTensors(
        {norm: Dense(torch.ones(before.weight(norm).shape))},
        biases={conv: torch.ones(before.read(before.biases[conv]).shape)},
    )
    assert bake(before, [(adapter, 2.0)], tmp_path / "out") == 2
    after = Checkpoint(tmp_path / "out")
    assert torch.equal(after.weight(norm), (before.weight(norm).float() + 2).half())
    assert torch.equal(after.read(after.biases[conv]), (before.read(before.biases[conv]).float() + 2).half())


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    wide = AdapterTensors(
        {Target("unet", "mid_block.attentions.0.proj_in"): LowRank(torch.ones(1, 640), torch.ones(640, 1))}
    )
    deep = AdapterTensors(
        {
            Target("unet", "mid_block.attentions.0.transformer_blocks.9.attn1.to_q"): LowRank(
                torch.ones(1, 8), torch.ones(8, 1)
            )
        }
    )
    for adapter, reason in ((wide, "shapes differ"), (deep, "no such modules")):
        with pytest.raises(TargetError, match=reason):
            bake(Checkpoint(MINI), [(adapter, 1.0)], tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="there already"):
        bake(Checkpoint(MINI), [], tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        Checkpoint(tmp_path)
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="no UNet"):
        Checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("exact", [False, True])
def test_extracting_finds_what_was_baked(
    tmp_path: Path, adapter: AdapterTensors, layers: dict[Target, Known], exact: bool
) -> None:
    full = tmp_path / "full"
    shutil.copytree(MINI, full)
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for file in (full / component).glob("*.safetensors"):
            save_file({name: value.float() for name, value in load_file(file).items()}, file)
    before = Checkpoint(full)
    bake(before, [(adapter, 1.0)], tmp_path / "tuned")
    after = Checkpoint(tmp_path / "tuned")
    pairs = ((target, before.weight(target), after.weight(target)) for target in before.weights)
    found = extract(pairs, rank=3, exact=exact)
    assert found.adapter.layers.keys() == layers.keys()
    assert set(found.unchanged) == before.weights.keys() - layers.keys()
    for target, layer in found.adapter.low_rank().items():
        expected = layers[target].up.flatten(1).double() @ layers[target].down.flatten(1).double()
        expected *= 2.0 / layers[target].down.shape[0]
        made = layer.delta().double().reshape(expected.shape)
        assert (made - expected).norm() <= 1e-4 * expected.norm()


def test_the_randomised_way_is_within_a_thousandth_of_the_optimum() -> None:
    generator = torch.Generator().manual_seed(3)
    u = torch.linalg.qr(torch.randn(200, 200, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(150, 150, generator=generator))[0]
    change = (u[:, :150] * 0.9 ** torch.arange(150)) @ v
    target = Target("unet", "conv_in")
    found = extract([(target, torch.zeros(200, 150), change)], rank=16)
    error = float((found.adapter.low_rank()[target].delta() - change).norm() / change.norm())
    values = 0.9 ** torch.arange(150).double()
    optimal = float((values[16:].square().sum() / values.square().sum()).sqrt())
    assert error <= optimal * 1.001
    assert found.layers[0].error == pytest.approx(error, abs=1e-4)


@pytest.mark.parametrize(("rank", "energy"), [(0, None), (4, 0.0), (4, 1.5)])
def test_a_senseless_setting_is_refused(rank: int, energy: float | None) -> None:
    with pytest.raises(AlgebraSettingError):
        extract([], rank=rank, energy=energy)
