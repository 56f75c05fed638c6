"""Write kohya's layout: SGM names with an alpha for every module, which every peer reads right."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from adapterhub.errors import FormatError
from adapterhub.formats.names import unet_names, unet_norm_names
from adapterhub.lora.weights import COMPONENTS, AdapterTensors, Dense, LowRank, Native, Target, Update
from adapterhub_registry.dialects import KOHYA_SUFFIXES

PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def kohya_tensors(adapter: AdapterTensors, *, format_name: str = "kohya") -> dict[str, Tensor]:
    """Return an adapter's tensors under kohya's keys; other algorithms under LyCORIS' suffixes.

    Raises:
        FormatError: It is of another architecture than SDXL's.
    """
    return {
        **module_tensors(adapter, kohya_name, format_name=format_name),
        **adapter.extras,
    }


def kohya_name(target: Target) -> str:
    """Return kohya's name of a module.

    Example:
        >>> kohya_name(Target("unet", "mid_block.attentions.0.proj_in"))
        'lora_unet_middle_block_1_proj_in'
    """
    module = sgm_name(target.module) if target.component == "unet" else target.module
    return PREFIXES[target.component] + module.replace(".", "_")


def sgm_name(module: str) -> str:
    """Return SGM's dotted path of a UNet module in diffusers' names."""
    return unet_names().get(module) or unet_norm_names()[module]


def module_tensors(
    adapter: AdapterTensors, name_of: Callable[[Target], str], *, format_name: str
) -> dict[str, Tensor]:
    """Return all tensors of all modules under `name_of(target)` and kohya's or LyCORIS' suffixes."""
    foreign = [str(t) for t in (*adapter.layers, *adapter.biases) if t.component not in COMPONENTS]
    if foreign:
        raise FormatError(format_name, foreign, "it has names for SDXL's modules only; use --format peft")
    tensors: dict[str, Tensor] = {}
    for target, update in adapter.layers.items():
        for part, tensor in _parts(target, update).items():
            tensors[f"{name_of(target)}.{KOHYA_SUFFIXES[part]}"] = tensor
    for target, bias in adapter.biases.items():
        suffix = "b_norm" if is_norm(target) else "diff_b"
        tensors[f"{name_of(target)}.{suffix}"] = bias
    return tensors


def is_norm(target: Target) -> bool:
    """Say whether a target is a norm, whose differences LyCORIS calls `w_norm` and `b_norm`."""
    return "norm" in target.module.rsplit(".", 1)[-1]


def _parts(target: Target, update: Update) -> Mapping[str, Tensor]:
    if isinstance(update, Dense):
        return {"w_norm" if is_norm(target) else "diff": update.difference}
    if isinstance(update, LowRank):
        return {**update.tensors, "alpha": torch.tensor(update.scale * update.rank)}
    return {**update.tensors, **_native_alpha(update)}


def _native_alpha(update: Native) -> Mapping[str, Tensor]:
    if update.algorithm in ("ia3", "set"):
        return {}
    return {"alpha": torch.tensor(update.scale * max(update.rank, 1))}
