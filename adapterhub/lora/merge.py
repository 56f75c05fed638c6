"""Make a new adapter out of several, from their factors."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapterhub.errors import AlgebraSettingError, LayerKindsError, NativeLayersError, ShapesError
from adapterhub.lora.algebra import gram
from adapterhub.lora.blocks import Pattern, parse_block_weights, select_targets
from adapterhub.lora.merge_recipe import METHODS as METHODS
from adapterhub.lora.merge_recipe import SUMS, Recipe
from adapterhub.lora.resize import Bounds, LayerCut
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target, Update

Weigh = Callable[[Target], float]
"""The weight of a target."""
BlockWeights = str | Weigh | None
"""Weights by block of one adapter: a text for `blocks.parse_block_weights`, a function, or none."""


@dataclass(frozen=True)
class MergeResult:
    """A merged adapter.

    Attributes:
        adapter: Its tensors: factors in float32 with scale 1; no metadata, no extras.
        layers: The cut of each LoRA layer.
        left_out: Names of the adapters' extras, such as text embeddings, which have no sum.
    """

    adapter: AdapterTensors
    layers: Mapping[Target, LayerCut]
    left_out: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether it is what the method's equation says, up to float32's rounding, as nothing was cut."""
        return all(cut.error == 0 for cut in self.layers.values())


