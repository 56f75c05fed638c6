"""Which modules of a base an adapter trains, and at which rank; a value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from adapterhub.errors import ConfigError
from adapterhub.lora.blocks import select_targets
from adapterhub.lora.weights import Target

UNET_ENDS = {
    "attn": ("to_q", "to_k", "to_v", "to_out.0"),
    "ff": ("ff.net.0.proj", "ff.net.2"),
    "proj": ("proj_in", "proj_out"),
}
"""Ends of the paths of linears in a UNet's transformer blocks, by group."""
ALGORITHMS = ("lora", "dora", "loha", "lokr")


@dataclass(frozen=True)
class NetworkConfig:
    """The layers that are trained.

    Attributes:
        algorithm: `lora`, or `dora`, `loha`, `lokr`, which are trained alone.
        rank: Inner size of each layer's update.
        alpha: Scaling is alpha / rank; 0 means alpha = rank.
        rank_stabilized: Scaling is alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
        targets: Of the UNet's transformer blocks: `attn`, `ff`, `proj`.
        conv_rank: Likewise of the UNet's 3 x 3 convolutions (LoCon); 0 leaves them alone.
        conv_alpha: 0 means conv_rank.
        text_rank: Of attention and MLP of both text encoders; 0 leaves them alone.
        text_alpha: 0 means text_rank.
        rank_pattern: Ranks of blocks and layers, named as in `select_targets`; of several that fit the last
            counts, and 0 leaves a layer out.
        alpha_pattern: Likewise of alpha.
        dropout: How often an entry of A x is left out; the others are scaled by 1 / (1 - dropout).
        rank_dropout: How often a whole row of A x is left out, likewise.
        module_dropout: How often a layer's update is left out, for a whole step.
        max_norm: After each step an update of a greater Frobenius norm is scaled down to it; 0 means none.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    algorithm: str = "lora"
    rank: int = 16
    alpha: float = 0.0
    rank_stabilized: bool = False
    targets: tuple[str, ...] = ("attn", "ff", "proj")
    conv_rank: int = 0
    conv_alpha: float = 0.0
    text_rank: int = 0
    text_alpha: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    alpha_pattern: Mapping[str, float] = field(default_factory=dict[str, float])
    dropout: float = 0.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    max_norm: float = 0.0

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.algorithm not in ALGORITHMS:
            problems.append(f'algorithm must be one of {", ".join(ALGORITHMS)}, not "{self.algorithm}"')
        problems += [
            f'targets are any of {", ".join(UNET_ENDS)}, not "{name}"'
            for name in self.targets
            if name not in UNET_ENDS
        ]
        if not (self.targets or self.conv_rank or self.text_rank):
            problems.append(
                "targets are empty, and there is neither conv_rank nor text_rank: nothing is trained"
            )
        if self.rank < 1:
            problems.append(f"rank must be at least 1, not {self.rank}")
        numbers = {name: getattr(self, name) for name in ("conv_rank", "text_rank", "max_norm")}
        numbers |= {name: getattr(self, name) for name in ("alpha", "conv_alpha", "text_alpha")}
        numbers |= {f'rank_pattern "{name}"': rank for name, rank in self.rank_pattern.items()}
        numbers |= {f'alpha_pattern "{name}"': alpha for name, alpha in self.alpha_pattern.items()}
        for name, value in numbers.items():
            if not (math.isfinite(value) and value >= 0):
                problems.append(f"{name} must not be negative, not {value}")
        for name in ("dropout", "rank_dropout", "module_dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if self.algorithm != "lora":
            # PEFT draws its masks from torch's global generator, and no run could be repeated.
            problems += [
                f"{name} is for lora alone, not for {self.algorithm}"
                for name in ("dropout", "rank_dropout", "module_dropout", "max_norm")
                if getattr(self, name)
            ]
        if problems:
            raise ConfigError("the network", problems)

    @property
    def trains_text(self) -> bool:
        """Whether text encoders have layers."""
        return self.text_rank > 0

    @property
    def cannot_compile(self) -> str:
        """Why its layers cannot be compiled; empty if they can."""
        if self.algorithm != "lora":
            return f"PEFT's layers of {self.algorithm} take the place of modules in the blocks"
        if self.dropout or self.rank_dropout or self.module_dropout:
            return "its dropouts draw other masks in each step"
        return ""


@dataclass(frozen=True)
class LayerSize:
    """The rank of one layer's update, and what it is scaled by."""

    rank: int
    scale: float


Layer: TypeAlias = nn.Linear | nn.Conv2d


def trainable_layers(components: Mapping[str, nn.Module]) -> dict[Target, Layer]:
    """Return all layers that any adapter may train: linears, and convolutions of more than 1 x 1.

    SDXL reads the states before the last layer, and the pooled output of the second text encoder alone: the
    first one's last layer decides nothing, and is left out.

    Args:
        components: The UNet and the text encoders, by name.
    """
    first: Any = components.get("text_encoder")
    unread = f"encoder.layers.{first.config.num_hidden_layers - 1}." if first is not None else ""
    return {
        Target.at(component, name): layer
        for component, module in components.items()
        for name, layer in module.named_modules()
        if (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and component == "unet"))
        and not (component == "text_encoder" and unread in name)
    }


def layer_sizes(config: NetworkConfig, layers: Mapping[Target, Layer]) -> dict[Target, LayerSize]:
    """Return the layers that are trained, in the order of `layers`.

    Raises:
        ConfigError: A pattern fits none of them, or none is left.
    """
    ranks = [(name, select_targets(name), rank) for name, rank in config.rank_pattern.items()]
    alphas = [(name, select_targets(name), alpha) for name, alpha in config.alpha_pattern.items()]
    chosen = {target: kind for target, layer in layers.items() if (kind := _kind(target, layer, config))}
    for what, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        for name, fits, _ in patterns:
            if not any(fits(target) for target in chosen):
                raise ConfigError("the network", [f'{what} "{name}" fits no layer that is trained'])
    sizes: dict[Target, LayerSize] = {}
    for target, (rank, alpha) in chosen.items():
        rank = next((value for _, fits, value in reversed(ranks) if fits(target)), rank)
        if rank == 0:
            continue
        alpha = next((value for _, fits, value in reversed(alphas) if fits(target)), alpha) or rank
        sizes[target] = LayerSize(rank, alpha / (math.sqrt(rank) if config.rank_stabilized else rank))
    if not sizes:
        raise ConfigError("the network", ["rank_pattern leaves no layer to train"])
    return sizes


def _kind(target: Target, layer: Layer, config: NetworkConfig) -> tuple[int, float] | None:
    """Return rank and alpha before patterns, or None for a layer that is left alone."""
    path = target.module
    if target.component != "unet":
        is_inside = ".self_attn." in path or ".mlp." in path
        return (config.text_rank, config.text_alpha) if config.text_rank and is_inside else None
    if isinstance(layer, nn.Conv2d):
        is_wide = layer.kernel_size != (1, 1)
        return (config.conv_rank, config.conv_alpha) if config.conv_rank and is_wide else None
    ends = tuple(end for group in config.targets for end in UNET_ENDS[group])
    return (config.rank, config.alpha) if ends and "attentions." in path and path.endswith(ends) else None
