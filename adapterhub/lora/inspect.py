"""Look into one adapter: where it acts, how strongly, at which effective rank, and whether it is healthy."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from adapterhub.lora import algebra, algorithms
from adapterhub.lora.algebra import Factors
from adapterhub.lora.blocks import block_of
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Target, Update, is_finite

FORECAST_RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
ENERGY_KEPT = 0.99
"""Part of the squared norm that a resize shall keep."""
DEFICIENT = 1e-5
"""Singular values below this part of the largest are rounding: float32 is right to about 1e-6 of it."""
MANY_SUBNORMAL = 0.1
FAR_SCALE = 4.0
FAR_NORM = 5.0
LEAST_SPREAD = 0.2  # so no norm is an outlier that is less than 4.4 times off
FEWEST_NORMS = 8
STAGES = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block", "up_blocks", "conv_out")


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a delta that is not zero.

    Attributes:
        values: Falling, not negative; at most as many as the rank.
    """

    values: tuple[float, ...]

    @property
    def stable_rank(self) -> float:
        """`sum s^2 / s_1^2` (Rudelson and Vershynin 2007): at most the rank, and deaf to small values."""
        return sum(value**2 for value in self.values) / self.values[0] ** 2

    @property
    def entropy_rank(self) -> float:
        """`exp(H(s / sum s))` (Roy and Vetterli 2007, "The effective rank")."""
        parts = [value / sum(self.values) for value in self.values]
        return math.exp(-sum(part * math.log(part) for part in parts if part > 0))

    @property
    def numerical_rank(self) -> int:
        """How many values are not rounding."""
        return sum(value > DEFICIENT * self.values[0] for value in self.values)

    def rank_for(self, energy: float) -> int:
        """Return the least rank that keeps this part of the squared norm."""
        return algebra.rank_for_energy(torch.tensor(self.values), energy)

    def error_at(self, rank: int) -> float:
        """Return the relative Frobenius error of the best approximation of this rank."""
        return algebra.truncation_error(torch.tensor(self.values), rank)


@dataclass(frozen=True)
class LayerReport:
    """What an adapter does to one weight.

    Attributes:
        target: The module.
        algorithm: As in `Update`.
        shape: Of the weight; empty if it cannot be told without the base.
        rank: What alpha is divided by; None where there is none.
        scale: The resolved scale.
        size_bytes: Of the stored tensors.
        norm: Frobenius norm of the delta at weight 1; None if it needs the base, or is not finite.
        base_norm: Frobenius norm of the base's weight, if a base was given.
        spectrum: Of the delta; None if the norm is None or 0, if no factors of it exist (DoRA, OFT, ...), or
            if it was not asked for.
        is_finite: Whether no stored tensor, and nothing in the delta, is NaN or infinite.
        subnormals: How many stored numbers are subnormal in float16, and how many float16 ones are not 0.
    """

    target: Target
    algorithm: str
    shape: tuple[int, ...]
    rank: int | None
    scale: float
    size_bytes: int
    norm: float | None
    base_norm: float | None
    spectrum: Spectrum | None
    is_finite: bool
    subnormals: tuple[int, int]

    @property
    def relative_norm(self) -> float | None:
        """The norm as a part of the norm of the base's weight."""
        return self.norm / self.base_norm if self.norm is not None and self.base_norm else None

    def as_json(self, *, singular_values: bool = False) -> dict[str, Any]:
        """Return it as numbers, strings, lists and dicts."""
        found: dict[str, Any] = {"component": self.target.component, "module": self.target.module}
        found |= {"block": block_of(self.target), "algorithm": self.algorithm, "shape": list(self.shape)}
        found |= {"rank": self.rank, "scale": self.scale if math.isfinite(self.scale) else None}
        found |= {"norm": self.norm, "relative_norm": self.relative_norm}
        if self.spectrum is not None:
            ranks = [rank for rank in FORECAST_RANKS if rank < len(self.spectrum.values)]
            found |= {
                "stable_rank": self.spectrum.stable_rank,
                "entropy_rank": self.spectrum.entropy_rank,
                "rank_90": self.spectrum.rank_for(0.9),
                "rank_99": self.spectrum.rank_for(0.99),
                "forecast": {str(rank): self.spectrum.error_at(rank) for rank in ranks},
            }
            if singular_values:
                found["singular_values"] = list(self.spectrum.values)
        return found


