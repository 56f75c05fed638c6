"""Make plain LoRA of an adapter's other algorithms, and say of each layer whether it is exact."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from adapterhub.errors import ConversionError
from adapterhub.lora.algebra import (
    Decomposed,
    balanced,
    decompose,
    decompose_whole,
    from_factors,
    rank_for_energy,
    truncation_error,
)
from adapterhub.lora.algorithms import EXACT, factors_of
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target, Update

BaseWeight = Callable[[Target], Tensor]
"""Returns the pristine weight of a target, on the CPU."""


@dataclass(frozen=True)
class LayerConversion:
    """What became of one layer.

    Attributes:
        target: The module.
        algorithm: What it was.
        rank: Of the LoRA; 0 for a layer that was kept as it is.
        error: Relative Frobenius error that the truncation made; 0 if there was none.
        is_exact: Whether only rounding separates the two.
    """

    target: Target
    algorithm: str
    rank: int
    error: float
    is_exact: bool


@dataclass(frozen=True)
class Converted:
    """A plain LoRA, and what became of each layer.

    Attributes:
        adapter: Low-rank layers; differences of norms and biases, which no LoRA can hold, are kept.
        layers: In the order of the adapter's.
    """

    adapter: AdapterTensors
    layers: Sequence[LayerConversion]


def to_lora(
    adapter: AdapterTensors,
    *,
    rank: int | None = None,
    energy: float | None = None,
    base: BaseWeight | None = None,
) -> Converted:
    """Return an adapter as plain LoRA; layers that are LoRA already are left alone.

    LoCon (Tucker), LoHa, LoKr and GLoRA have an exact low-rank form (ranks r, r^2, r1 r2 and 2 r). Dense
    differences, DoRA, OFT, BOFT, (IA)^3 and whole weights are decomposed: without `rank` and `energy` at full
    rank, which is exact and large.

    Args:
        adapter: Any.
        rank: Largest rank of a converted layer.
        energy: Part of the squared norm that a converted layer keeps, up to 1.
        base: Pristine weights, for algorithms that depend on them.

    Raises:
        ConversionError: The base's weights are needed and were not given.

    Example:
        >>> import torch
        >>> halves = {name: torch.ones(*shape) for name, shape in
        ...     [("hada_w1_a", (6, 2)), ("hada_w1_b", (2, 4)), ("hada_w2_a", (6, 2)), ("hada_w2_b", (2, 4))]}
        >>> loha = AdapterTensors({Target("unet", "mid_block.x"): Native("loha", halves, 1.0, "rank")})
        >>> [(layer.algorithm, layer.rank, layer.is_exact) for layer in to_lora(loha).layers]
        [('loha', 4, True)]
    """
    without = [str(target) for target, layer in adapter.layers.items() if layer.needs_base and base is None]
    if without:
        raise ConversionError(without, "they depend on the base's weights; name the base")
    layers: dict[Target, Update] = {}
    report: list[LayerConversion] = []
    for target, layer in adapter.layers.items():
        if isinstance(layer, LowRank):
            layers[target] = layer
            report.append(LayerConversion(target, "lora", layer.rank, 0.0, True))
        elif isinstance(layer, Dense) and layer.difference.dim() < 2:
            layers[target] = layer
            report.append(LayerConversion(target, "full", 0, 0.0, True))
        else:
            weight = base(target) if layer.needs_base and base is not None else None
            plain, error = _convert(layer, rank, energy, weight)
            layers[target] = plain
            report.append(LayerConversion(target, layer.algorithm, plain.rank, error, error == 0.0))
    return Converted(dataclasses.replace(adapter, layers=layers, source=None), report)


def _convert(
    layer: Dense | Native, rank: int | None, energy: float | None, base: Tensor | None
) -> tuple[LowRank, float]:
    """Return the layer as LoRA, and the error of its truncation."""
    parts: Decomposed
    if isinstance(layer, Native) and layer.algorithm in EXACT:
        up, down = factors_of(layer.algorithm, layer.tensors, layer.scale, base)
        shape = tuple(base.shape) if base is not None else (up.shape[0], *down.shape[1:])
        down = down.flatten(1)
        is_small = up.shape[1] < min(up.shape[0], down.shape[1])
        if rank is None and energy is None and is_small:
            return from_factors(up, down, shape), 0.0
        parts = decompose(up, down)
    else:
        delta = layer.delta(base=base)
        shape = tuple(delta.shape)
        parts = decompose_whole(delta.flatten(1))
    kept = len(parts.s)
    if energy is not None:
        kept = min(kept, rank_for_energy(parts.s, energy))
    if rank is not None:
        kept = min(kept, rank)
    return balanced(parts.truncated(kept), shape), truncation_error(parts.s, kept)
