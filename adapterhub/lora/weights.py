"""The canonical form of an adapter: for each target, the factors of its update and one resolved scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


class Target(NamedTuple):
    """A module that an adapter changes.

    Attributes:
        component: `unet`, `text_encoder` or `text_encoder_2`.
        module: Its path in diffusers' names; in text encoders always with `text_model.`.
    """

    component: str
    module: str

    def __str__(self) -> str:
        return f"{self.component}.{self.module}"


@dataclass(frozen=True)
class LowRank:
    """The update of one linear or convolution: `scale * up @ down` (Hu et al., "LoRA", 2021).

    Attributes:
        down: A: `(rank, in)`, or `(rank, in, kh, kw)` for a convolution.
        up: B: `(out, rank)`, or `(out, rank, 1, 1)`.
        scale: alpha / rank, resolved once.
        origin: Where the scale comes from: the file's `alpha`, a `config`, or `rank` (neither, so 1).
    """

    down: Tensor
    up: Tensor
    scale: float
    origin: str

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, *, weight: float = 1.0) -> Tensor:
        """Return `weight * scale * up @ down` in float32, in the shape of the weight, sharing no memory.

        Example:
            >>> import torch
            >>> layer = LowRank(torch.ones(2, 3), torch.ones(4, 2), scale=0.5, origin="alpha")
            >>> layer.delta(weight=3.0)[0, 0].item()
            3.0
        """
        down, up = self.down.flatten(1).float(), self.up.flatten(1).float()
        return ((up * (weight * self.scale)) @ down).reshape(self.shape)


@dataclass(frozen=True)
class AdapterTensors:
    """An adapter as tensors.

    Attributes:
        layers: What it adds to each target.
        metadata: The text in the header of its file.
    """

    layers: Mapping[Target, LowRank]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def size_bytes(self) -> int:
        """Bytes of all factors."""
        return sum(
            part.numel() * part.element_size()
            for layer in self.layers.values()
            for part in (layer.down, layer.up)
        )
