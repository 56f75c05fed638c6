"""A training rehearsed on tensors without numbers: what its passes cost, before a weight is loaded."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.bases.find import Base
from adapterhub.bases.fit import empty_models
from adapterhub.bases.load import quiet_libraries
from adapterhub.bases.memory import vae_dtype
from adapterhub.training.bank import LoraBank
from adapterhub.training.config import BaseConfig
from adapterhub.training.executor import Network, Rows
from adapterhub.training.layers import NetworkConfig, layer_sizes, trainable_layers
from adapterhub.training.loading import checkpoint_blocks
from adapterhub.training.peft_network import PeftNetwork
from adapterhub.training.text import TEXT_ENCODERS, CaptionEncoder
from adapterhub.training.workload import Workload, backward, measure_workload

META = torch.device("meta")
TOKENS = 77
"""Of a chunk of a caption."""


@dataclass(frozen=True)
class PassShape:
    """What a pass of a training reads.

    Attributes:
        counts: Pictures of each adapter in it.
        bucket: Width and height in pixels.
        chunks: Of 75 tokens of each caption.
    """

    counts: tuple[int, ...]
    bucket: tuple[int, int]
    chunks: int = 1


class Rehearsal:
    """The parts of a base on the meta device.

    Args:
        base: Only its configs are read.
        config: How it is held.
        dtype: Of the weights, as `placement` says.
    """

    def __init__(self, base: Base, config: BaseConfig, *, dtype: str) -> None:
        self._models = empty_models(base)
        with quiet_libraries():
            for part, model in self._models.items():
                kind = vae_dtype(base, dtype) if part == "vae" else dtype
                model.to(getattr(torch, kind)).eval().requires_grad_(requires_grad=False)
        self._unet: Any = self._models["unet"]
        self._factor = base.latent_factor
        if config.gradient_checkpointing:
            checkpoint_blocks(self._unet, every=config.gradient_checkpointing)

    def modules(self, *, trains_text: bool) -> dict[str, nn.Module]:
        """Return the modules that an adapter changes, by component."""
        names = ("unet", *(TEXT_ENCODERS if trains_text else ()))
        return {name: self._models[name] for name in names}

    def trained_numbers(self, network: NetworkConfig) -> int:
        """Return how many numbers an adapter trains.

        Raises:
            ConfigError: As `layer_sizes`.
        """
        modules = self.modules(trains_text=network.trains_text)
        if network.algorithm == "lora":
            layers = trainable_layers(modules)
            sizes = layer_sizes(network, layers)
            return sum(
                size.rank * (layers[target].weight[0].numel() + len(layers[target].weight))
                for target, size in sizes.items()
            )
        with PeftNetwork(modules, device=META) as made:
            _place(made, network)
            return _numbers(made)

    def factors(self, networks: Sequence[NetworkConfig], *, slots: int) -> int:
        """Return how many numbers the layers of a group have, with what pads the lower ranks."""
        made = self._network(networks, slots=slots)
        if isinstance(made, LoraBank):
            return made.factors.numel()
        with made:
            return _numbers(made)

    def train(self, networks: Sequence[NetworkConfig], shape: PassShape, *, slots: int) -> Workload:
        """Return what a forward and a backward cost; its peak is without weights, factors and gradients.

        Args:
            networks: Of all adapters of the group.
            shape: Of the pass.
            slots: Adapters at a time.
        """
        networks = list(networks)
        text = any(network.trains_text for network in networks)
        encode = CaptionEncoder([self._models[name] for name in TEXT_ENCODERS]) if text else None
        rows = [self._rows(count, shape, with_tokens=text) for count in shape.counts]
        made: Any = self._network(networks, slots=slots)
        slots_used = range(len(shape.counts))
        with made, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*meta.*")  # checkpointing knows no such device
            return measure_workload(lambda: self._pass(made, slots_used, rows, encode))

    def encode(self, bucket: tuple[int, int]) -> Workload:
        """Return what encoding one picture costs."""
        vae: Any = self._models["vae"]
        pixels = torch.empty(1, 3, bucket[1], bucket[0], device=META, dtype=vae.dtype)
        with torch.no_grad():
            return measure_workload(lambda: vae.encode(pixels, return_dict=False)[0].mean)

    def decode(self, side: int) -> Workload:
        """Return what decoding one square picture costs."""
        vae: Any = self._models["vae"]
        size = side // self._factor
        latents = torch.empty(1, vae.config.latent_channels, size, size, device=META, dtype=vae.dtype)
        with torch.no_grad():
            return measure_workload(lambda: vae.decode(latents, return_dict=False)[0])

    def _network(self, networks: Sequence[NetworkConfig], *, slots: int) -> LoraBank | PeftNetwork:
        modules = self.modules(trains_text=any(network.trains_text for network in networks))
        if networks[0].algorithm == "lora":
            return LoraBank(modules, networks, slots=slots, device=META)
        made = PeftNetwork(modules, device=META)
        _place(made, networks[0])
        return made

    def _rows(self, count: int, shape: PassShape, *, with_tokens: bool) -> Rows:
        config = self._unet.config
        width, height = (side // self._factor for side in shape.bucket)
        latents = torch.empty(count, config.in_channels, height, width, device=META)
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        states = torch.empty(count, TOKENS * shape.chunks, config.cross_attention_dim, device=META)
        tokens = torch.empty(count, shape.chunks, 2, TOKENS, device=META, dtype=torch.int64)
        return Rows(
            mean=latents,
            std=latents,
            states=states,
            pooled=torch.empty(count, pooled, device=META),
            size_ids=torch.empty(count, 6, device=META),
            tokens=tokens if with_tokens else None,
            is_dropped=[False] * count,
        )

    def _pass(
        self, network: Network, slots: Sequence[int], rows: Sequence[Rows], encode: CaptionEncoder | None
    ) -> None:
        network.share(slots, [len(own.mean) for own in rows])
        parts = [(own.states, own.pooled) for own in rows] if encode is None else encode(rows)
        dtype = self._unet.dtype
        noise = _joined([own.mean for own in rows])
        predicted = self._unet(
            noise.to(dtype),
            torch.empty(len(noise), device=META, dtype=torch.int64),
            encoder_hidden_states=_joined([states for states, _ in parts]).to(dtype),
            added_cond_kwargs={
                "text_embeds": _joined([pooled for _, pooled in parts]).to(dtype),
                "time_ids": _joined([own.size_ids for own in rows]),
            },
            return_dict=False,
        )[0]
        backward((predicted.float() - noise).square().mean())


def _place(made: PeftNetwork, network: NetworkConfig) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*meta.*")
        made.place(0, network, seed=0, key="")


def _numbers(made: PeftNetwork) -> int:
    return sum(one.numel() for own in made.parameters(0).values() for one in own)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))
