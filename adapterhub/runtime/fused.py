"""The fused plane: deltas are written into the pipeline's weights, computed from the pristine ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adapterhub.lora.weights import LowRank, Target, Update
from adapterhub.runtime.active import Stack
from adapterhub.runtime.targets import TargetIndex
from adapterhub.runtime.weight_bank import Delta, WeightBank

Part = tuple[str, float]
"""A version's digest and its strength: with the target they say what is added."""


class FusedPlane:
    """Writes what is composed into a pipeline's weights.

    Args:
        components: The UNet and the text encoders, by name.
        targets: Their modules.
    """

    def __init__(self, components: Mapping[str, nn.Module], targets: TargetIndex) -> None:
        self._components = components
        self._targets = targets
        self.bank = WeightBank(components)

    def apply(self, stack: Stack, *, device: torch.device) -> None:
        """Write the weights of a stack; the base's if that fails, and the error goes on."""
        self.fuse(self.deltas(stack, device=device))

    def fuse(self, deltas: Mapping[str, Delta]) -> None:
        """Write what `deltas` returned; as `apply`."""
        self.bank.fuse(deltas)

    def restore(self) -> None:
        """Write the base's weights back, bit for bit."""
        self.bank.restore()

    def pristine(self, target: Target) -> Tensor:
        """Return the base's weight of a target; not to be written to."""
        return self.bank.pristine(self._targets.weights[target])

    def deltas(self, stack: Stack, *, device: torch.device) -> dict[str, Delta]:
        """Return, for each parameter that changes, its whole delta."""
        updates: dict[Target, list[tuple[Part, Update]]] = {}
        shifts: dict[Target, list[tuple[Part, Tensor]]] = {}
        for one in stack:
            for target, layer in one.tensors.layers.items():
                if strength := one.strength(target):
                    updates.setdefault(target, []).append(((one.digest, strength), layer))
            for target, bias in one.tensors.biases.items():
                if strength := one.strength(target):
                    shifts.setdefault(target, []).append(((one.digest, strength), bias))
        index = self._targets
        weights = {
            index.weights[target]: _stacked(parts, index.shapes[target], device)
            for target, parts in updates.items()
        }
        return weights | {index.biases[target]: _summed(parts, device) for target, parts in shifts.items()}


def _stacked(parts: Sequence[tuple[Part, Update]], shape: tuple[int, ...], device: torch.device) -> Delta:
    """Return the sum of the deltas of one target: one float32 product of stacked factors, and other kinds."""
    plain = [(layer, strength) for (_, strength), layer in parts if isinstance(layer, LowRank)]
    others = [(layer, strength) for (_, strength), layer in parts if not isinstance(layer, LowRank)]

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

    return Delta(_key(parts), delta, None if others else factors)


def _summed(parts: Sequence[tuple[Part, Tensor]], device: torch.device) -> Delta:
    def delta(pristine: Tensor) -> Tensor:
        return sum(
            (bias.to(device).float().reshape(pristine.shape) * strength for (_, strength), bias in parts),
            start=torch.zeros_like(pristine),
        )

    return Delta(_key(parts), delta)


def _key(parts: Sequence[tuple[Part, object]]) -> tuple[Part, ...]:
    return tuple(part for part, _ in parts)
