"""Planes: in the weights, beside them, or for each picture apart, what is composed acts the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from adapterhub.errors import MaskSizeError, PlaneError, SettingError
from adapterhub.formats.read import read_adapter
from adapterhub.lora.merge import merge
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target
from adapterhub.runtime.active import ActiveAdapter, ActivePlan, LoadedAdapter
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Planner
from adapterhub.runtime.regions import Box, Mask, Regions
from adapterhub.runtime.result import GenerationResult
from adapterhub.runtime.schedule import Composite, Keyframes, KLora, Merged, Plan, Switch
from adapterhub_registry.store import Registry
from tests.adapterhub.lora.test_algorithms import CASES, module_state
from tests.adapterhub.runtime.conftest import random_adapter, relative, weights

pytestmark = pytest.mark.usefixtures("base_again")
PROMPT, SEED, STEPS = "a red heart", 7, 4
INK, CORGI, WORDS = (Composition.parse(f"me/{name}") for name in ("ink", "corgi", "words"))
BOTH = Composition.parse("me/ink:0.7 + me/corgi:-0.4")


@pytest.fixture(scope="module")
def planes(runtime: Runtime) -> Iterator[Planes]:
    planes = Planes(runtime.pipeline)
    yield planes
    planes.restore()


def plan_of(registry: Registry, tensors: AdapterTensors, weight: float = 1.0) -> ActivePlan:
    """The adapter that holds these tensors, in a plan; any version serves as its name."""
    version = registry.resolve("me/ink")
    term = Composition.parse(f"me/ink:{weight}").terms[0]
    return ActivePlan(Composition((term,)), {term.reference: LoadedAdapter(version, tensors)})


def predict(
    planes: Planes, runtime: Runtime, inputs: Mapping[str, object], plans: list[ActivePlan], plane: str
) -> Tensor:
    with torch.no_grad(), planes.acting(plans, plane, steps=1, grid=(16, 16)) as acting:
        acting.start()
        return runtime.pipeline.unet(**inputs).sample


def unchanged(runtime: Runtime, before: Mapping[str, Tensor]) -> bool:
    now = weights(runtime)
    return all(torch.equal(now[name], value) for name, value in before.items())


def adapter_of(case: str, runtime: Runtime, folder: Path) -> AdapterTensors:
    """An adapter of any algorithm that LyCORIS knows, on a module of the mini base."""
    path, make = CASES[case]
    module = runtime.pipeline.unet.get_submodule(path)
    plain = (
        nn.Linear(module.in_features, module.out_features)
        if isinstance(module, nn.Linear)
        else nn.Conv2d(module.in_channels, module.out_channels, 3, padding=1)
    )
    plain.load_state_dict(module.state_dict())
    name = f"lora_unet_{path.replace('.', '_')}"
    made = make(name, plain)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    state = {
        f"{name}.{key}": value.detach().clone().contiguous() for key, value in module_state(made).items()
    }
    save_file(state, folder / "x.safetensors")
    return read_adapter(folder / "x.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_every_algorithm_acts_the_same_on_all_planes(
    runtime: Runtime, registry: Registry, planes: Planes, inputs: dict[str, Tensor], tmp_path: Path, case: str
) -> None:
    strong = plan_of(registry, adapter_of(case, runtime, tmp_path), 0.7)
    weak = plan_of(registry, adapter_of(case, runtime, tmp_path), -0.3)
    base = predict(planes, runtime, inputs, [ActivePlan()], "fused")
    fused = [predict(planes, runtime, inputs, [one], "fused") for one in (strong, weak)]
    assert relative(fused[0], base) > 1e-4
    assert relative(predict(planes, runtime, inputs, [strong], "low_rank"), fused[0]) <= 1e-5
    mixed = predict(planes, runtime, inputs, [strong, weak], "mixed")
    assert relative(mixed[0::2], fused[0][0::2]) <= 1e-5
    assert relative(mixed[1::2], fused[1][1::2]) <= 1e-5


def test_norms_biases_and_whole_differences_act_the_same_on_all_planes(
    runtime: Runtime, registry: Registry, planes: Planes, inputs: dict[str, Tensor]
) -> None:
    unet = runtime.pipeline.unet
    torch.manual_seed(2)
    layers, biases = {}, {}
    for path in (
        "conv_in",
        "conv_norm_out",
        "time_embedding.linear_1",
        "down_blocks.1.resnets.0.norm1",
        "down_blocks.1.downsamplers.0.conv",
        "mid_block.attentions.0.transformer_blocks.0.norm2",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    ):
        module = unet.get_submodule(path)
        layers[Target("unet", path)] = Dense(torch.randn(module.weight.shape) * 0.05)
        biases[Target("unet", path)] = torch.randn(module.bias.shape) * 0.05
    plan = plan_of(registry, AdapterTensors(layers, biases=biases), 0.8)
    fused = predict(planes, runtime, inputs, [plan], "fused")
    base = predict(planes, runtime, inputs, [ActivePlan()], "fused")
    assert relative(fused, base) > 0.01
    assert relative(predict(planes, runtime, inputs, [plan], "low_rank"), fused) <= 1e-5
    mixed = predict(planes, runtime, inputs, [plan, ActivePlan()], "mixed")
    assert relative(mixed[0::2], fused[0::2]) <= 1e-5
    assert relative(mixed[1::2], base[1::2]) <= 1e-5


def test_a_plane_that_adds_leaves_weights_and_modules_alone(runtime: Runtime) -> None:
    before = weights(runtime)
    names = [name for name, _ in runtime.pipeline.unet.named_modules()]
    runtime.compose("me/ink:0.7", plane="low_rank")
    assert unchanged(runtime, before)
    assert [name for name, _ in runtime.pipeline.unet.named_modules()] == names
    hooked = [name for name, module in runtime.pipeline.unet.named_modules() if module._forward_hooks]
    assert hooked
    runtime.compose(None)
    assert not [name for name, module in runtime.pipeline.unet.named_modules() if module._forward_hooks]


def pixels(result: GenerationResult) -> list[np.ndarray]:
    return [np.asarray(image).astype(int) for image in result.images]


def furthest(one: GenerationResult, other: GenerationResult) -> int:
    return max(int(np.abs(a - b).max()) for a, b in zip(pixels(one), pixels(other), strict=True))


def drawn(runtime: Runtime, plan: Plan | str | None, plane: str | None = None) -> GenerationResult:
    return runtime.generate(PROMPT, composition=plan, plane=plane, seed=SEED, steps=STEPS)


@pytest.mark.parametrize(
    "plan",
    [
        BOTH,
        Composition.parse("me/words:0.8"),
        Switch(Composition((*INK.terms, *WORDS.terms)), every=1),
        Keyframes(((0.0, INK), (1.0, CORGI))),
        KLora(Composition((*INK.terms, *CORGI.terms))),
        Composite(BOTH),
        Merged(BOTH, "ties", {"density": 0.5}),
    ],
    ids=lambda plan: type(plan).__name__,
)
def test_whatever_is_composed_draws_the_same_picture_on_both_planes(runtime: Runtime, plan: Plan) -> None:
    fused, low_rank = drawn(runtime, plan, "fused"), drawn(runtime, plan, "low_rank")
    assert furthest(fused, low_rank) <= 1
    assert furthest(fused, drawn(runtime, None)) > 20
    for result in (fused, low_rank):
        assert result.record.plane_reason == "asked for"
        assert furthest(runtime.reproduce(result.record), result) == 0


def test_a_batch_in_which_each_picture_has_its_own_stack_equals_the_pictures_alone(runtime: Runtime) -> None:
    plans: list[Plan | str | None] = [
        "me/ink",
        None,
        BOTH,
        "me/words:0.6 + me/ink:0.2",
        Switch(Composition((*INK.terms, *CORGI.terms)), every=2),
        "me/corgi[mid_block=0]",
        Merged(BOTH, "ties", {"density": 0.5}),
        "me/ink:0.9",
    ]
    together = runtime.generate([PROMPT] * len(plans), composition=plans, seed=SEED, steps=STEPS)
    for row, plan in enumerate(plans):
        alone = runtime.generate(PROMPT, composition=plan, seed=SEED + row, steps=STEPS)
        assert np.abs(pixels(together)[row] - pixels(alone)[0]).max() <= 1
        record = together.records[row]
        assert (record.plane, record.batch_size, record.batch_row) == ("mixed", len(plans), row)
        assert record.composition == alone.record.composition
    again = runtime.reproduce(together.records[3])
    assert np.array_equal(pixels(again)[0], pixels(together)[3])
    assert again.record == together.records[3]


def test_what_a_picture_asks_for_leaves_what_is_composed(runtime: Runtime) -> None:
    runtime.compose("me/ink:0.7")
    inside, plain = weights(runtime), drawn(runtime, "me/ink:0.7")
    other = drawn(runtime, WORDS)
    assert str(runtime.composition) == "me/ink:0.7"
    assert unchanged(runtime, inside)
    assert furthest(runtime.generate(PROMPT, seed=SEED, steps=STEPS), plain) == 0
    assert furthest(other, plain) > 20
    runtime.compose("me/ink:0.7", plane="low_rank")
    drawn(runtime, WORDS)
    beside = runtime.generate(PROMPT, seed=SEED, steps=STEPS)
    assert beside.record.plane == "low_rank"
    assert furthest(beside, plain) <= 1


def test_k_lora_chooses_as_the_paper_does(runtime: Runtime, registry: Registry) -> None:
    """Content if the sum of its K largest entries, over gamma, exceeds style's times alpha t + beta."""
    content, style = (random_adapter(runtime, seed, rank=2) for seed in (1, 2))
    strong = {
        target: LowRank(layer.down, layer.up * (1 + number % 5), 1.0)
        for number, (target, layer) in enumerate(style.layers.items())
    }
    style = AdapterTensors(strong)
    versions = [registry.resolve(name) for name in ("me/ink", "me/corgi")]
    plan = KLora(Composition((*INK.terms, *CORGI.terms)))
    loaded = {
        term.reference: LoadedAdapter(version, tensors)
        for term, version, tensors in zip(plan.composition.terms, versions, (content, style), strict=True)
    }
    active = ActivePlan(plan, loaded)
    entries = {
        target: [
            (layer.up @ layer.down).abs().flatten()
            for layer in (content.layers[target], style.layers[target])
        ]
        for target in content.layers
    }
    ratios = [float(c.sum() / s.sum()) for c, s in entries.values()]
    tops = {target: [one.sort().values[-4:].sum() for one in pair] for target, pair in entries.items()}
    kept = [ratio for ratio in ratios if ratio < 3 * np.mean(ratios)]
    gamma = float(np.mean(kept))
    steps = 10
    seen = set()
    for step in range(steps):
        stack = active.at(step, steps)
        for target, (top_content, top_style) in tops.items():
            scale = 1.5 * step / steps + 0.5
            is_content = top_content / gamma > top_style * scale
            assert [one.strength(target) for one in stack] == ([1.0, 0.0] if is_content else [0.0, 1.0])
            seen.add(bool(is_content))
    assert seen == {True, False}