def merge(
    adapters: Sequence[AdapterTensors],
    weights: Sequence[float],
    *,
    method: str = "cat",
    rank: int | None = None,
    energy: float | None = None,
    density: float = 0.2,
    drop: float = 0.5,
    t: float = 0.5,
    space: Literal["full", "core", "knots"] = "full",
    normalize: Literal["first", "mean"] | float | None = None,
    block_weights: Sequence[BlockWeights] | None = None,
    targets: Pattern | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> MergeResult:
    """Return one adapter made of several.

    With D_i the delta of the i-th adapter and w_i its weight, the methods are:

    - `cat`: `sum_i w_i D_i`, exact: the factors side by side, of rank `sum_i r_i` (task arithmetic, Ilharco
      et al. 2022, arXiv 2212.04089). PEFT's `linear` sums A and B apart, which adds cross terms; its
      counterpart is `cat`.
    - `svd`: the best approximation of that sum of a rank or an energy (Eckart and Young 1936). PEFT's `svd`
      is the same from the full matrix; kohya's `svd_merge_lora` clamps the factors afterwards, which is off
      the optimum.
    - `slerp`: from w_1 D_1 to w_2 D_2 on the arc; see `merge_spectral.slerp_weights`.
    - `model_stock`: their mean, shorter the less they agree; see `merge_spectral.model_stock_weights`.
    - `orthogonal`: the first whole, of the others what it does not touch; see `merge_spectral.orthogonal`.
    - `tsv`, `iso_c`: from the singular vectors; see `merge_spectral.tsv` and `merge_spectral.iso_c`.
    - `ties`, `magnitude_prune`, `dare_linear`, `dare_ties`: entry by entry; see `elementwise`.
    - `knots`: `ties` in the space `knots`; see `merge_spectral.knots`.

    A negative weight subtracts; one adapter with the weight -1 is negated. An adapter without a layer, or
    with the weight 0 there, takes no part in that layer. Layers that are stored whole and biases are summed
    by `cat` and `svd`; no other method takes them.

    Args:
        adapters: At least one; their layers plain LoRA.
        weights: One for each, finite.
        method: One of these.
        rank: Cut each layer of the result to this rank.
        energy: Cut each layer to the least rank that keeps this part of its squared norm; with `rank` too,
            to the lesser. `svd` needs one of the two. The result of an elementwise method in the space `full`
            has full rank; it is cut to the sum of the ranks if neither is given.
        density: The part of the entries that `ties`, `magnitude_prune` and `knots` keep, as in PEFT.
        drop: The chance of `dare_linear` and `dare_ties` to drop an entry; PEFT's density is 1 - drop.
        t: Where on the arc, from 0 to 1.
        space: Where elementwise methods look at entries: in the deltas, of which one layer is held whole at a
            time, or in small matrices, from which the result is a LoRA without a cut:
            `merge_spectral.core_space` or `merge_spectral.knots`.
        normalize: Scale the result to a Frobenius norm over all layers: that of the first adapter, the mean
            of the adapters' (both without weights), or this number.
        block_weights: One for each adapter, on top of its weight.
        targets: The layers to merge, see `blocks.select_targets`; the others are not in the result.
        names: One for each adapter, by which DARE's masks are keyed; None takes the places in the list.
        seed: Of DARE's masks.

    Raises:
        AlgebraSettingError: A setting is unknown, missing or out of its range.
        BlockWeightsError: Weights by block cannot be read.
        NativeLayersError: Layers are of other algorithms than LoRA.
        ShapesError: Adapters change a module in different shapes.
        LayerKindsError: Whole differences or biases that the method does not take, or beside a LoRA.

    Example:
        >>> one = LowRank(torch.ones(1, 3), torch.ones(2, 1))
        >>> adapter = AdapterTensors({Target("unet", "conv_in"): one})
        >>> merged = merge([adapter, adapter], [1.0, -0.5])
        >>> [(layer.rank, layer.delta().tolist()) for layer in merged.adapter.layers.values()]
        [(2, [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])]
        >>> merged.exact
        True
    """
    if method == "knots":
        method, space = "ties", "knots"
    names = [str(place) for place in range(len(adapters))] if names is None else names
    _check_count("names", names, adapters)
    recipe = Recipe(names, method, Bounds(rank=rank, energy=energy), density, drop, t, space, seed)
    weigh = _weighing(adapters, weights, block_weights)
    _check_norm(normalize)
    parts = list(adapters)
    if targets is not None:
        keep = select_targets(targets)
        parts = [one.select(keep) for one in adapters]
    _check_layers(parts, method)

    layers: dict[Target, LowRank | Dense] = {}
    cuts: dict[Target, LayerCut] = {}
    for target in _union(one.layers for one in parts):
        found = {
            i: (one.layers[target], weigh[i](target)) for i, one in enumerate(parts) if target in one.layers
        }
        low = {i: (layer, weight) for i, (layer, weight) in found.items() if isinstance(layer, LowRank)}
        if not low:
            layers[target] = Dense(_sum(layer.delta(weight=weight) for layer, weight in found.values()))
            continue
        used = {i: part for i, part in low.items() if part[1]}
        merged, cuts[target] = recipe.merge(target, used) if used else (None, LayerCut(0))
        if merged is not None:
            layers[target] = merged
    biases = {
        target: _sum(
            one.biases[target].float() * weigh[i](target)
            for i, one in enumerate(parts)
            if target in one.biases
        )
        for target in _union(one.biases for one in parts)
    }
    adapter = AdapterTensors(layers, biases=biases)
    if normalize is not None:
        adapter = _normalized(adapter, parts, normalize)
    return MergeResult(adapter, cuts, tuple(dict.fromkeys(name for one in adapters for name in one.extras)))


def _weighing(
    adapters: Sequence[AdapterTensors], weights: Sequence[float], by_block: Sequence[BlockWeights] | None
) -> list[Weigh]:
    _check_count("weights", weights, adapters)
    by_block = [None] * len(adapters) if by_block is None else by_block
    _check_count("block_weights", by_block, adapters)
    for weight in weights:
        if not math.isfinite(weight):
            raise AlgebraSettingError("a weight", weight, "it must be finite")
    return [_times(weight, blocks) for weight, blocks in zip(weights, by_block, strict=True)]


def _times(weight: float, blocks: BlockWeights) -> Weigh:
    if blocks is None:
        return lambda _target: weight
    factor = parse_block_weights(blocks) if isinstance(blocks, str) else blocks
    return lambda target: weight * factor(target)


def _check_count(name: str, values: Sequence[object], adapters: Sequence[AdapterTensors]) -> None:
    if isinstance(values, str) or len(values) != len(adapters):
        rule = f"there must be {len(adapters)}, one for each adapter"
        raise AlgebraSettingError(f"the number of {name}", len(values), rule)


def _check_norm(normalize: str | float | None) -> None:
    if isinstance(normalize, str):
        is_right = normalize in ("first", "mean")
    else:
        is_right = normalize is None or (math.isfinite(normalize) and normalize > 0)
    if not is_right:
        raise AlgebraSettingError("normalize", normalize, "it must be first, mean, or a number above 0")


def _check_layers(adapters: Sequence[AdapterTensors], method: str) -> None:
    """Refuse, before anything is computed, what cannot be merged, with all its targets."""
    by_target: dict[Target, list[Update]] = {}
    biases: dict[Target, set[tuple[int, ...]]] = {}
    for one in adapters:
        for target, layer in one.layers.items():
            by_target.setdefault(target, []).append(layer)
        for target, bias in one.biases.items():
            biases.setdefault(target, set()).add(tuple(bias.shape))
    if not by_target and not biases:
        raise AlgebraSettingError("the list of layers", "empty", "targets must pick at least one layer")

    native = {t: [one for one in found if isinstance(one, Native)] for t, found in by_target.items()}
    native = {target: found for target, found in native.items() if found}
    if native:
        algorithms = sorted({one.algorithm for found in native.values() for one in found})
        raise NativeLayersError([str(target) for target in native], algorithms)
    shapes = {target: {layer.shape for layer in found} for target, found in by_target.items()}
    for found in (shapes, biases):
        differing = {target: sorted(several) for target, several in found.items() if len(several) > 1}
        if differing:
            raise ShapesError([str(target) for target in differing], next(iter(differing.values())))
    dense = [target for target, found in by_target.items() if any(isinstance(one, Dense) for one in found)]
    whole = [str(target) for target in (*dense, *biases)]
    if whole and method not in SUMS:
        reason = (
            f"{method} merges LoRA layers alone, and these are differences or biases that are stored whole"
        )
        raise LayerKindsError(whole, reason, "Merge with cat or svd, or leave them out with targets")
    mixed = [str(target) for target in dense if any(isinstance(one, LowRank) for one in by_target[target])]
    if mixed:
        reason = "one adapter stores these layers whole and another as LoRA"
        raise LayerKindsError(
            mixed, reason, "Convert the whole ones to LoRA first, or leave them out with targets"
        )


def _union(keys: Iterable[Iterable[Target]]) -> list[Target]:
    return list(dict.fromkeys(target for some in keys for target in some))


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(dim=0)


def _normalized(
    adapter: AdapterTensors, parts: Sequence[AdapterTensors], normalize: str | float
) -> AdapterTensors:
    """Scaled by `c = norm / sqrt(w^T G w)`, where G holds the inner products of the adapters."""
    if isinstance(normalize, str):
        norms = [_norm(one) for one in (parts[:1] if normalize == "first" else parts)]
        normalize = sum(norms) / len(norms)
    norm = _norm(adapter)
    if norm == 0:
        return adapter
    factor = normalize / norm
    layers: dict[Target, Update] = {}
    for target, layer in adapter.layers.items():
        if isinstance(layer, LowRank):
            layers[target] = dataclasses.replace(layer, up=layer.up * factor)
        else:
            layers[target] = Dense(layer.delta(weight=factor))
    biases = {target: bias * factor for target, bias in adapter.biases.items()}
    return AdapterTensors(layers, biases=biases)


def _norm(adapter: AdapterTensors) -> float:
    total = 0.0
    for layer in adapter.layers.values():
        if isinstance(layer, LowRank):
            total += float(gram([layer.factors()]))
        else:
            total += float(layer.delta().double().square().sum())
    return math.sqrt(total)
