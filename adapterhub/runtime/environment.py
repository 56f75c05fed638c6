"""What of this machine decides the bytes of a picture."""

import platform
from importlib.metadata import version

import torch

LIBRARIES = ("diffusers", "torch", "transformers")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def processor_name(device: torch.device) -> str:
    """Return what kernels are chosen by: the CPU's vector instructions, or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return platform.machine()