def test_merging_in_flight_draws_what_the_merged_adapter_draws(
    runtime: Runtime, registry: Registry, planes: Planes, inputs: dict[str, Tensor]
) -> None:
    tensors = [random_adapter(runtime, seed) for seed in (1, 2)]
    expected = merge(tensors, [0.7, -0.4], method="ties", density=0.5).adapter
    wanted = predict(planes, runtime, inputs, [plan_of(registry, expected)], "fused")
    versions = [registry.resolve(name) for name in ("me/ink", "me/corgi")]
    loaded = {
        term.reference: LoadedAdapter(version, one)
        for term, version, one in zip(BOTH.terms, versions, tensors, strict=True)
    }
    plan = ActivePlan(Merged(BOTH, "ties", {"density": 0.5}), loaded)
    assert relative(predict(planes, runtime, inputs, [plan], "fused"), wanted) <= 1e-6


def region_by_hand(runtime: Runtime, inputs: dict[str, Tensor], stack: ActiveAdapter, area: Box) -> Tensor:
    """Every linear of attention and feed-forward with its output weighed by place, cross-attention by row.

    Keys and values of the prompt are those of the adapter for the places inside, of the base outside: the two
    outputs of the attention are made apart, each with one of them everywhere.
    """
    unet = runtime.pipeline.unet
    handles = []
    side = {64: 8, 256: 16, 16: 4}

    def spread(cells: int) -> Tensor:
        size = side[cells]
        return area.cover(size, size).flatten()[None, :, None]

    def on_place(target: Target):
        layer = stack.tensors.layers[target]

        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + spread(args[0].shape[1]) * (args[0] @ layer.delta().t())

        return hook

    def on_attention(path: str):
        keys, values = (stack.tensors.layers[Target("unet", f"{path}.{name}")] for name in ("to_k", "to_v"))

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
            extra = [
                part.register_forward_hook(lambda _m, a, o, d=delta: o + a[0] @ d.t())
                for part, delta in ((module.to_k, keys.delta()), (module.to_v, values.delta()))
            ]
            inside = module.forward(*args, **kwargs)
            for handle in extra:
                handle.remove()
            return torch.where(spread(output.shape[1]) > 0.5, inside, output)

        return hook

    for target in stack.tensors.layers:
        if target.module.endswith(("attn2.to_k", "attn2.to_v")):
            continue
        handles.append(unet.get_submodule(target.module).register_forward_hook(on_place(target)))
    for name, _ in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(
                unet.get_submodule(name).register_forward_hook(on_attention(name), with_kwargs=True)
            )
    with torch.no_grad():
        result = unet(**inputs).sample
    for handle in handles:
        handle.remove()
    return result


