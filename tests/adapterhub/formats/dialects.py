"""Adapters with known deltas, spelled in every layout by rules of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.formats.names import unet_names
from adapterhub.lora.weights import Target


@dataclass(frozen=True)
class Known:
    """One layer: `alpha / rank * up @ down`; None: no alpha is written, and it counts as the rank."""

    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def delta(self) -> Tensor:
        rank = self.down.shape[0]
        scale = 1.0 if self.alpha is None else self.alpha / rank
        product = self.up.flatten(1).double() @ self.down.flatten(1).double() * scale
        return product.reshape(self.up.shape[0], *self.down.shape[1:])


def known_layers(
    pipeline: Any,
    *,
    rank: Callable[[int], int] = lambda _: 4,
    alpha: Callable[[int, str], float | None] = lambda _, __: 2.0,
    has_convolutions: bool = True,
    has_text: bool = True,
) -> dict[Target, Known]:
    """Return random layers for every linear and convolution of a pipeline that kohya names."""
    generator = torch.Generator().manual_seed(1)
    layers: dict[Target, Known] = {}
    for component in ("unet", "text_encoder", "text_encoder_2") if has_text else ("unet",):
        for path, module in getattr(pipeline, component).named_modules():
            is_conv = isinstance(module, nn.Conv2d) and has_convolutions
            if not (isinstance(module, nn.Linear) or is_conv):
                continue
            if component != "unet":
                if "layers" not in path:
                    continue
                path = f"text_model.{path.removeprefix('text_model.')}"
            number = len(layers)
            size, value = rank(number), alpha(number, path)
            out_size, *rest = module.weight.shape
            down = torch.randn(size, *rest, generator=generator)
            up = torch.randn(out_size, size, *[1] * (len(rest) - 1), generator=generator)
            layers[Target(component, path)] = Known(down, up * 0.05, value)
    return layers


def spelled(layout: str, layers: Mapping[Target, Known]) -> dict[str, Tensor]:
    """Return the tensors of a file in a layout."""
    tensors: dict[str, Tensor] = {}
    for target, layer in layers.items():
        name, (down, up) = SPELLINGS[layout](target)
        tensors[f"{name}{down}"], tensors[f"{name}{up}"] = layer.down, layer.up
        if layer.alpha is not None and layout in WITH_ALPHA:
            tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return tensors


KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")
Spelled = tuple[str, tuple[str, str]]


def _underscored(prefixes: Mapping[str, str], names: Callable[[str], str]) -> Callable[[Target], Spelled]:
    def spell(target: Target) -> Spelled:
        module = names(target.module) if target.component == "unet" else target.module
        return prefixes[target.component] + module.replace(".", "_"), KOHYA

    return spell


def _processor(prefix: str) -> Callable[[Target], Spelled]:
    def spell(target: Target) -> Spelled:
        attention, projection = target.module.removesuffix(".0").rsplit(".", 1)
        return f"{prefix}{attention}.processor.{projection}_lora", (".down.weight", ".up.weight")

    return spell


_LORA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
_OMI = {"unet": "unet.", "text_encoder": "clip_l.", "text_encoder_2": "clip_g."}
SPELLINGS: dict[str, Callable[[Target], Spelled]] = {
    "kohya": _underscored(_LORA, unet_names().__getitem__),
    "kohya-diffusers": _underscored(_LORA, str),
    "lycoris": _underscored(
        {"unet": "lycoris_", "text_encoder": "lycoris_te1_", "text_encoder_2": "lycoris_te2_"}, str
    ),
    "diffusers-processor": _processor("unet."),
    "diffusers-processor, bare": _processor(""),
    "diffusers-lora": lambda target: (
        str(target),
        (".lora.down.weight", ".lora.up.weight")
        if target.component == "unet"
        else (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ),
    "diffusers": lambda target: (str(target), PEFT),
    "diffusers, short text encoder": lambda target: (str(target).replace(".text_model.", "."), PEFT),
    "peft": lambda target: (f"base_model.model.{target.module}", PEFT),
    "peft with a component": lambda target: (f"{target.component}.base_model.model.{target.module}", PEFT),
    "peft-named": lambda target: (str(target), (".lora_A.ink.weight", ".lora_B.ink.weight")),
    "omi": lambda target: (f"{_OMI[target.component]}{target.module}", KOHYA),
    "comfy": lambda target: (
        f"diffusion_model.{unet_names()[target.module]}"
        if target.component == "unet"
        else _LORA[target.component] + target.module.replace(".", "_"),
        KOHYA,
    ),
}
WITH_ALPHA = {"kohya", "kohya-diffusers", "lycoris", "omi", "comfy"}
