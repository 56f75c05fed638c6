"""Which kernels compute attention while adapters are trained."""

from collections.abc import Generator
from contextlib import contextmanager
from inspect import signature

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HOPPER = 9
"""The major number of its compute capability. At the shapes of training cuDNN is reported to be faster there
than torch's own choice, about twice, and slower on Ampere and Blackwell (huggingface/transformers#48163)."""
CUDNN_FIRST = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


def attention_order(capability: tuple[int, int] | None, *, deterministic: bool) -> tuple[SDPBackend, ...]:
    """Return the order in which kernels are tried, or nothing to leave it to torch.

    Args:
        capability: Of the CUDA device; None for another one.
        deterministic: cuDNN's backward is not, so that torch chooses then.

    Example:
        >>> attention_order((9, 0), deterministic=False)[0].name
        'CUDNN_ATTENTION'
        >>> attention_order((8, 0), deterministic=False)
        ()
    """
    is_hopper = capability is not None and capability[0] == HOPPER
    return CUDNN_FIRST if is_hopper and not deterministic else ()


@contextmanager
def attention_kernels(device: torch.device, *, deterministic: bool) -> Generator[None]:
    """Have attention computed by the kernels that are best on a device; on the CPU nothing is changed."""
    capability = None
    # An order can be set from torch 2.6 on.
    if device.type == "cuda" and torch.version.cuda and "set_priority" in signature(sdpa_kernel).parameters:
        capability = torch.cuda.get_device_capability(device)
    order = attention_order(capability, deterministic=deterministic)
    if not order:
        yield
        return
    with sdpa_kernel(list(order), set_priority=True):
        yield
