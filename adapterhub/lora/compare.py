"""Compare adapters by their factors: inner products, shared subspaces, weights to compose them with."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapterhub.errors import SettingError
from adapterhub.lora import algebra
from adapterhub.lora.algebra import Factors
from adapterhub.lora.blocks import block_of
from adapterhub.lora.inspect import (
    DEFICIENT,
    FORECAST_RANKS,
    block_order,
    resolve,
    singular_values,
)
from adapterhub.lora.weights import AdapterTensors, Target
from adapterhub.randomness import keyed_generator

DUPLICATE = 0.99
"""Adapters of a higher cosine are the same one, or one is a resize of the other."""
RIDGE = 0.01
"""Added to the cosines' diagonal before weights are solved for, so that near duplicates share evenly."""
SIGN_ROWS = 8
LARGEST = 1e18  # its square, and sums of such, are finite in float32
STEPS = 60
"""Halvings when the weights' common factor is searched: more than float64 has bits."""


@dataclass(frozen=True)
class Comparison:
    """How k adapters relate. Every matrix is `(k, k)`, float64, symmetric, in the order of the names.

    Attributes:
        names: The adapters.
        gram: Inner products `<D_i, D_j>` of the deltas at weight 1, summed over all layers. A layer that an
            adapter does not have is 0.
        blocks: The same by `adapterhub.lora.blocks.block_of`; they add up to `gram`.
        output_overlap: `|Q_i^T Q_j|^2 / min(r_i, r_j)` with orthonormal bases Q of the columns of the
            up-factors: 0 for orthogonal, 1 for nested subspaces; the mean over the layers that both change.
            Random subspaces of a space of n have about `max(r_i, r_j) / n`. None if not asked for.
        input_overlap: The same of the rows of the down-factors.
        sign_conflict: Share of the entries, in sampled rows of the deltas, that have opposite signs. None if
            not asked for.
        skipped: Name to the layers that are not in the figures: those that need a base that was not given,
            and those with NaN or infinity.
    """

    names: tuple[str, ...]
    gram: Tensor
    blocks: Mapping[str, Tensor]
    output_overlap: Tensor | None
    input_overlap: Tensor | None
    sign_conflict: Tensor | None
    skipped: Mapping[str, tuple[Target, ...]]

    @property
    def norms(self) -> Tensor:
        """`(k,)` float64: Frobenius norms of the whole deltas."""
        return self.gram.diagonal().clamp(min=0).sqrt()

    @property
    def cosines(self) -> Tensor:
        """`<D_i, D_j> / (|D_i| |D_j|)`; 0 where one of them does nothing."""
        return cosines_of(self.gram)

    @property
    def block_cosines(self) -> dict[str, Tensor]:
        """The cosines in each block."""
        return {block: cosines_of(gram) for block, gram in self.blocks.items()}

    @property
    def duplicates(self) -> tuple[tuple[str, str], ...]:
        """Pairs whose cosine is above `DUPLICATE`."""
        pairs = torch.nonzero(self.cosines.triu(1) > DUPLICATE).tolist()
        return tuple((self.names[one], self.names[other]) for one, other in pairs)

    @property
    def weights(self) -> dict[str, float]:
        """Weights to compose them with, from `suggest_weights`."""
        return dict(zip(self.names, suggest_weights(self.gram).tolist(), strict=True))

    def predicted_norm(self, weights: Mapping[str, float]) -> float:
        """Return the norm of the weighted sum, `sqrt(w^T G w)`; adapters that are not named weigh 0."""
        return norm_of(self.gram, torch.tensor([weights.get(name, 0.0) for name in self.names]).double())

    def as_json(self) -> dict[str, Any]:
        """Return it as numbers, strings, lists and dicts."""
        weights = self.weights
        optional = {
            name: None if matrix is None else matrix.tolist()
            for name, matrix in (
                ("output_overlap", self.output_overlap),
                ("input_overlap", self.input_overlap),
                ("sign_conflict", self.sign_conflict),
            )
        }
        return {
            "names": list(self.names),
            "norms": self.norms.tolist(),
            "gram": self.gram.tolist(),
            "cosines": self.cosines.tolist(),
            "blocks": {block: cosines.tolist() for block, cosines in self.block_cosines.items()},
            **optional,
            "duplicates": [list(pair) for pair in self.duplicates],
            "weights": weights,
            "predicted_norm": self.predicted_norm(weights),
            "skipped": {name: [str(target) for target in targets] for name, targets in self.skipped.items()},
        }


