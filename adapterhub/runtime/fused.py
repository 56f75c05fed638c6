"""The fused plane: which parameters a composition changes, and by how much."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from adapterhub.errors import TargetError
from adapterhub.lora.blocks import parse_block_weights
from adapterhub.lora.weights import AdapterTensors, LowRank, Target, Update
from adapterhub.runtime.weight_bank import Delta


@dataclass(frozen=True)
class ActiveAdapter:
    """One adapter of a composition, resolved to a version and read.

    Attributes:
        reference: `namespace/name@number`.
        digest: The version's.
        tensors: What it adds.
        strengths: Its strength on each component.
        blocks: What they are multiplied by in single blocks and layers; see `Term`.

    Raises:
        BlockWeightsError: `blocks` cannot be read.
    """

    reference: str
    digest: str
    tensors: AdapterTensors
    strengths: Mapping[str, float]
    blocks: str = ""

    def __post_init__(self) -> None:
        self._weigh  # noqa: B018 - it raises if the text cannot be read

    def strength(self, target: Target) -> float:
        """Return the strength on one module."""
        return self.strengths[target.component] * self._weigh(target)

    @cached_property
    def _weigh(self) -> Callable[[Target], float]:
        return parse_block_weights(self.blocks) if self.blocks else lambda _: 1.0


@dataclass(frozen=True)
class AppliedAdapter:
    """What the record of a picture says of one adapter.

    Attributes:
        reference: `namespace/name@number`.
        digest: The version's.
        strengths: Its strength on each component that it has.
        targets: How many modules it changed; those at strength 0 are not counted.
    """

    reference: str
    digest: str
    strengths: Mapping[str, float]
    targets: int


Part = tuple[str, float]
"""A version's digest and its strength: with the target they say what is added."""
LAYERS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)
"""Modules that an adapter can change."""


class TargetIndex:
    """Where the pipeline keeps the weight of each target; built once, so that composing walks no modules."""

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self._parameters: dict[Target, str] = {}
        self._biases: dict[Target, str] = {}
        self._shapes: dict[Target, tuple[int, ...]] = {}
        for component, module in components.items():
            for name, layer in module.named_modules():
                if isinstance(layer, LAYERS):
                    target = Target.at(component, name)
                    self._parameters[target] = f"{component}.{name}.weight"
                    self._shapes[target] = tuple(layer.weight.shape)
                    if layer.bias is not None:
                        self._biases[target] = f"{component}.{name}.bias"

    def check(self, reference: str, tensors: AdapterTensors) -> None:
        """Check that every layer of an adapter fits a module.

        Raises:
            TargetError: Modules are missing or have other shapes.
        """
        missing = [str(target) for target in tensors.layers if target not in self._shapes]
        missing += [f"{target} (bias)" for target in tensors.biases if target not in self._biases]
        if missing:
            raise TargetError(reference, missing, "it has no such modules")
        wrong = [
            f"{target} {layer.shape} on {self._shapes[target]}"
            for target, layer in tensors.layers.items()
            if not _fits(layer, self._shapes[target])
        ]
        wrong += [
            f"{target} bias {tuple(bias.shape)} on {self._shapes[target]}"
            for target, bias in tensors.biases.items()
            if bias.numel() != self._shapes[target][0]
        ]
        if wrong:
            raise TargetError(reference, wrong, "shapes differ")

    def deltas(self, adapters: Sequence[ActiveAdapter], *, device: torch.device) -> dict[str, Delta]:
        """Return, for each parameter that changes, its whole delta."""
        stacks: dict[Target, list[tuple[Part, Update]]] = {}
        shifts: dict[Target, list[tuple[Part, Tensor]]] = {}
        for adapter in adapters:
            for target, layer in adapter.tensors.layers.items():
                if strength := adapter.strength(target):
                    stacks.setdefault(target, []).append(((adapter.digest, strength), layer))
            for target, bias in adapter.tensors.biases.items():
                if strength := adapter.strength(target):
                    shifts.setdefault(target, []).append(((adapter.digest, strength), bias))
        weights = {
            self._parameters[target]: _stacked(stack, self._shapes[target], device)
            for target, stack in stacks.items()
        }
        biases = {self._biases[target]: _summed_bias(stack, device) for target, stack in shifts.items()}
        return weights | biases


def applied(adapters: Sequence[ActiveAdapter]) -> list[dict[str, object]]:
    """Return what was applied, for the record; `blocks` stands there if any were weighed."""
    entries: list[dict[str, object]] = []
    for adapter in adapters:
        targets = {*adapter.tensors.layers, *adapter.tensors.biases}
        entry: dict[str, object] = asdict(
            AppliedAdapter(
                reference=adapter.reference,
                digest=adapter.digest,
                strengths={name: adapter.strengths[name] for name in sorted({*adapter.tensors.components})},
                targets=sum(adapter.strength(target) != 0 for target in targets),
            )
        )
        entries.append(entry | ({"blocks": adapter.blocks} if adapter.blocks else {}))
    return entries


def text_encoder_digest(adapters: Sequence[ActiveAdapter]) -> str:
    """Return a digest of what is composed into the text encoders; prompts are cached under it."""
    terms = [
        [adapter.digest, str(target), adapter.strength(target)]
        for adapter in adapters
        for target in sorted({*adapter.tensors.layers, *adapter.tensors.biases})
        if target.component != "unet" and adapter.strength(target) != 0
    ]
    return hashlib.sha256(json.dumps(terms).encode()).hexdigest()


def _fits(layer: Update, shape: tuple[int, ...]) -> bool:
    """Say whether an update fits a weight; some algorithms store convolutions flattened, or no shape."""
    if layer.shape:
        return layer.shape[0] == shape[0] and math.prod(layer.shape) == math.prod(shape)
    try:
        layer.delta(base=torch.empty(shape, device="meta"))
    except (RuntimeError, IndexError):
        return False
    return True


def _stacked(stack: Sequence[tuple[Part, Update]], shape: tuple[int, ...], device: torch.device) -> Delta:
    """Return the sum of the deltas of one target: one float32 product of stacked factors, and other kinds."""
    plain = [(layer, strength) for (_, strength), layer in stack if isinstance(layer, LowRank)]
    others = [(layer, strength) for (_, strength), layer in stack if not isinstance(layer, LowRank)]

    def factors() -> tuple[Tensor, Tensor]:
        scaled = [(layer, layer.scale * strength) for layer, strength in plain]
        ups = [layer.up.flatten(1).to(device).float() * scale for layer, scale in scaled]
        downs = [layer.down.flatten(1).to(device).float() for layer, _ in scaled]
        return torch.cat(ups, dim=1), torch.cat(downs, dim=0)

    def delta(pristine: Tensor) -> Tensor:
        terms: list[Tensor] = []
        if plain:
            up, down = factors()
            terms.append((up @ down).reshape(shape))
        terms += [layer.delta(weight=weight, base=pristine).reshape(shape) for layer, weight in others]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    return Delta(_key(stack), delta, None if others else factors)


def _summed_bias(stack: Sequence[tuple[Part, Tensor]], device: torch.device) -> Delta:
    def delta(pristine: Tensor) -> Tensor:
        return sum(
            (bias.to(device).float().reshape(pristine.shape) * strength for (_, strength), bias in stack),
            start=torch.zeros_like(pristine),
        )

    return Delta(_key(stack), delta)


def _key(stack: Sequence[tuple[Part, object]]) -> tuple[Part, ...]:
    return tuple(part for part, _ in stack)
