"""Write diffusers' layout: PEFT keys, with rank and alpha in the header."""

import json

from torch import Tensor

from adapterhub.formats.container import safetensors_bytes
from adapterhub.formats.peft_config import HEADER_KEY, peft_fields, peft_layers
from adapterhub.lora.weights import AdapterTensors


def diffusers_bytes(adapter: AdapterTensors, *, metadata: "dict[str, str] | None" = None) -> bytes:
    """Return a safetensors file that `load_lora_weights` of stock diffusers reads at the right strength.

    The header's config is minimal, so that older releases of PEFT take it. The bytes depend on the adapter
    and the metadata alone.

    Args:
        adapter: Low-rank layers, or DoRA by outputs; a scale that differs between modules goes into
            `alpha_pattern`.
        metadata: More text for the header.

    Raises:
        FormatError: It has layers of another algorithm.
    """
    tensors, header = diffusers_parts(adapter)
    return safetensors_bytes(tensors, {**(metadata or {}), **header})


def diffusers_parts(adapter: AdapterTensors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, and the part of the header that decides their scale."""
    tensors: dict[str, Tensor] = {}
    config: dict[str, object] = {}
    layers = peft_layers(adapter, "diffusers")
    for component in sorted({target.component for target in layers}):
        own = {target.module: layer for target, layer in layers.items() if target.component == component}
        # One of the two encoders has no level `text_model` in transformers 5; PEFT matches the ends of paths.
        names = {module: module.removeprefix("text_model.") for module in own}
        fields = peft_fields({names[module]: layer for module, layer in own.items()}, names.values())
        config |= {f"{component}.{name}": value for name, value in fields.items()}
        for module, layer in own.items():
            for suffix, tensor in layer.named.items():
                tensors[f"{component}.{module}.{suffix}"] = tensor
    return tensors, {HEADER_KEY: json.dumps(config, sort_keys=True), "format": "pt"}
