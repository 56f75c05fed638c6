"""Merge methods that work on inner products, singular values and subspaces, from the factors alone.

All deltas are pairs `(up, down)` in float32, `(m, r_i)` and `(r_i, n)`, with scale and weight folded in; the
results are factors too, of at most the sum of the ranks, and stand for the method's equation exactly.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adapterhub.lora.algebra import Decomposed, Factors, decompose, decompose_whole, stack

RANK_FROM = 1e-5
"""Singular values below this part of the largest are rounding, as in the code of KnOTS."""
COLINEAR = 1e-6
"""Below this sine of the angle SLERP is the straight line."""

Rule = Callable[[Sequence[Factors]], Tensor]
"""An elementwise rule: deltas, to the merged matrix."""


def slerp_weights(gram: Tensor, t: float) -> list[float]:
    """Return the weights of two deltas on the arc between them (Shoemake 1985; mergekit's `nuslerp`).

    `D = sin((1 - t) O) / sin(O) D_1 + sin(t O) / sin(O) D_2`, with O the angle between the deltas as vectors.
    As in mergekit the deltas keep their norms, colinear ones are joined by a line, and one that is zero
    counts as at a right angle. There t comes from the weights; here the weights multiply the deltas.

    Args:
        gram: Inner products of the two, `(2, 2)`.
        t: From 0, the first, to 1, the second.

    Example:
        >>> [round(weight, 4) for weight in slerp_weights(torch.eye(2), 0.5)]
        [0.7071, 0.7071]
    """
    angle = math.acos(max(-1.0, min(1.0, _cosine(gram, 0, 1))))
    if math.sin(angle) < COLINEAR:
        return [1 - t, t]
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def model_stock_weights(gram: Tensor) -> list[float]:
    """Return the weights of k deltas in Model Stock (Jang et al. 2024, arXiv 2403.19522, equation 2).

    `D = t mean(D_i)` with `t = k c / (1 + (k - 1) c)` and c the cosine between the deltas. The paper has one
    angle; for more than two deltas c is the mean over the pairs, as in mergekit. A negative mean counts as
    0 here, for there t would be negative or unbounded; a delta that is zero has the cosine 0.

    Args:
        gram: Inner products, `(k, k)`.

    Example:
        >>> model_stock_weights(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))  # t = 2 / 3
        [0.3333333333333333, 0.3333333333333333]
    """
    count = len(gram)
    pairs = [(first, second) for second in range(count) for first in range(second)]
    cosine = max(sum(_cosine(gram, first, second) for first, second in pairs) / len(pairs), 0.0)
    return [cosine / (1 + (count - 1) * cosine)] * count


def orthogonal(deltas: Sequence[Factors]) -> Factors:
    """Return `D_1 + (I - Q_1 Q_1^T) D_2 + ...`: the first stays whole, the others lose what it can write.

    Q_i spans the outputs of all deltas up to the i-th, so that `<D_1, D_2'> = 0`. A closed form of the idea
    to keep adapters out of each other's way in "Orthogonal Adaptation" (Po et al. 2023, arXiv 2312.02432).
    """
    kept = [deltas[0]]
    for up, down in deltas[1:]:
        basis = _significant(decompose(*stack(kept))).u
        kept.append((up - basis @ (basis.t() @ up), down))
    return stack(kept)


def tsv(deltas: Sequence[Factors]) -> Factors:
    """Return the TSV-Merge (Gargiulo et al. 2024, arXiv 2412.00081, section 4).

    `U_o S V_o^T`, where U, S and V hold the leading `min(m, n) / k` singular vectors and values of each of
    the k deltas side by side, and `X_o = P R^T` of the SVD `X = P S' R^T` is the orthogonal matrix nearest to
    X (Procrustes), which parts the vectors of different deltas.

    The authors' code puts the arbitrary vectors of zero singular values into U and V too; here vectors below
    `RANK_FROM` are left out, so that the result depends on the deltas alone. For the same reason equal
    vectors of two deltas share one direction instead of getting an arbitrary second one.
    """
    share = max(min(deltas[0][0].shape[0], deltas[0][1].shape[1]) // len(deltas), 1)
    parts = [_significant(decompose(up, down)).truncated(share) for up, down in deltas]
    u = _orthogonalised(torch.cat([part.u for part in parts], dim=1))
    v = _orthogonalised(torch.cat([part.v for part in parts]).t())
    return u * torch.cat([part.s for part in parts]), v.t()


def iso_c(deltas: Sequence[Factors]) -> Factors:
    """Return the Iso-C merge (Marczak et al. 2025, arXiv 2502.04959): `mean(S) U V^T` of the sum `U S V^T`.

    The paper takes the mean over all `min(m, n)` singular values and gives it to all of them; a LoRA cannot
    hold that, so both are over the values above `RANK_FROM`.
    """
    parts = _significant(decompose(*stack(deltas)))
    return parts.u * parts.s.mean(), parts.v


def knots(deltas: Sequence[Factors], rule: Rule) -> Factors:
    """Return a KnOTS merge (Stoica et al. 2024, arXiv 2410.19735): a rule in the space that all deltas share.

    `[D_1, ..., D_k] = U [S V_1, ..., S V_k]`, and `D = U rule(S V_1, ..., S V_k)`. The singular values stand
    on the side of V, as in the authors' experiments. Those below `RANK_FROM` of the largest are left out
    (theirs: below 1e-5). QR of the factors gives U from an `(R, R)` SVD, instead of one of `(m, k n)`.

    Args:
        deltas: Without their weights, which are the rule's.
        rule: Gets the S V_i as factors `(R, r_i)`, `(r_i, n)`.
    """
    q, r = torch.linalg.qr(torch.cat([up for up, _ in deltas], dim=1))
    halves = r.split([up.shape[1] for up, _ in deltas], dim=1)
    inner = [
        half @ torch.linalg.qr(down.t(), mode="r").R.t()
        for half, (_, down) in zip(halves, deltas, strict=True)
    ]
    u = _significant(decompose_whole(torch.cat(inner, dim=1))).u
    aligned = [(u.t() @ half, down) for half, (_, down) in zip(halves, deltas, strict=True)]
    return q @ u, rule(aligned)


def core_space(deltas: Sequence[Factors], rule: Rule) -> Factors:
    """Return a Core Space merge (Panariello et al. 2025, arXiv 2509.17786): a rule on R x R matrices.

    `D = U rule(M_1, ..., M_k) V^T` with `M_i = U^T D_i V`, where U holds the left singular vectors of
    `[B_1, ..., B_k]` and V the right ones of `[A_1; ...; A_k]`, so that `D_i = U M_i V^T` loses nothing.

    The paper takes A and B as trained. Here each delta is split evenly first (the root of its singular values
    on both sides), so that the result does not depend on how a file shares a product between A and B.

    Args:
        deltas: Without their weights, which are the rule's.
        rule: Gets the M_i as factors `(R, r_i)`, `(r_i, R)`.
    """
    halves: list[Factors] = []
    for up, down in deltas:
        parts = _significant(decompose(up, down))
        root = parts.s.sqrt()
        halves.append((parts.u * root, root[:, None] * parts.v))
    up, down = stack(halves)
    left, right = _significant(decompose_whole(up)).u, _significant(decompose_whole(down)).v
    return left @ rule([(left.t() @ up, down @ right.t()) for up, down in halves]), right


def _cosine(gram: Tensor, first: int, second: int) -> float:
    norms = math.sqrt(float(gram[first, first]) * float(gram[second, second]))
    return float(gram[first, second]) / norms if norms else 0.0


def _significant(parts: Decomposed) -> Decomposed:
    return parts.truncated(int((parts.s > RANK_FROM * parts.s[:1]).sum()))


def _orthogonalised(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns; a partial isometry where columns depend on each other."""
    q, r = torch.linalg.qr(columns)
    parts = _significant(decompose_whole(r))
    return q @ (parts.u @ parts.v)