def compare(
    adapters: Mapping[str, AdapterTensors],
    *,
    base: Callable[[Target], Tensor] | None = None,
    overlaps: bool = True,
    sign_rows: int = SIGN_ROWS,
) -> Comparison:
    """Measure how adapters relate, layer by layer, from their factors (Hu et al. 2021, section 7.2).

    Args:
        adapters: Name to adapter; at least one.
        base: Gives a target's pristine weight, for the layers whose delta depends on it.
        overlaps: Whether to measure the overlap of subspaces: one QR for each adapter, layer and side. Layers
            without factors are left out of it.
        sign_rows: How many rows of each layer to look for opposite signs in, always the same; 0 for none.

    Raises:
        SettingError: There is no adapter, or two have weights of different shapes at one target.

    Example:
        >>> from adapterhub.lora.weights import LowRank
        >>> target = Target("unet", "mid_block.attentions.0.proj_in")
        >>> layer = LowRank(down=torch.eye(4)[:2], up=torch.eye(3)[:, :2])
        >>> half = LowRank(down=torch.eye(4)[:1], up=torch.eye(3)[:, :1])
        >>> found = compare({"a": AdapterTensors({target: layer}), "b": AdapterTensors({target: half})})
        >>> found.cosines[0, 1].item(), found.output_overlap[0, 1].item()
        (0.7071067811865475, 1.0)
    """
    if not adapters:
        raise SettingError("the number of adapters to compare", 0, "at least one is needed")
    names = list(adapters)
    size = len(names)
    outputs, inputs, shared, opposite, nonzero = torch.zeros(5, size, size, dtype=torch.float64)
    blocks: dict[str, Tensor] = {}
    skipped: dict[str, list[Target]] = {name: [] for name in names}
    for target in _targets_of(adapters):
        deltas = _deltas_at(target, adapters, base)
        for name in [name for name, delta in deltas.items() if delta is None]:
            skipped[name].append(target)
        found = {names.index(name): delta for name, delta in deltas.items() if delta is not None}
        if not found:
            continue
        gram = _gram(list(found.values()))
        total = blocks.setdefault(block_of(target), torch.zeros(size, size, dtype=torch.float64))
        _add(total, list(found), gram)
        alive = [place for place, square in zip(found, gram.diagonal().tolist(), strict=True) if square > 0]
        if len(alive) > 1 and sign_rows:
            rows = _sampled_rows(target, found[alive[0]], sign_rows)
            counts = _sign_counts([found[place] for place in alive], rows)
            _add(opposite, alive, counts[0])
            _add(nonzero, alive, counts[1])
        factors = {
            place: delta for place, delta in found.items() if isinstance(delta, tuple) and place in alive
        }
        if factors and overlaps:
            _add(outputs, list(factors), _overlap([up for up, _ in factors.values()]))
            _add(inputs, list(factors), _overlap([down.t() for _, down in factors.values()]))
            _add(shared, list(factors), torch.ones(len(factors), len(factors), dtype=torch.float64))
    return Comparison(
        names=tuple(names),
        gram=torch.stack(list(blocks.values())).sum(0) if blocks else torch.zeros_like(shared),
        blocks=dict(sorted(blocks.items(), key=lambda item: block_order(item[0]))),
        output_overlap=outputs / shared.clamp(min=1) if overlaps else None,
        input_overlap=inputs / shared.clamp(min=1) if overlaps else None,
        sign_conflict=opposite / nonzero.clamp(min=1) if sign_rows else None,
        skipped={name: tuple(targets) for name, targets in skipped.items()},
    )


