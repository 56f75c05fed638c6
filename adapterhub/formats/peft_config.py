"""What PEFT configs hold, in `adapter_config.json` or in diffusers' header: read and written."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adapterhub.errors import FormatError
from adapterhub.lora.weights import AdapterTensors, LowRank, Native, Target

HEADER_KEY = "lora_adapter_metadata"


@dataclass(frozen=True)
class PeftScales:
    """What of a LoRA config decides the scale of a module.

    Attributes:
        alpha: `lora_alpha`.
        alpha_pattern: Exceptions, by the end of a module's path or a regular expression for it.
        is_rank_stabilised: rsLoRA divides by the root of the rank (Kalajdzievski 2023).
    """

    alpha: float
    alpha_pattern: Mapping[str, float]
    is_rank_stabilised: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PeftScales":
        """Read a config's fields; `KeyError` if `lora_alpha` is missing."""
        return cls(
            alpha=float(config["lora_alpha"]),
            alpha_pattern={name: float(value) for name, value in (config.get("alpha_pattern") or {}).items()},
            is_rank_stabilised=bool(config.get("use_rslora", False)),
        )

    def scale(self, module: str, rank: int) -> float:
        """Return alpha / rank, or alpha / sqrt(rank) for rsLoRA.

        Patterns match as PEFT's do: a whole path, or its end after a dot.

        Example:
            >>> PeftScales(8.0, {"attn1.to_q": 2.0}, False).scale("mid_block.attn1.to_q", 4)
            0.5
        """
        alpha = self.alpha
        for pattern, value in self.alpha_pattern.items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def header_scales(metadata: Mapping[str, str]) -> dict[str, PeftScales]:
    """Return the scales of each component from diffusers' header, with fields such as `unet.lora_alpha`."""
    table: dict[str, Any] = json.loads(metadata.get(HEADER_KEY, "{}"))
    components = {name.split(".")[0] for name in table}
    return {
        component: PeftScales.from_config(
            {
                name.removeprefix(f"{component}."): value
                for name, value in table.items()
                if name.startswith(f"{component}.")
            }
        )
        for component in components
    }


@dataclass(frozen=True)
class PeftLayer:
    """One module as PEFT stores it.

    Attributes:
        named: PEFT's suffix to tensor.
        rank: Inner size.
        alpha: Scale times rank.
    """

    named: Mapping[str, Tensor]
    rank: int
    alpha: float


def peft_layers(adapter: AdapterTensors, format_name: str) -> dict[Target, PeftLayer]:
    """Return an adapter as PEFT layers: LoRA, and DoRA whose magnitude is that of the outputs.

    Raises:
        FormatError: Other algorithms, biases or extras, which PEFT's LoRA cannot hold.
    """
    layers: dict[Target, PeftLayer] = {}
    foreign = [f"the bias of {target}" for target in adapter.biases] + list(adapter.extras)
    for target, update in adapter.layers.items():
        if isinstance(update, LowRank):
            named = {"lora_A.weight": update.down, "lora_B.weight": update.up}
            layers[target] = PeftLayer(named, update.rank, update.scale * update.rank)
        elif isinstance(update, Native) and _is_output_dora(update):
            parts = update.tensors
            named = {
                "lora_A.weight": parts["down"],
                "lora_B.weight": parts["up"],
                "lora_magnitude_vector": parts["magnitude"].flatten(),
            }
            layers[target] = PeftLayer(named, update.rank, update.scale * update.rank)
        else:
            foreign.append(f"{target} ({update.algorithm})")
    if foreign:
        reason = "make it a plain LoRA first, with: adapterhub convert"
        raise FormatError(format_name, foreign, reason)
    return layers


def peft_fields(layers: Mapping[str, PeftLayer], modules: Iterable[str]) -> dict[str, Any]:
    """Return the minimal fields of a LoRA config: what decides shapes and scales, and nothing else.

    Args:
        layers: By the path under which PEFT finds the module.
        modules: The same paths, for `target_modules`.
    """
    # A pattern that begins with ^ matches one path alone; text encoders' paths may have a level more.
    patterns = {name: f"^{name}$" if _is_whole(name) else name for name in layers}
    ranks = {patterns[name]: layer.rank for name, layer in layers.items()}
    alphas = {patterns[name]: layer.alpha for name, layer in layers.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {p: r for p, r in sorted(ranks.items()) if r != rank},
        "alpha_pattern": {p: a for p, a in sorted(alphas.items()) if a != alpha},
        "target_modules": sorted(modules),
        **({"use_dora": True} if any("lora_magnitude_vector" in v.named for v in layers.values()) else {}),
    }


def _is_whole(name: str) -> bool:
    """Say whether a path is whole: text encoders' may lack a level in front."""
    return not name.startswith("encoder.")


def _is_output_dora(update: Native) -> bool:
    """Say whether PEFT can hold it: plain LoRA inside, one magnitude for each output."""
    if update.algorithm != "dora" or set(update.tensors) != {"down", "up", "magnitude"}:
        return False
    magnitude = update.tensors["magnitude"]
    return magnitude.shape[0] == magnitude.numel() == update.shape[0]


def _commonest(values: Mapping[str, Any]) -> Any:
    counts: dict[Any, int] = {}
    for value in values.values():
        counts[value] = counts.get(value, 0) + 1
    return max(counts, key=lambda value: (counts[value], -value))