def test_a_region_acts_where_it_is_and_nowhere_else(
    runtime: Runtime, registry: Registry, planes: Planes, inputs: dict[str, Tensor]
) -> None:
    tensors = random_adapter(runtime, 1)
    half = Box(0.0, 0.0, 0.5, 1.0)
    plan = plan_of(registry, tensors)
    [adapter] = plan.at(0, 1)
    regions = ActivePlan(Regions(((plan.plan, half),)), plan.loaded)
    made = predict(planes, runtime, inputs, [regions], "low_rank")
    assert relative(made, region_by_hand(runtime, inputs, adapter, half)) <= 1e-5
    whole = predict(planes, runtime, inputs, [plan], "low_rank")
    assert relative(made, whole) > 0.01
    covered = ActivePlan(Regions(((plan.plan, Box(0, 0, 1, 1)),)), plan.loaded)
    assert relative(predict(planes, runtime, inputs, [covered], "low_rank"), whole) <= 1e-5
    everywhere = ActivePlan(Regions(((plan.plan, None),)), plan.loaded)
    assert relative(predict(planes, runtime, inputs, [everywhere], "low_rank"), whole) <= 1e-5


def test_masks_are_boxes_drawn_by_hand_and_are_replayed_from_the_record(runtime: Runtime) -> None:
    picture = Image.new("L", (64, 64), 0)
    picture.paste(255, (0, 0, 32, 64))
    mask = Mask.of(picture)
    by_mask = drawn(runtime, Regions(((INK, mask), (CORGI, None))))
    by_box = drawn(runtime, Regions(((INK, Box(0, 0, 0.5, 1)), (CORGI, None))))
    assert furthest(by_mask, by_box) == 0
    assert furthest(runtime.reproduce(by_mask.record), by_mask) == 0
    with pytest.raises(MaskSizeError) as caught:
        runtime.generate(PROMPT, composition=Regions(((INK, mask),)), seed=1, steps=1, width=32, height=64)
    assert (caught.value.size, caught.value.wanted) == ((64, 64), (32, 64))
    assert drawn(runtime, None).record.plane == "base"