def suggest_weights(gram: Tensor) -> Tensor:
    """Return weights under which every adapter is heard equally, and all together as loudly as one.

    With unit deltas `U_i = D_i / |D_i|` and their cosines C, the sum `S = sum v_i U_i`, v >= 0, is turned to
    where its smallest cosine with any adapter is largest. That is the point of the convex hull of all U_i
    that is nearest to 0 (Wolfe 1976; of gradients it is MGDA, Desideri 2012), and v minimises
    `v^T C v / 2 - sum v`. There `<U_i, S> = (C v)_i` is equal for all adapters with v_i > 0, and larger for
    the others, which the sum contains already. A ridge on C makes v unique, and has copies share evenly.

    Then `w_i = min(1, t v_i / |D_i|)`, with t so that `|sum w_i D_i| = sqrt(w^T G w)` is the mean of the
    norms |D_i|. An adapter too weak for its part stays at 1; where adapters cancel each other so far that
    the norm is out of reach, all are at 1.

    Args:
        gram: `(k, k)` float64, symmetric, inner products of the deltas.

    Returns:
        `(k,)` float64, from 0 to 1; 0 for an adapter that does nothing.

    Example:
        >>> [round(weight, 3) for weight in suggest_weights(torch.eye(2).double()).tolist()]
        [0.707, 0.707]
        >>> [round(weight, 3) for weight in suggest_weights(torch.ones(2, 2).double()).tolist()]
        [0.5, 0.5]
    """
    norms = gram.diagonal().clamp(min=0).sqrt()
    live = norms.nonzero().flatten()
    weights = torch.zeros_like(norms)
    if len(live) == 0:
        return weights
    gram, norms = gram[live[:, None], live], norms[live]
    cosines = cosines_of(gram) + RIDGE * torch.eye(len(live), dtype=torch.float64)
    parts = _nonnegative(cosines) / norms

    def norm_at(factor: float) -> float:
        return norm_of(gram, (factor * parts).clamp(max=1))

    low, high = 0.0, float((1 / parts[parts > 0]).max())
    if norm_at(high) <= float(norms.mean()):
        low = high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if norm_at(middle) < float(norms.mean()) else (low, middle)
    weights[live] = (low * parts).clamp(max=1)
    return weights


def truncation_forecast(
    adapters: Mapping[str, AdapterTensors],
    weights: Mapping[str, float],
    *,
    ranks: Sequence[int] = FORECAST_RANKS,
) -> dict[int, float]:
    """Return rank to the relative error of a merge, the weighted sum, that is cut to it in every layer.

    The least possible error (Eckart and Young 1936), over all layers together, without those that have no
    exact factors or no finite ones.

    Args:
        adapters: Name to adapter.
        weights: Name to weight; adapters that are not named weigh 0.
        ranks: The ranks to look at.

    Example:
        >>> from adapterhub.lora.weights import LowRank
        >>> target = Target("unet", "mid_block.attentions.0.proj_in")
        >>> layer = LowRank(down=torch.eye(4)[:2], up=torch.eye(3)[:, :2])
        >>> truncation_forecast({"a": AdapterTensors({target: layer})}, {"a": 0.5}, ranks=(1, 2))
        {1: 0.7071067811865476, 2: 0.0}
    """
    lost, total = dict.fromkeys(ranks, 0.0), 0.0
    for target in _targets_of(adapters):
        deltas = _deltas_at(target, adapters, None)
        factors = [
            (delta[0] * weights.get(name, 0.0), delta[1])
            for name, delta in deltas.items()
            if isinstance(delta, tuple)
        ]
        if factors:
            squares = singular_values(algebra.stack(factors)).double().square()
            total += float(squares.sum())
            for rank in ranks:
                lost[rank] += float(squares[rank:].sum())
    return {rank: math.sqrt(part / total) if total else 0.0 for rank, part in lost.items()}


