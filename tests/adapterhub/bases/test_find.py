"""Finding a base, and saying clearly why a path is none."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.errors import (
    BaseNotFoundError,
    MissingComponentError,
    NotAPipelineError,
    PickleRefusedError,
)
from adapterhub_registry.record import read_record

CopyOfMini = Callable[[], Path]


def test_the_mini_base_is_found_by_name() -> None:
    base = find_base("mini")
    assert (base.name, base.architecture) == ("mini", "mini")
    assert base.card["edition"] == 2


def test_a_directory_is_found_by_its_path(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    base = find_base(path)
    assert base.path == path.resolve()
    assert base.identity == find_base("mini").identity


def test_a_sharded_unet_is_found_with_all_its_shards(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    whole = path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in halves.items():
        save_file({name: tensors[name] for name in chosen}, path / "unet" / file)
    weight_map = {name: file for file, chosen in halves.items() for name in chosen}
    whole.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    whole.unlink()
    base = find_base(path)
    assert [file.name for file in base.weights["unet"]] == ["a.safetensors", "b.safetensors"]
    assert (base.architecture, base.identity) == ("mini", find_base("mini").identity)
    (path / "unet" / "b.safetensors").unlink()
    with pytest.raises(MissingComponentError, match=r"b\.safetensors"):
        find_base(path)


def half_of(file: Path, *, scale: float = 1.0) -> Path:
    """Write a file's tensors, times a factor, as its float16 variant."""
    target = file.with_suffix(f".fp16{file.suffix}")
    save_file({name: (tensor * scale).half() for name, tensor in load_file(file).items()}, target)
    return target


def test_a_directory_with_float16_files_alone_is_the_same_base(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    for file in [*path.rglob("*.safetensors")]:
        half_of(file)
        file.unlink()
    base = find_base(path)
    assert base.variant == "fp16"
    assert (base.architecture, base.identity) == ("mini", find_base("mini").identity)
    pipeline = load_pipeline(base, device="cpu", dtype="float32")
    (file,) = base.weights["unet"]
    assert torch.equal(pipeline.unet.state_dict()["conv_in.bias"], load_file(file)["conv_in.bias"].float())


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_float16_files_are_loaded_for_float16_where_they_are(mini_copy: CopyOfMini, part: str) -> None:
    path = mini_copy()
    (plain,) = (path / part).glob("*.safetensors")
    half_of(plain, scale=2)  # so that the numbers tell which file was read
    base = find_base(path)
    assert (base.variant, base.weights[part]) == (None, (plain,))
    for chosen, dtype, factor in (
        (base, "bfloat16", 1),
        (base, "float16", 2),
        (find_base(path, variant="fp16"), "bfloat16", 2),
    ):
        pipeline = load_pipeline(chosen, device="cpu", dtype=dtype)
        name, value = next(iter(getattr(pipeline, part).state_dict().items()))
        assert torch.equal(value, (load_file(plain)[name] * factor).to(value.dtype))


def test_a_sharded_variant_is_found_by_its_index(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    whole = path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"
    save_file(tensors, whole.with_name(shard))
    whole.with_name("diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)})
    )
    whole.unlink()
    base = find_base(path)
    assert [file.name for file in base.weights["unet"]] == [shard]
    assert load_pipeline(base, device="cpu", dtype="float32").unet.dtype == torch.float32


def test_a_variant_that_is_not_there_is_an_error(mini_copy: CopyOfMini) -> None:
    with pytest.raises(MissingComponentError, match=r"diffusion_pytorch_model\.bf16\.safetensors"):
        find_base(mini_copy(), variant="bf16")


def test_a_revision_is_taken_from_the_cache(
    mini_copy: CopyOfMini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--acme--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    path = mini_copy()
    plain = path / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_suffix(".fp16.safetensors"))
    (repository / "snapshots").mkdir()
    path.rename(repository / "snapshots" / commit)
    for name in ("acme/tiny@v1", f"acme/tiny@{commit}"):
        base = find_base(name)
        assert (base.name, base.variant, base.path.name) == (name, "fp16", commit)
    with pytest.raises(BaseNotFoundError, match="offline, and not in the cache"):
        find_base("acme/tiny@v2")


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(BaseNotFoundError) as caught:
        find_base("mimi")
    assert caught.value.near == ["mini"]
    assert "Did you mean mini?" in str(caught.value)


def test_an_uncached_hub_id_offline_says_so() -> None:
    with pytest.raises(BaseNotFoundError, match="offline, and not in the cache"):
        find_base("acme/no-such-base")


def test_a_cached_hub_repository_is_listed_and_loaded_offline(
    mini_copy: CopyOfMini, home: Path, tmp_path: Path
) -> None:
    repository = home / "hub" / "models--acme--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    mini_copy().rename(repository / "snapshots" / commit)

    def run(*words: str) -> str:
        # A process of its own: huggingface_hub reads the place of its cache once, when it is imported.
        return subprocess.run(
            [sys.executable, "-m", "adapterhub_cli", *words],
            env={**os.environ, "HF_HUB_CACHE": str(home / "hub")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert run("bases", "list", "--quiet").splitlines() == ["mini", "acme/tiny"]
    out = tmp_path / "star.png"
    run(*["generate", "-p", "star", "--seed", "1", "--steps", "1", "--base", "acme/tiny", "--out"], str(out))
    assert read_record(out).base.name == "acme/tiny"


def test_an_empty_directory_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(NotAPipelineError, match=r"no model_index\.json") as caught:
        find_base(tmp_path)
    assert caught.value.path == tmp_path


def test_an_unreadable_index_is_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(NotAPipelineError, match="cannot be read"):
        find_base(tmp_path)


def test_another_kind_of_pipeline_is_refused_by_its_class(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    index = path / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "FluxPipeline"))
    with pytest.raises(NotAPipelineError, match="its class is FluxPipeline"):
        find_base(path)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder_2", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(mini_copy: CopyOfMini, component: str) -> None:
    path = mini_copy()
    (path / component).rename(path / "elsewhere")
    with pytest.raises(MissingComponentError) as caught:
        find_base(path)
    assert caught.value.component == component


def test_missing_weights_are_named(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    (path / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(MissingComponentError, match=r"text_encoder has no model\.safetensors"):
        find_base(path)


def test_pickled_weights_in_a_pipeline_are_refused(mini_copy: CopyOfMini) -> None:
    path = mini_copy()
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(PickleRefusedError) as caught:
        find_base(path)
    assert caught.value.path.name == "diffusion_pytorch_model.bin"


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model"])
def test_a_pickled_checkpoint_is_refused_under_any_name(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}}, tmp_path / name)
    with pytest.raises(PickleRefusedError):
        find_base(tmp_path / name)
