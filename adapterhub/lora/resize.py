"""Adapters of lower rank, of other strength, and in parts."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapterhub.errors import AlgebraSettingError, NativeLayersError
from adapterhub.lora import algorithms
from adapterhub.lora.algebra import (
    balanced,
    decompose,
    decompose_whole,
    from_factors,
    gram,
    rank_for_energy,
    truncation_error,
)
from adapterhub.lora.blocks import block_of
from adapterhub.lora.elementwise import leading
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target, Update

ROWS = 256
"""Rows of a full matrix to compare at a time."""


@dataclass(frozen=True)
class LayerCut:
    """What one layer was cut to.

    Attributes:
        rank: Its new rank; 0 if the layer is left out, as there is nothing of it.
        error: Relative Frobenius error of the cut, `norm(D - D_k) / norm(D)`; 0 if nothing was cut.
    """

    rank: int
    error: float = 0.0

    @property
    def kept_energy(self) -> float:
        """The part of the squared norm that is kept, from 0 to 1."""
        return 1.0 - self.error**2


@dataclass(frozen=True)
class ResizeResult:
    """A resized adapter.

    Attributes:
        adapter: Its tensors.
        layers: The cut of each LoRA layer.
    """

    adapter: AdapterTensors
    layers: Mapping[Target, LayerCut]


@dataclass(frozen=True)
class Bounds:
    """How much of a spectrum to keep: the least of all that is given; all None keeps it whole.

    Attributes:
        rank: At most so many singular values.
        ratio: Those above the largest divided by this; kohya's `sv_ratio`.
        frobenius: The fewest whose norm is at least this part of the whole norm; kohya's `sv_fro`.
        energy: The fewest whose squares sum to this part of the whole. `frobenius=f` is `energy=f**2`, while
            kohya's `sv_cumulative` sums the values without squaring them.

    Raises:
        AlgebraSettingError: A value is out of its range.
    """

    rank: int | None = None
    ratio: float | None = None
    frobenius: float | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise AlgebraSettingError("rank", self.rank, "it must be at least 1")
        if self.ratio is not None and not self.ratio >= 1:
            raise AlgebraSettingError("ratio", self.ratio, "it must be at least 1")
        for name, value in (("frobenius", self.frobenius), ("energy", self.energy)):
            if value is not None and not 0 < value <= 1:
                raise AlgebraSettingError(name, value, "it must be above 0 and at most 1")

    @property
    def has_spectral(self) -> bool:
        """Whether the singular values decide."""
        return any(value is not None for value in (self.ratio, self.frobenius, self.energy))

    def keeps_all(self, rank: int) -> bool:
        """Whether a product of this rank is kept whole, whatever its singular values are."""
        return not self.has_spectral and (self.rank is None or self.rank >= rank)

    def rank_of(self, s: Tensor) -> int:
        """Return how many of the singular values `s`, which fall, to keep; at least 1.

        Example:
            >>> import torch
            >>> s = torch.tensor([8.0, 4.0, 1.0])
            >>> [Bounds(ratio=4).rank_of(s), Bounds(rank=1, energy=0.9).rank_of(s)]
            [2, 1]
            >>> Bounds(frobenius=0.99).rank_of(s)
            2
        """
        counts = [len(s)]
        if self.rank is not None:
            counts.append(self.rank)
        if self.ratio is not None:
            counts.append(int((s > s[0] / self.ratio).sum()))
        counts += [
            rank_for_energy(s, part)
            for part in (self.frobenius and self.frobenius**2, self.energy)
            if part is not None
        ]
        return max(min(counts), 1)


def compress(up: Tensor, down: Tensor, shape: tuple[int, ...], bounds: Bounds) -> tuple[LowRank, LayerCut]:
    """Return the LoRA layer nearest to `up @ down` within the bounds, and what was lost.

    The truncated SVD, which is optimal (Eckart and Young 1936), from the factors alone.

    Args:
        up: `(m, R)` float32.
        down: `(R, n)` float32.
        shape: Of the weight, with `m` outputs.
        bounds: What to keep; nothing is computed where they keep all.
    """
    if bounds.keeps_all(up.shape[1]):
        return from_factors(up, down, shape), LayerCut(up.shape[1])
    parts = decompose(up, down, rank_of=bounds.rank_of)
    rank = bounds.rank_of(parts.s)
    return balanced(parts.truncated(rank), shape), LayerCut(rank, truncation_error(parts.s, rank))


def compress_matrix(matrix: Tensor, shape: tuple[int, ...], bounds: Bounds) -> tuple[LowRank, LayerCut]:
    """Return the LoRA layer nearest to a full matrix within the bounds, and what was lost.

    With a rank alone by `elementwise.leading`, whose error is within about 0.1 % of the least even for the
    flat spectra of TIES and DARE; with a bound on the singular values by a full SVD.

    Args:
        matrix: `(m, n)` float32.
        shape: Of the weight, with `m` outputs.
        bounds: With at least one value.
    """
    if bounds.has_spectral or bounds.rank is None:
        parts = decompose_whole(matrix)
    else:
        parts = leading(matrix, min(bounds.rank, *matrix.shape))
    kept = parts.truncated(bounds.rank_of(parts.s))
    rows, parts = matrix.split(ROWS), (kept.u * kept.s).split(ROWS)
    whole = _norm(rows)
    lost = _norm(row.addmm(part, kept.v, alpha=-1) for row, part in zip(rows, parts, strict=True))
    return balanced(kept, shape), LayerCut(len(kept.s), lost / whole if whole else 0.0)


def resize(
    adapter: AdapterTensors,
    *,
    rank: int | None = None,
    ratio: float | None = None,
    frobenius: float | None = None,
    energy: float | None = None,
) -> ResizeResult:
    """Return the adapter with each LoRA layer cut to a lower rank, by its optimal low-rank approximation.

    At least one bound is needed; with several, a layer gets the least rank of all. A layer whose rank would
    not fall stays as it is. So do layers of other algorithms, stored differences and biases. New factors are
    in float32, with scale 1 and the roots of the singular values on both sides.

    Args:
        adapter: Any adapter.
        rank: The new rank of every layer.
        ratio: Keep the singular values above the layer's largest divided by this; above 1.
        frobenius: Keep at least this part of the layer's Frobenius norm.
        energy: Keep at least this part of the layer's squared Frobenius norm.

    Raises:
        AlgebraSettingError: No bound, or one out of its range.

    Example:
        >>> import torch
        >>> layer = LowRank(torch.eye(4)[:3], torch.eye(4)[:, :3] * torch.tensor([4.0, 2.0, 1.0]))
        >>> found = resize(AdapterTensors({Target("unet", "conv_in"): layer}), energy=0.9)
        >>> [(cut.rank, round(cut.kept_energy, 3)) for cut in found.layers.values()]
        [(2, 0.952)]
    """
    bounds = Bounds(rank, ratio, frobenius, energy)
    if bounds == Bounds():
        raise AlgebraSettingError("the bound", "missing", "give one of rank, ratio, frobenius and energy")
    layers, cuts = dict(adapter.layers), {}
    for target, layer in adapter.low_rank().items():
        cuts[target] = LayerCut(layer.rank)
        if not bounds.keeps_all(layer.rank):
            smaller, cut = compress(*layer.factors(), layer.shape, bounds)
            if cut.rank < layer.rank:
                layers[target], cuts[target] = smaller, cut
    return ResizeResult(dataclasses.replace(adapter, layers=layers, source=None), cuts)


def energy_kept(adapter: AdapterTensors, cuts: Mapping[Target, LayerCut]) -> float:
    """Return what the cuts left of the squared norm of all LoRA layers together."""
    kept = whole = 0.0
    for target, layer in adapter.low_rank().items():
        energy = float(gram([layer.factors()])[0, 0])
        kept += energy
        whole += energy / (1 - cuts[target].error ** 2) if target in cuts else energy
    return kept / whole if whole else 1.0


def scale(adapter: AdapterTensors, factor: float) -> AdapterTensors:
    """Return the adapter with all that it adds multiplied by a number.

    LoRA, LoCon, LoHa, LoKr and GLoRA layers keep their tensors and get another scale, so nothing is rounded.

    Args:
        adapter: Any adapter whose layers scale.
        factor: Any finite number; negative turns the effect around.

    Raises:
        AlgebraSettingError: The factor is not finite.
        NativeLayersError: It has layers that no scale multiplies, such as DoRA or OFT.

    Example:
        >>> import torch
        >>> layer = LowRank(torch.ones(1, 2), torch.ones(3, 1), scale=0.5)
        >>> half = scale(AdapterTensors({Target("unet", "conv_in"): layer}), -2.0)
        >>> [layer.scale for layer in half.layers.values()]
        [-1.0]
    """
    if not math.isfinite(factor):
        raise AlgebraSettingError("the factor", factor, "it must be finite")
    fixed = {t: layer for t, layer in adapter.layers.items() if not _is_scalable(layer)}
    if fixed:
        raise NativeLayersError(
            [str(t) for t in fixed], sorted({layer.algorithm for layer in fixed.values()})
        )
    return dataclasses.replace(
        adapter,
        layers={target: _scaled(layer, factor) for target, layer in adapter.layers.items()},
        biases={target: bias * factor for target, bias in adapter.biases.items()},
        source=None,
    )


def split(adapter: AdapterTensors, by: str = "component") -> dict[str, AdapterTensors]:
    """Return the parts of an adapter, which add up to it; metadata and extras stay with each.

    Args:
        adapter: Any adapter.
        by: `component` (`unet`, `text_encoder`, `text_encoder_2`, `model`) or `block` (`down_blocks.1`,
            `text_encoder.layers.3`, as `blocks.block_of` names them).

    Returns:
        Name of the part to the part, in the order of the adapter's targets.

    Raises:
        AlgebraSettingError: Any other `by`.

    Example:
        >>> import torch
        >>> layer = LowRank(torch.ones(1, 2), torch.ones(3, 1))
        >>> names = ("down_blocks.1.attentions.0.proj_in", "mid_block.attentions.0.proj_in")
        >>> list(split(AdapterTensors({Target("unet", name): layer for name in names}), by="block"))
        ['down_blocks.1', 'mid_block']
    """
    if by not in ("component", "block"):
        raise AlgebraSettingError("by", by, "it must be component or block")
    parts: dict[str, set[Target]] = {}
    for target in (*adapter.layers, *adapter.biases):
        name = target.component if by == "component" else block_of(target)
        parts.setdefault(name, set()).add(target)
    return {name: adapter.select(targets.__contains__) for name, targets in parts.items()}


def _norm(blocks: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(torch.linalg.vector_norm(block)) ** 2 for block in blocks))


def _is_scalable(layer: Update) -> bool:
    return not isinstance(layer, Native) or layer.algorithm in algorithms.EXACT


def _scaled(layer: Update, factor: float) -> Update:
    if isinstance(layer, Dense):
        return Dense(layer.difference * factor)
    return dataclasses.replace(layer, scale=layer.scale * factor, origin="computed")