def cosines_of(gram: Tensor) -> Tensor:
    """Return the cosines of a Gram matrix, from -1 to 1; 0 beside an adapter that does nothing."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    return (gram * scale[:, None] * scale).clamp(-1, 1)


def norm_of(gram: Tensor, weights: Tensor) -> float:
    """Return `|sum w_i D_i| = sqrt(w^T G w)`; both float64."""
    return math.sqrt(max(float(weights @ gram @ weights), 0.0))


def _targets_of(adapters: Mapping[str, AdapterTensors]) -> list[Target]:
    return list(dict.fromkeys(target for adapter in adapters.values() for target in adapter.layers))


def _deltas_at(
    target: Target, adapters: Mapping[str, AdapterTensors], base: Callable[[Target], Tensor] | None
) -> dict[str, Factors | Tensor | None]:
    """Return the adapters that have the target, with None for what is not known or not finite."""
    weight = None if base is None else base(target)
    found: dict[str, Factors | Tensor | None] = {}
    first: tuple[str, tuple[int, int]] | None = None
    for name, adapter in adapters.items():
        if target in adapter.layers:
            delta = resolve(adapter.layers[target], weight)
            found[name] = delta if delta is not None and _is_usable(delta) else None
            if delta is not None:
                first = first or (name, _shape(delta))
                if _shape(delta) != first[1]:
                    there = f"in {first[0]} it is {first[1][0]}x{first[1][1]}, and architectures must agree"
                    raise SettingError(f"{target} in {name}", "x".join(map(str, _shape(delta))), there)
    return found


def _shape(delta: Factors | Tensor) -> tuple[int, int]:
    rows, columns = (delta, delta) if isinstance(delta, Tensor) else delta
    return rows.shape[0], columns.shape[1]


def _is_usable(delta: Factors | Tensor) -> bool:
    """Whether no square of it overflows; false for NaN too, and cheaper than a look at every number."""
    parts = (delta,) if isinstance(delta, Tensor) else delta
    return math.prod(float(torch.linalg.vector_norm(part)) for part in parts) < LARGEST


def _gram(deltas: Sequence[Factors | Tensor]) -> Tensor:
    factors = [delta for delta in deltas if isinstance(delta, tuple)]
    if len(factors) == len(deltas):
        return algebra.gram(factors)
    return torch.tensor([[_inner(one, other) for other in deltas] for one in deltas], dtype=torch.float64)


def _inner(one: Factors | Tensor, other: Factors | Tensor) -> float:
    if isinstance(one, Tensor):
        if isinstance(other, Tensor):
            return float((one * other).sum(dtype=torch.float64))
        one, other = other, one
    if isinstance(other, Tensor):
        up, down = one
        return float(((up.t() @ other) * down).sum(dtype=torch.float64))
    return float(algebra.gram([one, other])[0, 1])


def _add(total: Tensor, places: Sequence[int], part: Tensor) -> None:
    """Add a matrix of some adapters to that of all, in place."""
    index = torch.tensor(places)
    total[index[:, None], index] += part


def _overlap(sides: Sequence[Tensor]) -> Tensor:
    """Return `|Q_i^T Q_j|^2 / min(r_i, r_j)` of the column spaces of `(m, r_i)`."""
    bases = [_orthonormal(side) for side in sides]
    sizes = torch.tensor([basis.shape[1] for basis in bases])
    members = torch.eye(len(bases)).repeat_interleave(sizes, dim=0)
    every = torch.cat(bases, dim=1)
    squares = members.t() @ (every.t() @ every).square() @ members
    return squares.double() / torch.minimum(sizes[:, None], sizes)


def _orthonormal(side: Tensor) -> Tensor:
    """Columns that depend on those before them leave only rounding on the diagonal of R; they are dropped."""
    basis, triangle = torch.linalg.qr(side)
    length = torch.linalg.vector_norm(triangle, dim=0)[: basis.shape[1]]
    keep = triangle.diagonal().abs() > DEFICIENT * length
    return basis if bool(keep.all()) else basis[:, keep]


def _sampled_rows(target: Target, delta: Factors | Tensor, rows: int) -> Tensor:
    """The same rows in every comparison, whatever else is compared."""
    generator = keyed_generator(0, "sign-conflict", str(target))
    height = _shape(delta)[0]
    return torch.from_numpy(generator.choice(height, min(rows, height), replace=False))


def _sign_counts(deltas: Sequence[Factors | Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Count the entries with opposite signs, and those where neither is 0, for each pair."""
    parts = [delta[rows] if isinstance(delta, Tensor) else delta[0][rows] @ delta[1] for delta in deltas]
    signs = torch.stack([part.flatten().sign() for part in parts])
    nonzero = (signs.abs() @ signs.abs().t()).double()
    return (nonzero - signs @ signs.t()) / 2, nonzero


def _nonnegative(matrix: Tensor) -> Tensor:
    """Minimise `v^T M v / 2 - sum v` over v >= 0, M positive definite, by active sets.

    Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23, for normal equations.
    """
    found = torch.zeros(len(matrix), dtype=torch.float64)
    free = torch.zeros(len(matrix), dtype=torch.bool)
    while True:
        slope = (1 - matrix @ found).masked_fill(free, 0.0)
        if float(slope.max()) <= 1e-9:
            return found
        free[slope.argmax()] = True
        while True:
            index = free.nonzero().flatten()
            solved = torch.zeros_like(found)
            solved[index] = torch.linalg.solve(matrix[index[:, None], index], torch.ones_like(found[index]))
            blocked = free & (solved <= 0)
            if not blocked.any():
                found = solved
                break
            step = float((found / (found - solved))[blocked].min())
            found = found + step * (solved - found)
            free &= found > 1e-12
            found = found.where(free, 0.0)
