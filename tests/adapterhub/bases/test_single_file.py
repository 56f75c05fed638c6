"""Checkpoints in one file: the same base as the directory, in names, shapes, identity and pictures."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import ImageChops
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterhub.bases.find import BUNDLED, WEIGHTED, Base, find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.bases.memory import memory_needed
from adapterhub.bases.single_file import CONFIGS
from adapterhub.bases.tokenizers import load_tokenizer
from adapterhub.errors import (
    BaseLoadError,
    MissingComponentError,
    NotAPipelineError,
    SettingError,
    WeightsError,
)
from adapterhub.runtime.engine import Runtime
from tests.adapterhub.bases.ldm import Parts, ldm_tensors

MINI = BUNDLED["mini"]


@pytest.fixture(scope="module")
def mini_tensors() -> dict[str, Tensor]:
    """The weights of mini as a single-file checkpoint has them."""
    return ldm_tensors(
        {part: load_file(file) for part, (file,) in find_base("mini").weights.items()},
    )


@pytest.fixture(scope="module")
def checkpoint(mini_tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "mini.safetensors"
    save_file(mini_tensors, path)
    return path


def sdxl_on_meta() -> Parts:
    """The state dicts of SDXL's four models, built by diffusers and transformers from the bundled configs."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGS / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIGS / "text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig.from_pretrained(CONFIGS / "text_encoder_2")
            ),
        }
    return {part: model.half().state_dict() for part, model in models.items()}


def write_without_data(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with a true header and a hole in place of the numbers."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * 2
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)


def test_the_file_is_the_same_base_as_the_directory(checkpoint: Path) -> None:
    base, directory = find_base(checkpoint, config=MINI), find_base("mini")
    assert base.shapes == directory.shapes
    assert (base.architecture, base.identity) == ("mini", directory.identity)
    assert base.size_bytes == checkpoint.stat().st_size


def test_the_file_draws_the_same_picture_as_the_directory_and_asks_no_hub(
    checkpoint: Path, mini_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    with Runtime.load(checkpoint, config=MINI, device="cpu") as runtime:
        ours = runtime.generate("a red heart", seed=7, steps=4)
    theirs = mini_runtime.generate("a red heart", seed=7, steps=4)
    assert ImageChops.difference(ours.images[0], theirs.images[0]).getbbox() is None
    assert ours.record.base.identity == theirs.record.base.identity
    assert asked == []


def test_sdxl_at_full_size_is_known_in_both_layouts(tmp_path: Path) -> None:
    parts = sdxl_on_meta()
    write_without_data(tmp_path / "sdxl.safetensors", ldm_tensors(parts))
    for part in ("tokenizer", "tokenizer_2", "scheduler", *WEIGHTED):
        (tmp_path / "sdxl" / part).mkdir(parents=True)
    (tmp_path / "sdxl" / "model_index.json").write_bytes((CONFIGS / "model_index.json").read_bytes())
    for part in WEIGHTED:
        (tmp_path / "sdxl" / part / "config.json").write_bytes((CONFIGS / part / "config.json").read_bytes())
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        write_without_data(tmp_path / "sdxl" / part / f"{stem}.safetensors", parts[part])
    file, directory = find_base(tmp_path / "sdxl.safetensors"), find_base(tmp_path / "sdxl")
    assert file.architecture == directory.architecture == "sdxl"
    assert file.shapes == directory.shapes
    sizes = {part: sum(t.numel() for t in parts[part].values()) for part in WEIGHTED}
    assert sizes["unet"] == 2_567_463_684
    upcast = {part: size * (4 if part == "vae" else 2) for part, size in sizes.items()}
    assert memory_needed(file, "float16") == memory_needed(directory, "float16") == upcast
    assert memory_needed(file, "float32") == {part: size * 4 for part, size in sizes.items()}
    halved = memory_needed(file, "float16", quantize="torchao-int8")["unet"] / upcast["unet"]
    assert 0.5 < halved < 0.6  # convolutions stay as they are


def test_clip_s_tokenizers_are_made_from_the_bundled_merges() -> None:
    first, second = load_tokenizer(CONFIGS / "tokenizer"), load_tokenizer(CONFIGS / "tokenizer_2")
    assert len(first) == len(second) == 49408
    # The ids of OpenAI's own notebook for "a photo of a cat", between the start and the end.
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first.model_max_length == 77
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)