@pytest.mark.parametrize(
    ("plan", "plane", "reason"),
    [
        (Regions(((INK, Box(0, 0, 1, 0.5)),)), "fused", "regions are added"),
        (Composite(BOTH), "mixed", "predictions of its own"),
        (BOTH, "sideways", "none of that name"),
    ],
)
def test_a_plane_that_cannot_do_it_is_an_error_that_changes_nothing(
    runtime: Runtime, plan: Plan, plane: str, reason: str
) -> None:
    runtime.compose("me/ink:0.5")
    before = weights(runtime)
    with pytest.raises(PlaneError, match=reason) as caught:
        drawn(runtime, plan, plane)
    assert caught.value.plane == plane
    assert str(runtime.composition) == "me/ink:0.5"
    assert unchanged(runtime, before)


def test_wrong_plans_are_named() -> None:
    with pytest.raises(SettingError, match="it must be 2"):
        KLora(INK)
    with pytest.raises(SettingError, match="merge method is mean"):
        Merged(BOTH, "mean")
    with pytest.raises(SettingError, match="a setting of the merge is depth"):
        Merged(BOTH, "ties", {"depth": 1})
    with pytest.raises(SettingError, match="a box is"):
        Box(0.5, 0, 0.2, 1)
    with pytest.raises(SettingError, match="regions"):
        Regions(())


