"""Layers of other algorithms than LoRA, as PEFT has them, of one adapter at a time on one frozen base."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from adapterhub.lora.weights import AdapterTensors, Native, Target
from adapterhub.randomness import keyed_generator
from adapterhub.training.bank import DOWN, UP
from adapterhub.training.layers import LayerSize, NetworkConfig, layer_sizes, trainable_layers

ADAPTER = "trained"
PARTS = {"lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude"}
"""PEFT's names to those of `adapterhub_registry.probe`, where they differ."""
ZERO = ("up", "hada_w2_b", "lokr_w1")
"""What is zero at the start, as in PEFT, so that training begins at the base."""


class PeftNetwork:
    """PEFT's layers for one adapter, in place of the base's modules from `place` to `remove`.

    As a context it takes them off at its end.

    Args:
        components: The frozen UNet and text encoders, by name.
        device: Where the parameters are.
        dtype: Of the parameters: float32, or float64 to compare with.
    """

    def __init__(
        self,
        components: Mapping[str, nn.Module],
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._components = components
        self._device, self._dtype = device, dtype
        self._algorithm = ""
        self._sizes: Mapping[Target, LayerSize] = {}
        self._paths: dict[Target, str] = {}

    def place(self, slot: int, config: NetworkConfig, *, seed: int, key: str) -> None:
        """Put the layers of a new adapter on.

        Every tensor is drawn as PEFT draws it, uniformly in +-1/sqrt(columns), but for the one that is zero;
        DoRA's magnitudes are the norms of the weights. A DoRA starts from the A of a LoRA of its name.

        Args:
            slot: 0.
            config: Its algorithm is one of PEFT's.
            seed: Decides what is drawn.
            key: Likewise: the adapter's name.

        Raises:
            ConfigError: As `layer_sizes`.
        """
        if slot or self._sizes:
            raise IndexError("there is room for one adapter")
        layers = trainable_layers(self._components)
        sizes = layer_sizes(config, layers)
        paths = {
            target: path
            for component, module in self._components.items()
            for path, _ in module.named_modules()
            if (target := Target.at(component, path)) in sizes
        }
        self._algorithm, self._sizes, self._paths = config.algorithm, sizes, paths
        for component, module in self._components.items():
            own = {paths[target]: size for target, size in sizes.items() if target.component == component}
            if own:
                with torch.random.fork_rng(devices=[]):  # PEFT draws too, before it is overwritten
                    inject_adapter_in_model(_peft_config(config.algorithm, own), module, ADAPTER)
        for target, size in sizes.items():
            layer: Any = self._layer(target)
            layer.scaling[ADAPTER] = size.scale
            layer.eval()
            for part, parameter in self._parts(target).items():
                start = _start(layer.get_base_layer().weight, parameter, part, target, (seed, key))
                parameter.data = start.to(self._device, self._dtype).clone()
                parameter.grad = torch.zeros_like(parameter)

    def remove(self, slot: int) -> None:
        """Take the layers off; the base is as it was."""
        del slot
        for target in self._sizes:
            layer: Any = self._layer(target)
            parent, _, name = self._paths[target].rpartition(".")
            setattr(self._components[target.component].get_submodule(parent), name, layer.get_base_layer())
        for module in self._components.values():
            vars(module).pop("peft_config", None)
        self._sizes, self._paths = {}, {}

    def parameters(self, slot: int) -> dict[tuple[str, str], list[nn.Parameter]]:
        """Return the parameters, by component and side; all are `down` but for DoRA's B."""
        del slot
        groups: dict[tuple[str, str], list[nn.Parameter]] = {}
        for target in self._sizes:
            for part, parameter in self._parts(target).items():
                side = UP if part == "up" else DOWN
                groups.setdefault((target.component, side), []).append(parameter)
        return groups

    def share(
        self,
        slots: Sequence[int],
        counts: Sequence[int],
        steps: Sequence[int] | None = None,
        *,
        parts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Say whose samples come next: of the adapter, or of nobody, so that the base is as it was."""
        del counts, steps, parts
        for target in self._sizes:
            layer: Any = self._layer(target)
            layer._disable_adapters = not slots

    def limit_norms(self, slot: int) -> int:
        """Do nothing: `NetworkConfig` refuses a `max_norm` for these algorithms."""
        del slot
        return 0

    def tensors(self, slot: int) -> AdapterTensors:
        """Return copies of the parameters, in float32, as an adapter."""
        del slot
        layers: dict[Target, Native] = {}
        for target, size in self._sizes.items():
            parts = {
                name: value.detach().float().cpu().clone() for name, value in self._parts(target).items()
            }
            scale = size.scale
            if "magnitude" in parts:
                parts["magnitude"] = parts["magnitude"].flatten()
            if {"lokr_w1", "lokr_w2"} <= parts.keys():
                # Where both factors are whole, LyCORIS' format has no scale.
                parts["lokr_w1"], scale = parts["lokr_w1"] * scale, 1.0
            layers[target] = Native(self._algorithm, parts, scale, "config")
        return AdapterTensors(layers)

    def __enter__(self) -> "PeftNetwork":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove(0)

    def _layer(self, target: Target) -> nn.Module:
        return self._components[target.component].get_submodule(self._paths[target])

    def _parts(self, target: Target) -> dict[str, nn.Parameter]:
        """Return a layer's parameters by the names that files have."""
        layer: Any = self._layer(target)
        names: tuple[str, ...] = layer.adapter_layer_names
        found: dict[str, nn.Parameter] = {}
        for name in names:
            part = getattr(layer, name)
            if ADAPTER in part:
                value = part[ADAPTER]
                found[PARTS.get(name, name)] = value if isinstance(value, nn.Parameter) else value.weight
        return found


def _peft_config(algorithm: str, sizes: Mapping[str, LayerSize]) -> Any:
    """Return PEFT's config for the layers of a component, by their paths."""
    # A pattern that begins with ^ matches one path alone.
    patterns = {"^" + path.replace(".", r"\."): size for path, size in sizes.items()}
    common: dict[str, Any] = {
        "r": 1,
        "target_modules": list(sizes),
        "rank_pattern": {pattern: size.rank for pattern, size in patterns.items()},
    }
    if algorithm == "dora":
        return LoraConfig(**common, use_dora=True)
    return {"loha": LoHaConfig, "lokr": LoKrConfig}[algorithm](**common)


def _start(
    weight: Tensor, parameter: nn.Parameter, part: str, target: Target, key: tuple[int, str]
) -> Tensor:
    """Return what a parameter is at the start."""
    if part == "magnitude":
        return weight.double().flatten(1).norm(dim=1).view_as(parameter)
    if part in ZERO:
        return torch.zeros_like(parameter)
    name = target.module if target.component == "unet" else str(target)
    seed, adapter = key
    purpose = ("lora", name) if part == "down" else ("peft", name, part)
    bound = parameter[0].numel() ** -0.5
    drawn = keyed_generator(seed, adapter, *purpose).uniform(-bound, bound, tuple(parameter.shape))
    return torch.from_numpy(drawn).float()
