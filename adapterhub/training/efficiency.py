"""What an adapter costs beside full fine-tuning: parameters, bytes, and the optimizer's memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub_registry.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

UNITS = ("bytes", "kB", "MB", "GB", "TB")
MOMENTS_BYTES = 8
"""A parameter, of AdamW's two moments in float32."""


@dataclass(frozen=True)
class Efficiency:
    """An adapter beside the modules that it changes.

    Attributes:
        trainable: Numbers that are trained.
        frozen: Numbers of those modules, which full fine-tuning would train.
        adapter_bytes: Of the adapter's file.
        module_bytes: Of those modules, in the dtype that they are loaded in.
        optimizer_bytes: What the optimizer remembers for the adapter, as measured.
        full_optimizer_bytes: What AdamW would remember for those modules in float32.
    """

    trainable: int
    frozen: int
    adapter_bytes: int
    module_bytes: int
    optimizer_bytes: int
    full_optimizer_bytes: int

    @classmethod
    def beside(
        cls, modules: "Iterable[nn.Module]", *, trainable: int, adapter_bytes: int, optimizer_bytes: int
    ) -> "Efficiency":
        """Put an adapter beside the modules that it changes.

        Args:
            modules: The UNet, and the text encoders where they are trained. They are frozen, but for layers
                of the adapter in them, which full fine-tuning has not.
            trainable: As the attribute.
            adapter_bytes: Likewise.
            optimizer_bytes: Likewise.
        """
        weights = [value for module in modules for value in module.parameters() if not value.requires_grad]
        frozen = sum(value.numel() for value in weights)
        return cls(
            trainable=trainable,
            frozen=frozen,
            adapter_bytes=adapter_bytes,
            module_bytes=sum(value.nbytes for value in weights),
            optimizer_bytes=optimizer_bytes,
            full_optimizer_bytes=frozen * MOMENTS_BYTES,
        )

    @property
    def share(self) -> float:
        """Trained numbers per frozen one."""
        return self.trainable / self.frozen

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return what it is about, the adapter's, full fine-tuning's, and the share, for people."""
        sizes = [
            ("weights", self.adapter_bytes, self.module_bytes),
            ("optimizer's memory", self.optimizer_bytes, self.full_optimizer_bytes),
        ]
        numbers = ("parameters", f"{self.trainable:,}", f"{self.frozen:,}", f"{self.share:.2%}")
        return [numbers, *((what, size_text(a), size_text(b), f"{a / b:.2%}") for what, a, b in sizes)]


def size_text(size_bytes: float) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_text(5_130_000_000)
        '5.13 GB'
    """
    value, unit = float(size_bytes), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {UNITS[unit]}"


def measure_efficiency(file: Path, modules: "Iterable[nn.Module]", optimizer: "Optimizer") -> Efficiency:
    """Return what an adapter costs.

    Args:
        file: Of its weights.
        modules: As in `Efficiency.beside`.
        optimizer: Its own, after a step.
    """
    import torch

    tensors = read_header(file).tensors
    return Efficiency.beside(
        modules,
        trainable=sum(prod(info.shape) for name, info in tensors.items() if not name.endswith(".alpha")),
        adapter_bytes=file.stat().st_size,
        optimizer_bytes=sum(
            value.nbytes
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ),
    )
