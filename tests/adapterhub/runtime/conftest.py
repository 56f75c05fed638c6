"""Random adapters on the mini base, in a registry, and a runtime that can compose them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.runtime.engine import Runtime
from adapterhub_registry.store import Registry

ADAPTERS = {"ink": (1, False), "corgi": (2, False), "words": (3, True)}
"""Name to seed, and whether it changes the text encoders too."""


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}


def random_adapter(runtime: Runtime, seed: int, *, rank: int = 4, with_text: bool = False) -> AdapterTensors:
    """An adapter on all attention and feed-forward linears, strong enough to change every picture."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    components = ("unet", "text_encoder", "text_encoder_2") if with_text else ("unet",)
    for component in components:
        for name, module in linears(getattr(runtime.pipeline, component)).items():
            if "transformer_blocks" in name or "layers" in name:
                path = name if component == "unet" else f"text_model.{name.removeprefix('text_model.')}"
                down = torch.randn(rank, module.in_features, generator=generator)
                up = torch.randn(module.out_features, rank, generator=generator) * 0.02
                layers[Target(component, path)] = LowRank(down, up, 1.0, "config")
    return AdapterTensors(layers)


def weights(runtime: Runtime) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": parameter.detach().clone()
        for part in ("unet", "text_encoder", "text_encoder_2", "vae")
        for name, parameter in getattr(runtime.pipeline, part).named_parameters()
    }


@contextmanager
def busy(runtime: Runtime) -> Iterator[None]:
    """Keep the device with a picture that is not done before the block is, so that jobs wait."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(done: int, steps: int) -> None:
        del done, steps
        begun.set()
        go_on.wait()

    thread = threading.Thread(target=lambda: runtime.generate("a star", seed=1, steps=1, on_step=hold))
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        go_on.set()
        thread.join()


def unet_inputs(runtime: Runtime, *, rows: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    width = runtime.pipeline.unet.config.cross_attention_dim
    pooled = runtime.pipeline.text_encoder_2.config.projection_dim
    return {
        "sample": torch.randn(rows, 4, 16, 16, generator=generator),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(rows, 77, width, generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, pooled, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * rows),
        },
    }


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def runtime(registry: Registry) -> Iterator[Runtime]:
    """A runtime whose registry has `me/ink`, `me/corgi` and `me/words`."""
    with Runtime.load("mini", registry=registry, device="cpu") as runtime:
        folder = registry.home / "files"
        folder.mkdir()
        for name, (seed, with_text) in ADAPTERS.items():
            data = diffusers_bytes(random_adapter(runtime, seed, with_text=with_text))
            (folder / f"{name}.safetensors").write_bytes(data)
            registry.add(folder / f"{name}.safetensors", name=f"me/{name}", base="mini")
        yield runtime


@pytest.fixture(scope="module")
def inputs(runtime: Runtime) -> dict[str, Any]:
    """What the UNet takes for a batch of two pictures with guidance."""
    return unet_inputs(runtime, rows=4)


@pytest.fixture
def base_again(runtime: Runtime) -> Iterator[None]:
    yield
    runtime.compose(None)
