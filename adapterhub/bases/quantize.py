"""Quantize a UNet's linear layers, with torchao or bitsandbytes where they are installed."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.memory import QUANTIZED_BITS
from adapterhub.errors import DeviceError, MissingExtraError, SettingError

if TYPE_CHECKING:
    from torch import nn


def require_quantizer(quantize: str, device: str) -> None:
    """Check that there is a way to quantize, here and for a device.

    Raises:
        SettingError: There is no such way.
        MissingExtraError: Its package is not installed.
        DeviceError: It needs another device.
    """
    if quantize not in QUANTIZED_BITS:
        raise SettingError("the quantization", quantize, f"it must be one of: {', '.join(QUANTIZED_BITS)}")
    module = "torchao" if quantize.startswith("torchao") else "bitsandbytes"
    if find_spec(module) is None:
        raise MissingExtraError("quantized", module)
    if module == "bitsandbytes" and not device.startswith("cuda"):
        raise DeviceError("the device", device, f'the quantization "{quantize}" needs a CUDA device')


def bitsandbytes_config(quantize: str, dtype: str) -> Any:
    """Return the config that makes diffusers quantize while it loads; None for torchao."""
    from diffusers.quantizers.quantization_config import BitsAndBytesConfig

    if quantize == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantize == "bnb-4bit":
        compute = getattr(torch, dtype)
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    return None


def quantize_with_torchao(unet: "nn.Module") -> None:
    """Replace the weights of all linear layers by 8-bit integers with a scale for each row.

    It is done here, because diffusers 0.42.1 leaves a UNet from a single file as it was, and says nothing.
    """
    from torchao.quantization import (  # pyright: ignore[reportMissingImports]
        Int8WeightOnlyConfig,
        quantize_,
    )

    quantize_(unet, Int8WeightOnlyConfig())
