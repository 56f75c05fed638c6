"""Trainable LoRA layers on a frozen module, put on by forward hooks and taken off again."""

import math
from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.randomness import keyed_generator

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
"""Ends of the paths that are trained: attention, feed-forward and the projections around them."""


class LoraNetwork:
    """LoRA layers for the linears of a UNet; float32 on any base, active inside `with`.

    A is drawn as PEFT draws it, uniformly in +-1/sqrt(in); B is zero, so training starts at the base.

    Args:
        unet: The frozen module.
        rank: Inner size.
        alpha: Scaling is alpha / rank.
        seed: Decides A.
        key: What else decides A, for example the adapter's name.
    """

    def __init__(self, unet: nn.Module, *, rank: int, alpha: float, seed: int, key: str) -> None:
        self._modules = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(TARGETS) and "attentions" in name
        }
        self._scale = alpha / rank
        self._down: dict[str, nn.Parameter] = {}
        self._up: dict[str, nn.Parameter] = {}
        for name, module in self._modules.items():
            bound = 1 / math.sqrt(module.in_features)
            drawn = keyed_generator(seed, key, "lora", name).uniform(
                -bound, bound, (rank, module.in_features)
            )
            device = module.weight.device
            self._down[name] = nn.Parameter(torch.from_numpy(drawn).float().to(device))
            self._up[name] = nn.Parameter(torch.zeros(module.out_features, rank, device=device))
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """All trained parameters, in a fixed order."""
        return [*self._down.values(), *self._up.values()]

    def tensors(self) -> AdapterTensors:
        """Return copies of the factors as an adapter."""
        return AdapterTensors(
            {
                Target("unet", name): LowRank(
                    self._down[name].detach().cpu().clone(),
                    self._up[name].detach().cpu().clone(),
                    self._scale,
                    "config",
                )
                for name in self._modules
            }
        )

    def load(self, layers: Mapping[Target, LowRank]) -> None:
        """Set the factors to those of a checkpoint."""
        with torch.no_grad():
            for name in self._modules:
                layer = layers[Target("unet", name)]
                self._down[name].copy_(layer.down)
                self._up[name].copy_(layer.up)

    def __enter__(self) -> "LoraNetwork":
        self._handles = [
            module.register_forward_hook(self._hook(name)) for name, module in self._modules.items()
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, name: str):
        down, up, scale = self._down[name], self._up[name], self._scale

        def add_update(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            hidden = nn.functional.linear(inputs[0].float(), down)
            return output + (nn.functional.linear(hidden, up) * scale).to(output.dtype)

        return add_update
