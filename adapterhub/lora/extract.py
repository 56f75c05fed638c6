"""Take a LoRA out of a tuned checkpoint: the best low rank of `tuned - base`, layer by layer."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapterhub.errors import AlgebraSettingError
from adapterhub.lora.algebra import Decomposed, balanced, decompose_whole, rank_for_energy
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Target
from adapterhub.randomness import keyed_generator

OVERSAMPLING, ITERATIONS = 16, 2


@dataclass(frozen=True)
class ExtractedLayer:
    """What was taken of one layer.

    Attributes:
        target: The module.
        rank: Of the LoRA.
        norm: Frobenius norm of the difference.
        error: Relative Frobenius error of the LoRA.
    """

    target: Target
    rank: int
    norm: float
    error: float


@dataclass(frozen=True)
class Extracted:
    """An extracted adapter.

    Attributes:
        adapter: Low-rank layers; differences of norms stay whole, if they were asked for.
        layers: What was taken of each layer.
        unchanged: Targets whose weights are the same in both.
    """

    adapter: AdapterTensors
    layers: tuple[ExtractedLayer, ...]
    unchanged: tuple[Target, ...]


def extract(
    pairs: Iterable[tuple[Target, Tensor, Tensor]],
    *,
    rank: int,
    energy: float | None = None,
    exact: bool = False,
    norms: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Extracted:
    """Return the LoRA that is nearest to a difference of checkpoints.

    By default with a randomised range finder (Halko, Martinsson and Tropp 2011, `rank + 16` columns, two
    power iterations), which is within a thousandth of the optimum at a fraction of the time. Nothing is
    clamped: scripts that clamp the largest entries end far from the optimum.

    Args:
        pairs: (target, base weight, tuned weight), one at a time, in equal shapes.
        rank: Largest rank of a layer.
        energy: Cut further, to the least rank that keeps this part of the squared norm found.
        exact: Decompose the whole difference instead.
        norms: Keep differences of one-dimensional weights whole.
        dtype: Of the factors.
        seed: Of the random columns, keyed by the target.

    Raises:
        AlgebraSettingError: The rank is below 1, or the energy is not in (0, 1].

    Example:
        >>> base, change = torch.zeros(8, 6), torch.ones(8, 1) @ torch.ones(1, 6)
        >>> found = extract([(Target("unet", "conv_in"), base, base + change)], rank=1)
        >>> torch.allclose(found.adapter.low_rank()[Target("unet", "conv_in")].delta(), change, atol=1e-6)
        True
    """
    if rank < 1:
        raise AlgebraSettingError("rank", rank, "a whole number of at least 1")
    if energy is not None and not 0 < energy <= 1:
        raise AlgebraSettingError("energy", energy, "above 0 and at most 1")
    layers: dict[Target, LowRank | Dense] = {}
    report: list[ExtractedLayer] = []
    unchanged: list[Target] = []
    for target, base, tuned in pairs:
        difference = tuned.float() - base.float()
        norm = float(torch.linalg.vector_norm(difference.double()))
        if norm == 0.0:
            unchanged.append(target)
        elif difference.dim() < 2:
            if norms:
                layers[target] = Dense(difference.to(dtype))
                report.append(ExtractedLayer(target, 0, norm, 0.0))
        else:
            matrix = difference.flatten(1)
            parts = decompose_whole(matrix) if exact else _randomised(matrix, rank, target, seed)
            kept = min(rank, len(parts.s))
            if energy is not None:
                kept = min(kept, rank_for_energy(parts.s, energy))
            parts = parts.truncated(kept)
            layers[target] = balanced(parts, difference.shape, dtype=dtype)
            left = max(1.0 - float(parts.s.double().square().sum()) / norm**2, 0.0)
            report.append(ExtractedLayer(target, kept, norm, left**0.5))
    return Extracted(AdapterTensors(layers), tuple(report), tuple(unchanged))


def _randomised(matrix: Tensor, rank: int, target: Target, seed: int) -> Decomposed:
    columns = rank + OVERSAMPLING
    if columns >= 0.5 * min(matrix.shape):
        return decompose_whole(matrix)
    drawn = keyed_generator(seed, "extract", str(target)).standard_normal(
        (matrix.shape[1], columns), np.float32
    )
    basis = torch.linalg.qr(matrix @ torch.from_numpy(drawn).to(matrix.device))[0]
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix.t() @ basis)[0]
        basis = torch.linalg.qr(matrix @ basis)[0]
    u, s, v = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    return Decomposed(basis @ u, s, v)
