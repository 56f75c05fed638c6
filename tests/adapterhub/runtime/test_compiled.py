"""Compiled blocks: swaps compile nothing, results stay the same, and the pipeline is given back."""

import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import CLIPTextConfig, CLIPTextModel

from adapterhub.errors import SettingError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.regions import Box, Regions
from adapterhub.runtime.replay import replay
from adapterhub.runtime.result import GenerationResult
from adapterhub.runtime.schedule import Composite, Keyframes, KLora, Switch
from adapterhub_registry.record import png_with_record
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import relative, unet_inputs

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"
RESERVED = 24
KINDS = {
    "attention": r"unet\..*attn\d\.to_",
    "linears": r"unet\..*(transformer_blocks|time_emb|proj_)",
    "convolutions": r"unet\..*(conv|sampler)",
    "everything": r"unet\.",
    "words": r"text_encoder.*(fc2|out_proj)|unet\..*attn2\.to_k",
}
ADAPTERS = [(f"{kind}-{rank}", kind, rank) for kind in KINDS for rank in (1, 4, 8)]
BOTH = Composition.parse("me/attention-4 + me/words-8:0.5")


def adapter_of(runtime: Runtime, kind: str, rank: int, seed: int) -> AdapterTensors:
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for target, module in runtime._planes.targets.modules.items():
        if re.match(KINDS[kind], str(target)) and isinstance(module, nn.Linear | nn.Conv2d):
            shape = module.weight.shape
            down = torch.randn(rank, *shape[1:], generator=generator) / shape[1:].numel() ** 0.5
            up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator) * 0.03
            layers[Target(*target)] = LowRank(down, up, 1.0, "config")
    return AdapterTensors(layers)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base like mini, of two levels: each shape of a block is compiled, so there are few.

    Its prompts are narrower than those of mini: adapters are told to be of mini by that width.
    """
    folder = tmp_path_factory.mktemp("bases") / "narrow"
    shutil.copytree(MINI, folder)
    torch.manual_seed(1)
    words = CLIPTextConfig.from_pretrained(MINI / "text_encoder")
    words.hidden_size, words.intermediate_size, words.num_attention_heads = 32, 64, 2
    CLIPTextModel(words).save_pretrained(folder / "text_encoder")
    config: dict[str, Any] = UNet2DConditionModel.load_config(MINI / "unet") | {
        "block_out_channels": [32, 32],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 1],
        "attention_head_dim": [2, 2],
        "cross_attention_dim": 32 + 96,
        "norm_num_groups": 8,
    }
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def plain(base: Path, registry: Registry) -> Iterator[Runtime]:
    with Runtime.load(base, registry=registry, device="cpu") as runtime:
        for seed, (name, kind, rank) in enumerate(ADAPTERS):
            path = registry.home / f"{name}.safetensors"
            path.write_bytes(diffusers_bytes(adapter_of(runtime, kind, rank, seed)))
            registry.add(path, name=f"me/{name}", base=str(base))
        yield runtime


@pytest.fixture(scope="module")
def compiled(plain: Runtime, base: Path, registry: Registry) -> Iterator[Runtime]:
    del plain  # it fills the registry
    with Runtime.load(
        base, registry=registry, device="cpu", compile="aot_eager", reserve_rank=RESERVED
    ) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def inputs(plain: Runtime) -> dict[str, Any]:
    """What the UNet takes for one picture with guidance."""
    return unet_inputs(plain, rows=2)


@pytest.fixture(autouse=True)
def base_again(plain: Runtime, compiled: Runtime) -> Iterator[None]:
    yield
    for runtime in (plain, compiled):
        runtime.compose(None)


def graphs() -> int:
    """How often torch has compiled anything."""
    return counters["frames"]["total"] + counters["stats"]["unique_graphs"]


def predict(runtime: Runtime, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return runtime.pipeline.unet(**inputs).sample


def drawn(runtime: Runtime, plan: Any, plane: str | None = None) -> GenerationResult:
    return runtime.generate("a star", composition=plan, plane=plane, seed=3, steps=2)


def furthest(one: GenerationResult, other: GenerationResult) -> int:
    pairs = zip(one.images, other.images, strict=True)
    return max(int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()) for a, b in pairs)


def some_swaps(count: int) -> list[tuple[str, str]]:
    """Stacks of up to three adapters of other ranks, targets and components, and where each acts."""
    choose = random.Random(5)
    stacks = []
    for number in range(count):
        names = choose.sample([name for name, _, _ in ADAPTERS], choose.randint(0, 3))
        text = " + ".join(f"me/{name}:{choose.uniform(-1, 1):.2f}" for name in names)
        stacks.append((text, ("fused", "low_rank")[number % 2]))
    return stacks


@pytest.mark.parametrize(
    "count", [pytest.param(100, id="100"), pytest.param(1000, id="1000", marks=pytest.mark.long)]
)
def test_no_swap_compiles_anything_and_results_stay_the_same(
    plain: Runtime, compiled: Runtime, inputs: dict[str, Any], count: int
) -> None:
    first = predict(compiled, inputs)
    assert relative(first, predict(plain, inputs)) <= 1e-5
    before = graphs()
    assert before
    off = 0.0
    for number, (text, plane) in enumerate(some_swaps(count)):
        compiled.compose(text or None, plane=plane)
        made = predict(compiled, inputs)
        if number % 10 == 0:
            plain.compose(text or None)
            off = max(off, relative(made, predict(plain, inputs)))
    assert off <= 1e-5
    assert graphs() == before
    compiled.compose(None)
    assert torch.equal(predict(compiled, inputs), first)


def test_each_way_to_compose_compiles_once_for_its_shape(plain: Runtime, compiled: Runtime) -> None:
    """A batch of two with stacks of its own and a Composite of two beside the weights share shapes."""
    stacks = [["me/everything-8", "me/words-1"], ["me/linears-4:0.3", None], [None, BOTH]]

    def mixed(runtime: Runtime, plans: list[Any]) -> GenerationResult:
        return runtime.generate(["a star"] * 2, composition=plans, plane="mixed", seed=3, steps=2)

    drawn(compiled, None)
    assert furthest(mixed(compiled, stacks[0]), mixed(plain, stacks[0])) <= 1
    before = graphs()
    for plans in stacks[1:]:
        result = mixed(compiled, plans)
        assert furthest(result, mixed(plain, plans)) <= 1
        record = result.records[1]
        assert (record.plane, record.compiled, record.plane_rank) == ("mixed", "aot_eager", RESERVED)
    fade = Keyframes(((0.0, Composition()), (1.0, BOTH)))
    for plan in (Composite(BOTH), Switch(BOTH, every=1), KLora(BOTH), fade):
        for plane in ("fused", "low_rank"):
            assert furthest(drawn(compiled, plan, plane), drawn(plain, plan, plane)) <= 1
    assert graphs() == before


def test_under_regions_the_blocks_run_as_they_were(plain: Runtime, compiled: Runtime) -> None:
    plan = Regions(((BOTH, Box(0, 0, 0.5, 1)),))
    drawn(compiled, None)
    before = graphs()
    result = drawn(compiled, plan)
    assert furthest(result, drawn(plain, plan)) == 0
    assert (result.record.compiled, result.record.reserved_rank) == ("", RESERVED)
    assert drawn(compiled, None).record.compiled == "aot_eager"
    assert graphs() == before


def test_without_a_reserved_rank_hooks_come_and_go_on_blocks_as_they_were(
    plain: Runtime, base: Path, registry: Registry
) -> None:
    with Runtime.load(base, registry=registry, device="cpu", compile="aot_eager") as runtime:
        before = graphs()
        runtime.compose("me/everything-4:0.5", plane="low_rank")
        beside = runtime.generate("a star", seed=3, steps=2)
        other = drawn(runtime, "me/linears-1", "low_rank")
        assert graphs() == before
        assert [beside.record.compiled, other.record.compiled] == ["", ""]
        assert furthest(beside, drawn(plain, "me/everything-4:0.5", "low_rank")) == 0
        compiled_calls = [vars(m).get("_compiled_call_impl") for m in runtime.pipeline.unet.modules()]
        assert not any(compiled_calls)
        runtime.compose(None)
        assert any(vars(m).get("_compiled_call_impl") for m in runtime.pipeline.unet.modules())


def test_runtimes_with_and_without_buffers_share_nothing_that_was_compiled(
    plain: Runtime, base: Path, registry: Registry, inputs: dict[str, Any]
) -> None:
    plain.compose(BOTH)
    expected = predict(plain, inputs)
    for rank, plane in ((None, "fused"), (RESERVED, "low_rank")):
        with Runtime.load(
            base, registry=registry, device="cpu", compile="aot_eager", reserve_rank=rank
        ) as runtime:
            runtime.compose(BOTH, plane=plane)
            assert relative(predict(runtime, inputs), expected) <= 1e-5


def test_the_pipeline_is_given_back_without_hooks_and_uncompiled(
    plain: Runtime, base: Path, registry: Registry
) -> None:
    del plain  # it fills the registry
    with Runtime.load(base, device="cpu") as loaded:
        pipeline = loaded.pipeline
    unet = pipeline.unet
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    parameters = [id(parameter) for parameter in unet.parameters()]

    def inside() -> list[tuple[list[str], int, int]]:
        return [
            ([*vars(module)], len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in unet.modules()
        ]

    before = inside()
    with Runtime.wrap(pipeline, base=base, registry=registry, compile="aot_eager", reserve_rank=4) as runtime:
        assert inside() != before
        assert [*unet.state_dict()] == [*state]
        runtime.compose("me/attention-4", plane="low_rank")
    runtime.close()
    assert inside() == before
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())
    assert [id(parameter) for parameter in unet.parameters()] == parameters


def test_a_replay_compiles_as_the_record_says(compiled: Runtime, registry: Registry, tmp_path: Path) -> None:
    made = drawn(compiled, "me/attention-4:0.8 + me/convolutions-8", "low_rank")
    assert (made.record.compiled, made.record.reserved_rank) == ("aot_eager", RESERVED)
    path = tmp_path / "star.png"
    path.write_bytes(png_with_record(made.images[0], made.record))
    again = replay(path, registry=registry)
    assert again.record == made.record
    assert not again.differences


@pytest.mark.parametrize("how", ["inductr", "eager", "cudagraphs"])
def test_an_unknown_compiler_is_refused_before_anything_is_loaded(how: str) -> None:
    with pytest.raises(SettingError, match="or one of inductor, reduce-overhead") as caught:
        Runtime.load("no/such-base", device="cpu", compile=how)
    assert caught.value.value == how


def test_layers_that_are_moved_for_each_use_are_not_compiled(plain: Runtime) -> None:
    layer = plain.pipeline.unet.mid_block.resnets[0].conv1
    add_hook_to_module(layer, ModelHook())
    try:
        with pytest.raises(SettingError, match="offload"):
            Planes(plain.pipeline, compiler="aot_eager", reserve_rank=2)
    finally:
        del layer.forward, layer._hf_hook, layer._old_forward
    modules = [*plain.pipeline.unet.modules()]
    assert not any(module._forward_hooks or "_compiled_call_impl" in vars(module) for module in modules)


def test_a_torch_that_gives_up_after_eight_shapes_is_too_old(
    plain: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic: (model, dynamic))
    with pytest.raises(SettingError, match="install a newer one"):
        Planes(plain.pipeline, compiler="inductor")


@pytest.mark.long
def test_inductors_kernels_make_the_same_pictures_and_are_kept_over_swaps(
    plain: Runtime,
    base: Path,
    registry: Registry,
    inputs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with Runtime.load(base, registry=registry, device="cpu", compile=True, reserve_rank=RESERVED) as runtime:
        predict(runtime, inputs)
        before = graphs()
        for text, plane in some_swaps(40):
            runtime.compose(text or None, plane=plane)
            plain.compose(text or None)
            assert relative(predict(runtime, inputs), predict(plain, inputs)) <= 1e-5
        assert graphs() == before
        record = drawn(runtime, None, "fused").record
    assert replace(record, compiled="", reserved_rank=0) == drawn(plain, None).record
