"""Put any adapter into a stock diffusers pipeline, at the right strength."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from adapterhub.errors import TargetError
from adapterhub.formats.peft_config import peft_layers
from adapterhub.lora.convert import to_lora
from adapterhub.lora.weights import COMPONENTS, AdapterTensors, Target

# Norms are known here to be refused by what they are.
LAYERS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)


def load_into(
    pipeline: Any,
    adapter: AdapterTensors,
    *,
    adapter_name: str = "default",
    weight: float = 1.0,
    rank: int | None = None,
    energy: float | None = None,
) -> int:
    """Load an adapter of any dialect and algorithm into a stock SDXL pipeline, as LoRA layers of PEFT.

    Scales are folded into B in float32, so that none is lost on the way: `load_lora_weights` of diffusers
    mis-scales kohya files whose alphas differ, and refuses LyCORIS. `pipeline.unload_lora_weights()` takes
    it out again. The runtime of AdapterHub needs none of this.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        adapter: From `read_adapter`.
        adapter_name: PEFT's name for it in the pipeline.
        weight: Its strength.
        rank: Largest rank of layers that are no plain LoRA; see `to_lora`.
        energy: What these layers keep; without both they are exact, at full rank where they must be.

    Returns:
        How many modules it changes.

    Raises:
        TargetError: The pipeline lacks a module that the adapter changes, or it has another shape.
        FormatError: It changes norms or biases, which no LoRA layer can hold.
    """
    weights = _weights(pipeline)
    missing = [str(t) for t in (*adapter.layers, *adapter.biases) if t not in weights]
    if missing or not adapter.layers:
        raise TargetError(adapter_name, missing or ["no module at all"], "the pipeline has no such modules")
    plain = to_lora(adapter, rank=rank, energy=energy, base=lambda target: weights[target].detach().cpu())
    folded = {target: layer.folded() for target, layer in plain.adapter.low_rank().items()}
    layers = peft_layers(
        dataclasses.replace(plain.adapter, layers={**plain.adapter.layers, **folded}), "peft"
    )
    wrong = [
        f"{target} {folded[target].shape} on {tuple(weights[target].shape)}"
        for target in layers
        if folded[target].shape[0] != weights[target].shape[0]
        or folded[target].down[0].numel() != weights[target][0].numel()
    ]
    if wrong:
        raise TargetError(adapter_name, wrong, "shapes differ")
    state = {
        f"{target.component}.{target.module}.{suffix}": _shaped(suffix, tensor, weights[target])
        for target, layer in layers.items()
        for suffix, tensor in layer.named.items()
    }
    pipeline.load_lora_weights(state, adapter_name=adapter_name)
    loaded = sum(
        adapter_name in getattr(module, "lora_A", {})
        for component in COMPONENTS
        for module in getattr(pipeline, component).modules()
    )
    if loaded != len(layers):
        pipeline.delete_adapters(adapter_name)
        raise TargetError(adapter_name, [f"{len(layers) - loaded} modules"], "diffusers left them out")
    pipeline.set_adapters(adapter_name, weight)
    return loaded


def _weights(pipeline: Any) -> dict[Target, Tensor]:
    """Return the pristine weights of all layers and norms, under canonical names."""
    weights: dict[Target, Tensor] = {}
    for component in COMPONENTS:
        for path, module in getattr(pipeline, component).named_modules():
            inner = getattr(module, "base_layer", module)
            if isinstance(inner, LAYERS) and not path.endswith(".base_layer"):
                weights[Target.at(component, path)] = inner.weight
    return weights


def _shaped(suffix: str, tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a factor in the shape that PEFT gives the module: four-dimensional on convolutions."""
    if weight.dim() == 2:
        return tensor.flatten(1)
    if suffix.startswith("lora_A"):
        return tensor.reshape(tensor.shape[0], *weight.shape[1:])
    return tensor.reshape(*tensor.shape[:2], 1, 1)
