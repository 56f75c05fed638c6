"""Which module of the pipeline each target is; found once, so that composing walks no modules."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from adapterhub.errors import TargetError
from adapterhub.lora.weights import AdapterTensors, Target, Update

LAYERS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)
"""Modules that an adapter can change."""


class TargetIndex:
    """The modules that adapters can change, by target.

    Args:
        components: The UNet and the text encoders, by name.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.modules: dict[Target, nn.Module] = {}
        self.weights: dict[Target, str] = {}
        self.biases: dict[Target, str] = {}
        self.shapes: dict[Target, tuple[int, ...]] = {}
        for component, module in components.items():
            for name, layer in module.named_modules():
                if isinstance(layer, LAYERS):
                    target = Target.at(component, name)
                    self.modules[target] = layer
                    self.weights[target] = f"{component}.{name}.weight"
                    self.shapes[target] = _shape_of(layer)
                    if layer.bias is not None:
                        self.biases[target] = f"{component}.{name}.bias"

    def check(self, reference: str, tensors: AdapterTensors) -> None:
        """Check that every layer of an adapter fits a module.

        Raises:
            TargetError: Modules are missing or have other shapes.
        """
        missing = [str(target) for target in tensors.layers if target not in self.shapes]
        missing += [f"{target} (bias)" for target in tensors.biases if target not in self.biases]
        if missing:
            raise TargetError(reference, missing, "it has no such modules")
        wrong = [
            f"{target} {layer.shape} on {self.shapes[target]}"
            for target, layer in tensors.layers.items()
            if not _fits(layer, self.shapes[target])
        ]
        wrong += [
            f"{target} bias {tuple(bias.shape)} on {self.shapes[target]}"
            for target, bias in tensors.biases.items()
            if bias.numel() != self.shapes[target][0]
        ]
        if wrong:
            raise TargetError(reference, wrong, "shapes differ")


def _shape_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape of a weight as it is computed with; quantized ones are stored in other shapes."""
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    weight: torch.Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
    return tuple(weight.shape)


def _fits(layer: Update, shape: tuple[int, ...]) -> bool:
    """Say whether an update fits a weight; some algorithms store convolutions flattened, or no shape."""
    if layer.shape:
        return layer.shape[0] == shape[0] and math.prod(layer.shape) == math.prod(shape)
    try:
        layer.delta(base=torch.empty(shape, device="meta"))
    except (RuntimeError, IndexError):
        return False
    return True
