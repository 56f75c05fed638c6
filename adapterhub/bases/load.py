"""Load a base as diffusers' own pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.bases.find import Base
from adapterhub.bases.fit import require_fit
from adapterhub.bases.memory import require_memory, vae_dtype
from adapterhub.bases.quantize import bitsandbytes_config, quantize_with_torchao, require_quantizer
from adapterhub.bases.single_file import scheduler_changes
from adapterhub.bases.tokenizers import load_tokenizer
from adapterhub.errors import BaseLoadError, DeviceError, SettingError, WeightsError

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

DTYPES = ("float32", "float16", "bfloat16")
OFFLOADS = ("none", "model", "sequential")


def load_pipeline(
    base: Base, *, device: str, dtype: str, offload: str = "none", quantize: str | None = None
) -> "StableDiffusionXLPipeline":
    """Load the base as a stock diffusers pipeline, in evaluation mode, with no gradients.

    A VAE whose config has `force_upcast` is loaded in float32 and stays so: latents and pictures are cast on
    their way in, and its `to` casts nothing. (diffusers would cast its weights up and down around each use.)

    Args:
        base: From `find_base`.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; see `choose_device`.
        dtype: One of `DTYPES`.
        offload: One of `OFFLOADS`: what is moved to the device only for its use and back again; whole
            components (`model`) or single layers (`sequential`, slow). The UNet cannot be rewritten then.
        quantize: One of `adapterhub.bases.memory.QUANTIZED_BITS`, for the UNet's linear layers; or None. The
            UNet cannot be rewritten then.

    Raises:
        DeviceError: The device cannot do what was asked, or is too small (`MemorySizeError`).
        SettingError: There is no such way to offload or to quantize.
        MissingExtraError: The package that quantizes is not installed.
        BaseLoadError: The files are there, and diffusers or transformers cannot load them.
    """
    from safetensors import SafetensorError

    _require_offload(offload, device)
    if quantize is not None:
        require_quantizer(quantize, device)
    try:
        require_memory(base, device=device, dtype=dtype, offload=offload, quantize=quantize)
        with quiet_libraries():
            pipeline = _load(base, dtype, quantize)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError, WeightsError) as exc:
        raise BaseLoadError(base.path, str(exc).splitlines()[0] if str(exc) else repr(exc)) from exc
    pipeline.set_progress_bar_config(disable=True)
    for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        component.requires_grad_(False).eval()
    if quantize == "torchao-int8":
        quantize_with_torchao(pipeline.unet)
    if quantize is not None and is_writable(pipeline):
        raise BaseLoadError(base.path, f"its UNet was not quantized to {quantize}")
    with quiet_libraries():
        if offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        else:
            pipeline.to(device)
    return pipeline


def is_writable(pipeline: "StableDiffusionXLPipeline") -> bool:
    """Return whether the UNet's weights can be rewritten in place: not when quantized or offloaded."""
    if any(hasattr(module, "_hf_hook") for module in pipeline.unet.modules()):  # accelerate moves them
        return False
    return all(
        type(parameter) is nn.Parameter and parameter.is_floating_point() and not parameter.is_meta
        for parameter in pipeline.unet.parameters()
    )


def choose_device(device: str | None = None, dtype: str | None = None) -> tuple[str, str]:
    """Return (device, dtype), filling in what is left out: the best device, float32 on the CPU, else float16.

    Raises:
        DeviceError: The device is not available, or a name is unknown.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device is None:
        device = next(kind for kind, is_there in available.items() if is_there)
    kind = device.split(":")[0]
    if not available.get(kind, False):
        here = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise DeviceError("the device", device, f"this machine has: {here}")
    if dtype is None:
        dtype = "float32" if kind == "cpu" else "float16"
    if dtype not in DTYPES:
        raise DeviceError("the dtype", dtype, f"it must be one of: {', '.join(DTYPES)}")
    return device, dtype


def dtype_name(dtype: "torch.dtype") -> str:
    """Return `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def _load(base: Base, dtype: str, quantize: str | None) -> "StableDiffusionXLPipeline":
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    if base.is_single_file:
        require_fit(base)
    given: dict[str, Any] = {}
    if vae_dtype(base, dtype) != dtype:
        given["vae"] = in_float32(_load_part(AutoencoderKL, base, "vae", "float32"))
    if quantize is not None and (config := bitsandbytes_config(quantize, dtype)):
        given["unet"] = _load_part(UNet2DConditionModel, base, "unet", dtype, quantization_config=config)
    if not base.is_single_file:
        variants = {base.variant_for(part, dtype) for part in base.weights if part not in given} - {None}
        return StableDiffusionXLPipeline.from_pretrained(
            base.path,
            dtype=getattr(torch, dtype),
            variant=next(iter(variants), None),
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
            **given,
        )
    for part in ("tokenizer", "tokenizer_2"):
        given[part] = load_tokenizer(base.config / part)
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(base.path),
        config=str(base.config),
        torch_dtype=getattr(torch, dtype),
        local_files_only=True,
        add_watermarker=False,
        **given,
    )
    if changes := scheduler_changes(base.path):
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changes)
    return pipeline


def _load_part(kind: Any, base: Base, part: str, dtype: str, **settings: Any) -> Any:
    settings |= {"subfolder": part, "torch_dtype": getattr(torch, dtype), "local_files_only": True}
    if base.is_single_file:
        return kind.from_single_file(str(base.path), config=str(base.config), **settings)
    return kind.from_pretrained(
        base.path, variant=base.variant_for(part, dtype), use_safetensors=True, **settings
    )


def in_float32(vae: Any) -> Any:
    """Keep a VAE in float32, whatever comes in and whatever dtype a pipeline asks it to have."""
    for entry in (vae.encoder, vae.post_quant_conv or vae.decoder):
        entry.register_forward_pre_hook(_cast_input)
    vae.to = MethodType(_move, vae)
    return vae


def _cast_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].float(), *inputs[1:])


def _move(vae: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Stand in for the `to` of a VAE: move it, and cast nothing."""
    kwargs.pop("dtype", None)
    return type(vae).to(vae, *(value for value in args if not isinstance(value, torch.dtype)), **kwargs)


def _require_offload(offload: str, device: str) -> None:
    if offload not in OFFLOADS:
        raise SettingError("the offload policy", offload, f"it must be one of: {', '.join(OFFLOADS)}")
    if offload != "none" and device == "cpu":
        raise DeviceError("the device", device, f'the offload policy "{offload}" needs an accelerator')


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep loading bars, and advice about packages that SDXL does not need, off the user's terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, shown) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if shown:
                library.enable_progress_bar()
