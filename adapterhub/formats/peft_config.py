"""The scales that PEFT configs hold: in `adapter_config.json`, or in the header that diffusers writes."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
