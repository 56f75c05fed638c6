"""How one layer of several adapters becomes one: the methods by name, and their settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adapterhub.errors import AlgebraSettingError
from adapterhub.lora import merge_spectral
from adapterhub.lora.algebra import Factors, gram, stack
from adapterhub.lora.elementwise import Rows, collect, dare, magnitude_prune, ties
from adapterhub.lora.resize import Bounds, LayerCut, compress, compress_matrix
from adapterhub.lora.weights import LowRank, Target

SUMS = ("cat", "svd")
ARCS = ("slerp", "model_stock")
SUBSPACES: dict[str, Callable[[Sequence[Factors]], Factors]] = {
    "orthogonal": merge_spectral.orthogonal,
    "tsv": merge_spectral.tsv,
    "iso_c": merge_spectral.iso_c,
}
ELEMENTWISE = ("ties", "magnitude_prune", "dare_linear", "dare_ties")
METHODS = (*SUMS, *ARCS, *SUBSPACES, *ELEMENTWISE)
SPACES: dict[str, Callable[[Sequence[Factors], merge_spectral.Rule], Factors]] = {
    "core": merge_spectral.core_space,
    "knots": merge_spectral.knots,
}

Part = tuple[LowRank, float]
"""A layer of one adapter and its weight, which is not 0."""


@dataclass(frozen=True)
class Recipe:
    """A method and its settings, as `merge.merge` describes them.

    Raises:
        AlgebraSettingError: A setting is unknown, missing or out of its range.
    """

    names: Sequence[str]
    method: str = "cat"
    bounds: Bounds = field(default_factory=Bounds)
    density: float = 0.2
    drop: float = 0.5
    t: float = 0.5
    space: str = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        count = len(self.names)
        _require(
            self.method in METHODS, "method", self.method, f"it must be one of {', '.join(METHODS)}, knots"
        )
        _require(self.space in ("full", *SPACES), "space", self.space, "it must be full, core or knots")
        if self.space != "full":
            rule = f"{self.method} has no other than full; {', '.join(ELEMENTWISE)} have"
            _require(self.method in ELEMENTWISE, "space", self.space, rule)
        _require(0 < self.density <= 1, "density", self.density, "it must be above 0 and at most 1")
        _require(0 <= self.drop < 1, "drop", self.drop, "it must be at least 0 and below 1")
        _require(0 <= self.t <= 1, "t", self.t, "it must be from 0 to 1")
        if self.method == "svd":
            _require(self.bounds != Bounds(), "rank", None, "svd needs a rank or an energy")
        least = 2 if self.method in ARCS else 1
        _require(count >= least, "the number of adapters", count, f"{self.method} needs at least {least}")
        _require(self.method != "slerp" or count == 2, "the number of adapters", count, "slerp takes two")

    def merge(self, target: Target, parts: Mapping[int, Part]) -> tuple[LowRank | None, LayerCut]:
        """Return the merged layer, or None if nothing is left of it, and its cut.

        Args:
            target: Of the layer; DARE's masks are keyed by it.
            parts: By the adapter's place in `names`, at least one, all of one shape.
        """
        if self.method in ELEMENTWISE:
            return self._merge_entries(target, parts)
        deltas = {i: layer.factors(weight=weight) for i, (layer, weight) in parts.items()}
        if self.method in ARCS:
            deltas = self._arc(deltas)
        if not deltas:
            return None, LayerCut(0)
        up, down = SUBSPACES.get(self.method, stack)(list(deltas.values()))
        return self._compress(up, down, _shape(parts))

    def _arc(self, deltas: Mapping[int, Factors]) -> dict[int, Factors]:
        """Weighted anew by the inner products, which are in float64: small cosines decide much."""
        places = torch.tensor(list(deltas))
        products = torch.zeros(len(self.names), len(self.names), dtype=torch.float64)
        products[places[:, None], places] = gram(
            [(up.double(), down.double()) for up, down in deltas.values()]
        )
        if self.method == "slerp":
            weights = merge_spectral.slerp_weights(products, self.t)
        else:
            weights = merge_spectral.model_stock_weights(products)
        return {i: (up * weights[i], down) for i, (up, down) in deltas.items() if weights[i]}

    def _merge_entries(self, target: Target, parts: Mapping[int, Part]) -> tuple[LowRank | None, LayerCut]:
        weights = [weight for _, weight in parts.values()]
        names = [self.names[i] for i in parts]

        def rule(deltas: Sequence[Factors]) -> Tensor:
            rows = self._rows(deltas, weights, names, str(target))
            return collect(rows, (deltas[0][0].shape[0], deltas[0][1].shape[1]))

        deltas = [layer.factors() for layer, _ in parts.values()]
        if self.space in SPACES:
            return self._compress(*SPACES[self.space](deltas, rule), _shape(parts))
        whole = Bounds(rank=sum(layer.rank for layer, _ in parts.values()))
        return compress_matrix(rule(deltas), _shape(parts), self.bounds if self.bounds != Bounds() else whole)

    def _rows(self, deltas: Sequence[Factors], weights: list[float], names: list[str], layer: str) -> Rows:
        if self.method == "ties":
            return ties(deltas, weights, density=self.density)
        if self.method == "magnitude_prune":
            return magnitude_prune(deltas, weights, density=self.density)
        elect = self.method == "dare_ties"
        return dare(deltas, weights, drop=self.drop, seed=self.seed, names=names, layer=layer, elect=elect)

    def _compress(self, up: Tensor, down: Tensor, shape: tuple[int, ...]) -> tuple[LowRank | None, LayerCut]:
        if up.shape[1] == 0:
            return None, LayerCut(0)
        return compress(up, down, shape, self.bounds)


def _shape(parts: Mapping[int, Part]) -> tuple[int, ...]:
    return next(iter(parts.values()))[0].shape


def _require(is_right: bool, setting: str, value: object, rule: str) -> None:
    if not is_right:
        raise AlgebraSettingError(setting, value, rule)
