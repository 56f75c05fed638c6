"""Write a PEFT directory: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adapterhub.errors import FormatError
from adapterhub.formats.container import safetensors_bytes
from adapterhub.formats.peft_config import peft_fields, peft_layers
from adapterhub.lora.weights import MODEL, AdapterTensors


def peft_files(adapter: AdapterTensors, *, config: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Return the files of a PEFT directory.

    A PEFT file names no component, so it holds one: the UNet, one text encoder, or a language model.

    Args:
        adapter: Low-rank layers, or DoRA by outputs.
        config: More fields for the config, such as those of the directory that it was read from.

    Raises:
        FormatError: It changes several components, or has layers of another algorithm.
    """
    layers = peft_layers(adapter, "peft")
    components = sorted({target.component for target in layers})
    if len(components) != 1:
        reason = "a PEFT directory holds one component; split it first, or use --format diffusers"
        raise FormatError("peft", components, reason)
    tensors: dict[str, Tensor] = {}
    # transformers 5 dropped the level `text_model` from the first of SDXL's two text encoders.
    dropped = "text_model." if components == ["text_encoder"] else ""
    names = {target: target.module.removeprefix(dropped) for target in layers}
    for target, layer in layers.items():
        for suffix, tensor in layer.named.items():
            tensors[f"base_model.model.{names[target]}.{suffix}"] = tensor
    fields = {
        "bias": "none",
        "peft_type": "LORA",
        "inference_mode": True,
        **{name: value for name, value in (config or {}).items() if name not in _REPLACED},
        **peft_fields({names[target]: layer for target, layer in layers.items()}, names.values()),
    }
    if components == [MODEL]:
        # The language model's own list is shorter than one entry for each of its layers.
        fields["target_modules"] = sorted({name.rsplit(".", 1)[-1] for name in names.values()})
    return {
        "adapter_config.json": (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode(),
        "adapter_model.safetensors": safetensors_bytes(tensors, {"format": "pt"}),
    }


_REPLACED = frozenset({"use_rslora", "use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern"})
