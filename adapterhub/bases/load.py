"""Load a base as diffusers' own pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from adapterhub.bases.find import Base
from adapterhub.errors import BaseLoadError, DeviceError

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

DTYPES = ("float32", "float16", "bfloat16")


def load_pipeline(base: Base, *, device: str, dtype: str) -> "StableDiffusionXLPipeline":
    """Load the base as a stock diffusers pipeline, in evaluation mode, with no gradients.

    Args:
        base: From `find_base`.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; see `choose_device`.
        dtype: One of `DTYPES`.

    Raises:
        BaseLoadError: The files are there, and diffusers or transformers cannot load them.
    """
    from safetensors import SafetensorError

    with _quiet_libraries():
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
            StableDiffusionXLPipeline,
        )
    try:
        with _quiet_libraries():
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                base.path,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                add_watermarker=False,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as exc:
        raise BaseLoadError(base.path, str(exc).splitlines()[0] if str(exc) else repr(exc)) from exc
    pipeline.set_progress_bar_config(disable=True)
    for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        component.requires_grad_(False).eval()
    return pipeline.to(device)


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


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep loading bars, and advice about packages that SDXL does not need, off the user's terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = [library.is_progress_bar_enabled() for library in (diffusers_logging, transformers_logging)]
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for library, shown in zip((diffusers_logging, transformers_logging), bars, strict=True):
            if shown:
                library.enable_progress_bar()
