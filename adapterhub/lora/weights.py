"""The canonical form of an adapter: for each target one typed update, with one resolved scale."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.errors import NotFiniteError
from adapterhub.lora import algorithms

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
MODEL = "model"
"""The component of an adapter of any other architecture, which keeps its own module paths."""


class Target(NamedTuple):
    """A module that an adapter changes.

    Attributes:
        component: `unet`, `text_encoder`, `text_encoder_2`; `model` for other architectures.
        module: Its path in diffusers' names; in SDXL's text encoders always with `text_model.`.
    """

    component: str
    module: str

    @classmethod
    def at(cls, component: str, path: str) -> "Target":
        """Return the target of a module by its path in the loaded component.

        transformers 5 dropped the level `text_model` from one of the two encoders; targets always have it.

        Example:
            >>> Target.at("text_encoder", "encoder.layers.0.mlp.fc1").module
            'text_model.encoder.layers.0.mlp.fc1'
        """
        if component in COMPONENTS[1:] and not path.startswith("text_model."):
            path = f"text_model.{path}"
        return cls(component, path)

    def __str__(self) -> str:
        return f"{self.component}.{self.module}"


@dataclass(frozen=True)
class LowRank:
    """The update of one linear or convolution: `scale * up @ down` (Hu et al., "LoRA", 2021).

    Attributes:
        down: A: `(rank, in)`, or `(rank, in, kh, kw)` for a convolution.
        up: B: `(out, rank)`, or `(out, rank, 1, 1)`.
        scale: alpha / rank, resolved once.
        origin: Where the scale comes from: the file's `alpha`, a `config`, `rank` (neither, so 1), or it was
            `computed`.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    origin: str = "computed"

    algorithm = "lora"
    needs_base = False

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The stored tensors, by the names of `adapterhub_registry.probe`."""
        return {"down": self.down, "up": self.up}

    def factors(self, *, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return `(weight * scale * B, A)` in float32: `(out, rank)` and `(rank, in * kh * kw)`."""
        return self.up.flatten(1).float() * (weight * self.scale), self.down.flatten(1).float()

    def folded(self, dtype: "torch.dtype | None" = None) -> "LowRank":
        """Return it with the scale in B, multiplied in float32 and cast once, to `dtype` or B's own."""
        return LowRank(self.down, (self.up.float() * self.scale).to(dtype or self.up.dtype))

    def delta(self, *, weight: float = 1.0, base: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return `weight * scale * up @ down` in float32, in the shape of the weight, sharing no memory.

        Example:
            >>> import torch
            >>> layer = LowRank(torch.ones(2, 3), torch.ones(4, 2), scale=0.5)
            >>> layer.delta(weight=3.0)[0, 0].item()
            3.0
        """
        up, down = self.factors(weight=weight)
        return (up @ down).reshape(self.shape)


@dataclass(frozen=True)
class Dense:
    """A difference that is stored whole: of a weight, or of a norm's weight.

    Attributes:
        difference: In the weight's shape.
    """

    difference: Tensor

    algorithm = "full"
    needs_base = False
    scale = 1.0
    origin = "rank"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it changes."""
        return tuple(self.difference.shape)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The stored tensor."""
        return {"diff": self.difference}

    def delta(self, *, weight: float = 1.0, base: Tensor | None = None) -> Tensor:
        """Return `weight * difference` in float32, on the device of `base`, sharing no memory."""
        difference = self.difference if base is None else self.difference.to(base.device)
        return difference.float() * weight


@dataclass(frozen=True)
class Native:
    """An update of another algorithm, kept as it was stored and applied by its own formula.

    Attributes:
        algorithm: `locon-tucker`, `loha`, `lokr`, `glora`, `dora`, `oft`, `boft`, `ia3` or `set`
            (ComfyUI's whole new weight).
        tensors: By the names of `adapterhub_registry.probe`, in the shapes of the file.
        scale: alpha / rank where the algorithm has one, else 1; for `oft` and `boft` it is alpha itself,
            their constraint.
        origin: Where the scale comes from, as in `LowRank`.
    """

    algorithm: str
    tensors: Mapping[str, Tensor]
    scale: float
    origin: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it changes; empty if the tensors alone do not tell."""
        return algorithms.shape_of(self.algorithm, self.tensors)

    @property
    def rank(self) -> int:
        """What alpha is divided by; 0 for algorithms without a rank."""
        return algorithms.rank_of(self.tensors)

    @property
    def needs_base(self) -> bool:
        """Whether its delta depends on the base's weight."""
        return self.algorithm in algorithms.NEED_BASE

    def delta(self, *, weight: float = 1.0, base: Tensor | None = None) -> Tensor:
        """Return the update in float32: `weight * (W' - W)`, linear in the weight for every algorithm.

        Args:
            weight: The strength.
            base: The pristine weight W; needed where `needs_base`, and gives the shape of a convolution.

        Raises:
            ValueError: It needs the base's weight, and none was given.
        """
        if base is None and self.needs_base:
            raise ValueError(f"{self.algorithm} needs the weight that it changes")
        tensors = self.tensors
        if base is not None:
            # Single numbers are read, not computed with.
            tensors = {n: part if part.dim() == 0 else part.to(base.device) for n, part in tensors.items()}
        return algorithms.delta_of(self.algorithm, tensors, self.scale, base) * weight


Update = LowRank | Dense | Native
"""What an adapter does to one weight."""


@dataclass(frozen=True)
class AdapterTensors:
    """An adapter as tensors, on the CPU and memory-mapped where they were read from a file.

    Attributes:
        layers: What it adds to the weight of each target.
        metadata: The text in the header of its file.
        biases: What it adds to the bias of each target, one-dimensional.
        extras: Tensors that belong to no module: text embeddings, and keys that were waived.
        source: Where it was read from, so that the same dialect is written back bit for bit; None as soon
            as anything differs.
    """

    layers: Mapping[Target, Update]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    biases: Mapping[Target, Tensor] = field(default_factory=dict[Target, Tensor])
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    source: "SourceFile | None" = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.numel() * part.element_size() for part in self.all_tensors())

    @property
    def components(self) -> tuple[str, ...]:
        """The components that it changes, sorted."""
        return tuple(sorted({target.component for target in (*self.layers, *self.biases)}))

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms of its layers, sorted."""
        return tuple(sorted({layer.algorithm for layer in self.layers.values()}))

    def low_rank(self) -> dict[Target, LowRank]:
        """Return the layers that are plain LoRA."""
        return {target: layer for target, layer in self.layers.items() if isinstance(layer, LowRank)}

    def require_finite(self, label: str) -> None:
        """Read all numbers, and check that they are finite.

        Raises:
            NotFiniteError: Some are not; their targets are named.
        """
        spoilt = [
            str(target)
            for target, layer in self.layers.items()
            if not all(is_finite(part) for part in layer.tensors.values())
        ]
        spoilt += [f"{target} (bias)" for target, bias in self.biases.items() if not is_finite(bias)]
        if spoilt:
            raise NotFiniteError(label, spoilt)

    def select(self, keep: Callable[[Target], bool]) -> "AdapterTensors":
        """Return the part of it on the targets that `keep` accepts; metadata and extras stay."""
        return dataclasses.replace(
            self,
            layers={target: layer for target, layer in self.layers.items() if keep(target)},
            biases={target: bias for target, bias in self.biases.items() if keep(target)},
            source=None,
        )

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> "AdapterTensors":
        """Return it with what `change` makes of each tensor; their order is always the same.

        Example:
            >>> import torch
            >>> ones = AdapterTensors({Target("unet", "conv_in"): Dense(torch.ones(2))})
            >>> ones.with_tensors(lambda part: part.half()).size_bytes
            4
        """
        return dataclasses.replace(
            self,
            layers={target: _changed(layer, change) for target, layer in self.layers.items()},
            biases={target: change(bias) for target, bias in self.biases.items()},
            extras={name: change(part) for name, part in self.extras.items()},
            source=None,
        )

    def all_tensors(self) -> Iterator[Tensor]:
        """Iterate over the tensors."""
        for layer in self.layers.values():
            yield from layer.tensors.values()
        yield from self.biases.values()
        yield from self.extras.values()


def _changed(layer: Update, change: Callable[[Tensor], Tensor]) -> Update:
    if isinstance(layer, LowRank):
        return dataclasses.replace(layer, down=change(layer.down), up=change(layer.up))
    if isinstance(layer, Dense):
        return Dense(change(layer.difference))
    return dataclasses.replace(layer, tensors={name: change(part) for name, part in layer.tensors.items()})


def is_finite(tensor: Tensor) -> bool:
    """Say whether all numbers of a tensor, of any dtype, are finite."""
    if not tensor.numel():
        return True
    # Both ends tell, for NaN is the end of all: one pass, several times as fast as asking each number.
    low, high = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return math.isfinite(low) and math.isfinite(high)


@dataclass(frozen=True)
class SourceFile:
    """The bytes that an adapter was read from.

    Attributes:
        layouts: As `adapterhub_registry.probe` names them.
        files: Name inside the adapter's directory (or of the file) to its whole content.
    """

    layouts: tuple[str, ...]
    files: Mapping[str, bytes | memoryview]
