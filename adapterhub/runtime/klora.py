"""K-LoRA: in which layers the style acts in place of the content, and from when on."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from adapterhub.errors import NativeLayersError
from adapterhub.lora.weights import AdapterTensors, LowRank, Target

OUTLIER = 3.0
"""Layers whose ratio is so many times the mean are left out of it, as the authors' code does."""


@dataclass(frozen=True)
class Choices:
    """What is compared in each layer.

    Attributes:
        ratios: Of each layer that both change, content's sum of largest entries over style's, over the ratio
            of all entries (the paper's gamma).
        alpha: See `KLora`.
        beta: Likewise.
    """

    ratios: Mapping[Target, float]
    alpha: float
    beta: float

    @property
    def shared(self) -> frozenset[Target]:
        """The layers that both change."""
        return frozenset(self.ratios)

    def style_acts(self, part: float) -> frozenset[Target]:
        """Return the shared layers in which the style acts, when this part of the steps is done."""
        scale = self.alpha * part + self.beta
        return frozenset(target for target, ratio in self.ratios.items() if ratio <= scale)


def choices_of(content: AdapterTensors, style: AdapterTensors, *, alpha: float, beta: float) -> Choices:
    """Compare two adapters layer by layer, at strength 1, on the UNet.

    Of each delta the `rank of content x rank of style` largest absolute entries are summed (the paper's K).

    Raises:
        NativeLayersError: A layer that both change has no rank.
    """
    targets = [target for target in content.layers if target.component == "unet" and target in style.layers]
    tops: dict[Target, float] = {}
    means: list[float] = []
    for target in targets:
        pair = (content.layers[target], style.layers[target])
        ranks = [one.rank for one in pair if isinstance(one, LowRank)]
        if len(ranks) < 2:
            raise NativeLayersError([str(target)], sorted({one.algorithm for one in pair} - {"lora"}))
        of_content, of_style = (one.delta().abs().flatten() for one in pair)
        count = min(ranks[0] * ranks[1], of_content.numel())
        largest = [float(torch.topk(one, count).values.sum()) for one in (of_content, of_style)]
        whole = [float(one.sum()) for one in (of_content, of_style)]
        tops[target] = _ratio(*largest)
        means.append(_ratio(*whole))
    if not means:
        return Choices({}, alpha, beta)
    mean = sum(means) / len(means)
    usual = [one for one in means if one < OUTLIER * mean] or means
    gamma = sum(usual) / len(usual)
    return Choices({target: _ratio(ratio, gamma) for target, ratio in tops.items()}, alpha, beta)


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("inf")
