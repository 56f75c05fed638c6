"""Loading a base, and errors of libraries as our own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterhub.bases.find import find_base
from adapterhub.bases.load import choose_device, load_pipeline
from adapterhub.errors import BaseLoadError, DeviceError


def test_a_base_is_loaded_in_the_asked_dtype_without_gradients() -> None:
    pipeline = load_pipeline(find_base("mini"), device="cpu", dtype="bfloat16")
    for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert {p.dtype for p in component.parameters()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in component.parameters())
        assert not component.training


def test_a_truncated_weights_file_is_a_load_error(mini_copy: Callable[[], Path]) -> None:
    path = mini_copy()
    base = find_base(path)
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(BaseLoadError) as caught:
        load_pipeline(base, device="cpu", dtype="float32")
    assert caught.value.path == path.resolve()


def test_a_weight_of_the_wrong_shape_is_a_load_error(mini_copy: Callable[[], Path]) -> None:
    path = mini_copy()
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "conv_in.weight": torch.zeros(1, 4, 3, 3)}, file)
    with pytest.raises(BaseLoadError):
        load_pipeline(find_base(path), device="cpu", dtype="float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has the device that must be missing")
def test_an_absent_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(DeviceError, match="this machine has: cpu"):
        choose_device("cuda")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(DeviceError, match="float32, float16, bfloat16"):
        choose_device("cpu", "float8")
