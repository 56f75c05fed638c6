"""The exact core: products of low rank, their singular values and inner products, without the full matrices.

With B `(m, R)` and A `(R, n)`, QR of both and one SVD of the `(R, R)` middle give the SVD of B A, in
O((m + n) R^2 + R^3) instead of O(m n min(m, n)); truncating it is optimal (Eckart and Young 1936).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.lora.weights import LowRank

Factors = tuple[Tensor, Tensor]
"""`(up, down)` in float32, `(m, r)` and `(r, n)`; their product is a delta, scale and weight folded in."""

THIN_FROM = 0.7
"""From this part of min(m, n) on, the full product and its thin SVD are cheaper than the small SVD."""


class Decomposed(NamedTuple):
    """The thin SVD of a delta: `u @ diag(s) @ v`.

    Attributes:
        u: `(m, k)`, orthonormal columns.
        s: `(k,)`, falling, not negative.
        v: `(k, n)`, orthonormal rows.
    """

    u: Tensor
    s: Tensor
    v: Tensor

    def truncated(self, rank: int) -> "Decomposed":
        """Return the `rank` largest singular values and their vectors."""
        return Decomposed(self.u[:, :rank], self.s[:rank], self.v[:rank])


def stack(factors: Sequence[Factors]) -> Factors:
    """Return factors of the sum of several products: exact, of rank sum(r)."""
    return torch.cat([up for up, _ in factors], dim=1), torch.cat([down for _, down in factors])


def decompose_whole(matrix: Tensor) -> Decomposed:
    """Return the thin SVD of a full matrix `(m, n)`; min(m, n) singular values."""
    return Decomposed(*torch.linalg.svd(matrix, full_matrices=False))


def decompose(up: Tensor, down: Tensor, *, rank_of: Callable[[Tensor], int] | None = None) -> Decomposed:
    """Return the SVD of `up @ down`; at most min(R, m, n) singular values.

    Args:
        up: `(m, R)` float32.
        down: `(R, n)` float32.
        rank_of: Decides by the singular values how many vectors are formed; they stay all in `s`.

    Example:
        >>> found = decompose(torch.eye(4)[:, :2] * 3.0, torch.eye(5)[:2])
        >>> [round(value, 4) for value in found.s.tolist()]
        [3.0, 3.0]
    """
    if up.shape[1] >= THIN_FROM * min(up.shape[0], down.shape[1]):
        return decompose_whole(up @ down).truncated(up.shape[1])
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.t())
    u, s, v = torch.linalg.svd(r_up @ r_down.t())
    rank = len(s) if rank_of is None else rank_of(s)
    return Decomposed(q_up @ u[:, :rank], s, v[:rank] @ q_down.t())


def rank_for_energy(s: Tensor, energy: float) -> int:
    """Return the least rank that keeps this part of the squared norm; at least 1.

    Example:
        >>> rank_for_energy(torch.tensor([2.0, 1.0, 0.1]), 0.99)
        2
    """
    kept = s.double().square().cumsum(0)
    reached = (kept >= energy * kept[-1] * (1 - 1e-12)).nonzero()
    return int(reached[0]) + 1 if len(reached) else len(s)


def truncation_error(s: Tensor, rank: int) -> float:
    """Return the relative Frobenius error of keeping `rank` singular values."""
    squares = s.double().square()
    total = float(squares.sum())
    return math.sqrt(float(squares[rank:].sum()) / total) if total else 0.0


def balanced(parts: Decomposed, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> LowRank:
    """Return `u diag(s) v` as a LoRA layer with the root of s on both sides, which rounds best in float16.

    Args:
        parts: Of rank at least 1.
        shape: Of the weight: `(out, in)` or `(out, in, kh, kw)`.
        dtype: Of the stored factors.
    """
    root = parts.s.sqrt()
    return from_factors(parts.u * root, parts.v * root[:, None], shape, dtype=dtype)


def from_factors(
    up: Tensor, down: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> LowRank:
    """Return factors `(m, r)`, `(r, n)` as a LoRA layer of scale 1 (alpha = rank) for a weight of `shape`."""
    rank, is_conv = up.shape[1], len(shape) > 2
    return LowRank(
        down=down.reshape(rank, *shape[1:]).to(dtype).contiguous(),
        up=(up.reshape(shape[0], rank, *[1] * (len(shape) - 2)) if is_conv else up).to(dtype).contiguous(),
    )


def gram(factors: Sequence[Factors]) -> Tensor:
    """Return all inner products `<D_i, D_j>` of k deltas, `(k, k)` float64, by factor Grams.

    `<B_i A_i, B_j A_j> = sum((B_i^T B_j) o (A_i A_j^T))`: O((m + n) R^2), never m n.
    """
    up, down = stack(factors)
    products = (up.t() @ up) * (down @ down.t())
    edges = torch.tensor([0, *(up.shape[1] for up, _ in factors)]).cumsum(0)
    sums = torch.zeros(len(edges), len(edges), dtype=torch.float64)
    sums[1:, 1:] = products.double().cumsum(0).cumsum(1)[edges[1:, None] - 1, edges[None, 1:] - 1]
    return sums[1:, 1:] - sums[:-1, 1:] - sums[1:, :-1] + sums[:-1, :-1]
