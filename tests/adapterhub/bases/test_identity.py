"""Architecture from names and shapes, identity from the weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from adapterhub.bases.find import WEIGHTED, find_base
from adapterhub.bases.identity import ARCHITECTURES, shapes_digest
from tests.sdxl_configs import SDXL_TEXT_ENCODERS, SDXL_UNET


def test_the_model_of_sdxl_s_config_is_known_as_sdxl() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SDXL_UNET)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    assert ARCHITECTURES[shapes_digest(shapes, SDXL_TEXT_ENCODERS)] == "sdxl"


def test_other_shapes_are_another_architecture(mini_copy: Callable[[], Path]) -> None:
    path = mini_copy()
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(3)}, file)
    assert find_base(path).architecture.startswith("custom-")


def test_the_identity_is_the_digest_of_the_float16_values(mini_copy: Callable[[], Path]) -> None:
    base = find_base("mini")
    digest = hashlib.sha256()
    for component in sorted(WEIGHTED):
        tensors = {k: v for file in base.weights[component] for k, v in load_file(file).items()}
        for name in sorted(tensors):
            digest.update(json.dumps([component, name, list(tensors[name].shape)]).encode())
            values = tensors[name]
            digest.update((values.half() if values.is_floating_point() else values).numpy().tobytes())
    assert base.identity == find_base(mini_copy()).identity == f"sha256:{digest.hexdigest()}"


def test_a_float32_copy_of_the_weights_is_the_same_base(mini_copy: Callable[[], Path]) -> None:
    path = mini_copy()
    for file in path.rglob("*.safetensors"):
        save_file({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}, file)
    assert find_base(path).identity == find_base("mini").identity


def test_one_changed_weight_is_another_base_although_the_first_was_remembered(
    mini_copy: Callable[[], Path],
) -> None:
    path = mini_copy()
    before = find_base(path).identity
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file)
    assert find_base(path).identity != before


def test_the_identity_is_remembered_in_the_home(home: Path, mini_copy: Callable[[], Path]) -> None:
    identity = find_base(mini_copy()).identity
    (remembered,) = json.loads((home / "cache" / "base-identities.json").read_text()).values()
    assert remembered == identity
