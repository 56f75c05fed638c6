"""The fused plane: deltas are written into the pipeline's weights, computed from the pristine ones."""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adapterhub.lora.weights import LowRank, Target, Update
from adapterhub.runtime.active import ActiveAdapter, Stack
from adapterhub.runtime.targets import TargetIndex
from adapterhub.runtime.weight_bank import Delta, WeightBank

logger = logging.getLogger(__name__)

SAMPLE = 8
"""Weights that are measured."""
SPOILT = 0.2
"""Noise over signal that is warned of; in bfloat16 a delta of a hundredth of a weight's norm has 0.17."""
REMEMBERED = 10_000
"""Adapters and strengths that are measured at most."""
Part = tuple[str, float]
"""A version's digest and its strength: with the target they say what is added."""


class FusedPlane:
    """Writes what is composed into a pipeline's weights.

    Args:
        components: The UNet and the text encoders, by name.
        targets: Their modules.
        policy: Where pristine weights lie; see `WeightBank`.
    """

    def __init__(
        self, components: Mapping[str, nn.Module], targets: TargetIndex, *, policy: str = "gpu"
    ) -> None:
        self._targets = targets
        self.bank = WeightBank(components, policy=policy)
        self._measured: set[str] = set()

    def apply(self, stack: Stack, *, device: torch.device) -> None:
        """Write the weights of a stack; the base's if that fails, and the error goes on.

        Where weights are kept in 16 bits it is measured, once for each adapter and strength, how much of what
        it adds their rounding spoils, and warned of if that is much.
        """
        deltas = self.deltas(stack, device=device)
        self.fuse(deltas)
        for one in stack:
            self._warn_if_swallowed(one, device)

    def fuse(self, deltas: Mapping[str, Delta]) -> None:
        """Write what `deltas` returned; as `apply`."""
        self.bank.fuse(deltas)

    def restore(self) -> None:
        """Write the base's weights back, bit for bit."""
        self.bank.restore()

    def pristine(self, target: Target) -> Tensor:
        """Return the base's weight of a target; not to be written to."""
        return self.bank.pristine(self._targets.weights[target])

    def _warn_if_swallowed(self, one: ActiveAdapter, device: torch.device) -> None:
        """Measure some weights under one adapter alone, without writing them."""
        key = repr((one.digest, sorted(one.strengths.items()), one.blocks))
        if key in self._measured or len(self._measured) >= REMEMBERED:
            return
        self._measured.add(key)
        deltas = self.deltas((one,), device=device)
        names = [name for name in deltas if self.bank.bits(name) == 16]
        signal = noise = 0.0
        dtype = ""
        for name in names[:: max(len(names) // SAMPLE, 1)]:
            pristine = self.bank.pristine(name)
            delta = deltas[name].compute(pristine.to(device).float())
            summed = pristine.to(device).float() + delta
            noise += float((summed.to(pristine.dtype).float() - summed).square().sum())
            signal += float(delta.square().sum())
            dtype = str(pristine.dtype).removeprefix("torch.")
        if signal and (part := math.sqrt(noise / signal)) > SPOILT:
            logger.warning(
                "%s spoils %.0f %% of what %s adds (signal to noise %.1f dB); load the base in float16, or "
                'compose on plane="low_rank"',
                dtype,
                100 * part,
                one.reference,
                -20 * math.log10(part),
            )

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
