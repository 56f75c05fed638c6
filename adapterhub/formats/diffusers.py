"""Write diffusers' layout: PEFT keys, with rank and alpha in the header."""

import json
from collections.abc import Mapping

from torch import Tensor

from adapterhub.formats.container import safetensors_bytes
from adapterhub.formats.peft_config import HEADER_KEY
from adapterhub.lora.weights import AdapterTensors


def diffusers_bytes(adapter: AdapterTensors, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file that `load_lora_weights` of stock diffusers reads at the right strength.

    The header's config is minimal, so that older releases of PEFT take it. The bytes depend on the adapter
    and the metadata alone.

    Args:
        adapter: Low-rank layers; a scale that differs between modules goes into `alpha_pattern`.
        metadata: More text for the header.
    """
    tensors: dict[str, Tensor] = {}
    config: dict[str, object] = {}
    for component in sorted({target.component for target in adapter.layers}):
        layers = {t.module: layer for t, layer in adapter.layers.items() if t.component == component}
        # One of the two encoders has no level `text_model` in transformers 5; PEFT matches the ends of paths.
        names = {module: module.removeprefix("text_model.") for module in layers}
        patterns = {module: f"^{name}$" if name == module else name for module, name in names.items()}
        alphas = {patterns[module]: layer.scale * layer.rank for module, layer in layers.items()}
        ranks = {patterns[module]: layer.rank for module, layer in layers.items()}
        rank, alpha = _commonest(ranks), _commonest(alphas)
        config |= {
            f"{component}.r": rank,
            f"{component}.lora_alpha": alpha,
            f"{component}.rank_pattern": {p: r for p, r in sorted(ranks.items()) if r != rank},
            f"{component}.alpha_pattern": {p: a for p, a in sorted(alphas.items()) if a != alpha},
            f"{component}.target_modules": sorted(names.values()),
        }
        for module, layer in layers.items():
            tensors[f"{component}.{module}.lora_A.weight"] = layer.down
            tensors[f"{component}.{module}.lora_B.weight"] = layer.up
    header = {**(metadata or {}), HEADER_KEY: json.dumps(config, sort_keys=True), "format": "pt"}
    return safetensors_bytes(tensors, header)


def _commonest(values: Mapping[str, float]) -> float:
    counts: dict[float, int] = {}
    for value in values.values():
        counts[value] = counts.get(value, 0) + 1
    return max(counts, key=lambda value: (counts[value], -value))
