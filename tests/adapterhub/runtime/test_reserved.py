"""Static buffers: what is composed beside the weights is written into them, and into nothing else."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from adapterhub.errors import PlaneError, RankError, SettingError
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target
from adapterhub.runtime.active import ActivePlan, LoadedAdapter
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.schedule import Composite, Plan, Switch
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import random_adapter, relative

RANK = 12
CONVOLUTION = "down_blocks.1.resnets.0.conv1"
PLANS = {
    "one": Composition.parse("me/ink:0.7"),
    "two": Composition.parse("me/ink:0.7 + me/corgi:-0.4"),
    "words": Composition.parse("me/words:0.6"),
    "base": Composition(),
}


@pytest.fixture(scope="module")
def plans(runtime: Runtime, registry: Registry) -> dict[str, ActivePlan]:
    """Adapters of rank 5, 7 and 3; the second changes a convolution too."""
    generator = torch.Generator().manual_seed(4)
    tensors = {
        "ink": random_adapter(runtime, 1, rank=5),
        "corgi": random_adapter(runtime, 2, rank=7),
        "words": random_adapter(runtime, 3, rank=3, with_text=True),
    }
    module = runtime.pipeline.unet.get_submodule(CONVOLUTION)
    down = torch.randn(7, *module.weight.shape[1:], generator=generator)
    up = torch.randn(module.out_channels, 7, 1, 1, generator=generator) * 0.02
    layers = {**tensors["corgi"].layers, Target("unet", CONVOLUTION): LowRank(down, up)}
    tensors["corgi"] = AdapterTensors(layers)
    return {name: active(registry, plan, tensors) for name, plan in PLANS.items()}


def active(registry: Registry, plan: Plan, tensors: dict[str, AdapterTensors]) -> ActivePlan:
    terms = plan.terms if isinstance(plan, Composition) else plan.composition.terms
    loaded = {
        term.reference: LoadedAdapter(
            registry.resolve(f"me/{term.reference.name}"), tensors[term.reference.name]
        )
        for term in terms
    }
    return ActivePlan(plan, loaded)


@pytest.fixture(scope="module")
def hooked(runtime: Runtime) -> Planes:
    return Planes(runtime.pipeline)


@pytest.fixture
def reserved(runtime: Runtime) -> Iterator[Planes]:
    planes = Planes(runtime.pipeline, reserve_rank=RANK)
    yield planes
    planes.close()


def predict(
    planes: Planes, runtime: Runtime, inputs: dict[str, Tensor], plans: list[ActivePlan], plane: str
) -> Tensor:
    with torch.no_grad(), planes.acting(plans, plane, steps=1, grid=(16, 16)) as acting:
        acting.start()
        return runtime.pipeline.unet(**inputs).sample


def buffers(planes: Planes) -> dict[Target, tuple[Tensor, Tensor]]:
    assert planes._reserved is not None
    return planes._reserved._own


def test_buffers_add_what_the_weights_would(
    runtime: Runtime, plans: dict[str, ActivePlan], hooked: Planes, inputs: dict[str, Tensor]
) -> None:
    names = ["one", "two", "one", "base", "words", "two"]
    fused = {name: predict(hooked, runtime, inputs, [plan], "fused") for name, plan in plans.items()}
    reserved = Planes(runtime.pipeline, reserve_rank=RANK)
    try:
        for name in names:
            beside = predict(reserved, runtime, inputs, [plans[name]], "low_rank")
            assert relative(beside, fused[name]) <= 1e-5
        assert relative(fused["two"], fused["base"]) > 0.01
        mixed = predict(reserved, runtime, inputs, [plans["two"], plans["words"]], "mixed")
        assert relative(mixed[0::2], fused["two"][0::2]) <= 1e-5
        assert relative(mixed[1::2], fused["words"][1::2]) <= 1e-5
        for one, other in ((plans["two"], plans["base"]), (plans["words"], plans["one"])):
            again = predict(reserved, runtime, inputs, [one, other], "mixed")
            assert relative(again[1::2], predict(hooked, runtime, inputs, [other], "fused")[1::2]) <= 1e-5
    finally:
        reserved.close()
    assert torch.equal(predict(hooked, runtime, inputs, [plans["base"]], "fused"), fused["base"])


def test_swaps_write_in_place_and_leave_the_hooks(
    runtime: Runtime, plans: dict[str, ActivePlan], reserved: Planes, inputs: dict[str, Tensor]
) -> None:
    def hooks() -> list[list[int]]:
        return [[*module._forward_hooks] for module in runtime.pipeline.unet.modules()]

    def addresses() -> list[int]:
        return [buffer.data_ptr() for pair in buffers(reserved).values() for buffer in pair]

    before = hooks(), addresses()
    for name in ("one", "two", "base", "words"):
        reserved.compose(plans[name], "low_rank")
        predict(reserved, runtime, inputs, [plans["one"], plans["two"]], "mixed")
        assert (hooks(), addresses()) == before
    reserved.compose(ActivePlan(), "fused")
    assert not any(buffer.any() for pair in buffers(reserved).values() for buffer in pair)


def test_a_rank_that_exceeds_the_buffers_is_an_error_that_changes_nothing(
    runtime: Runtime,
    registry: Registry,
    plans: dict[str, ActivePlan],
    reserved: Planes,
    inputs: dict[str, Tensor],
) -> None:
    reserved.compose(plans["two"], "low_rank")
    before = {target: [b.clone() for b in pair] for target, pair in buffers(reserved).items()}
    tensors = {name: random_adapter(runtime, 5, rank=rank) for name, rank in (("ink", 8), ("corgi", 5))}
    both = Composition.parse("me/ink + me/corgi:0.1")
    too_many = active(registry, both, tensors)
    with pytest.raises(RankError, match="reserve_rank=13") as caught:
        reserved.compose(too_many, "low_rank")
    assert (caught.value.rank, caught.value.limit, caught.value.code) == (13, RANK, "rank-exceeded")
    assert caught.value.target in {str(target) for target in tensors["ink"].layers}
    with pytest.raises(RankError, match="the mixed plane"):
        predict(reserved, runtime, inputs, [plans["one"], too_many], "mixed")
    assert reserved.composed is plans["two"]
    assert all(
        torch.equal(now, then)
        for target, pair in buffers(reserved).items()
        for now, then in zip(pair, before[target], strict=True)
    )
    apart = active(registry, Switch(both, every=1), tensors)
    predict(reserved, runtime, inputs, [apart], "low_rank")  # one at a time they fit
    alone = active(registry, Composite(both), tensors)
    predict(reserved, runtime, inputs, [alone], "low_rank")
    predict(reserved, runtime, inputs, [too_many], "fused")


@pytest.mark.parametrize("kind", ["dora", "full", "bias"])
def test_what_is_no_lora_has_no_place_in_the_buffers(
    runtime: Runtime, registry: Registry, reserved: Planes, kind: str
) -> None:
    target = Target("unet", CONVOLUTION)
    module = runtime.pipeline.unet.get_submodule(CONVOLUTION)
    factors = {
        "down": torch.ones(1, *module.weight.shape[1:]),
        "up": torch.ones(module.out_channels, 1, 1, 1),
    }
    made = {
        "dora": AdapterTensors(
            {target: Native("dora", factors | {"magnitude": torch.ones(1)}, 1.0, "config")}
        ),
        "full": AdapterTensors({target: Dense(torch.ones(module.weight.shape))}),
        "bias": AdapterTensors({}, biases={target: torch.ones(module.out_channels)}),
    }
    with pytest.raises(PlaneError, match=rf"me/ink@1 has a {kind} update of unet\.{CONVOLUTION}") as caught:
        reserved.compose(active(registry, Composition.parse("me/ink"), {"ink": made[kind]}), "low_rank")
    assert not isinstance(caught.value, RankError)


def test_a_swap_that_fails_on_the_way_leaves_the_base(
    runtime: Runtime, registry: Registry, plans: dict[str, ActivePlan], reserved: Planes
) -> None:
    """A factor that is too narrow for its module, which `Planes.check` would have refused."""
    good = random_adapter(runtime, 6, rank=2)
    *_, last = good.layers
    broken = AdapterTensors({**good.layers, last: LowRank(torch.ones(2, 3), torch.ones(5, 2))})
    for name in ("two", "base"):
        reserved.compose(plans[name], "low_rank")
        with pytest.raises(RuntimeError):
            reserved.compose(active(registry, PLANS["one"], {"ink": broken}), "low_rank")
        assert not any(buffer.any() for pair in buffers(reserved).values() for buffer in pair)
        assert reserved.composed.plan == Composition()


def test_a_rank_below_one_is_refused(runtime: Runtime) -> None:
    with pytest.raises(SettingError, match="the reserved rank is 0") as caught:
        Planes(runtime.pipeline, reserve_rank=0)
    assert caught.value.value == 0
    assert not any(module._forward_hooks for module in runtime.pipeline.unet.modules())
