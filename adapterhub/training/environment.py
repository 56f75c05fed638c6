"""What else decides the bytes of a training: libraries and machine, and no clock, host or path."""

import platform
from importlib.metadata import version

import torch

from adapterhub._version import __version__
from adapterhub.randomness import SCHEME

LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def environment(processes: int = 1) -> dict[str, str]:
    """Return names and versions.

    Args:
        processes: That train one adapter together; their number decides how sums are rounded.
    """
    return {
        **({"processes": str(processes)} if processes > 1 else {}),
        "adapterhub": __version__,
        "randomness": SCHEME,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in LIBRARIES},
    }