def test_pictures_that_must_be_apart_are_drawn_one_after_another(runtime: Runtime) -> None:
    plans: list[Plan | str | None] = ["me/ink", Composite(BOTH)]
    made = runtime.generate([PROMPT] * 2, composition=plans, seed=SEED, steps=STEPS)
    assert [record.batch_size for record in made.records] == [1, 1]
    assert [record.plane for record in made.records] == ["fused", "fused"]


def test_the_planner_takes_what_was_measured_to_be_faster() -> None:
    planner = Planner()
    plans = [ActivePlan(), ActivePlan()]
    assert planner.choose(plans, pictures=2, pixels=64).together
    planner.observe("fused", 1, 64, 0.1)
    planner.observe("mixed", 2, 64, 0.3)
    choice = planner.choose(plans, pictures=2, pixels=64)
    assert (choice.together, choice.why) == (False, "a step costs 300 ms together, 200 ms apart")
    for _ in range(9):
        planner.observe("mixed", 2, 64, 0.1)
    assert planner.choose(plans, pictures=2, pixels=64).together


def test_nothing_is_written_where_nothing_can_be(runtime: Runtime, registry: Registry) -> None:
    """Offloaded piece by piece, neither the UNet nor the text encoders have weights to write to."""
    hidden = Planes(runtime.pipeline, is_writable=False, writes_text=False)
    [term] = WORDS.terms
    version = registry.resolve("me/words")
    loaded = {term.reference: LoadedAdapter(version, random_adapter(runtime, 3, with_text=True))}
    active = ActivePlan(WORDS, loaded)
    before, settings = weights(runtime), {"num_inference_steps": 2, "output_type": "np"}

    def picture() -> np.ndarray:
        return runtime.pipeline(PROMPT, generator=torch.Generator().manual_seed(1), **settings).images[0]

    hidden.compose(active, "low_rank")
    assert unchanged(runtime, before)
    beside = picture()
    hidden.restore()
    base = picture()
    runtime.compose("me/words")
    assert np.abs(picture() - beside).max() <= 1e-4
    assert np.abs(base - beside).max() > 0.02
    with pytest.raises(PlaneError, match="cannot be written to"):
        hidden.compose(active, "fused")
    spoilt = ActivePlan(WORDS, {term.reference: LoadedAdapter(version, dora(runtime))})
    with pytest.raises(PlaneError, match=r"dora on .* needs the base's weight"):
        hidden.compose(spoilt, "low_rank")
    runtime.compose(None)
    assert np.array_equal(picture(), base)


def dora(runtime: Runtime) -> AdapterTensors:
    [(target, layer), *_] = random_adapter(runtime, 1).layers.items()
    tensors = {"down": layer.down, "up": layer.up, "magnitude": torch.ones(layer.shape[0], 1)}
    return AdapterTensors({target: Native("dora", tensors, 1.0, "config")})
