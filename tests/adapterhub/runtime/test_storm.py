"""The storm: whatever happens to a runtime, its base stays, and its memory does not grow."""

import gc
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from adapterhub.errors import AdapterHubError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.regions import Box, Regions
from adapterhub.runtime.schedule import Composite, Switch
from adapterhub.runtime.weight_bank import WeightBank
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import random_adapter

NAMES = [f"me/a{number}" for number in range(12)]


class StopError(Exception):
    """Somebody has seen enough."""


def adapter(runtime: Runtime, seed: int) -> AdapterTensors:
    """One of many kinds: any rank, any part of the modules, convolutions, text encoders."""
    choose = random.Random(seed)
    whole = random_adapter(runtime, seed, rank=choose.choice([1, 4, 9]), with_text=seed % 3 == 0)
    part = choose.choice(["attn1", "attn2.to_v", "ff.net"])
    layers = {
        target: layer
        for target, layer in whole.layers.items()
        if target.component != "unet" or part in target.module
    }
    if seed % 4 == 1:
        generator = torch.Generator().manual_seed(seed)
        conv = runtime.pipeline.unet.mid_block.resnets[0].conv1
        down = torch.randn(2, conv.in_channels, 3, 3, generator=generator)
        up = torch.randn(conv.out_channels, 2, 1, 1, generator=generator) * 0.02
        layers[Target("unet", "mid_block.resnets.0.conv1")] = LowRank(down, up)
    return AdapterTensors(layers)


def base_digest(runtime: Runtime) -> str:
    digest = hashlib.sha256()
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        for name, value in sorted(getattr(runtime.pipeline, part).state_dict().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Storm:
    """Acts on a runtime at random."""

    def __init__(
        self, runtime: Runtime, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.runtime, self.registry, self.folder = runtime, registry, folder
        self.random = random.Random(1)
        self.patch = monkeypatch
        self.added = 0
        self.base = base_digest(runtime)
        self.failures: dict[str, int] = {}
        self.acts: list[tuple[int, Callable[[], object]]] = [
            (50, self.switch),
            (25, self.move_slider),
            (6, self.go_back),
            (4, self.fail_to_load),
            (4, self.run_out_of_memory),
            (3, self.delete_what_is_active),
            (4, self.generate),
            (3, self.cancel),
            (1, self.look_closer),
        ]

    def run(self, count: int) -> None:
        weights, acts = zip(*self.acts, strict=True)
        for act in self.random.choices(acts, weights, k=count):
            act()

    def stack(self, names: list[str] = NAMES) -> str:
        chosen = self.random.sample(names, self.random.randint(1, 3))
        return " + ".join(f"{name}:{self.random.choice(['0', '1', '-0.5', '0.25'])}" for name in chosen)

    def expect(self, *kinds: type[BaseException]) -> "pytest.RaisesExc[BaseException]":
        self.failures[kinds[0].__name__] = self.failures.get(kinds[0].__name__, 0) + 1
        return pytest.raises(kinds)

    def switch(self) -> None:
        self.runtime.compose(self.stack(), plane=self.random.choice([None, None, "low_rank"]))

    def move_slider(self) -> None:
        name = self.random.choice(NAMES)
        for weight in (-1.0, 0.0, 0.5):
            self.runtime.compose(f"{name}:{weight}", plane=self.random.choice(["fused", "low_rank"]))

    def go_back(self) -> None:
        self.runtime.compose(None)

    def fail_to_load(self) -> None:
        before = self.runtime.composition
        with self.expect(AdapterHubError):
            self.runtime.compose(self.random.choice(["me/nobody", "me/nan", "me/strange", "me/a1@99"]))
        assert self.runtime.composition == before

    def run_out_of_memory(self) -> None:
        written = WeightBank._write_product
        left = self.random.randint(0, 3)

        def fail(bank: WeightBank, *parts: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise torch.OutOfMemoryError("injected")
            written(bank, *parts)

        self.runtime.compose(None)
        with self.patch.context() as patched:
            patched.setattr(WeightBank, "_write_product", fail)
            with self.expect(torch.OutOfMemoryError):
                self.runtime.compose("me/a2 + me/a4:0.5", plane="fused")
        assert not self.runtime.composition.terms

    def delete_what_is_active(self) -> None:
        self.added += 1
        name = f"me/gone{self.added}"
        self.registry.add(self.folder / f"a{self.random.randrange(12)}.safetensors", name=name, base="mini")
        self.runtime.compose(f"{name} + me/a3:0.5")
        self.registry.delete(name)
        self.runtime.generate("a star", seed=1, steps=1)
        with self.expect(AdapterHubError):
            self.runtime.compose(name)

    def generate(self) -> None:
        terms = Composition.parse(self.stack())
        plan = self.random.choice(
            [terms, Switch(terms, 1), Composite(terms), Regions(((terms, Box(0, 0, 0.5, 1)),))]
        )
        self.runtime.generate(["a star", "a hat"], composition=[plan, self.stack()], seed=1, steps=2)

    def cancel(self) -> None:
        def stop(done: int, _: int) -> None:
            if done == self.random.randint(1, 2):
                raise StopError

        plan = self.random.choice([self.stack(), Switch(Composition.parse("me/a1 + me/a2"), 1)])
        with self.expect(StopError):
            self.runtime.generate("a star", composition=plan, seed=1, steps=2, on_step=stop)
            raise StopError

    def look_closer(self) -> None:
        self.runtime.compose(None)
        assert base_digest(self.runtime) == self.base


@pytest.fixture
def storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    registry = Registry(tmp_path / "home")
    with Runtime.load("mini", registry=registry, device="cpu", resident_bytes=4 << 20) as runtime:
        for number, name in enumerate(NAMES):
            path = tmp_path / f"a{number}.safetensors"
            path.write_bytes(diffusers_bytes(adapter(runtime, number)))
            registry.add(path, name=name, base="mini")
        spoilt = random_adapter(runtime, 99)
        [first, *_] = spoilt.layers.values()
        first.up[0, 0] = float("nan")
        (tmp_path / "nan.safetensors").write_bytes(diffusers_bytes(spoilt))
        registry.add(tmp_path / "nan.safetensors", name="me/nan", base="mini")
        wrong = {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 5)}
        wrong["unet.mid_block.attentions.0.proj_in.lora_B.weight"] = torch.zeros(5, 2)
        save_file(wrong, tmp_path / "strange.safetensors")
        registry.add(tmp_path / "strange.safetensors", name="me/strange", base="mini")
        yield Storm(runtime, registry, tmp_path, monkeypatch)


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.long)])
def test_the_base_survives_a_storm_and_memory_stays(storm: Storm, count: int) -> None:
    addresses = [parameter.data_ptr() for parameter in storm.runtime.pipeline.unet.parameters()]
    process = psutil.Process()
    storm.run(max(count // 4, 200))
    gc.collect()
    warm = process.memory_info().rss
    storm.run(count)
    storm.runtime.compose(None)
    gc.collect()
    assert base_digest(storm.runtime) == storm.base
    assert [parameter.data_ptr() for parameter in storm.runtime.pipeline.unet.parameters()] == addresses
    assert not any(module._forward_hooks for module in storm.runtime.pipeline.unet.modules())
    assert set(storm.failures) == {"AdapterHubError", "OutOfMemoryError", "StopError"}
    assert process.memory_info().rss <= warm * 1.01, process.memory_info().rss / warm
