"""Headers of adapter files: ModelSpec and kohya's fields written, private fields taken out."""

import json
from collections.abc import Mapping, Sequence

from adapterhub._version import __version__
from adapterhub.formats.peft_config import HEADER_KEY
from adapterhub.lora.weights import AdapterTensors, LowRank, Native

MODEL_SPEC = {"sdxl": "stable-diffusion-xl-v1-base/lora"}
"""Architecture to ModelSpec's name; others are written as `adapterhub.architecture` alone."""
KEPT = ("ss_network_module", "ss_network_args", "ss_base_model_version", "ss_v2", "ss_output_name")
PRIVATE = ("ss_", "ot_", "training_", "sd_scripts_", "toolkit")
# Written anew, because they may not be right for what is written.
REPLACED = ("sshs_model_hash", "sshs_legacy_hash", "ss_network_dim", "ss_network_alpha", HEADER_KEY, "format")


def stripped(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a header without what tells of the training: folders, captions, settings (ModelSpec stays).

    Example:
        >>> stripped({"ss_dataset_dirs": "/home/me", "modelspec.title": "Ink"})
        {'modelspec.title': 'Ink'}
    """
    return {
        name: value
        for name, value in metadata.items()
        if name in KEPT or not name.lower().startswith(PRIVATE)
    }


def described(
    adapter: AdapterTensors,
    *,
    architecture: str = "",
    title: str = "",
    trigger_words: Sequence[str] = (),
    licence: str = "",
    description: str = "",
) -> dict[str, str]:
    """Return an adapter's own header, with ModelSpec 1.0.1 and kohya's fields set from what is known of it.

    Args:
        adapter: Its metadata is kept, but for hashes and ranks, which are written anew.
        architecture: As `adapterhub_registry.probe` names it.
        title: ModelSpec's title.
        trigger_words: ModelSpec's `trigger_phrase`.
        licence: ModelSpec's `license`.
        description: ModelSpec's `description`.
    """
    header = {name: value for name, value in adapter.metadata.items() if name not in REPLACED}
    if architecture == "sdxl":
        header["ss_base_model_version"] = header.get("ss_base_model_version", "sdxl_base_v1-0")
    if architecture in MODEL_SPEC:
        header["modelspec.architecture"] = MODEL_SPEC[architecture]
        header["modelspec.sai_model_spec"] = "1.0.1"
        header["modelspec.implementation"] = "diffusers"
    elif architecture:
        header["adapterhub.architecture"] = architecture
    known = {
        "modelspec.title": title,
        "modelspec.trigger_phrase": ", ".join(trigger_words),
        "modelspec.license": licence,
        "modelspec.description": description,
    }
    header |= {name: value for name, value in known.items() if value}
    return header | network_fields(adapter) | {"adapterhub.version": __version__}


def network_fields(adapter: AdapterTensors) -> dict[str, str]:
    """Return kohya's fields for rank and alpha; `Dynamic` where modules differ, as kohya writes it."""
    layers = [
        layer for layer in adapter.layers.values() if isinstance(layer, LowRank | Native) and layer.rank
    ]
    if not layers:
        return {}
    ranks = {layer.rank for layer in layers}
    alphas = {round(layer.scale * layer.rank, 6) for layer in layers}
    is_plain = all(isinstance(layer, LowRank) for layer in layers)
    fields = {
        "ss_network_module": "networks.lora" if is_plain else "lycoris.kohya",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
    }
    algorithms = {"dora": "lora", "locon-tucker": "locon"}
    if not is_plain:
        kinds = sorted({algorithms.get(layer.algorithm, layer.algorithm) for layer in layers})
        fields["ss_network_args"] = json.dumps({"algo": kinds[0] if len(kinds) == 1 else kinds})
    return fields
