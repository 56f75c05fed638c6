"""What a base needs of a device's memory, known before it is loaded."""

import logging
import math
from typing import TYPE_CHECKING

from adapterhub.errors import MemorySizeError

if TYPE_CHECKING:
    from adapterhub.bases.find import Base

logger = logging.getLogger(__name__)

BITS = {"float32": 32, "float16": 16, "bfloat16": 16}
QUANTIZED_BITS = {"torchao-int8": 8, "bnb-8bit": 8, "bnb-4bit": 4}
"""Ways to quantize the UNet's linear layers, and the bits of each of their weights."""


def vae_dtype(base: "Base", dtype: str) -> str:
    """Return the dtype to load the VAE in: float32 where its config has `force_upcast`, as SDXL's own has."""
    return "float32" if base.settings("vae").get("force_upcast") else dtype


def memory_needed(base: "Base", dtype: str, *, quantize: str | None = None) -> dict[str, int]:
    """Return the bytes of each component's weights once they are loaded; pictures need room beside them.

    Args:
        base: From `find_base`; only headers are read.
        dtype: `float32`, `float16` or `bfloat16`.
        quantize: One of `QUANTIZED_BITS`, for the UNet.

    Example:
        >>> from adapterhub.bases.find import find_base
        >>> memory_needed(find_base("mini"), "float16")["unet"]  # 10,069,988 parameters
        20139976
    """
    bits = {"vae": BITS[vae_dtype(base, dtype)]}
    needed = {}
    for component, shapes in base.shapes.items():
        usual = bits.get(component, BITS[dtype])
        linear = QUANTIZED_BITS.get(quantize or "", usual) if component == "unet" else usual
        needed[component] = (
            sum(math.prod(shape) * (linear if len(shape) == 2 else usual) for shape in shapes.values()) // 8
        )
    return needed


def require_memory(
    base: "Base", *, device: str, dtype: str, offload: str = "none", quantize: str | None = None
) -> None:
    """Say what a base needs before it is loaded, and stop where that cannot go well.

    On a CPU a lack of memory is a warning, because a part of it may be swapped out.

    Raises:
        MemorySizeError: The weights alone are more than is free on an accelerator.
    """
    parts = memory_needed(base, dtype, quantize=quantize)
    # Sequential offload brings one layer at a time to the device.
    needed = {"none": sum(parts.values()), "model": max(parts.values()), "sequential": 0}[offload]
    free = free_bytes(device)
    logger.info(
        "%s needs %.2f GB for its weights on %s, %.1f GB are free",
        base.name,
        needed / 1e9,
        device,
        free / 1e9,
    )
    if needed > free:
        error = MemorySizeError(device, needed, free)
        if device.startswith("cuda"):
            raise error
        logger.warning("%s", error)


def free_bytes(device: str) -> int:
    """Return how much of a device's memory is free, or of the computer's for the CPU."""
    import torch

    if device.startswith("cuda"):
        # What torch keeps of memory that nothing uses any more is as good as free.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    return psutil.virtual_memory().available
