"""Where a figure was measured."""

import platform

import torch


def machine(device: str, dtype: str) -> dict[str, object]:
    """Return what a result says of the device, threads, dtype and torch that it was measured with.

    Args:
        device: `cuda` or `cpu`.
        dtype: That was computed in.
    """
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "torch": torch.__version__,
    }
