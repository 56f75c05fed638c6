"""Merge rules that look at every entry of the deltas: TIES, DARE, magnitude pruning.

They need the full matrices, which are never held: deltas are given as factors, and each rule yields the
merged matrix by blocks of rows. The order of operations is PEFT's (`peft.utils.merge_utils`), so that the
results are equal bit for bit. The result has full rank; `leading` finds the LoRA nearest to it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from adapterhub.lora.algebra import Decomposed, Factors, decompose, decompose_whole
from adapterhub.randomness import keyed_generator, keyed_normal

BLOCK_ENTRIES = 2**18
"""Entries of a block of rows: one MiB, which stays in the cache between the steps of a rule."""
HALF = 2**15
"""Values of the upper 16 bits of a float32 without its sign."""
OVERSAMPLING = 16
ITERATIONS = 6

Rows = Iterator[tuple[slice, Tensor]]
"""Pairs of a slice of rows and these rows of the merged matrix, `(rows, n)` float32, from top to bottom."""
Sparsify = Callable[[int, slice, Tensor], Tensor]
"""Place of the adapter, slice of rows and these rows of its delta, in which it sets some entries to 0."""


def ties(
    deltas: Sequence[Factors], weights: Sequence[float], *, density: float, block_rows: int | None = None
) -> Rows:
    """Yield the rows of the TIES merge (Yadav et al. 2023, arXiv 2306.01708).

    Of each delta the part `density` that is largest in magnitude is kept; each entry gets the sign of the sum
    of what was kept, and the weighted mean of the deltas that have this sign:
    `sum_i w_i T_i [sign T_i = s] / max(1, #[sign T_i = s])` with `s = sign(sum_i T_i)`, where 0 counts as +.

    As in PEFT, the sign is elected before the weights and the divisor is a count; mergekit weighs first and
    divides by the sum of weights. Equal bit for bit to `peft.utils.merge_utils.ties` on the same deltas, but
    where several entries are as large as the smallest one kept: these are all kept here, while PEFT keeps
    some of them.

    Args:
        deltas: One or more pairs `(up, down)`, all of one product shape `(m, n)`.
        weights: One for each.
        density: The part of the entries to keep, above 0 and at most 1.
        block_rows: Rows of a block; None makes blocks of about 1 MiB. It changes the result at most where
            the machine's matrix product rounds few rows in another way than many.

    Yields:
        Slices of rows, and these rows of the merged matrix.

    Example:
        >>> one = (torch.tensor([[1.0], [4.0]]), torch.tensor([[3.0, -1.0]]))  # [[3, -1], [12, -4]]
        >>> [rows.tolist() for _, rows in ties([one], [0.5], density=0.5)]
        [[[0.0, 0.0], [6.0, -2.0]]]
    """
    yield from _merge(deltas, weights, _trim(deltas, density, block_rows), block_rows, elect=True)


def magnitude_prune(
    deltas: Sequence[Factors], weights: Sequence[float], *, density: float, block_rows: int | None = None
) -> Rows:
    """Yield the rows of `sum_i w_i T_i`, where T_i is the part `density` of D_i that is largest in magnitude.

    PEFT's `magnitude_prune`; it is TIES (arXiv 2306.01708) without the election. Arguments as in `ties`.
    """
    yield from _merge(deltas, weights, _trim(deltas, density, block_rows), block_rows, elect=False)


def dare(
    deltas: Sequence[Factors],
    weights: Sequence[float],
    *,
    drop: float,
    seed: int,
    names: Sequence[str],
    layer: str,
    elect: bool = False,
    block_rows: int | None = None,
) -> Rows:
    """Yield the rows of a DARE merge (Yu et al. 2023, arXiv 2311.03099).

    `sum_i w_i (M_i o D_i) / (1 - p)` with random masks M_i that drop each entry with probability p, so that
    the expectation is the weighted sum. With `elect`, signs are elected as in TIES, by PEFT's rule (its
    `dare_ties`): `sum_i w_i T_i [sign T_i = s] / max(1, #[sign T_i = s])` with `T_i = (M_i o D_i) / (1 - p)`.

    PEFT and mergekit draw the masks from torch's global state. Here the mask of a row depends on the seed,
    the adapter's name, the layer and the row alone: not on the order of adapters, other layers, or blocks.

    Args:
        deltas: As in `ties`.
        weights: As in `ties`.
        drop: The probability p, at least 0 and below 1; PEFT's density is 1 - p.
        seed: Of the masks.
        names: One for each delta: what its masks are keyed by.
        layer: The name of the layer, for the same.
        elect: Whether to elect signs.
        block_rows: As in `ties`.

    Yields:
        As in `ties`.
    """
    keep = 1.0 - drop

    def thin(place: int, rows: slice, values: Tensor) -> Tensor:
        return values.mul_(_mask(rows, values.shape[1], keep, seed, names[place], layer)).div_(keep)

    yield from _merge(deltas, weights, thin if drop else _identity, block_rows, elect=elect)


def magnitude_cut(up: Tensor, down: Tensor, keep: int, *, block_rows: int | None = None) -> float:
    """Return the magnitude of the `keep`-th largest entry of `up @ down`, without holding the product.

    Floats without their sign are ordered as their bits are: a histogram of the upper 16 bits finds the bin,
    and a second pass makes one of the lower 16 bits of the entries in that bin. Infinite if `keep` is 0.

    Args:
        up: `(m, r)` float32.
        down: `(r, n)` float32.
        keep: At most m n.
        block_rows: Rows at a time.

    Example:
        >>> magnitude_cut(torch.tensor([[1.0], [-4.0]]), torch.tensor([[3.0, -1.0]]), 2)
        4.0
    """
    if keep == 0:
        return math.inf
    upper, lower = np.zeros(HALF, np.int64), np.zeros(2 * HALF, np.int64)
    for rows in _blocks(up, down, block_rows):
        upper += np.bincount(_bits(up[rows], down) >> 16, minlength=HALF)
    found, above = _bin_of(upper, keep)
    for rows in _blocks(up, down, block_rows):
        bits = _bits(up[rows], down)
        lower += np.bincount(bits[bits >> 16 == found] & 0xFFFF, minlength=2 * HALF)
    last, _ = _bin_of(lower, keep - above)
    return float(np.int32(found << 16 | last).view(np.float32))


def collect(rows: Rows, shape: tuple[int, int]) -> Tensor:
    """Return the matrix whose rows are given, `shape` float32."""
    matrix = torch.empty(shape)
    for place, values in rows:
        matrix[place] = values
    return matrix


def leading(matrix: Tensor, rank: int) -> Decomposed:
    """Return the singular values and vectors of a matrix up to `rank`, by a random range.

    Subspace iteration (Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1) from noise
    that depends on the shape alone. Where that would cost as much as a full SVD, it is one.

    Args:
        matrix: `(m, n)` float32.
        rank: At least 1.
    """
    width, smaller = rank + OVERSAMPLING, min(matrix.shape)
    if width * 4 >= smaller:
        return decompose_whole(matrix).truncated(rank)
    basis = matrix @ keyed_normal((matrix.shape[1], width), 0, "range", *matrix.shape)
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix.t() @ torch.linalg.qr(basis).Q).Q
        basis = matrix @ basis
    basis = torch.linalg.qr(basis).Q
    return decompose(basis, basis.t() @ matrix).truncated(rank)


def _merge(
    deltas: Sequence[Factors], weights: Sequence[float], sparsify: Sparsify, size: int | None, *, elect: bool
) -> Rows:
    scales = torch.tensor(weights, dtype=torch.float32)[:, None, None]
    for rows in _blocks(*deltas[0], size):
        kept = torch.stack([sparsify(i, rows, up[rows] @ down) for i, (up, down) in enumerate(deltas)])
        if not elect:
            yield rows, kept.mul_(scales).sum(dim=0)
            continue
        sign = torch.where(kept.sum(dim=0) >= 0, 1.0, -1.0)
        agree = (kept * sign > 0).float()
        yield rows, kept.mul_(scales).mul_(agree).sum(dim=0).div_(agree.sum(dim=0).clamp_(min=1))


def _trim(deltas: Sequence[Factors], density: float, size: int | None) -> Sparsify:
    if density == 1:
        return _identity
    cuts = [
        magnitude_cut(up, down, int(density * (up.shape[0] * down.shape[1])), block_rows=size)
        for up, down in deltas
    ]
    return lambda place, _rows, values: values.mul_((values.abs() >= cuts[place]).float())


def _identity(_place: int, _rows: slice, values: Tensor) -> Tensor:
    return values


def _mask(rows: slice, width: int, keep: float, seed: int, name: str, layer: str) -> Tensor:
    """1 for each entry to keep, else 0; a step of the counter is 256 bits, and each row begins with one."""
    steps = -(-width // 8)
    counter = cast("np.random.Philox", keyed_generator(seed, "dare", name, layer).bit_generator)
    counter.advance(rows.start * steps)
    raw = counter.random_raw((rows.stop - rows.start) * steps * 4)
    draws = np.asarray(raw, dtype="<u8").view("<u4").reshape(-1, steps * 8)[:, :width]
    return torch.from_numpy(draws < round(keep * 2**32)).float()


def _blocks(up: Tensor, down: Tensor, size: int | None) -> Iterator[slice]:
    count = up.shape[0]
    size = size or max(BLOCK_ENTRIES // max(down.shape[1], 1), 1)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _bits(up: Tensor, down: Tensor) -> np.ndarray:
    return (up @ down).abs_().view(torch.int32).flatten().numpy()


def _bin_of(histogram: np.ndarray, keep: int) -> tuple[int, int]:
    """The bin of the keep-th largest, and how many are in the bins above it."""
    from_top = histogram[::-1].cumsum()
    place = int(np.searchsorted(from_top, keep))
    found = len(histogram) - 1 - place
    return found, int(from_top[place] - histogram[found])