def broken(mini_tensors: dict[str, Tensor], tmp_path: Path, **changes: Tensor | None) -> Base:
    """A checkpoint with some tensors replaced, added, or left out."""
    tensors = {name: t for name, t in {**mini_tensors, **changes}.items() if t is not None}
    save_file(tensors, tmp_path / "broken.safetensors")
    return find_base(tmp_path / "broken.safetensors", config=MINI)


def test_a_lacking_tensor_is_named(mini_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    name = "model.diffusion_model.out.2.weight"
    with pytest.raises(BaseLoadError, match=r"tensor conv_out\.weight of 4x48x3x3, and the file lacks it"):
        load_pipeline(broken(mini_tensors, tmp_path, **{name: None}), device="cpu", dtype="float32")


def test_a_tensor_that_another_goes_with_is_named(mini_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    base = broken(mini_tensors, tmp_path, **{"model.diffusion_model.label_emb.0.2.bias": None})
    with pytest.raises(WeightsError, match=r"label_emb\.0\.2\.bias"):
        _ = base.architecture


def test_a_file_of_other_shapes_than_its_configs_is_a_load_error(checkpoint: Path) -> None:
    base = find_base(checkpoint)
    assert base.architecture.startswith("custom-")
    with pytest.raises(
        BaseLoadError, match=r"by the configs in .*sdxl, .* of 320x4x3x3, and the file has 48x4x3x3"
    ):
        load_pipeline(base, device="cpu", dtype="float32")


def test_a_checkpoint_that_predicts_velocity_gets_such_a_scheduler(
    mini_tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    pipeline = load_pipeline(broken(mini_tensors, tmp_path, **marks), device="cpu", dtype="float32")
    config = pipeline.scheduler.config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert config["timestep_spacing"] == "leading"


@pytest.mark.parametrize(
    ("kept", "missing"),
    [("model.diffusion_model", "vae"), (("model.", "first_stage"), "text_encoder")],
)
def test_a_file_without_all_parts_names_the_first_that_is_missing(
    mini_tensors: dict[str, Tensor], tmp_path: Path, kept: str | tuple[str, ...], missing: str
) -> None:
    path = tmp_path / "part.safetensors"
    save_file({name: tensor for name, tensor in mini_tensors.items() if name.startswith(kept)}, path)
    with pytest.raises(MissingComponentError, match="not in the file") as caught:
        find_base(path)
    assert caught.value.component == missing


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("conditioner.embedders.0.model.ln_final.bias", "SDXL refiner"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "Stable Diffusion 1.x"),
        ("cond_stage_model.model.ln_final.bias", "Stable Diffusion 2.x"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.bias", "Stable Diffusion 3"),
        ("model.diffusion_model.double_blocks.0.img_mod.lin.bias", "Flux"),
        ("edm_mean", "EDM"),
        ("control_model.input_blocks.0.0.bias", "ControlNet"),
        ("lora_unet_mid_block_attentions_0_proj_in.alpha", "adapterhub add"),
        ("down_blocks.0.resnets.0.conv1.bias", "the directory that has model_index.json"),
        ("something.else", "other names than those of SDXL"),
    ],
)
def test_another_kind_of_file_is_refused_by_its_name(tmp_path: Path, name: str, meaning: str) -> None:
    save_file({name: torch.zeros(4)}, tmp_path / "file.safetensors")
    with pytest.raises(NotAPipelineError, match=meaning):
        find_base(tmp_path / "file.safetensors")


def test_a_config_goes_with_a_file_and_must_be_one(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="single-file checkpoint, not with mini"):
        find_base("mini", config=MINI)
    with pytest.raises(SettingError, match="one file"):
        find_base(checkpoint, config=MINI, variant="fp16")
    with pytest.raises(NotAPipelineError, match="no directory"):
        find_base(checkpoint, config=tmp_path / "nowhere")
