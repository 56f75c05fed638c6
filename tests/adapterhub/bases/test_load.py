"""Loading a base, and errors of libraries as our own."""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterhub.bases.find import find_base
from adapterhub.bases.load import choose_device, is_writable, load_pipeline
from adapterhub.bases.memory import memory_needed, require_memory
from adapterhub.errors import BaseLoadError, DeviceError, MemorySizeError, MissingExtraError, SettingError
from tests.adapterhub.bases.ldm import ldm_tensors


def addresses(module: torch.nn.Module) -> list[tuple[int, torch.dtype]]:
    return [(parameter.data_ptr(), parameter.dtype) for parameter in module.parameters()]


def draw(pipeline: Any, **settings: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np", **settings}
    return pipeline("a red heart", generator=generator, **settings).images[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_vae_stays_in_float32_where_its_config_asks_for_it(dtype: str) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
        StableDiffusionXLImg2ImgPipeline,
    )

    pipeline = load_pipeline(find_base("mini"), device="cpu", dtype=dtype)
    for component in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        assert {p.dtype for p in component.parameters()} == {getattr(torch, dtype)}
    assert {p.dtype for p in pipeline.vae.parameters()} == {torch.float32}
    before, keys = addresses(pipeline.vae), list(pipeline.vae.state_dict())
    picture = draw(pipeline)
    scaled = draw(pipeline, output_type="latent") / pipeline.vae.config["scaling_factor"]
    straight = pipeline.vae.decode(scaled[None].float()).sample[0].permute(1, 2, 0)
    assert np.array_equal(picture, (straight / 2 + 0.5).clamp(0, 1).numpy())
    # This one casts the VAE of its own accord, before and after it encodes.
    draw(
        StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False),
        image=torch.zeros(1, 3, 64, 64),
        strength=0.5,
    )
    assert (addresses(pipeline.vae), list(pipeline.vae.state_dict())) == (before, keys)


def test_a_vae_that_does_not_ask_for_float32_has_the_pipeline_s_dtype(mini_copy: Callable[[], Path]) -> None:
    path = mini_copy()
    config = path / "vae" / "config.json"
    config.write_text(config.read_text().replace('"force_upcast": true', '"force_upcast": false'))
    pipeline = load_pipeline(find_base(path), device="cpu", dtype="bfloat16")
    assert {p.dtype for p in pipeline.vae.parameters()} == {torch.bfloat16}


def test_a_base_is_loaded_for_inference() -> None:
    pipeline = load_pipeline(find_base("mini"), device="cpu", dtype="float32")
    for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert {p.dtype for p in component.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in component.parameters())
        assert not component.training
    assert is_writable(pipeline)


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


def test_offloading_needs_an_accelerator() -> None:
    with pytest.raises(DeviceError, match='"model" needs an accelerator'):
        load_pipeline(find_base("mini"), device="cpu", dtype="float32", offload="model")
    with pytest.raises(SettingError, match="none, model, sequential"):
        load_pipeline(find_base("mini"), device="cpu", dtype="float32", offload="disk")


@pytest.mark.parametrize("policy", ["model", "sequential"])
def test_an_offloaded_pipeline_draws_the_same_and_is_not_writable(policy: str) -> None:
    pipeline: Any = load_pipeline(find_base("mini"), device="cpu", dtype="bfloat16")
    expected = draw(pipeline)
    # What diffusers does for the policy, with the CPU for the device that parts are brought to.
    if policy == "model":
        pipeline.enable_model_cpu_offload(device="cpu")
    else:
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            accelerate.cpu_offload(part, torch.device("cpu"))
    assert np.array_equal(draw(pipeline), expected)
    assert not is_writable(pipeline)


@pytest.mark.skipif(find_spec("torchao") is not None, reason="the package that must be missing is there")
def test_a_missing_quantizer_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(MissingExtraError, match=r"adapterhub\[quantized\]"):
        load_pipeline(find_base("mini"), device="cpu", dtype="float32", quantize="torchao-int8")


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(SettingError, match="torchao-int8, bnb-8bit, bnb-4bit"):
        load_pipeline(find_base("mini"), device="cpu", dtype="float32", quantize="int3")


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs the extra quantized")
def test_a_quantized_unet_is_smaller_draws_nearly_the_same_and_is_not_writable(tmp_path: Path) -> None:
    base = find_base("mini")
    expected = draw(load_pipeline(base, device="cpu", dtype="bfloat16"))
    parts = {part: load_file(file) for part, (file,) in base.weights.items()}
    save_file(ldm_tensors(parts), tmp_path / "mini.safetensors")
    file = find_base(tmp_path / "mini.safetensors", config=base.path)
    for layout in (base, file):
        pipeline = load_pipeline(layout, device="cpu", dtype="bfloat16", quantize="torchao-int8")
        difference = np.abs(draw(pipeline) - expected).mean()
        assert 0 < difference < 0.02
        assert not is_writable(pipeline)
    needed = memory_needed(base, "bfloat16", quantize="torchao-int8")["unet"]
    assert needed < memory_needed(base, "bfloat16")["unet"]


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra quantized")
def test_bitsandbytes_needs_a_cuda_device() -> None:
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        load_pipeline(find_base("mini"), device="cpu", dtype="float32", quantize="bnb-4bit")


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra quantized")
@pytest.mark.parametrize("quantize", ["bnb-8bit", "bnb-4bit"])
def test_bitsandbytes_draws_nearly_the_same(quantize: str) -> None:
    base = find_base("mini")
    expected = draw(load_pipeline(base, device="cuda", dtype="bfloat16"))
    pipeline = load_pipeline(base, device="cuda", dtype="bfloat16", quantize=quantize)
    assert np.abs(draw(pipeline) - expected).mean() < 0.05
    assert not is_writable(pipeline)


def test_the_memory_that_a_base_needs_is_that_of_its_parameters() -> None:
    base = find_base("mini")
    for dtype in ("float32", "bfloat16"):
        pipeline = load_pipeline(base, device="cpu", dtype=dtype)
        assert memory_needed(base, dtype) == {
            part: sum(p.nbytes for p in getattr(pipeline, part).parameters()) for part in base.weights
        }


def test_too_little_memory_is_a_warning_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "adapterhub"):
        require_memory(find_base("mini"), device="cpu", dtype="float32")
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "mini needs 0.05 GB for its weights on cpu" in caplog.text
    memory = type("Memory", (), {"available": 40_000_000})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    require_memory(find_base("mini"), device="cpu", dtype="float16")
    require_memory(find_base("mini"), device="cpu", dtype="float32")
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_too_little_memory_stops_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (30_000_000, 80_000_000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 15_000_000)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 5_000_000)
    base = find_base("mini")
    require_memory(base, device="cuda", dtype="float16")
    require_memory(base, device="cuda", dtype="float32", offload="sequential")
    with pytest.raises(MemorySizeError, match=r"need 0\.0 GB there") as caught:
        require_memory(base, device="cuda", dtype="float32")
    assert caught.value.free_bytes == 40_000_000
    assert caught.value.needed_bytes == sum(memory_needed(base, "float32").values())