@dataclass(frozen=True)
class Totals:
    """Several layers together.

    Attributes:
        layers: How many.
        norm: Root of the sum of their squared norms; layers without a norm count as 0.
        relative_norm: The same over the base's weights; None without a base, or if a layer has no norm.
        size_bytes: Of their stored tensors.
    """

    layers: int
    norm: float
    relative_norm: float | None
    size_bytes: int


@dataclass(frozen=True)
class Problem:
    """Something about an adapter's health.

    Attributes:
        kind: `not-finite`, `untrained`, `rank-deficient`, `subnormal`, `scale-outlier` or `norm-outlier`.
        severity: `error` (do not use it), `warning` (look at it) or `note`.
        message: What it means, with numbers.
        where: The targets (or names of other tensors) that it is about.
    """

    kind: str
    severity: str
    message: str
    where: tuple[str, ...]


@dataclass(frozen=True)
class ResizeAdvice:
    """The smallest rank that keeps `ENERGY_KEPT` of the squared norm over all LoRA layers together.

    Attributes:
        rank: Layers of a smaller rank keep theirs.
        energy: The part of the squared norm that it keeps.
        size_bytes: Of all the adapter's tensors then, each in its present dtype.
    """

    rank: int
    energy: float
    size_bytes: int


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter does, layer by layer and in sum.

    Attributes:
        layers: In the order of the blocks.
        components: Totals by component, in the same order.
        blocks: Totals by `block_of`, the UNet's blocks first, from its input to its output.
        overall: Totals of all layers; biases and extras count nowhere but in the health.
        forecast: Rank to the relative error of cutting all LoRA layers to it.
        subnormal_share: Part of the stored float16 numbers that are subnormal; None if there are none.
        problems: The worst first; empty for a healthy adapter.
        advice: None if there is no LoRA layer with a spectrum.
    """

    layers: tuple[LayerReport, ...]
    components: Mapping[str, Totals]
    blocks: Mapping[str, Totals]
    overall: Totals
    forecast: Mapping[int, float]
    subnormal_share: float | None
    problems: tuple[Problem, ...]
    advice: ResizeAdvice | None

    def as_json(self, *, singular_values: bool = False) -> dict[str, Any]:
        """Return it as numbers, strings, lists and dicts, without NaN; spectra in full only if asked for."""
        return {
            "overall": vars(self.overall),
            "components": {name: vars(totals) for name, totals in self.components.items()},
            "blocks": {name: vars(totals) for name, totals in self.blocks.items()},
            "forecast": {str(rank): error for rank, error in self.forecast.items()},
            "subnormal_share": self.subnormal_share,
            "problems": [vars(problem) | {"where": list(problem.where)} for problem in self.problems],
            "resize": None if self.advice is None else vars(self.advice),
            "layers": [layer.as_json(singular_values=singular_values) for layer in self.layers],
        }


def inspect(
    adapter: AdapterTensors, *, base: Callable[[Target], Tensor] | None = None, spectra: bool = True
) -> AdapterReport:
    """Measure what an adapter does to each weight, and look for what is wrong with it.

    LoRA layers are measured by their factors: two QRs and one small SVD a layer. Layers of other algorithms
    are too where they have exact factors; else their delta is formed, one at a time.

    Args:
        adapter: The adapter; nothing in it is changed.
        base: Gives a target's pristine weight, of any dtype: for relative norms, and for the layers whose
            delta depends on it, which else have no norm. What it raises is passed on.
        spectra: Whether to find singular values; without them there are no effective ranks, no forecast, no
            advice and no check for deficient factors. An SVD of a whole difference takes up to a second.

    Example:
        >>> layer = LowRank(down=torch.eye(4)[:2], up=torch.eye(3)[:, :2] * 2.0, scale=0.5)
        >>> report = inspect(AdapterTensors({Target("unet", "mid_block.attentions.0.proj_in"): layer}))
        >>> round(report.blocks["mid_block"].norm, 4), report.layers[0].spectrum.stable_rank
        (1.4142, 2.0)
    """
    layers = [
        _measure(target, update, None if base is None else base(target), spectra)
        for target, update in adapter.layers.items()
    ]
    layers.sort(key=lambda layer: block_order(block_of(layer.target)))
    components: dict[str, list[LayerReport]] = {}
    blocks: dict[str, list[LayerReport]] = {}
    for layer in layers:
        components.setdefault(layer.target.component, []).append(layer)
        blocks.setdefault(block_of(layer.target), []).append(layer)
    forecast, advice = _forecast(layers, adapter.size_bytes)
    halves = sum(layer.subnormals[1] for layer in layers)
    share = sum(layer.subnormals[0] for layer in layers) / halves if halves else None
    return AdapterReport(
        layers=tuple(layers),
        components={name: _total(found) for name, found in components.items()},
        blocks={name: _total(found) for name, found in blocks.items()},
        overall=_total(layers),
        forecast=forecast,
        subnormal_share=share,
        problems=tuple(_problems(adapter, layers, share or 0.0)),
        advice=advice,
    )


def resolve(update: Update, weight: Tensor | None) -> Factors | Tensor | None:
    """Return a delta at weight 1 as exact factors if it has any, else whole as a float32 matrix.

    Args:
        update: The layer.
        weight: The base's weight, or None.

    Returns:
        `(out, r)` and `(r, in)`, or `(out, in)`, kernels flattened into `in`; None if it needs a weight that
        is not given, or if its own formula meets a NaN.
    """
    if isinstance(update, LowRank):
        return update.factors()
    if isinstance(update, Dense):
        return update.delta().reshape(update.shape[0], -1)
    if (update.needs_base and weight is None) or not _all_finite(update.tensors.values()):
        return None
    if update.algorithm in algorithms.EXACT:
        up, down = algorithms.factors_of(update.algorithm, update.tensors, update.scale, weight)
        return up, down.flatten(1)
    delta = update.delta(base=weight)
    return delta.reshape(delta.shape[0], -1)


def singular_values(delta: Factors | Tensor) -> Tensor:
    """Return the singular values of a delta, falling, float32; of factors by their QRs, never whole.

    Args:
        delta: Factors, or a matrix; without NaN.
    """
    if isinstance(delta, Tensor):
        return torch.linalg.svdvals(delta)
    up, down = delta
    if up.shape[1] >= algebra.THIN_FROM * min(up.shape[0], down.shape[1]):
        return torch.linalg.svdvals(up @ down)
    _, left = torch.linalg.qr(up, mode="r")
    _, right = torch.linalg.qr(down.t(), mode="r")
    return torch.linalg.svdvals(left @ right.t())


def _measure(target: Target, update: Update, weight: Tensor | None, spectra: bool) -> LayerReport:
    stored = list(update.tensors.values())
    is_finite = math.isfinite(update.scale) and _all_finite(stored)
    delta = resolve(update, weight) if is_finite else None
    norm = None if delta is None else _norm(delta)
    is_finite = is_finite and math.isfinite(norm or 0.0)
    spectrum, is_stored = None, isinstance(delta, tuple) or isinstance(update, Dense)
    if spectra and delta is not None and norm and is_finite and is_stored:
        spectrum = Spectrum(tuple(singular_values(delta).tolist()))
    return LayerReport(
        target=target,
        algorithm=update.algorithm,
        shape=update.shape or (() if weight is None else tuple(weight.shape)),
        rank=algorithms.rank_of(update.tensors) or None,
        scale=update.scale,
        size_bytes=sum(part.numel() * part.element_size() for part in stored),
        norm=norm if is_finite else None,
        base_norm=None if weight is None else float(torch.linalg.vector_norm(weight, dtype=torch.float64)),
        spectrum=spectrum,
        is_finite=is_finite,
        subnormals=_subnormals(stored),
    )


def _norm(delta: Factors | Tensor) -> float:
    if isinstance(delta, Tensor):
        return float(torch.linalg.vector_norm(delta, dtype=torch.float64))
    return math.sqrt(max(float(algebra.gram([delta])[0, 0]), 0.0))


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(is_finite(part) for part in tensors)


def _subnormals(tensors: Sequence[Tensor]) -> tuple[int, int]:
    halves = [part.abs() for part in tensors if part.dtype == torch.float16]
    nonzero = sum(int(half.count_nonzero()) for half in halves)
    normal = sum(int((half >= torch.finfo(torch.float16).tiny).sum()) for half in halves)
    return nonzero - normal, nonzero


def _total(layers: Sequence[LayerReport]) -> Totals:
    norm = math.hypot(*(layer.norm or 0.0 for layer in layers))
    base_norm = math.hypot(*(layer.base_norm or 0.0 for layer in layers))
    is_known = all(layer.relative_norm is not None for layer in layers)
    return Totals(
        layers=len(layers),
        norm=norm,
        relative_norm=norm / base_norm if layers and is_known else None,
        size_bytes=sum(layer.size_bytes for layer in layers),
    )


def block_order(block: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort key: the UNet from input to output, then all else by name, numbers as numbers."""
    parts = block.split(".")
    stage = STAGES.index(parts[0]) if parts[0] in STAGES else len(STAGES)
    return stage, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _forecast(layers: Sequence[LayerReport], size_bytes: int) -> tuple[dict[int, float], ResizeAdvice | None]:
    lora = [layer for layer in layers if layer.algorithm == "lora" and layer.rank]
    spectra = [layer.spectrum.values for layer in lora if layer.spectrum is not None]
    if not spectra:
        return {}, None
    largest = max(map(len, spectra))
    squares = torch.zeros(largest, dtype=torch.float64)
    for values in spectra:
        squares[: len(values)] += torch.tensor(values, dtype=torch.float64).square()
    kept = squares.cumsum(0) / squares.sum()
    rank = int((kept >= ENERGY_KEPT).nonzero()[0]) + 1
    forecast = {r: math.sqrt(max(1 - float(kept[r - 1]), 0.0)) for r in FORECAST_RANKS if r < largest}
    spared = [(layer.size_bytes, layer.rank) for layer in lora if layer.rank and layer.rank > rank]
    saved = sum(size_bytes * (old - rank) // old for size_bytes, old in spared)
    return forecast, ResizeAdvice(rank, float(kept[rank - 1]), size_bytes - saved)


def _problems(adapter: AdapterTensors, layers: Sequence[LayerReport], share: float) -> list[Problem]:
    """Return what is wrong, errors first."""
    found: list[Problem] = []

    def report(kind: str, severity: str, message: str, where: Iterable[object]) -> None:
        if listed := tuple(str(place) for place in where):
            places = f"{len(listed)} place{'s' if len(listed) > 1 else ''}"
            found.append(Problem(kind, severity, f"{message}, in {places}", listed))

    others = {f"{target} bias": bias for target, bias in adapter.biases.items()} | dict(adapter.extras)
    broken = [layer.target for layer in layers if not layer.is_finite]
    broken += [name for name, part in others.items() if not _all_finite([part])]
    report("not-finite", "error", "NaN or infinity, or an overflow in float32", broken)

    zero = [layer.target for layer in layers if layer.norm == 0]
    is_all_zero = len(zero) == len(layers) and not adapter.biases
    severity = "error" if is_all_zero else "warning"
    report("untrained", severity, "adds nothing: a factor or the scale is zero, as before training", zero)

    by_scale = [la for la in layers if la.rank and la.scale > 0 and math.isfinite(la.scale)]
    usual = median(layer.scale for layer in by_scale) if by_scale else 1.0
    far = [la.target for la in by_scale if not usual / FAR_SCALE <= la.scale <= usual * FAR_SCALE]
    report("scale-outlier", "warning", f"a scale over {FAR_SCALE:g} times off the median, {usual:g}", far)
    message = "a norm for its size far off its component's median"
    report("norm-outlier", "warning", message, _norm_outliers(layers))
    half = [la.target for la in layers if la.subnormals[0]] if share > MANY_SUBNORMAL else []
    report("subnormal", "warning", f"float16 subnormals, {share:.0%} of all numbers: digits are lost", half)
    measured = [(la, la.spectrum) for la in layers if la.algorithm == "lora" and la.spectrum is not None]
    lower = [la.target for la, spectrum in measured if spectrum.numerical_rank < (la.rank or 0)]
    report("rank-deficient", "note", "uses less than its rank", lower)
    return found


def _norm_outliers(layers: Sequence[LayerReport]) -> list[Target]:
    """Robust z-scores of log rms (Iglewicz and Hoaglin 1993), by component: 0.6745 d / median(d).

    Norms spread over orders of magnitude, so their logarithms are compared, and of the root mean square
    because layers differ in size.
    """
    logs: dict[str, dict[Target, float]] = {}
    for layer in layers:
        if layer.norm and layer.shape:
            size = math.sqrt(math.prod(layer.shape))
            logs.setdefault(layer.target.component, {})[layer.target] = math.log(layer.norm / size)
    found: list[Target] = []
    for group in logs.values():
        if len(group) >= FEWEST_NORMS:
            middle = median(group.values())
            distances = {target: abs(value - middle) for target, value in group.items()}
            spread = max(median(distances.values()), LEAST_SPREAD)
            found += [target for target, far in distances.items() if 0.6745 * far > FAR_NORM * spread]
    return found
